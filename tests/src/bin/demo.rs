//! The demo: the main job for real, with nothing prepared.
//!
//! NGINX with the module, `shuntd`, and a small application are started in a temporary folder, on
//! free ports. Under load v1 is deployed, then v2; v3 never becomes healthy and is refused; then it
//! goes back to v1. The end is a table. One failed request makes the demo fail.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use shunt_tests::build::{self, Build};
use shunt_tests::helper::{Daemon, Output};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{children, signal};
use shunt_tests::until;
use tokio::signal::unix::{Signal as Stream, SignalKind};

/// Requests a second, over new and over kept-open connections, half of them POST.
const RATE: u32 = 400;

/// So many good answers are waited for between two steps.
const ANSWERS: u64 = 400;

fn main() -> ExitCode {
    let keep = std::env::args().any(|arg| arg == "--keep");
    let build = Build::stable();
    let upstream = "upstream web { shunt; server 127.0.0.1:1; keepalive 16; }";
    let mut nginx = Nginx::prepare(&build, Setup { workers: 2, ..Setup::standard(upstream) });
    end_on_signal(nginx.folder());
    nginx.run();
    let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), "");
    let _ = (daemon.release("v1"), daemon.release("v2"), daemon.sick_release("v3"));
    println!(
        "nginx {} with the module, 2 workers, on port {}; shuntd; an application\n",
        build.version, nginx.port
    );

    let mut steps = Vec::new();
    // Before the first deploy there is nothing that could answer.
    steps.push(step(&daemon, "deploy v1", 0, || daemon.deploy("v1")));
    let watch = Watch::start(&nginx);
    watch.wait();
    steps.push(step(&daemon, "deploy v2", 0, || daemon.deploy("v2")));
    watch.wait();
    steps.push(step(&daemon, "deploy v3 (sick)", 4, || daemon.deploy("v3")));
    watch.wait();
    steps.push(step(&daemon, "rollback", 0, || daemon.shunt(&["rollback", "web"])));
    watch.wait();
    let verdict = watch.end();

    println!("step                 exit  switch took  in all");
    for Step { name, expected, code, switch, total } in &steps {
        let switch = switch.as_deref().unwrap_or("no switch");
        let note = if code == expected { "" } else { "  NOT AS EXPECTED" };
        println!("{name:<20} {code:>4}  {switch:>11}  {total:>7.0} ms{note}");
    }
    let number = |name: &str| verdict[name].as_f64().unwrap_or(f64::NAN);
    println!();
    println!("requests             {}", number("requests"));
    println!("  of WebSockets      {}", number("messages"));
    println!("  by release         {}", verdict["releases"]);
    println!("failures             {}", number("failures"));
    println!("longest gap          {:.1} ms", number("longest_gap"));
    for failure in verdict["first_failures"].as_array().into_iter().flatten() {
        println!("  {failure}");
    }

    let as_expected = steps.iter().all(|s| s.code == s.expected);
    let releases = &verdict["releases"];
    let both = releases["v1"].is_u64() && releases["v2"].is_u64() && releases["v3"].is_null();
    let good = as_expected && both && verdict["failures"] == 0 && verdict["messages"] != 0;
    println!("\n{}", if good { "no request failed" } else { "THE DEMO HAS FAILED" });
    if keep {
        leave(nginx, daemon);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends all that was started, and removes the folder, when the user ends the demo: by Ctrl-C, by
/// `kill`, or by closing the terminal. A signal unwinds no stack, so nothing else would.
fn end_on_signal(folder: &Path) {
    let folder: PathBuf = folder.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.expect("a runtime for signals");
    let listen = |kind| {
        let _runtime = runtime.enter();
        tokio::signal::unix::signal(kind).expect("a signal that can be caught")
    };
    // From here on a signal is not lost.
    let mut signals: [(i32, Stream); 3] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| (kind.as_raw_value(), listen(kind)));
    std::thread::spawn(move || {
        let [(int, a), (term, b), (hup, c)] = &mut signals;
        let number = runtime.block_on(async {
            tokio::select! { _ = a.recv() => *int, _ = b.recv() => *term, _ = c.recv() => *hup }
        });
        // What the steps have to say of a world that goes down under them helps nobody: they stop
        // at their next word.
        let (_stdout, _stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
        let me = std::process::id();
        children(me).into_iter().for_each(|child| signal(child, Signal::TERM));
        until("all processes end", || children(me).is_empty().then_some(()));
        // It is a temporary one; what cannot be removed may stay.
        let _ = std::fs::remove_dir_all(folder);
        // As a shell would say it.
        std::process::exit(128 + number);
    });
}

/// What a step came to.
struct Step {
    name: &'static str,
    expected: i32,
    code: i32,
    switch: Option<String>,
    total: f64,
}

fn step(daemon: &Daemon, name: &'static str, expected: i32, run: impl FnOnce() -> Output) -> Step {
    println!("$ shunt {name}");
    let began = std::time::Instant::now();
    let Output { code, stdout, stderr } = run();
    let total = began.elapsed().as_secs_f64() * 1000.0;
    print!("{stdout}{stderr}");
    println!();
    if code != expected {
        println!("--- log of shuntd\n{}", daemon.log());
    }
    let switch = stdout.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("ok switch")?;
        let mut words = rest.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?))
    });
    Step { name, expected, code, switch, total }
}

