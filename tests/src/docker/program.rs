//! A program in a container that prints its pid, then lines, until it is told to end.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::thread::JoinHandle;

use super::container::Container;

/// It, while it runs; it ends with its machine at the latest.
#[derive(Debug)]
pub struct Program<'a> {
    machine: &'a Container,
    child: Child,
    pid: String,
    lines: JoinHandle<Vec<String>>,
}

impl<'a> Program<'a> {
    /// Starts it, and waits for its pid: the child is only Docker's command.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn start(machine: &'a Container, command: &[&str]) -> Self {
        let mut child = machine.spawn(command);
        let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut pid = String::new();
        stdout.read_line(&mut pid).expect("its pid");
        let lines = std::thread::spawn(move || stdout.lines().map_while(Result::ok).collect());
        Self { machine, child, pid: pid.trim().to_owned(), lines }
    }

    /// Ends it, and gives its lines.
    ///
    /// # Panics
    ///
    /// When it does not run any more.
    #[must_use]
    #[track_caller]
    pub fn end(mut self) -> Vec<String> {
        // The shell's own, which every image has.
        self.machine.sh(&format!("kill -INT {}", self.pid));
        let lines = self.lines.join().expect("its output");
        self.child.wait().expect("it ends");
        lines
    }
}
