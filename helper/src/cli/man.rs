//! `shunt man`

use std::path::{Path, PathBuf};

use super::Failure;
use super::manual::{self, Page};
use crate::wire::exit;

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to write every page to, into man1 and man8; without it shunt(1) is printed.
    pub folder: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub fn run(args: &Args) -> Result<u8, Failure> {
    match &args.folder {
        None => super::print(manual::shunt().text)?,
        Some(folder) => {
            for page in manual::all() {
                write(folder, &page)
                    .map_err(|(path, e)| Failure::new(exit::FAILED, format!("{path:?}: {e}")))?;
            }
        }
    }
    Ok(exit::DONE)
}

fn write(folder: &Path, page: &Page) -> Result<(), (PathBuf, std::io::Error)> {
    let folder = folder.join(format!("man{}", page.section));
    std::fs::create_dir_all(&folder).map_err(|e| (folder.clone(), e))?;
    let path = folder.join(page.file());
    std::fs::write(&path, &page.text).map_err(|e| (path, e))
}
