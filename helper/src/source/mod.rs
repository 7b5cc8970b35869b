//! Where releases come from: a git repository, a folder, an archive; or a registry of images.
//!
//! A release is made beside its place, `<root>/releases/<release>`, and renamed at the end: it is whole
//! or not there. All sources end alike: what all releases share is linked into it (`[source] shared`),
//! and the file `REVISION` says what it was made of — a commit of git; for a folder or an archive what
//! such a file in it says, and else the release's name, the commit that `git archive` was told, or the
//! archive's SHA-256.
//!
//! Without a `build` hook a release is root's, and the application's user can read and run it; with one
//! it is the user's, as the hook has to write to it.
//!
//! Root runs nothing that comes from a source: git runs as the application's user, in its own copy of
//! the repository (`<root>/source.git`), and what it gives out is unpacked as any other archive.

pub mod archive;
pub mod checksum;
pub mod folder;
pub mod git;
pub mod image;
mod mirror;
mod order;
mod partial;
pub mod reader;
pub mod revision;
mod shared;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shunt_api::ReleaseName;

use crate::clock::Span;
use crate::config::{self, Runner};
use crate::file;
use crate::origin::Origin;
use crate::origin::image::Image;
use crate::program::Lines;
use crate::runner;
use crate::runner::docker::DockerError;
use archive::ArchiveError;
use git::GitError;
use order::{Order, Room};
use reader::Reader;

/// A release that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its folder.
    pub folder: PathBuf,
    /// What it was made of: the content of its file `REVISION`.
    pub revision: String,
}

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// What was given is not a folder.
    #[error("{0:?} is not a folder")]
    NoFolder(PathBuf),
    /// The release's own folder is inside of what would be copied.
    #[error("{from:?} holds {to:?}, a release cannot be made of what holds it")]
    Inside {
        /// What was to be copied.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
    },
    /// There is a release of this name.
    #[error("release \"{0}\" exists already, choose another name")]
    Exists(ReleaseName),
    /// Something could not be copied.
    #[error("cannot copy {path:?}: {error}")]
    Copy {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something could not be read.
    #[error("cannot read {path:?}: {error}")]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something could not be written.
    #[error("cannot write {path:?}: {error}")]
    Write {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The archive is refused.
    #[error("archive {path:?} is refused: {error}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why.
        error: ArchiveError,
    },
    /// A file that releases share is not there.
    #[error(
        "the shared file {path:?} is missing ([source] shared): put it there, so that the \
         application's user can read it"
    )]
    SharedMissing {
        /// The file.
        path: PathBuf,
    },
    /// Something that releases share is of another kind.
    #[error(
        "{path:?} is {}", match folder {
            true => "a file, write it without the slash at its end in [source] shared",
            false => "a folder, write it with a slash at its end in [source] shared",
        }
    )]
    SharedKind {
        /// What is there.
        path: PathBuf,
        /// Whether the configuration has it as a folder.
        folder: bool,
    },
    /// Something that releases share could not be linked into the release.
    #[error("cannot link the shared {path:?} into the release: {error}")]
    Link {
        /// What is shared.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Git did not give it.
    #[error(transparent)]
    Git(#[from] GitError),
    /// There is no such image.
    #[error(transparent)]
    Image(#[from] Box<DockerError>),
    /// An image is asked for, and the application has another runner meanwhile.
    #[error("{0} is an image, which takes the runner \"docker\"")]
    NoRunner(Image),
    /// It took too long.
    #[error("the release was not fetched within {} ([source] timeout)", Span(*.0))]
    Limit(Duration),
    /// The thread that did it is gone.
    #[error("the release was not fetched: {0}")]
    Lost(String),
}

impl SourceError {
    /// Lines that explain it, in git's own words.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Git(error) => error.lines(),
            _ => &[],
        }
    }
}

