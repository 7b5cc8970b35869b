//! `shunt check`

use std::path::{Path, PathBuf};

use serde::Serialize;
use shunt_api::ReleaseName;

use super::Failure;
use crate::config::{self, File, Mistake, schema};
use crate::wire::exit;

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, or a folder with one file for each application.
    #[arg(default_value = config::DEFAULT_FOLDER)]
    pub path: PathBuf,
    /// Print the JSON Schema of an application's file instead, for an editor.
    #[arg(long, conflicts_with = "path")]
    pub schema: bool,
}

/// A file, as JSON has it.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a Path,
    app: Option<&'a ReleaseName>,
    mistakes: &'a [Mistake],
}

/// Runs it. Any mistake makes it end with 2.
///
/// # Errors
///
/// [`Failure`].
pub fn run(args: &Args, json: bool) -> Result<u8, Failure> {
    if args.schema {
        super::print(format!("{:#}\n", schema::document()))?;
        return Ok(exit::DONE);
    }
    let files = match args.path.is_dir() {
        true => config::folder(&args.path).map_err(|e| Failure::new(exit::USAGE, e))?,
        false => vec![File::read(&args.path)],
    };
    if files.is_empty() && !json {
        let folder = args.path.display();
        super::print(format!("no application: {folder} has no file that ends in .toml\n"))?;
    }
    for file in &files {
        super::print(if json { super::json(&line(file)) } else { show(file) })?;
    }
    let good = files.iter().all(|file| file.mistakes.is_empty());
    Ok(if good { exit::DONE } else { exit::USAGE })
}

fn line(file: &File) -> Line<'_> {
    let app = file.app.as_ref().map(|app| &app.name);
    Line { file: &file.path, app, mistakes: &file.mistakes }
}

fn show(file: &File) -> String {
    match (&file.app, file.mistakes.as_slice()) {
        (Some(app), []) => format!("{}: \"{}\" is good\n", file.path.display(), app.name),
        (_, mistakes) => mistakes.iter().map(|mistake| format!("{mistake}\n")).collect(),
    }
}
