//! Why a release cannot be started, whatever runs it.

use std::io;
use std::path::PathBuf;

use shunt_api::Address;

use crate::endpoint::ListenError;
use crate::runner::docker::DockerError;
use crate::runner::external::ResolveError;
use crate::runner::systemd::SystemdError;

/// Why a release cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The slot's socket cannot be opened.
    #[error("cannot listen on slot {slot}: {error}{}", who(slot, error))]
    Listen {
        /// The slot.
        slot: Address,
        /// Why.
        error: ListenError,
    },
    /// The log cannot be opened.
    #[error("cannot open log {path:?}: {error}")]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {command:?} in {folder:?}: {error}")]
    Spawn {
        /// The program.
        command: Vec<String>,
        /// Where.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// systemd does not start it.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Docker does not start it.
    #[error(transparent)]
    Docker(#[from] Box<DockerError>),
    /// What runs in the slot was started by another runner than the application has now.
    #[error(
        "the slot is held by another runner than the configuration has now: stop its release first"
    )]
    OtherRunner,
    /// It cannot be written down that it is to start: nothing was tried.
    #[error("it was not started, as that cannot be written down: {0}")]
    Unwritten(Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else's slot cannot be found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// How to find who listens there.
fn who(slot: &Address, error: &ListenError) -> String {
    match slot {
        _ if !error.is_in_use() => String::new(),
        Address::Ip(address) => {
            format!("; `ss -lntp sport = :{}` tells who does", address.port())
        }
        Address::Unix(path) => format!("; `ss -lxp src {}` tells who does", path.display()),
    }
}

impl From<DockerError> for StartError {
    fn from(error: DockerError) -> Self {
        Self::Docker(Box::new(error))
    }
}

impl StartError {
    /// The last that the release has said.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Systemd(SystemdError::Failed { lines, .. }) => lines,
            _ => &[],
        }
    }

    /// Whether somebody else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Listen { error, .. } => error.is_in_use(),
            // There is hardly another reason for a socket.
            Self::Systemd(SystemdError::Failed { unit, .. }) => unit.ends_with(".socket"),
            Self::Docker(error) => matches!(**error, DockerError::InUse { .. }),
            _ => false,
        }
    }
}
