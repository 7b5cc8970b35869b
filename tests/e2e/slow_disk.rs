//! A disk that takes its time to write a change holds up nobody but who asked for it (P4, P5, P6).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::process::{is_running, signal};
use shunt_tests::until;
use tempfile::TempDir;

/// A disk that can be stopped.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// The same NGINX, on this disk.
    fn under(&self, build: &Build) -> Build {
        let library = self.0.path().join("slow_disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/slow_disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source);
        assert!(compiler.status().unwrap().success(), "the library is compiled");
        let preload = format!("LD_PRELOAD={}", library.display());
        let disk = format!("SHUNT_TEST_DISK={}", self.0.path().display());
        Build { under: vec!["env".to_owned(), preload, disk], ..build.clone() }
    }

    fn closed(&self) -> PathBuf {
        self.0.path().join("closed")
    }

    fn flushing(&self) -> PathBuf {
        self.0.path().join("flushing")
    }

    fn stop(&self) {
        // Of somebody who was killed while he waited.
        let _ = fs::remove_file(self.flushing());
        File::create(self.closed()).unwrap();
    }

    fn go_on(&self) {
        fs::remove_file(self.closed()).unwrap();
    }

    #[track_caller]
    fn until_it_is_waited_for(&self) {
        until("a change is written", || self.flushing().exists().then_some(()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever waits for it goes on, also when a test has failed.
        let _ = fs::remove_file(self.closed());
    }
}

/// NGINX with one worker, and releases `a` and `b`, of which `a` is active.
struct Bench {
    // First, so that NGINX can end.
    disk: Disk,
    nginx: Nginx,
    _backends: [Backend; 2],
}

impl Bench {
    fn start(build: &Build) -> Self {
        let disk = Disk::new();
        let [a, b] = ["a", "b"].map(|release| Backend::start(release, 1));
        let releases = format!("{}{}", a.lines(), b.lines());
        let http = format!(
            "{STANDARD} shunt_zone volatile:1m;
             upstream web {{ shunt zone=shunt;\n{releases} }}
             upstream other {{ shunt zone=volatile;\n{releases} }}"
        );
        let nginx = Nginx::start(&disk.under(build), Setup { http, workers: 1 });
        Self { disk, nginx, _backends: [a, b] }
    }

    /// Asks for a switch, and does not wait for the answer.
    #[track_caller]
    fn ask_for(&self, upstream: &str, release: &str) -> Connection {
        let mut connection = Connection::unix(&self.nginx.path("api.sock")).unwrap();
        let (target, body) = switch(upstream, release);
        connection.send("POST", &target, &[], body.as_bytes()).unwrap();
        connection
    }

    /// The generation and the active release.
    #[track_caller]
    fn active(&self) -> (u32, String) {
        let state = self.nginx.admin().state("web");
        (state.generation, state.active.unwrap().to_string())
    }

    #[track_caller]
    fn served(&self) -> String {
        let mut connection = self.nginx.connect();
        connection.ask("GET", "/", b"").unwrap().release().to_owned()
    }
}

fn switch(upstream: &str, release: &str) -> (String, String) {
    let body = serde_json::json!({ "release": release }).to_string();
    (format!("/v1/upstreams/{upstream}/switch"), body)
}

#[track_caller]
fn generation(response: &Response) -> u32 {
    assert_eq!(response.status, 200, "{}", response.text());
    let reply: shunt_api::SwitchReply = serde_json::from_slice(&response.body).unwrap();
    reply.generation
}

fn the_worker_that_writes_a_change_goes_on_serving(build: &Build) {
    let bench = Bench::start(build);
    bench.disk.stop();
    let mut first = bench.ask_for("web", "b");
    bench.disk.until_it_is_waited_for();
    for _ in 0..20 {
        assert_eq!(bench.served(), "a", "nothing has happened yet (P6)");
        assert_eq!(bench.active(), (1, "a".to_owned()));
    }
    bench.disk.go_on();
    assert_eq!(generation(&first.receive().unwrap()), 2);
    assert_eq!(bench.served(), "b");
    assert_eq!(bench.nginx.complaints(), [] as [String; 0]);
}

fn changes_are_made_in_the_order_in_which_they_came(build: &Build) {
    let bench = Bench::start(build);
    for round in 0..20 {
        bench.disk.stop();
        let mut first = bench.ask_for("web", "b");
        bench.disk.until_it_is_waited_for();
        // The last one has no state file, but waits for its turn, too.
        let mut others = [
            bench.ask_for("web", "a"),
            bench.ask_for("web", "nosuch"),
            bench.ask_for("web", "b"),
            bench.ask_for("web", "a"),
            bench.ask_for("other", if round % 2 == 0 { "b" } else { "a" }),
        ];
        bench.disk.go_on();
        let before = 1 + round * 4;
        assert_eq!(generation(&first.receive().unwrap()), before + 1);
        let answers = others.each_mut().map(|other| other.receive().unwrap());
        assert_eq!(generation(&answers[0]), before + 2);
        assert_eq!(answers[1].status, 404, "{}", answers[1].text());
        assert_eq!(generation(&answers[2]), before + 3);
        assert_eq!(generation(&answers[3]), before + 4);
        assert_eq!(generation(&answers[4]), round + 2);
        assert_eq!(bench.active(), (before + 4, "a".to_owned()));
    }
    assert_eq!(bench.nginx.complaints(), [] as [String; 0]);
}

fn whoever_waits_for_a_disk_that_hangs_is_told(build: &Build) {
    let bench = Bench::start(build);
    bench.disk.stop();
    let mut first = bench.ask_for("web", "b");
    bench.disk.until_it_is_waited_for();
    let mut others = [bench.ask_for("web", "a"), bench.ask_for("other", "b")];
    for other in &mut others {
        let answer = other.receive().unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(problem(&answer).detail.contains("another change is being written"));
    }
    assert_eq!(bench.served(), "a");
    bench.disk.go_on();
    assert_eq!(generation(&first.receive().unwrap()), 2, "it is made all the same");
    assert_eq!(bench.active(), (2, "b".to_owned()));
    assert_eq!(bench.nginx.admin().state("other").generation, 1);
    bench.nginx.admin().switch("other", "b", None).unwrap();
    assert_eq!(bench.nginx.complaints(), [] as [String; 0]);
}

fn a_caller_that_leaves_takes_nothing_with_it(build: &Build) {
    let bench = Bench::start(build);
    bench.disk.stop();
    drop(bench.ask_for("web", "b"));
    bench.disk.until_it_is_waited_for();
    drop(bench.ask_for("web", "a"));
    let mut last = bench.ask_for("web", "b");
    assert_eq!(bench.served(), "a");
    bench.disk.go_on();
    assert_eq!(generation(&last.receive().unwrap()), 4, "both changes before it are made");
    assert_eq!(bench.nginx.complaints(), [] as [String; 0]);
}

fn p6_a_worker_that_is_killed_while_it_writes_has_changed_nothing(build: &Build) {
    let bench = Bench::start(build);
    for round in 0..5 {
        bench.disk.stop();
        let mut first = bench.ask_for("web", "b");
        bench.disk.until_it_is_waited_for();
        let killed = bench.nginx.workers();
        signal(killed[0], Signal::KILL);
        assert!(first.receive().is_err(), "nobody answers");
        until("another worker", || {
            let workers = bench.nginx.workers();
            (workers.len() == 1 && workers != killed).then_some(())
        });
        bench.disk.go_on();
        assert_eq!(bench.active(), (1 + 2 * round, "a".to_owned()), "P4: no lock is left");
        assert_eq!(bench.served(), "a");
        bench.nginx.admin().switch("web", "b", None).unwrap();
        bench.nginx.admin().switch("web", "a", None).unwrap();
    }
}

fn a_reload_and_a_quit_wait_for_the_change(build: &Build) {
    let mut bench = Bench::start(build);
    let old = bench.nginx.workers()[0];
    bench.disk.stop();
    let mut first = bench.ask_for("web", "b");
    bench.disk.until_it_is_waited_for();
    // The master waits for the zone's lock before it starts workers.
    signal(bench.nginx.master(), Signal::HUP);
    bench.disk.go_on();
    assert_eq!(generation(&first.receive().unwrap()), 2);
    until("the old worker ends", || (!is_running(old)).then_some(()));
    assert_eq!(bench.active(), (2, "b".to_owned()));
    let worker = until("a new worker", || bench.nginx.workers().first().copied());
    bench.disk.stop();
    let mut second = bench.ask_for("web", "a");
    bench.disk.until_it_is_waited_for();
    signal(bench.nginx.master(), Signal::QUIT);
    until("the worker shuts down", || bench.nginx.workers().is_empty().then_some(()));
    assert!(is_running(worker), "it has something to finish");
    bench.disk.go_on();
    assert_eq!(generation(&second.receive().unwrap()), 3);
    drop(second);
    bench.nginx.quit();
    assert_eq!(bench.nginx.complaints(), [] as [String; 0]);
    bench.nginx.run();
    assert_eq!(bench.active(), (3, "a".to_owned()));
}

fn a_worker_that_is_terminated_finishes_what_it_writes(build: &Build) {
    let mut bench = Bench::start(build);
    bench.disk.stop();
    let mut first = bench.ask_for("web", "b");
    bench.disk.until_it_is_waited_for();
    signal(bench.nginx.master(), Signal::TERM);
    until("the worker ends", || bench.nginx.log().contains("exiting").then_some(()));
    bench.disk.go_on();
    assert!(first.receive().is_err(), "NGINX ends at once");
    bench.nginx.quit();
    assert_eq!(bench.nginx.complaints(), [] as [String; 0]);
    bench.nginx.run();
    assert_eq!(bench.active(), (2, "b".to_owned()));
}

fn without_a_connection_left_a_change_is_made_all_the_same(build: &Build) {
    let mut bench = Bench::start(build);
    bench.nginx.quit();
    bench.nginx.set_connections(12);
    bench.nginx.run();
    let mut api = Connection::unix(&bench.nginx.path("api.sock")).unwrap();
    let (target, body) = switch("web", "b");
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    api.raw(head.as_bytes()).unwrap();
    // NGINX may close what has not sent anything yet, but not these.
    let mut begun = Vec::new();
    until("no connection is left", || {
        let mut connection = bench.nginx.connect();
        connection.raw(b"GET").unwrap();
        begun.push(connection);
        bench.nginx.log().contains("worker_connections are not enough\n").then_some(())
    });
    let refused = |log: &str| log.matches("worker_connections are not enough\n").count();
    let before = refused(&bench.nginx.log());
    api.raw(body.as_bytes()).unwrap();
    assert_eq!(generation(&api.receive().unwrap()), 2);
    assert!(refused(&bench.nginx.log()) > before, "there was none for the change either");
    drop(begun);
    assert_eq!(bench.active(), (2, "b".to_owned()));
}

each_nginx!(
    the_worker_that_writes_a_change_goes_on_serving,
    changes_are_made_in_the_order_in_which_they_came,
    whoever_waits_for_a_disk_that_hangs_is_told,
    a_caller_that_leaves_takes_nothing_with_it,
    p6_a_worker_that_is_killed_while_it_writes_has_changed_nothing,
    a_reload_and_a_quit_wait_for_the_change,
    a_worker_that_is_terminated_finishes_what_it_writes,
    without_a_connection_left_a_change_is_made_all_the_same,
);
