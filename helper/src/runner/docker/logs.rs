//! What a container has said: its Engine has it, until the container is removed.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::engine::Engine;
use crate::runner::log::Log;

/// So many lines are kept of a container that is removed.
const KEPT: usize = 10_000;

/// How long the Engine may take to tell.
const LIMIT: Duration = Duration::from_secs(10);

/// The log of a container.
#[derive(Debug, Clone)]
pub struct Logs {
    /// The Engine's socket.
    pub(super) socket: PathBuf,
    /// The container.
    pub(super) id: String,
}

impl Logs {
    /// The last lines, at most so many. What cannot be read has no lines; that is no reason to fail.
    pub async fn last_lines(&self, n: usize) -> Vec<String> {
        let read = async { Engine::connect(&self.socket).await?.last_lines(&self.id, n).await };
        match tokio::time::timeout(LIMIT, read).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

/// Writes the end of what a container has said to a file, which this group may read.
pub(super) async fn keep(
    engine: &Engine,
    id: &str,
    path: PathBuf,
    group: Option<u32>,
) -> Result<(), String> {
    let lines = match tokio::time::timeout(LIMIT, engine.last_lines(id, KEPT)).await {
        Ok(lines) => lines.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("it was not read within {LIMIT:?}")),
    };
    let write = move || {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let written =
            Log::open(&path, group).and_then(|log| log.writer()?.write_all(text.as_bytes()));
        written.map_err(|error| format!("{}: {error}", path.display()))
    };
    tokio::task::spawn_blocking(write).await.map_err(|e| e.to_string())?
}
