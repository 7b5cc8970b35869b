//! A container.

use std::process::{Child, Command, Stdio};

use super::engine::{docker, try_docker};
use crate::helper::Output;
use crate::until;

/// A container that runs; it is removed with its site.
#[derive(Debug)]
pub struct Container {
    id: String,
}

impl Container {
    /// Starts one.
    #[track_caller]
    pub(super) fn start(options: &[&str], image: &str, command: &[&str]) -> Self {
        let args = [&["run", "--detach"], options, &[image], command].concat();
        Self { id: docker(&args) }
    }

    /// One that somebody else has started, and removes.
    pub(super) fn started(id: String) -> Self {
        Self { id }
    }

    /// Its ID.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Runs a command in it.
    #[must_use]
    #[track_caller]
    pub fn try_run(&self, command: &[&str]) -> Output {
        try_docker(&[&["exec", &self.id], command].concat(), b"")
    }

    /// Runs a command in it that succeeds, and gives what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.try_run(command);
        assert!(output.code == 0, "{command:?}: {output:?}");
        output.stdout
    }

    /// Runs a shell script in it that succeeds, and gives what it printed.
    ///
    /// # Panics
    ///
    /// When a command in it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(&["bash", "-euo", "pipefail", "-c", script])
    }

    /// Starts a command in it whose output is read. To end it takes more than to kill this child,
    /// which is only Docker's command.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(&self, command: &[&str]) -> Child {
        let mut docker = Command::new("docker");
        docker.arg("exec").arg(&self.id).args(command).stdin(Stdio::null()).stdout(Stdio::piped());
        docker.spawn().expect("docker starts")
    }

    /// Writes a file in it; folders that are missing are made.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let script = "mkdir -p \"$(dirname \"$1\")\" && cat >\"$1\"";
        let args = ["exec", "--interactive", &self.id, "sh", "-c", script, "write", path];
        let output = try_docker(&args, content.as_ref());
        assert!(output.code == 0, "{path}: {output:?}");
    }

    /// Reads a file in it.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        self.run(&["cat", path])
    }

    /// Whether there is such a file in it.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.try_run(&["test", "-e", path]).code == 0
    }

    /// What a unit has logged since the machine was started.
    #[must_use]
    #[track_caller]
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--boot", "--unit", unit])
    }

    /// A property of a unit.
    #[must_use]
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, unit]).trim().to_owned()
    }

    /// Waits until systemd has started everything, and all of it runs.
    ///
    /// # Panics
    ///
    /// When a unit has failed.
    #[track_caller]
    pub fn wait_until_booted(&self) {
        // It is not there at once to be asked.
        let state = until("systemd has started everything", || {
            let said = self.try_run(&["systemctl", "is-system-running", "--wait"]);
            let state = said.stdout.trim().to_owned();
            if !self.is_running() {
                let logs = try_docker(&["logs", &self.id], b"");
                panic!("systemd has ended: {}{}", logs.stdout, logs.stderr);
            }
            matches!(&*state, "running" | "degraded").then_some(state)
        });
        if state == "degraded" {
            panic!("units have failed: {}", self.run(&["systemctl", "--no-legend", "--failed"]));
        }
    }

    fn is_running(&self) -> bool {
        docker(&["inspect", "--format", "{{.State.Running}}", &self.id]) == "true"
    }

    /// Ends it at once with all that runs in it, as if the machine lost its power; its disk stays.
    #[track_caller]
    pub fn cut_off(&self) {
        docker(&["kill", &self.id]);
        until("it is off", || (!self.is_running()).then_some(()));
    }

    /// Starts it again.
    #[track_caller]
    pub fn power_on(&self) {
        docker(&["start", &self.id]);
    }

    /// Its address.
    #[must_use]
    #[track_caller]
    pub fn address(&self) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "--format", format, &self.id])
    }
}
