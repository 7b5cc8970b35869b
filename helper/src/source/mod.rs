//! Where releases come from.

pub mod checksum;
pub mod folder;
pub mod reference;
pub mod url;

/// x
pub const REVISION: &str = "REVISION";

/// A source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// x
    Git { url: url::GitUrl, reference: reference::Reference, submodules: bool },
    /// x
    Folder(std::path::PathBuf),
    /// x
    Archive { path: std::path::PathBuf, sha256: Option<checksum::Sha256> },
}
