//! The last that a release has said, wherever that went.

use crate::runner::docker::Logs;
use crate::runner::log::Log;
use crate::runner::systemd::journal::Journal;

/// Where to look for it.
#[derive(Debug, Clone)]
pub enum Tail {
    /// In a file.
    Log(Log),
    /// In systemd's journal.
    Journal(Journal),
    /// With the Engine of a container.
    Container(Logs),
    /// Nobody here knows.
    Elsewhere,
}

impl Tail {
    /// The last lines since the start, at most so many. What cannot be read has no lines.
    pub async fn last_lines(&self, n: usize) -> Vec<String> {
        match self {
            Self::Log(log) => log.last_lines(n),
            Self::Journal(journal) => journal.last_lines(n).await,
            Self::Container(logs) => logs.last_lines(n).await,
            Self::Elsewhere => Vec::new(),
        }
    }
}
