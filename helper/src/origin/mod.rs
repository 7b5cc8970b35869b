//! Where releases come from, as it is written in a configuration and in an order to deploy.

pub mod checksum;
pub mod image;
pub mod reference;
pub mod url;

use std::path::PathBuf;

use checksum::Sha256;
use image::Image;
use reference::Reference;
use url::GitUrl;

/// The file that says what a release was made of, as Capistrano has it.
pub const REVISION: &str = "REVISION";

/// Where a release comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
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

impl Origin {
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

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Git { url, reference, .. } => write!(f, "{url} {reference}"),
            Self::Folder(path) | Self::Archive { path, .. } => path.display().fmt(f),
            Self::Image(image) => image.fmt(f),
        }
    }
}
