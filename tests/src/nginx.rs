//! Real NGINX with the module, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::build::Build;
use crate::client::Connection;
use crate::process::{children, command_line, is_running, signal};
use crate::{free_port, until};

/// NGINX that runs; it ends with this.
#[derive(Debug)]
pub struct Nginx {
    build: Build,
    folder: TempDir,
    /// The port of the server that proxies.
    pub port: u16,
    workers: usize,
    connections: usize,
    http: String,
    main: String,
    module: Option<PathBuf>,
    master: Option<Master>,
}

/// How many connections a worker has at most, if nothing else is said.
const CONNECTIONS: usize = 4096;

/// How a master was started.
#[derive(Debug)]
enum Master {
    /// It is a child of this process.
    Child(Child),
    /// It has gone into the background, or another master has started it.
    Daemon(u32),
}

impl Master {
    fn pid(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Daemon(pid) => *pid,
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Child(child) => child.try_wait().expect("a child").is_some(),
            Self::Daemon(pid) => !is_running(*pid),
        }
    }
}

/// How to make one.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What goes into the `http` block: upstreams above all. `%STATE%` is the state file, `%PORT%`
    /// the port, `%FOLDER%` the folder.
    pub http: String,
    /// How many workers.
    pub workers: usize,
}

/// A zone with a state file, the API, and a server that proxies to the upstream `web`.
pub const STANDARD: &str = r#"
    shunt_zone shunt:1m state=%STATE%;
    server {
        listen unix:%FOLDER%/api.sock;
        location / { shunt_api write=on; }
        location /read/ { shunt_api; }
    }
    server {
        listen 127.0.0.1:%PORT% backlog=4096;
        add_header X-Shunt "$shunt_upstream $shunt_release $shunt_generation" always;
        add_header X-Reason $shunt_reason always;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location / { proxy_pass http://web; }
        location /ws {
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_pass http://web;
        }
    }
"#;

impl Setup {
    /// The standard configuration with these upstreams, and four workers.
    #[must_use]
    pub fn standard(upstreams: &str) -> Self {
        Self { http: format!("{STANDARD}\n{upstreams}"), workers: 4 }
    }
}

impl Nginx {
    /// Starts it and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(build: &Build, setup: Setup) -> Self {
        let mut nginx = Self::prepare(build, setup);
        nginx.run();
        nginx
    }

    /// Writes its configuration, but does not start it.
    ///
    /// # Panics
    ///
    /// Without a folder for temporary files.
    #[must_use]
    pub fn prepare(build: &Build, setup: Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let Setup { http, workers } = setup;
        // As root, workers would be another user, who may not look into a temporary folder.
        let main = if geteuid().is_root() { "user root root;" } else { "" }.to_owned();
        let (module, port) = (Some(build.module.clone()), free_port());
        let build = build.clone();
        let connections = CONNECTIONS;
        let nginx =
            Self { build, folder, port, workers, connections, http, main, module, master: None };
        fs::create_dir(nginx.path("state")).expect("a folder");
        nginx.write_configuration();
        nginx
    }

    /// Something in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces what is in the `http` block.
    pub fn set_http(&mut self, http: &str) {
        self.http = http.to_owned();
        self.write_configuration();
    }

    /// From the next reload on there are so many workers.
    pub fn set_workers(&mut self, workers: usize) {
        self.workers = workers;
        self.write_configuration();
    }

    /// From the next start on a worker has so many connections at most.
    pub fn set_connections(&mut self, connections: usize) {
        self.connections = connections;
        self.write_configuration();
    }

    /// Replaces what is outside of all blocks, `user` among it.
    pub fn set_main(&mut self, main: &str) {
        self.main = main.to_owned();
        self.write_configuration();
    }

    /// What is outside of all blocks.
    #[must_use]
    pub fn main(&self) -> &str {
        &self.main
    }

    /// Replaces the module's file, or leaves the module out.
    pub fn set_module(&mut self, module: Option<&Path>) {
        self.module = module.map(ToOwned::to_owned);
        self.write_configuration();
    }

    /// What is in the `http` block.
    #[must_use]
    pub fn http(&self) -> &str {
        &self.http
    }

    fn write_configuration(&self) {
        let folder = self.folder.path().display().to_string();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {folder}/{name}_temp;\n"))
            .collect();
        // Only root may write by itself.
        let write = match geteuid() {
            uid if uid.is_root() => "write=on".to_owned(),
            uid => format!("write=on user={}", uid.as_raw()),
        };
        let http = self
            .http
            .replace("write=on", &write)
            .replace("%STATE%", &format!("{folder}/state/state.json"))
            .replace("%PORT%", &self.port.to_string())
            .replace("%FOLDER%", &folder);
        let load = self.module.as_ref().map(|module| format!("load_module {};", module.display()));
        let load = load.unwrap_or_default();
        let text = format!(
            "{load}\nworker_processes {};\n{}\npid {folder}/nginx.pid;\n\
             error_log {folder}/error.log info;\nevents {{ worker_connections {}; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 10000000;\n{temp}\n{http}\n}}\n",
            self.workers, self.main, self.connections,
        );
        fs::write(self.path("nginx.conf"), text).expect("its folder");
    }

    fn command(&self) -> Command {
        let mut command = match self.build.under.as_slice() {
            [] => Command::new(&self.build.nginx),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(&self.build.nginx);
                command
            }
        };
        let (conf, log) = (self.path("nginx.conf"), self.path("error.log"));
        command.arg("-p").arg(self.folder.path()).arg("-c").arg(conf).arg("-e").arg(log);
        command
    }

    /// Starts it again after it has ended.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    #[track_caller]
    pub fn run(&mut self) {
        let mut command = self.command();
        command.args(["-g", "daemon off;"]).stdout(Stdio::null()).stderr(Stdio::null());
        self.master = Some(Master::Child(command.spawn().expect("nginx starts")));
        self.wait_until_it_serves();
    }

    /// Starts it in the background, as its binary can be upgraded then only.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    #[track_caller]
    pub fn run_in_background(&mut self) {
        let mut command = self.command();
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("nginx starts").success(), "nginx does not start: {}", self.log());
        let pid = until("its pid", || self.pid_in("nginx.pid"));
        self.master = Some(Master::Daemon(pid));
        self.wait_until_it_serves();
    }

    /// The pid in a file of its folder.
    fn pid_in(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.path(name)).ok()?.trim().parse().ok()
    }

    /// Upgrades its binary, to the same one: from now on two masters run. Gives the new one's pid.
    ///
    /// # Panics
    ///
    /// When there is no new master with workers.
    #[must_use]
    #[track_caller]
    pub fn upgrade(&self) -> u32 {
        let old = self.master();
        signal(old, Signal::USR2);
        let new = until("a new master", || self.pid_in("nginx.pid").filter(|pid| *pid != old));
        until("its workers", || (self.workers_of(new).len() == self.workers).then_some(()));
        new
    }

    /// Ends the master that was there in order, or lets it be if it has ended, and goes on with
    /// another one.
    ///
    /// # Panics
    ///
    /// When it does not end.
    #[track_caller]
    pub fn go_on_with(&mut self, new: u32) {
        self.quit();
        self.master = Some(Master::Daemon(new));
    }

    #[track_caller]
    fn wait_until_it_serves(&self) {
        until("nginx serves", || {
            let ready = self.workers().len() == self.workers
                && Connection::tcp(self.port).is_ok()
                && (!self.path("api.sock").exists()
                    || Connection::unix(&self.path("api.sock")).is_ok());
            let ended = !is_running(self.master());
            assert!(!ended, "nginx ended: {}", self.log());
            ready.then_some(())
        });
    }

    /// Tests its configuration: whether it is good, and what NGINX says.
    ///
    /// # Panics
    ///
    /// When NGINX cannot be run.
    #[must_use]
    pub fn test(&self) -> (bool, String) {
        let output = self.command().arg("-t").output().expect("nginx runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Its API.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(&self.path("api.sock"))
    }

    /// A connection to the server that proxies.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::tcp(self.port).expect("a connection")
    }

    /// The master's pid.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn master(&self) -> u32 {
        self.master.as_ref().expect("it runs").pid()
    }

    /// The workers that take new connections.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        self.workers_of(self.master())
    }

    /// The same of another master.
    #[must_use]
    pub fn workers_of(&self, master: u32) -> Vec<u32> {
        // Under another command the processes cannot rename themselves, but they log the same.
        let log = if self.build.under.is_empty() { None } else { Some(self.log()) };
        let is_worker = |pid: &u32| match &log {
            None => {
                let line = command_line(*pid);
                line.contains("worker process") && !line.contains("shutting down")
            }
            Some(log) => {
                log.contains(&format!("start worker process {pid}\n"))
                    && !log.lines().any(|line| {
                        line.contains(&format!(" {pid}#"))
                            && line.ends_with(": gracefully shutting down")
                    })
            }
        };
        children(master).into_iter().filter(is_worker).collect()
    }

    /// Loads the configuration again and waits until new workers have taken over.
    ///
    /// # Panics
    ///
    /// When they do not.
    #[track_caller]
    pub fn reload(&self) {
        let before = self.workers();
        signal(self.master(), Signal::HUP);
        until("new workers", || {
            let now = self.workers();
            let new = now.len() == self.workers && now.iter().all(|w| !before.contains(w));
            new.then_some(())
        });
    }

    /// Loads a configuration that is refused, and gives what NGINX says.
    ///
    /// # Panics
    ///
    /// When it is not refused.
    #[must_use]
    #[track_caller]
    pub fn reload_refused(&self) -> String {
        let (workers, before) = (self.workers(), self.log().len());
        signal(self.master(), Signal::HUP);
        let said = until("a refusal", || {
            let log = self.log();
            let new = &log[before..];
            new.contains("[emerg]").then(|| new.to_owned())
        });
        assert_eq!(self.workers(), workers, "the old workers go on");
        said
    }

    /// Ends it in order.
    ///
    /// # Panics
    ///
    /// When it does not end.
    #[track_caller]
    pub fn quit(&mut self) {
        let Some(mut master) = self.master.take() else { return };
        signal(master.pid(), Signal::QUIT);
        until("nginx ends", || master.has_ended().then_some(()));
    }

    /// Its error log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("error.log")).unwrap_or_default()
    }

    /// The lines of its log that tell of something wrong.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        const LEVELS: [&str; 5] = ["[emerg]", "[alert]", "[crit]", "[error]", "exited on signal"];
        let log = self.log();
        let bad = |line: &&str| LEVELS.iter().any(|level| line.contains(level));
        log.lines().filter(bad).map(ToOwned::to_owned).collect()
    }

    /// What it was built from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        match self.master.take() {
            Some(Master::Child(mut child)) => {
                signal(child.id(), Signal::TERM);
                // It is a child of this process, so this ends.
                let _ = child.wait();
            }
            Some(Master::Daemon(pid)) => {
                // An upgrade may be under way.
                let written = ["nginx.pid", "nginx.pid.oldbin"].map(|name| self.pid_in(name));
                for master in written.into_iter().flatten().chain([pid]) {
                    // A file may be older than what has its pid now.
                    if command_line(master).contains("nginx: master") {
                        signal(master, Signal::TERM);
                        until("nginx ends", || (!is_running(master)).then_some(()));
                    }
                }
            }
            None => {}
        }
        if std::thread::panicking() {
            eprintln!("--- error log of nginx {}\n{}", self.build.version, self.log());
        }
    }
}
