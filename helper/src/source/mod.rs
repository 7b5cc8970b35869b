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
pub mod reference;
pub mod revision;
mod shared;
pub mod url;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shunt_api::ReleaseName;

use crate::clock::Span;
use crate::config::{self, Runner};
use crate::program::Lines;
use crate::runner;
use crate::runner::docker::DockerError;
use archive::ArchiveError;
use checksum::Sha256;
use git::GitError;
use image::Image;
use order::{Order, Room};
pub(crate) use partial::{path_of, place, remove_at};
use reader::Reader;
use reference::Reference;
use url::GitUrl;

/// The file that says what a release was made of, as Capistrano has it.
pub const REVISION: &str = "REVISION";

/// Where a release comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A git repository.
    Git {
        /// Where it is.
        url: GitUrl,
        /// What of it.
        reference: Reference,
        /// Whether its submodules are part of it.
        submodules: bool,
    },
    /// A folder of this machine.
    Folder(PathBuf),
    /// A `.tar.gz` or `.tar.zst`.
    Archive {
        /// The file.
        path: PathBuf,
        /// Its checksum; if left out, that of `<path>.sha256` if there is such a file.
        sha256: Option<Sha256>,
    },
    /// An image of Docker's.
    Image(Image),
}

impl Source {
    /// What is at this path: an archive if it is a file, else a folder.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        match path.is_file() {
            true => Self::Archive { path, sha256: None },
            false => Self::Folder(path),
        }
    }

    /// The same source at another reference; `None` when it has none.
    #[must_use]
    pub fn with_reference(self, reference: Reference) -> Option<Self> {
        match self {
            Self::Git { url, submodules, .. } => Some(Self::Git { url, reference, submodules }),
            Self::Folder(_) | Self::Archive { .. } | Self::Image(_) => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Git { url, reference, .. } => write!(f, "{url} {reference}"),
            Self::Folder(path) | Self::Archive { path, .. } => path.display().fmt(f),
            Self::Image(image) => image.fmt(f),
        }
    }
}

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
    source: &Source,
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
    source: &Source,
    by: Option<&Reader>,
    release: &ReleaseName,
    lines: &mut Lines<'_>,
) -> Result<Fetched, SourceError> {
    let (root, shared, user) = (app.root.clone(), app.source.shared.clone(), app.run.user.clone());
    blocking(move || shared::prepare(&root, &shared, user.as_ref())).await?;
    let bounded = Room { bytes: app.source.max_size, entries: archive::ENTRIES };
    match source.clone() {
        Source::Folder(from) => {
            let order = Order::new(app, by, release, Room::UNBOUNDED);
            let guard = order.stop.guard();
            let fetched = blocking(move || folder::fetch(&from, order)).await?;
            guard.keep();
            Ok(fetched)
        }
        Source::Archive { path, sha256 } => {
            let order = Order::new(app, by, release, bounded);
            let guard = order.stop.guard();
            let strip = app.source.strip;
            let fetched = blocking(move || archive::fetch(&path, sha256, strip, order)).await?;
            guard.keep();
            Ok(fetched)
        }
        Source::Git { url, reference, submodules } => {
            let order = Order::new(app, None, release, bounded);
            let guard = order.stop.guard();
            let wanted = git::Wanted { url: &url, reference: &reference, submodules };
            let fetched = git::fetch(app, &wanted, order, lines).await?;
            guard.keep();
            Ok(fetched)
        }
        Source::Image(image) => {
            let Runner::Docker(docker) = &app.run.runner else {
                return Err(SourceError::NoRunner(image));
            };
            let limit = app.source.timeout;
            let found = runner::docker::image::find(docker, &image, limit, lines).await;
            let found = found.map_err(Box::new)?;
            let order = Order::new(app, None, release, bounded);
            let _guard = order.stop.guard();
            blocking(move || image::fetch(&found, order)).await
        }
    }
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
    let sync = move || Ok(rustix::fs::syncfs(std::fs::File::open(folder)?)?);
    tokio::task::spawn_blocking(sync).await.map_err(io::Error::other)?
}