/// `shunt watch`, which asks all the time.
struct Watch<'a> {
    child: Child,
    nginx: &'a Nginx,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // It has ended by itself, unless the demo has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Watch<'a> {
    fn start(nginx: &'a Nginx) -> Self {
        let mut command = Command::new(build::helper("shunt"));
        command
            .args(["--json", "watch", "--post", "/echo", "--websocket", "/ws"])
            .args(["--websocket-time", "3s", "--duration", "10m"])
            .args(["--rate", &RATE.to_string()])
            .arg(format!("http://127.0.0.1:{}/", nginx.port))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        println!(
            "$ shunt watch --post /echo --websocket /ws --websocket-time 3s --rate {RATE} http://127.0.0.1:{}/\n",
            nginx.port
        );
        Self { child: command.spawn().expect("shunt runs"), nginx }
    }

    /// Waits for a number of answers.
    fn wait(&self) {
        let count = || {
            let state = self.nginx.admin().state("web");
            state.releases.iter().map(|r| r.requests).sum::<u64>()
        };
        let active = || self.nginx.admin().state("web").active;
        let (release, before) = (active(), count());
        until("answers", || {
            // A release that is deleted takes its count along.
            (active() == release && count() >= before + ANSWERS).then_some(())
        });
    }

    fn end(mut self) -> Value {
        signal(self.child.id(), Signal::INT);
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().expect("it was asked for");
        stdout.read_to_string(&mut text).expect("its verdict");
        self.child.wait().expect("it ends");
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("no verdict: {e}: {text}"))
    }
}

/// Leaves everything running, and says how to talk to it and how to end it.
fn leave(nginx: Nginx, daemon: Daemon) {
    let bin = build::folder().join("bin");
    let bin = bin.canonicalize().unwrap_or(bin);
    let v4 = daemon.release("v4");
    println!(
        "\nstill running; try:\n\
         \x20 curl -i http://127.0.0.1:{port}/\n\
         \x20 curl --unix-socket {api} http://shunt/v1/upstreams/web\n\
         \x20 {bin}/shunt --socket {socket} status\n\
         \x20 {bin}/shunt --socket {socket} deploy web --from {v4} --release v4\n\
         \x20 {bin}/shunt --socket {socket} rollback web\n\
         and to end it:\n\
         \x20 kill {shuntd} {master}; sleep 2; rm -rf {folder}",
        port = nginx.port,
        api = nginx.path("api.sock").display(),
        bin = bin.display(),
        socket = daemon.socket().display(),
        v4 = v4.display(),
        shuntd = daemon.pid(),
        master = nginx.master(),
        folder = nginx.folder().display(),
    );
    // Dropped, they would end.
    std::mem::forget((nginx, daemon));
}