/// Fetches a release into its folder, for somebody who has named the source and is neither root nor the
/// daemon's user, or for one of these. What is said meanwhile is passed on line by line. When nobody
/// waits for it any more, it ends.
///
/// # Errors
///
/// [`SourceError`]; nothing is left then, but for what git has learnt.
pub async fn fetch(
    app: &config::App,
    source: &Origin,
    by: Option<&Reader>,
    release: &ReleaseName,
    lines: &mut Lines<'_>,
) -> Result<Fetched, SourceError> {
    let limit = app.source.timeout;
    let fetch = within(app, source, by, release, lines);
    tokio::time::timeout(limit, fetch).await.unwrap_or(Err(SourceError::Limit(limit)))
}

async fn within(
    app: &config::App,
    source: &Origin,
    by: Option<&Reader>,
    release: &ReleaseName,
    lines: &mut Lines<'_>,
) -> Result<Fetched, SourceError> {
    let (root, shared, user) = (app.root.clone(), app.source.shared.clone(), app.run.user.clone());
    blocking(move || shared::prepare(&root, &shared, user.as_ref())).await?;
    let bounded = Room { bytes: app.source.max_size, entries: archive::ENTRIES };
    match source.clone() {
        Origin::Folder(from) => {
            let order = Order::new(app, by, release, Room::UNBOUNDED);
            made(order, |order| blocking(move || folder::fetch(&from, order))).await
        }
        Origin::Archive { path, sha256 } => {
            let order = Order::new(app, by, release, bounded);
            let strip = app.source.strip;
            let fetch = move |order| archive::fetch(&path, sha256, strip, order);
            made(order, |order| blocking(move || fetch(order))).await
        }
        Origin::Git { url, reference, submodules } => {
            let order = Order::new(app, None, release, bounded);
            let wanted = git::Wanted { url: &url, reference: &reference, submodules };
            made(order, |order| git::fetch(app, &wanted, order, lines)).await
        }
        Origin::Image(image) => {
            let Runner::Docker(docker) = &app.run.runner else {
                return Err(SourceError::NoRunner(image));
            };
            let limit = app.source.timeout;
            let found = runner::docker::image::find(docker, &image, limit, lines).await;
            let found = found.map_err(Box::new)?;
            let order = Order::new(app, None, release, bounded);
            made(order, |order| blocking(move || image::fetch(&found, order))).await
        }
    }
}

/// Makes a release. Whoever stops waiting for it before its end has it withdrawn.
async fn made<F: Future<Output = Result<Fetched, SourceError>>>(
    order: Order,
    make: impl FnOnce(Order) -> F,
) -> Result<Fetched, SourceError> {
    let guard = order.stop.guard();
    let fetched = make(order).await?;
    guard.keep();
    Ok(fetched)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let work = tokio::task::spawn_blocking(work);
    work.await.unwrap_or_else(|error| Err(SourceError::Lost(error.to_string())))
}

/// Brings what hooks have written to a release to the disk, so that a loss of power cannot take it back
/// once the release serves.
///
/// # Errors
///
/// What the system says.
pub async fn sync(folder: &Path) -> io::Result<()> {
    let folder = folder.to_owned();
    file::blocking(move || Ok(rustix::fs::syncfs(std::fs::File::open(folder)?)?)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::docker::image::Found;

    #[tokio::test]
    async fn what_is_waited_for_stays_and_what_nobody_waits_for_is_withdrawn() {
        let tmp = tempfile::tempdir().unwrap();
        let id = format!("sha256:{}", "0a".repeat(32));
        let found = Found { id, name: "web:v1".parse().unwrap() };
        let order = || order::testing::order(tmp.path());
        let image = found.clone();
        let make = |order| blocking(move || image::fetch(&image, order));
        let folder = made(order(), make).await.unwrap().folder;
        assert_eq!(image::of(&folder), Some(found.name.clone()));
        std::fs::remove_dir_all(&folder).unwrap();
        // Whoever waited leaves when all of it is there.
        let make = async |order| {
            image::fetch(&found, order).unwrap();
            assert!(folder.exists());
            std::future::pending().await
        };
        let left = tokio::time::timeout(Duration::from_millis(1), made(order(), make)).await;
        assert!(left.is_err() && !folder.exists());
    }
}
