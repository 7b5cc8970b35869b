//! Load from another machine: `shunt watch`, which counts every request.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::container::Container;
use super::program::Program;

/// What `shunt watch` has seen.
#[derive(Debug, Deserialize)]
pub struct Verdict {
    /// How long it went on, in seconds.
    pub seconds: f64,
    /// Requests, and messages over the WebSocket.
    pub requests: u64,
    /// Of these, over the WebSocket.
    pub messages: u64,
    /// Those that failed.
    pub failures: u64,
    /// The first of them.
    pub first_failures: Vec<serde_json::Value>,
    /// The longest time without a good answer, in milliseconds.
    pub longest_gap: f64,
    /// Answers by release.
    pub releases: BTreeMap<String, u64>,
}

/// `shunt watch` that runs; it ends with its machine at the latest.
#[derive(Debug)]
pub struct Watch<'a>(Program<'a>);

impl<'a> Watch<'a> {
    /// Starts it with these arguments.
    #[track_caller]
    pub(super) fn start(client: &'a Container, args: &[&str]) -> Self {
        let script = "echo $$; exec shunt --json watch \"$@\"";
        Self(Program::start(client, &[&["sh", "-c", script, "watch"], args].concat()))
    }

    /// Starts it so often a second with GET and POST over new and over kept-open connections, and with
    /// a WebSocket. A release drains until its last one has ended, so none stays for long.
    #[track_caller]
    pub(super) fn all_ways(client: &'a Container, url: &str, rate: u32) -> Self {
        let rate = rate.to_string();
        let websocket = ["--websocket", "/ws", "--websocket-time", "1s"];
        Self::start(client, &[&["--rate", &rate, "--post", "/echo", url], &websocket[..]].concat())
    }

    /// Ends it.
    ///
    /// # Panics
    ///
    /// When it has no verdict.
    #[must_use]
    #[track_caller]
    pub fn end(self) -> Verdict {
        let lines = self.0.end();
        let last = lines.last().expect("a verdict");
        serde_json::from_str(last).unwrap_or_else(|e| panic!("no verdict: {e}: {last}"))
    }
}
