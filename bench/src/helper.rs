//! What the helper takes: for a deploy beside what it waits for, at rest, and to watch.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shunt_tests::build;
use shunt_tests::client::Connection;
use shunt_tests::helper::Daemon;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::signal;
use shunt_tests::{free_port, until};

use crate::application::Application;
use crate::bench::Bench;
use crate::machine::{ProcessorTime, memory};
use crate::results::Figures;

/// Deploys that are measured.
const DEPLOYS: usize = 10;

/// What the helper's configuration waits for in a deploy: it asks twice for the health, so long apart.
/// The guard has no time.
const WAITS: Duration = Duration::from_millis(20);

/// Applications at rest, and for how long they are looked at.
const APPLICATIONS: usize = 20;
const REST: Duration = Duration::from_secs(10);

/// Requests a second that `shunt watch` is asked for, and for how long.
const RATES: [u32; 4] = [1000, 2000, 5000, 10_000];
const WATCH: &str = "2s";

/// What it keeps up with has this share of the requests that it should make.
const KEPT_UP: f64 = 0.98;

/// Cases, lines and columns.
pub const DEPLOY: &str = "a deploy, in ms";
pub const REST_OF_DEPLOY: &str = "the rest";
pub const AT_REST: &str = "shuntd at rest";
pub const WHO_RESTS: &str = "20 applications";
pub const CORE: &str = "% of a core";

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("helper");
    let (nginx, daemon) = start(bench);
    deploys(&daemon, &mut figures);
    at_rest(&daemon, &mut figures);
    drop((daemon, nginx));
    watch(bench, &mut figures);
    figures.finish(&bench.folder);
}

fn name(n: usize) -> String {
    if n == 0 { "web".to_owned() } else { format!("web{n}") }
}

/// NGINX with an upstream for each application, and a daemon that knows the first.
fn start(bench: &Bench) -> (Nginx, Daemon) {
    let upstream =
        |n| format!("upstream {} {{ shunt; server 127.0.0.1:1; keepalive 8; }}\n", name(n));
    let upstreams: String = (0..APPLICATIONS).map(upstream).collect();
    let setup = Setup { workers: 1, ..Setup::standard(&upstreams) };
    let nginx = bench.cores.as_proxy(|| Nginx::start(&bench.build, setup));
    let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), "");
    (nginx, daemon)
}

/// Deploys an application, which has to be done, and tells how long the command took.
fn deploy(daemon: &Daemon, app: &str, release: &str) -> (f64, shunt_tests::helper::Output) {
    let from = daemon.release(release).display().to_string();
    let began = Instant::now();
    let output = daemon.shunt(&["--json", "deploy", app, "--release", release, "--from", &from]);
    let took = milliseconds(began.elapsed());
    assert_eq!(output.code, 0, "{output:?}");
    (took, output)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn deploys(daemon: &Daemon, figures: &mut Figures) {
    let case = DEPLOY;
    // The first one has nothing to take the place of.
    let _ = deploy(daemon, "web", "v0");
    for n in 1..=DEPLOYS {
        let (whole, output) = deploy(daemon, "web", &format!("v{n}"));
        let (starts, ends) = application_alone(daemon);
        let took = |step: &str| output.found("done", step).took.expect("a step takes time");
        figures.add(case, "shunt deploy, whole", "ms", whole);
        let mut waited = milliseconds(WAITS);
        for (what, ms) in [
            ("of that: fetch", took("fetch")),
            ("of that: the application's own start", starts),
            ("of that: the application's own end", ends),
        ] {
            figures.add(case, what, "ms", ms);
            waited += ms;
        }
        figures.add(
            case,
            "of that: the configured wait between two checks",
            "ms",
            milliseconds(WAITS),
        );
        figures.add(case, REST_OF_DEPLOY, "ms", whole - waited);
        for event in output.events().iter().filter(|event| event.event == "done") {
            let step = event.step.as_deref().expect("a step has a name");
            let step = format!("step {step}");
            figures.add(case, &step, "ms", event.took.expect("a step takes time"));
        }
    }
}

/// How long the application takes by itself until it is healthy, and to end, without a helper.
fn application_alone(daemon: &Daemon) -> (f64, f64) {
    let folder = daemon.release("alone");
    let port = free_port();
    let began = Instant::now();
    let child = Command::new(folder.join("server"))
        .current_dir(&folder)
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child: Child = child.expect("the application starts");
    let healthy = || Connection::tcp(port).and_then(|mut c| c.ask("GET", "/health", b""));
    until("it is healthy", || healthy().ok().filter(|answer| answer.status == 200));
    let starts = milliseconds(began.elapsed());
    let began = Instant::now();
    signal(child.id(), Signal::TERM);
    assert!(child.wait().expect("a child").success(), "the application ends in order");
    (starts, milliseconds(began.elapsed()))
}

fn at_rest(daemon: &Daemon, figures: &mut Figures) {
    let (case, who) = (AT_REST, WHO_RESTS);
    assert_eq!(who, format!("{APPLICATIONS} applications"));
    let pid = daemon.pid();
    for n in 1..APPLICATIONS {
        daemon.add(&name(n));
        let _ = deploy(daemon, &name(n), "v1");
    }
    let before = ProcessorTime::of(&[pid]);
    std::thread::sleep(REST);
    let used = ProcessorTime::of(&[pid]).since(&before).as_secs_f64() / REST.as_secs_f64();
    figures.add(case, who, "MB", memory(&[pid]) as f64 / 1e6);
    figures.add(case, who, CORE, used * 1e2);
}

/// The highest rate that `shunt watch` keeps up with.
fn watch(bench: &Bench, figures: &mut Figures) {
    let case = "shunt watch";
    let application = Application::start(&bench.build, "a");
    let url = format!("http://{}/", application.address());
    let mut highest = 0.0;
    for rate in RATES {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut child = Command::new(build::helper("shunt"))
            .args(["--json", "watch", &url, "--duration", WATCH, "--rate", &rate.to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(log.path()).expect("a file"))
            .spawn()
            .expect("shunt starts");
        until("the watch ends", || child.try_wait().expect("a child"));
        let said = std::fs::read_to_string(log.path()).expect("its output");
        let (requests, seconds, failures) =
            verdict(&said).unwrap_or_else(|| panic!("no verdict: {said}"));
        let who = format!("asked for {rate}/s");
        figures.add(case, &who, "requests/s", requests / seconds);
        figures.add(case, &who, "failed", failures);
        if requests / seconds >= f64::from(rate) * KEPT_UP && failures == 0.0 {
            highest = f64::from(rate);
        }
    }
    figures.add(case, "the highest of these that it kept up with", "requests/s", highest);
}

/// Requests, seconds and failures of the verdict, which is the last line.
fn verdict(said: &str) -> Option<(f64, f64, f64)> {
    let verdict: serde_json::Value = serde_json::from_str(said.lines().last()?).ok()?;
    let of = |name: &str| verdict.get(name)?.as_f64();
    Some((of("requests")?, of("seconds")?, of("failures")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_last_line() {
        let said = "{\"noticed\":1}\n{\"requests\":400,\"seconds\":2.0,\"failures\":0,\"x\":[1]}\n";
        assert_eq!(verdict(said), Some((400.0, 2.0, 0.0)));
        assert_eq!(verdict("{\"noticed\":1}\n"), None);
        assert_eq!(verdict(""), None);
    }
}
