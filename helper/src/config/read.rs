//! Reads the applications of a folder.

use std::path::{Path, PathBuf};

use super::mistake::{Mistake, Mistakes};
use super::{App, ConfigError, Runner, Strategy, parse};
use crate::file;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 256 << 10;

/// A file, and what came of it.
#[derive(Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// The application, unless something is wrong.
    pub app: Option<App>,
    /// All that is wrong.
    pub mistakes: Vec<Mistake>,
    text: String,
}

impl File {
    /// Reads one.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let wrong = |mistakes: Vec<Mistake>| {
            mistakes.into_iter().map(|m| Mistake { file: path.to_owned(), ..m }).collect()
        };
        let mut file =
            Self { path: path.to_owned(), app: None, mistakes: Vec::new(), text: String::new() };
        match file::read(path, LONGEST) {
            Ok(text) => file.text = text,
            Err(error) => {
                let what = format!("cannot be read: {error}");
                file.mistakes = wrong(vec![Mistake::at("", 0..0, String::new(), what)]);
                return file;
            }
        }
        match App::parse(&file.text) {
            Ok(app) => file.app = Some(App { file: path.to_owned(), ..app }),
            Err(Mistakes(mistakes)) => file.mistakes = wrong(mistakes),
        }
        if let Some((keys, what, cure)) = file.app.as_ref().and_then(fits) {
            let place = parse::place_of(&file.text, keys);
            let mistake = Mistake::at(&file.text, place, keys.join("."), what.to_owned());
            file.mistakes = wrong(vec![mistake.cure(cure)]);
        }
        file
    }

    fn wrong_at(&mut self, keys: &[&str], what: String) {
        let place = parse::place_of(&self.text, keys);
        let mistake = Mistake::at(&self.text, place, keys.join("."), what);
        self.mistakes.push(Mistake { file: self.path.clone(), ..mistake });
    }
}

/// What parts of a file say of each other.
fn fits(app: &App) -> Option<(&'static [&'static str], &'static str, &'static str)> {
    let slots = match &app.run.runner {
        Runner::External { slots } => slots.len(),
        Runner::Process { .. } | Runner::Systemd(_) | Runner::Docker(_) => app.run.slots.len(),
    };
    let has_files = app.source.origin.is_some() || !app.source.shared.is_empty();
    if has_files && matches!(app.run.runner, Runner::Docker(_)) {
        return Some((
            &["source"],
            "a release is an image with runner \"docker\", and not made of files",
            "remove it; volumes in [run] has what containers share",
        ));
    }
    let external = matches!(app.run.runner, Runner::External { .. });
    match app.strategy {
        Strategy::BlueGreen if slots < 2 => Some((
            &["run", "slots"],
            "strategy \"blue-green\" needs two slots or more, one of which is free",
            "add one, or write strategy = \"in-place\"",
        )),
        Strategy::InPlace if external => Some((
            &["strategy"],
            "\"in-place\" restarts a release, which somebody else does with runner \"external\"",
            "leave it out",
        )),
        Strategy::InPlace if slots > 1 => Some((
            &["run", "slots"],
            "strategy \"in-place\" has one slot, in which releases follow each other",
            "leave one",
        )),
        Strategy::InPlace if app.canary.is_some() => Some((
            &["canary"],
            "a canary runs beside the old release, which strategy \"in-place\" rules out",
            "remove it",
        )),
        Strategy::InPlace if app.preview.is_some() => Some((
            &["preview"],
            "a preview is of a release that runs beside the old one, which strategy \"in-place\" rules \
             out",
            "remove it",
        )),
        Strategy::BlueGreen | Strategy::InPlace => None,
    }
}

/// Reads all files of a folder, in the order of their names.
///
/// # Errors
///
/// [`ConfigError::Folder`]; what is wrong in the files stands with them.
pub fn folder(folder: &Path) -> Result<Vec<File>, ConfigError> {
    let read = |error| ConfigError::Folder { path: folder.to_owned(), error };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files: Vec<File> = Vec::new();
    for path in paths {
        let mut file = File::read(&path);
        let shared: Vec<_> = files.iter().filter_map(|other| both_want(&file, other)).collect();
        for (keys, what) in shared {
            file.wrong_at(keys, what);
        }
        files.push(file);
    }
    Ok(files)
}

/// What two applications cannot both have.
fn both_want(one: &File, other: &File) -> Option<(&'static [&'static str], String)> {
    let (app, other) = (one.app.as_ref()?, other.app.as_ref()?);
    let (keys, what): (&[&str], _) = if app.name == other.name {
        (&["name"], format!("the name \"{}\"", app.name))
    } else if app.root == other.root {
        (&["root"], format!("the root {:?}", app.root))
    } else if app.nginx == other.nginx && app.upstream() == other.upstream() {
        (&["upstream"], format!("the upstream {:?}", app.upstream()))
    } else {
        (&["run", "slots"], app.run.shared_with(&other.run)?)
    };
    let file = other.file.display();
    Some((keys, format!("{what} is also used by application \"{}\", in {file}", other.name)))
}

/// Reads all applications of a folder.
///
/// # Errors
///
/// [`ConfigError`], with all that is wrong in any file.
pub fn load(path: &Path) -> Result<Vec<App>, ConfigError> {
    let files = folder(path)?;
    let wrong: Vec<_> = files.iter().flat_map(|file| file.mistakes.clone()).collect();
    match wrong.is_empty() {
        true => Ok(files.into_iter().filter_map(|file| file.app).collect()),
        false => Err(ConfigError::Wrong(Mistakes(wrong))),
    }
}
