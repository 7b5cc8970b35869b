//! What a unit has said: systemd's journal.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::plain::plain;

/// How long `journalctl` may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How the place in the journal is printed.
const CURSOR: &str = "-- cursor: ";

/// The journal of a unit from a moment on.
#[derive(Debug, Clone)]
pub struct Journal {
    unit: String,
    start: Start,
}

/// Where in the journal that moment is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    /// At its beginning: there was nothing in it.
    Empty,
    /// After this entry. Times would do, too, if clocks were never set.
    After(String),
    /// It could not be read.
    Unknown,
}

impl Journal {
    /// That of a unit from now on.
    pub async fn from_now_on(unit: &str) -> Self {
        let said = journalctl(&["--quiet", "--lines=0", "--show-cursor"]).await;
        let start = said.map_or(Start::Unknown, |said| start(&said));
        Self { unit: unit.to_owned(), start }
    }

    /// The last lines of the unit and about it, at most so many. What cannot be read has no lines; that
    /// is no reason to fail.
    pub async fn last_lines(&self, n: usize) -> Vec<String> {
        let since = match &self.start {
            Start::Unknown => return Vec::new(),
            Start::Empty => None,
            Start::After(cursor) => Some(format!("--after-cursor={cursor}")),
        };
        let (unit, n) = (format!("--unit={}", self.unit), format!("--lines={n}"));
        let mut arguments = vec!["--quiet", "--no-pager", "--output=cat", &unit, &n];
        arguments.extend(since.as_deref());
        // What was said a moment ago may still be on its way.
        let _ = journalctl(&["--sync"]).await;
        let text = journalctl(&arguments).await.unwrap_or_default();
        text.lines().map(plain).collect()
    }
}

fn start(said: &str) -> Start {
    let cursor = said.lines().find_map(|line| line.strip_prefix(CURSOR));
    cursor.map_or(Start::Empty, |cursor| Start::After(cursor.trim().to_owned()))
}

/// Runs it and gives its output, if it ends well.
async fn journalctl(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("journalctl");
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.ok()?.ok()?;
    let said = || String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_in_the_journal_is_the_cursor() {
        assert_eq!(start("-- cursor: s=1;i=2\n"), Start::After("s=1;i=2".to_owned()));
        assert_eq!(start(""), Start::Empty);
    }
}
