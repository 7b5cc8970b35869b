//! Load from another machine: `shunt watch`, which counts every request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::thread::JoinHandle;

use serde::Deserialize;

use super::container::Container;

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
pub struct Watch<'a> {
    client: &'a Container,
    child: Child,
    pid: String,
    lines: JoinHandle<Vec<String>>,
}

impl<'a> Watch<'a> {
    /// Starts it with these arguments.
    #[track_caller]
    pub(super) fn start(client: &'a Container, args: &[&str]) -> Self {
        // It says its pid first, by which it is told to end.
        let script = "echo $$; exec shunt --json watch \"$@\"";
        let mut child = client.spawn(&[&["sh", "-c", script, "watch"], args].concat());
        let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut pid = String::new();
        stdout.read_line(&mut pid).expect("its pid");
        let lines = std::thread::spawn(move || stdout.lines().map_while(Result::ok).collect());
        Self { client, child, pid: pid.trim().to_owned(), lines }
    }

    /// Ends it.
    ///
    /// # Panics
    ///
    /// When it has no verdict.
    #[must_use]
    #[track_caller]
    pub fn end(mut self) -> Verdict {
        self.client.run(&["kill", "-INT", &self.pid]);
        let lines = self.lines.join().expect("its output");
        self.child.wait().expect("it ends");
        let last = lines.last().expect("a verdict");
        serde_json::from_str(last).unwrap_or_else(|e| panic!("no verdict: {e}: {last}"))
    }
}
