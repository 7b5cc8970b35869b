//! A program that is started again when it ends.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use shunt_tests::client::Connection;
use shunt_tests::process::{children, is_running, signal};
use shunt_tests::until;
use tempfile::TempDir;

use crate::machine::Cores;

/// It, running; it ends with this.
#[derive(Debug)]
pub struct Supervised {
    command: Vec<String>,
    cores: Cores,
    child: Child,
    /// Where its files are.
    pub folder: TempDir,
    /// Where it serves.
    pub port: u16,
}

impl Supervised {
    /// Starts it, and waits until its port answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start(command: Vec<String>, folder: TempDir, port: u16, cores: &Cores) -> Self {
        let child = spawn(&command, &folder);
        let mut started = Self { command, cores: cores.clone(), child, folder, port };
        started.wait_until_it_serves();
        started
    }

    fn wait_until_it_serves(&mut self) {
        until(&format!("{} serves", self.command[0]), || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                panic!("{}: {status}: {}", self.command[0], log.unwrap_or_default());
            }
            Connection::tcp(self.port).ok()
        });
    }

    /// It, and what it has started.
    pub fn pids(&self) -> Vec<u32> {
        let first = self.child.id();
        std::iter::once(first).chain(children(first)).collect()
    }

    /// Starts it again if it has ended; tells whether it had to.
    pub fn revive(&mut self) -> bool {
        let ended = !is_running(self.child.id());
        if ended {
            // A zombie until now.
            let _ = self.child.wait();
            self.child = self.cores.as_proxy(|| spawn(&self.command, &self.folder));
            self.wait_until_it_serves();
        }
        ended
    }
}

fn spawn(command: &[String], folder: &TempDir) -> Child {
    let log = std::fs::File::create(folder.path().join("log")).expect("its folder");
    Command::new(&command[0])
        .args(&command[1..])
        .env("GOMAXPROCS", "1")
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", command[0]))
}

impl Drop for Supervised {
    fn drop(&mut self) {
        signal(self.child.id(), Signal::TERM);
        // It is a child of this process, so this ends.
        let _ = self.child.wait();
    }
}
