//! What the tests run in: a module that is none, the real daemon, and the real command line.

pub mod app;
pub mod ask;
pub mod module;
pub mod mortal;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shunt_helper::runner::leftover::Identity;

use module::Module;

/// A folder with a daemon for the application `web`, and the module that it talks to.
pub struct World {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    pub module: Module,
}

/// What `shunt` did.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// Starts everything; `more` is added to the application's configuration.
    pub fn new(more: &str) -> Self {
        Self::with_command(&app::command(), more)
    }

    /// As [`World::new`], with another command.
    pub fn with_command(command: &[String], more: &str) -> Self {
        Self::with("10s", 2, command, more)
    }

    /// As [`World::new`], with a module that has little time to answer.
    pub fn impatient(more: &str) -> Self {
        Self::with("500ms", 2, &app::command(), more)
    }

    /// As [`World::new`], with so many slots.
    pub fn with_slots(slots: usize) -> Self {
        Self::with("10s", slots, &app::command(), "")
    }

    /// As [`World::new`], with one slot in which releases follow each other.
    pub fn in_place(more: &str) -> Self {
        Self::with("10s", 1, &app::command(), more)
    }

    fn with(nginx_timeout: &str, slots: usize, command: &[String], more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users have to reach the socket to be refused.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let module = Module::start(&folder.path().join("nginx.sock"));
        let mut world = Self { folder, daemon: None, module };
        fs::create_dir(world.path("apps")).unwrap();
        let slots: Vec<_> = (0..slots).map(|_| format!("\"127.0.0.1:{}\"", free_port())).collect();
        let strategy = if slots.len() == 1 { "in-place" } else { "blue-green" };
        let slots = slots.join(", ");
        let guard = if more.contains("[guard]") { "" } else { "[guard]\ntime = \"0s\"" };
        let config = format!(
            r#"
            name = "web"
            strategy = {strategy:?}
            root = {:?}
            nginx = "unix:{}"
            nginx_timeout = {nginx_timeout:?}
            [run]
            command = {:?}
            slots = [{slots}]
            [health]
            path = "/health"
            interval = "10ms"
            deadline = "2s"
            release_header = "X-Release"
            {guard}
            {more}
            "#,
            world.path("web"),
            world.path("nginx.sock").display(),
            command,
        );
        fs::write(world.path("apps/web.toml"), config).unwrap();
        world.start();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon's command, with its folders and this socket.
    pub fn shuntd(&self, socket: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shuntd"));
        command.arg("--config").arg(self.path("apps")).arg("--state").arg(self.path("state"));
        command.arg("--socket").arg(self.path(socket)).stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it answers and is done with what it does at its start.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`World::start`], with more options.
    pub fn start_with(&mut self, options: &[&str]) {
        let mut command = self.shuntd("shuntd.sock");
        command.args(options);
        self.start_as(command);
        self.idle();
    }

    /// Starts a daemon that dies at the `n`th moment of its journal, counted from 1.
    pub fn start_mortal(&mut self, n: usize) {
        self.start_as(mortal::command(self, n));
    }

    /// Starts a daemon by this command, and waits for nothing.
    pub fn start_as(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("shuntd.log"));
        self.daemon = Some(command.stderr(log.unwrap()).spawn().unwrap());
    }

    /// Waits until the daemon answers and no job runs.
    pub fn idle(&self) -> Value {
        until("the daemon is idle", || self.status().filter(|status| status["job"].is_null()))
    }

    /// Whether the daemon has been killed, or has killed itself.
    pub fn is_dead(&mut self) -> bool {
        let dead = match &mut self.daemon {
            Some(child) => child.try_wait().unwrap().is_some(),
            None => true,
        };
        if dead {
            self.daemon = None;
        }
        dead
    }

    /// Sends the daemon a signal and waits for its end.
    pub fn end(&mut self, signal: Signal) {
        let mut child = self.daemon.take().expect("it runs");
        kill_process(pid(child.id()), signal).unwrap();
        child.wait().unwrap();
    }

    /// The daemon's pid.
    pub fn daemon(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// Changes a part of the application's configuration; it takes effect at [`World::reload`].
    pub fn edit_config(&self, from: &str, to: &str) {
        let path = self.path("apps/web.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Adds another application, whose NGINX is not there.
    pub fn add_shop(&self) {
        let text = format!(
            "name = \"shop\"\nroot = {:?}\nnginx = \"unix:{}\"\n\
             [run]\ncommand = [\"./server\"]\nslots = [\"unix:{}\", \"unix:{}\"]\n",
            self.path("shop"),
            self.path("shop-nginx.sock").display(),
            self.path("shop-1.sock").display(),
            self.path("shop-2.sock").display(),
        );
        fs::write(self.path("apps/shop.toml"), text).unwrap();
    }

    /// Whether the daemon has that application.
    pub fn knows_shop(&self) -> bool {
        match self.shunt(&["status", "shop"]).code {
            2 => false,
            8 => true,
            code => panic!("{code}"),
        }
    }

    /// Lets the daemon read its configuration again, and gives what it says of that.
    pub fn reload(&self) -> String {
        let before = self.log().len();
        kill_process(pid(self.daemon()), Signal::HUP).unwrap();
        until("the configuration is read again", || {
            let log = self.log()[before..].to_owned();
            (log.contains("read again") && log.ends_with('\n')).then_some(log)
        })
    }

    /// Waits until somebody has killed the daemon.
    pub fn killed(&mut self) {
        self.daemon.take().expect("it runs").wait().unwrap();
    }

    /// Changes what a killed daemon has left in its journal.
    pub fn edit_state(&self, edit: impl FnOnce(&mut Value)) {
        let journal = rusqlite::Connection::open(self.path("state/journal.db")).unwrap();
        let sql = "SELECT remembered FROM apps WHERE app = 'web'";
        let text: String = journal.query_row(sql, [], |row| row.get(0)).unwrap();
        let mut state = serde_json::from_str(&text).unwrap();
        edit(&mut state);
        let sql = "UPDATE apps SET remembered = ?1 WHERE app = 'web'";
        assert_eq!(journal.execute(sql, [state.to_string()]).unwrap(), 1);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        if !args.contains(&"--socket") {
            command.arg("--socket").arg(self.path("shuntd.sock"));
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    pub fn shunt(&self, args: &[&str]) -> Output {
        output(self.command(args).output().unwrap())
    }

    /// As another user.
    pub fn shunt_as(&self, uid: u32, args: &[&str]) -> Output {
        use std::os::unix::process::CommandExt;
        output(self.command(args).uid(uid).output().unwrap())
    }

    /// The events of a job that has ended, as this user sees them.
    pub fn events_as(&self, uid: u32, job: u64) -> String {
        use std::os::unix::process::CommandExt;
        let (program, args) = app::follower();
        let mut command = Command::new(program);
        command.args(args).env("SOCKET", self.path("shuntd.sock")).env("JOB", job.to_string());
        output(command.uid(uid).output().unwrap()).stdout
    }

    /// Connections of another user that do nothing until their input ends, more than he may have.
    pub fn crowd_as(&self, uid: u32) -> Child {
        use std::io::BufRead;
        use std::os::unix::process::CommandExt;
        let (program, args) = app::crowd();
        let mut command = Command::new(program);
        command.args(args).env("SOCKET", self.path("shuntd.sock")).uid(uid);
        let mut crowd = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufReader::new(crowd.stdout.as_mut().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "{}"));
        crowd
    }

    /// Where nobody listens.
    pub fn free_address(&self) -> String {
        format!("127.0.0.1:{}", free_port())
    }

    /// Makes a release's folder with these files, and the arguments that deploy it.
    pub fn release(&self, name: &str, files: &[(&str, &str)]) -> Vec<String> {
        let folder = self.path("dist").join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
        let from = folder.display().to_string();
        ["deploy", "web", "--release", name, "--from", &from].map(str::to_owned).to_vec()
    }

    pub fn deploy(&self, name: &str, files: &[(&str, &str)]) -> Output {
        let args = self.release(name, files);
        self.shunt(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a deploy and lets it run.
    pub fn begin_deploy(&self, name: &str, files: &[(&str, &str)]) -> Child {
        let args = self.release(name, files);
        self.begin(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs `shunt`, and does not wait for its end.
    pub fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn status(&self) -> Option<Value> {
        let output = self.shunt(&["--json", "status", "web"]);
        serde_json::from_str(&output.stdout).ok()
    }

    /// The pid of a release's process, if it runs.
    pub fn pid_of(&self, release: &str) -> Option<u32> {
        let status = self.status()?;
        let slots = status["slots"].as_array()?;
        let slot = slots.iter().find(|slot| slot["release"] == release)?;
        u32::try_from(slot["pid"].as_u64()?).ok()
    }

    pub fn current(&self) -> String {
        let link = fs::read_link(self.path("web/current")).unwrap();
        link.file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("shuntd.log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.end(Signal::TERM);
        }
        if std::thread::panicking() {
            eprintln!("--- log of shuntd\n{}--- asked of the module\n", self.log());
            self.module.calls().iter().for_each(|call| eprintln!("{call}"));
        }
    }
}

/// Deploys a release, all of it well.
#[track_caller]
pub fn good(world: &World, release: &str) {
    let output = world.deploy(release, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(world.module.active(), release);
    assert_eq!(world.current(), release);
}

pub fn output(output: std::process::Output) -> Output {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

pub fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

pub fn is_running(raw: u32) -> bool {
    Identity::of(raw).is_some()
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens on, and that the kernel gives to nobody else before it is used: below its
/// own range (`ip_local_port_range`), where each process of the tests begins at another place.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(101);
    let ports = 10_000..30_000;
    let next = || first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut candidates = std::iter::repeat_with(|| ports.start + next() % ports.len() as u32);
    let candidate = |port: u32| u16::try_from(port).unwrap();
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.by_ref().take(ports.len()).map(candidate).find(free).expect("a free port")
}
