//! `shunt init`

use std::path::PathBuf;

use serde::Serialize;
use shunt_api::{Address, ReleaseName};

use super::Failure;
use crate::config;
use crate::init::{self, Plan, Runner};
use crate::source::image::Image;
use crate::wire::exit;

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application's name.
    pub name: ReleaseName,
    /// Its folder; /srv/NAME if left out.
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// The program in the release's folder, and its arguments, separated by blanks; ./server if left
    /// out. With runner "docker" in place of the image's own.
    #[arg(long)]
    pub command: Option<String>,
    /// The image, with runner "docker"; that of the application's name if left out.
    #[arg(long)]
    pub image: Option<Image>,
    /// The port at which it listens in its container; if left out, it is told by $PORT.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Where it listens, separated by commas; two ports that no other application has if left out.
    #[arg(long, value_delimiter = ',')]
    pub slots: Vec<Address>,
    /// The user that it runs as.
    #[arg(long)]
    pub user: Option<String>,
    /// What starts it.
    #[arg(long, default_value = "process")]
    pub runner: Runner,
    /// The folder for all files; else each goes to its place below /etc.
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Overwrite files that are there.
    #[arg(long)]
    pub force: bool,
}

/// What was done, as JSON has it.
#[derive(Serialize)]
struct Done<'a> {
    files: Vec<&'a std::path::Path>,
    next: &'a [String],
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub fn run(args: &Args, json: bool) -> Result<u8, Failure> {
    let usage = |e: &dyn std::fmt::Display| Failure::new(exit::USAGE, e);
    let plan = plan(args).map_err(|e| usage(&e))?;
    let files = plan.files(args.output.as_deref()).map_err(|e| usage(&e))?;
    init::write(&files, args.force).map_err(|e| match e {
        init::InitError::Write { .. } => Failure::new(exit::FAILED, e),
        _ => usage(&e),
    })?;
    let known = |name: &String| matches!(nix::unistd::User::from_name(name), Ok(Some(_)));
    let next = plan.next(&files, plan.user.as_ref().is_some_and(known));
    if json {
        let files = files.iter().map(|file| file.path.as_path()).collect();
        super::print(super::json(&Done { files, next: &next }))?;
    } else {
        for file in &files {
            super::print(format!("wrote {}\n", file.path.display()))?;
        }
        super::print("next:\n")?;
        for (at, line) in next.iter().enumerate() {
            super::print(format!("  {}. {line}\n", at + 1))?;
        }
    }
    Ok(exit::DONE)
}

fn plan(args: &Args) -> Result<Plan, String> {
    let root = args.root.clone().unwrap_or_else(|| format!("/srv/{}", args.name).into());
    if !root.is_absolute() {
        return Err("--root must be an absolute path, as in /srv/web".to_owned());
    }
    let words = args.command.as_deref().unwrap_or_default().split_whitespace();
    let command: Vec<_> = words.map(ToOwned::to_owned).collect();
    if command.is_empty() && args.command.is_some() {
        return Err("--command needs a program, as in ./server".to_owned());
    }
    if args.runner != Runner::Docker && (args.image.is_some() || args.port.is_some()) {
        return Err("--image and --port go with --runner docker".to_owned());
    }
    let slots = match args.slots.as_slice() {
        [] => {
            // Where none can be read there is nobody to give way to.
            let folder = config::DEFAULT_FOLDER.as_ref();
            let others = config::folder(folder).unwrap_or_default();
            let taken = others.into_iter().filter(|file| !file.path.ends_with(name(args)));
            let taken: Vec<_> =
                taken.filter_map(|file| file.app).flat_map(|a| a.run.slots).collect();
            init::free_slots(&taken)
        }
        [_] => return Err("--slots needs two or more, one of which is free".to_owned()),
        slots => slots.to_vec(),
    };
    let (name, user, runner) = (args.name.clone(), args.user.clone(), args.runner);
    let (image, port) = (args.image.clone(), args.port);
    Ok(Plan { name, root, command, image, port, slots, user, runner })
}

/// The file that is written anew.
fn name(args: &Args) -> String {
    format!("{}.toml", args.name)
}
