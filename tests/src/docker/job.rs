//! A command of `shunt` whose job is followed, event by event.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use serde_json::Value;

use super::container::Container;
use crate::PATIENCE;

/// The command, while it runs.
#[derive(Debug)]
pub struct Job {
    child: Child,
    events: Receiver<Value>,
    seen: Vec<Value>,
}

/// What became of it.
#[derive(Debug)]
pub struct Ended {
    /// The exit code of the command.
    pub code: i32,
    /// All events of the job that it has printed.
    pub events: Vec<Value>,
}

impl Job {
    /// Starts it with these arguments.
    #[track_caller]
    pub(super) fn start(server: &Container, args: &[&str]) -> Self {
        let mut child = server.spawn(&[&["shunt", "--json"], args].concat());
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let (send, events) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, events, seen: Vec::new() }
    }

    /// Waits until a step begins, of which nothing was told yet.
    ///
    /// # Panics
    ///
    /// When the command ends before, or that takes too long.
    #[track_caller]
    pub fn reaches(&mut self, step: &str) {
        loop {
            let event = match self.events.recv_timeout(PATIENCE) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => panic!("not at {step} yet: {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before {step}: {:?}", self.seen)
                }
            };
            let found = event["event"] == "step" && event["step"] == step;
            self.seen.push(event);
            if found {
                return;
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    #[must_use]
    #[track_caller]
    pub fn end(mut self) -> Ended {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:?}", self.seen),
            }
        }
        let status = self.child.wait().expect("it ends");
        Ended { code: status.code().unwrap_or(-1), events: self.seen }
    }
}

impl Ended {
    /// What was said at the end of the job; empty when it was not seen.
    #[must_use]
    pub fn text(&self) -> &str {
        let last = self.events.iter().rfind(|event| event["event"] == "ended");
        last.and_then(|event| event["text"].as_str()).unwrap_or_default()
    }

    /// What came of a step, each time that it was done.
    #[must_use]
    pub fn notes(&self, step: &str) -> Vec<&str> {
        let done = |event: &&Value| event["event"] == "done" && event["step"] == step;
        self.events.iter().filter(done).filter_map(|event| event["note"].as_str()).collect()
    }
}
