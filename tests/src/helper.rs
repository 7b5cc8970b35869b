//! `shuntd` in a folder of its own, and `shunt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::process::signal;
use crate::{build, free_port, until};

/// How long a release may take to become healthy.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// An application and its daemon.
#[derive(Debug)]
pub struct Daemon {
    folder: PathBuf,
    child: Option<Child>,
}

/// An event of a job, as `shunt --json` prints it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Event {
    /// What happened: `step`, `done`, …
    pub event: String,
    /// In which step.
    pub step: Option<String>,
    /// After how many milliseconds.
    pub at: u64,
    /// How many milliseconds it took.
    pub took: Option<f64>,
}

/// What `shunt` did.
#[derive(Debug)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Output {
    /// What has happened in a job that was followed with `--json`.
    ///
    /// # Panics
    ///
    /// When it was not.
    #[must_use]
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        let event = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        self.stdout.lines().map(event).collect()
    }

    /// After how many milliseconds a step was done.
    ///
    /// # Panics
    ///
    /// When it was not.
    #[must_use]
    #[track_caller]
    pub fn done(&self, step: &str) -> u64 {
        self.found("done", step).at
    }

    /// What there is of this kind of a step.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn found(&self, event: &str, step: &str) -> Event {
        let mut events = self.events().into_iter();
        let found = events.find(|e| e.event == event && e.step.as_deref() == Some(step));
        found.unwrap_or_else(|| panic!("{event} {step}: {self:?}"))
    }
}

impl Daemon {
    /// Starts a daemon for the application `web`, whose upstream is in this NGINX.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(folder: &Path, api: &Path, more: &str) -> Self {
        Self::with("blue-green", folder, api, more)
    }

    /// As [`Daemon::start`], with one slot in which releases follow each other.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn in_place(folder: &Path, api: &Path, more: &str) -> Self {
        Self::with("in-place", folder, api, more)
    }

    #[track_caller]
    fn with(strategy: &str, folder: &Path, api: &Path, more: &str) -> Self {
        let mut daemon = Self { folder: folder.to_owned(), child: None };
        fs::create_dir_all(daemon.path("apps")).expect("a folder");
        let slots = if strategy == "in-place" { 1 } else { 2 };
        let slots: Vec<_> = (0..slots).map(|_| format!("\"127.0.0.1:{}\"", free_port())).collect();
        // Most tests are of something else, and need not wait for it.
        let guard = if more.contains("[guard]") { "" } else { "[guard]\ntime = \"0s\"" };
        let app = format!(
            r#"
            name = "web"
            strategy = "{strategy}"
            root = {:?}
            nginx = "unix:{}"
            [run]
            command = ["./server"]
            slots = [{}]
            [health]
            path = "/health"
            interval = "20ms"
            release_header = "X-Release"
            deadline = "{}s"
            {guard}
            {more}
            "#,
            daemon.path("web"),
            api.display(),
            slots.join(", "),
            DEADLINE.as_secs(),
        );
        fs::write(daemon.path("apps/web.toml"), app).expect("its folder");
        daemon.run();
        daemon
    }

    /// Gives it another application beside `web`, like that one, and lets it read its configuration
    /// again.
    ///
    /// # Panics
    ///
    /// When that cannot be written, or is refused.
    #[track_caller]
    pub fn add(&self, name: &str) {
        let web = fs::read_to_string(self.path("apps/web.toml")).expect("the first one");
        let other = web.lines().map(|line| match line.trim().split(' ').next() {
            Some("name") => format!("name = {name:?}"),
            Some("root") => format!("root = {:?}", self.path(name)),
            Some("slots") => {
                format!("slots = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", free_port(), free_port())
            }
            _ => line.to_owned(),
        });
        let other: Vec<_> = other.collect();
        fs::write(self.path(&format!("apps/{name}.toml")), other.join("\n")).expect("a file");
        signal(self.pid(), Signal::HUP);
        until("it is known", || (self.shunt(&["status", name]).code == 0).then_some(()));
    }

    /// Something in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("shuntd.sock")
    }

    /// Starts it again.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[track_caller]
    pub fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("shuntd.log"));
        let mut command = Command::new(build::helper("shuntd"));
        command
            .arg("--config")
            .arg(self.path("apps"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("its folder"));
        self.child = Some(command.spawn().expect("shuntd starts"));
        until("shuntd answers", || (self.shunt(&["status"]).code == 0).then_some(()));
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), Signal::KILL);
        let _ = child.wait();
    }

    /// Ends it in order.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn end(&mut self) {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), Signal::TERM);
        let _ = child.wait();
    }

    /// Its pid.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Makes a release of the demo's application: a folder with the program and its name.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn release(&self, name: &str) -> PathBuf {
        let folder = self.path("dist").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::copy(build::own("shunt-demo-app"), folder.join("server")).expect("the application");
        fs::write(folder.join("REVISION"), format!("{name}\n")).expect("its name");
        folder
    }

    /// A release that never becomes healthy.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn sick_release(&self, name: &str) -> PathBuf {
        let folder = self.release(name);
        fs::write(folder.join("sick"), "the database has no table \"users\"\n").expect("a file");
        folder
    }

    /// Runs `shunt`.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    #[must_use]
    pub fn shunt(&self, args: &[&str]) -> Output {
        let mut command = Command::new(build::helper("shunt"));
        command.args(args).arg("--socket").arg(self.socket()).stdin(Stdio::null());
        let output = command.output().expect("shunt runs");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Deploys a release that is in `dist/`.
    #[must_use]
    pub fn deploy(&self, name: &str) -> Output {
        let from = self.path("dist").join(name);
        self.shunt(&["deploy", "web", "--release", name, "--from", &from.display().to_string()])
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("shuntd.log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), Signal::TERM);
            // It is a child of this process, so this ends.
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of shuntd\n{}", self.log());
        }
    }
}
