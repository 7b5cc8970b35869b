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
use shunt_tests::process::{is_running, other_threads, signal};
use shunt_tests::scenario::active;
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
struct Site {
    // First, so that NGINX can end.
    disk: Disk,
    nginx: Nginx,
    _backends: [Backend; 2],
}

impl Site {
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

    /// Stops the disk in the middle of a switch of `web`.
    #[track_caller]
    fn stop_in_a_switch_to(&self, release: &str) -> Connection {
        self.disk.stop();
        let connection = self.ask_for("web", release);
        self.disk.until_it_is_waited_for();
        connection
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
    let site = Site::start(build);
    let mut first = site.stop_in_a_switch_to("b");
    for _ in 0..20 {
        assert_eq!(site.served(), "a", "nothing has happened yet (P6)");
        assert_eq!(active(&site.nginx), (1, "a".to_owned()));
    }
    site.disk.go_on();
    assert_eq!(generation(&first.receive().unwrap()), 2);
    assert_eq!(site.served(), "b");
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
}

fn changes_are_made_in_the_order_in_which_they_came(build: &Build) {
    let site = Site::start(build);
    for round in 0..20 {
        let mut first = site.stop_in_a_switch_to("b");
        // The last one has no state file, but waits for its turn, too.
        let mut others = [
            site.ask_for("web", "a"),
            site.ask_for("web", "nosuch"),
            site.ask_for("web", "b"),
            site.ask_for("web", "a"),
            site.ask_for("other", if round % 2 == 0 { "b" } else { "a" }),
        ];
        site.disk.go_on();
        let before = 1 + round * 4;
        assert_eq!(generation(&first.receive().unwrap()), before + 1);
        let answers = others.each_mut().map(|other| other.receive().unwrap());
        assert_eq!(generation(&answers[0]), before + 2);
        assert_eq!(answers[1].status, 404, "{}", answers[1].text());
        assert_eq!(generation(&answers[2]), before + 3);
        assert_eq!(generation(&answers[3]), before + 4);
        assert_eq!(generation(&answers[4]), round + 2);
        assert_eq!(active(&site.nginx), (before + 4, "a".to_owned()));
    }
    assert_eq!(other_threads(site.nginx.workers()[0]).len(), 1, "one thread makes all of them");
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
}

fn whoever_waits_for_a_disk_that_hangs_is_told(build: &Build) {
    let site = Site::start(build);
    let mut first = site.stop_in_a_switch_to("b");
    let mut others = [site.ask_for("web", "a"), site.ask_for("other", "b")];
    for other in &mut others {
        let answer = other.receive().unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(problem(&answer).detail.contains("another change is being written"));
    }
    assert_eq!(site.served(), "a");
    site.disk.go_on();
    assert_eq!(generation(&first.receive().unwrap()), 2, "it is made all the same");
    assert_eq!(active(&site.nginx), (2, "b".to_owned()));
    assert_eq!(site.nginx.admin().state("other").generation, 1);
    site.nginx.admin().switch("other", "b", None).unwrap();
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
}

fn a_caller_that_leaves_takes_nothing_with_it(build: &Build) {
    let site = Site::start(build);
    drop(site.stop_in_a_switch_to("b"));
    drop(site.ask_for("web", "a"));
    let mut last = site.ask_for("web", "b");
    assert_eq!(site.served(), "a");
    site.disk.go_on();
    assert_eq!(generation(&last.receive().unwrap()), 4, "both changes before it are made");
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
}

fn p6_a_worker_that_is_killed_while_it_writes_has_changed_nothing(build: &Build) {
    let site = Site::start(build);
    for round in 0..5 {
        let mut first = site.stop_in_a_switch_to("b");
        let killed = site.nginx.workers();
        signal(killed[0], Signal::KILL);
        assert!(first.receive().is_err(), "nobody answers");
        until("another worker", || {
            let workers = site.nginx.workers();
            (workers.len() == 1 && workers != killed).then_some(())
        });
        site.disk.go_on();
        assert_eq!(active(&site.nginx), (1 + 2 * round, "a".to_owned()), "P4: no lock is left");
        assert_eq!(site.served(), "a");
        site.nginx.admin().switch("web", "b", None).unwrap();
        site.nginx.admin().switch("web", "a", None).unwrap();
    }
}

fn a_reload_and_a_quit_wait_for_the_change(build: &Build) {
    let mut site = Site::start(build);
    let old = site.nginx.workers()[0];
    let mut first = site.stop_in_a_switch_to("b");
    // The master waits for the zone's lock before it starts workers.
    signal(site.nginx.master(), Signal::HUP);
    until("a reload", || site.nginx.log().contains("reconfiguring").then_some(()));
    assert_eq!(active(&site.nginx), (1, "a".to_owned()));
    site.disk.go_on();
    assert_eq!(generation(&first.receive().unwrap()), 2);
    until("the old worker ends", || (!is_running(old)).then_some(()));
    assert_eq!(active(&site.nginx), (2, "b".to_owned()));
    let worker = until("a new worker", || site.nginx.workers().first().copied());
    let mut second = site.stop_in_a_switch_to("a");
    signal(site.nginx.master(), Signal::QUIT);
    until("the worker shuts down", || site.nginx.workers().is_empty().then_some(()));
    assert!(is_running(worker), "it has something to finish");
    site.disk.go_on();
    assert_eq!(generation(&second.receive().unwrap()), 3);
    drop(second);
    site.nginx.quit();
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
    site.nginx.run();
    assert_eq!(active(&site.nginx), (3, "a".to_owned()));
}

fn a_worker_that_is_terminated_finishes_what_it_writes(build: &Build) {
    let site = Site::start(build);
    let mut first = site.stop_in_a_switch_to("b");
    // The master would give it a second and a half.
    let worker = site.nginx.workers()[0];
    signal(worker, Signal::TERM);
    until("the worker ends", || site.nginx.log().contains("exiting").then_some(()));
    assert!(is_running(worker), "it has something to finish");
    site.disk.go_on();
    assert!(first.receive().is_err(), "it ends at once");
    until("another worker", || site.nginx.workers().first().filter(|w| **w != worker).copied());
    assert_eq!(active(&site.nginx), (2, "b".to_owned()));
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
}

fn a_worker_whose_time_to_shut_down_is_over_finishes_what_it_writes(build: &Build) {
    let mut site = Site::start(build);
    site.nginx.quit();
    let main = format!("{} worker_shutdown_timeout 50ms;", site.nginx.main());
    site.nginx.set_main(&main);
    site.nginx.run();
    let mut first = site.stop_in_a_switch_to("b");
    let worker = site.nginx.workers()[0];
    signal(site.nginx.master(), Signal::QUIT);
    assert!(first.receive().is_err(), "its connections are closed then");
    assert!(is_running(worker), "it has something to finish");
    site.disk.go_on();
    site.nginx.quit();
    assert_eq!(site.nginx.complaints(), [] as [String; 0]);
    site.nginx.run();
    assert_eq!(active(&site.nginx), (2, "b".to_owned()));
}

/// Few connections, all of which are in use, and the one of a caller who has sent the first line of a
/// switch to `b`; with the rest of it.
fn without_connections(site: &mut Site) -> (Vec<Connection>, Connection, String) {
    site.nginx.quit();
    site.nginx.set_connections(12);
    site.nginx.run();
    let mut caller = Connection::unix(&site.nginx.path("api.sock")).unwrap();
    let (target, body) = switch("web", "b");
    // NGINX may close what has not sent anything yet, but not these.
    caller.raw(format!("POST {target} HTTP/1.1\r\n").as_bytes()).unwrap();
    let mut begun = Vec::new();
    until("no connection is left", || {
        let mut connection = site.nginx.connect();
        connection.raw(b"GET").unwrap();
        begun.push(connection);
        site.nginx.log().contains("worker_connections are not enough\n").then_some(())
    });
    (begun, caller, format!("Host: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

fn without_a_connection_left_a_change_is_made_all_the_same(build: &Build) {
    let mut site = Site::start(build);
    let (begun, mut caller, rest) = without_connections(&mut site);
    caller.raw(rest.as_bytes()).unwrap();
    assert_eq!(generation(&caller.receive().unwrap()), 2);
    let worker = site.nginx.workers()[0];
    assert_eq!(other_threads(worker), [] as [u32; 0], "no thread has made it");
    drop((begun, caller));
    assert_eq!(active(&site.nginx), (2, "b".to_owned()));
}

fn without_a_connection_left_a_caller_may_leave_too(build: &Build) {
    let mut site = Site::start(build);
    let (begun, mut caller, rest) = without_connections(&mut site);
    let worker = site.nginx.workers()[0];
    // What comes of the change cannot be sent any more when it is made.
    signal(worker, Signal::STOP);
    caller.raw(rest.as_bytes()).unwrap();
    drop(caller);
    signal(worker, Signal::CONT);
    drop(begun);
    until("the change is made", || (active(&site.nginx) == (2, "b".to_owned())).then_some(()));
    let wrong = |line: &String| !line.contains("worker_connections are not enough");
    assert_eq!(site.nginx.complaints().into_iter().find(wrong), None);
    assert_eq!(site.nginx.workers(), [worker]);
}

each_nginx!(
    the_worker_that_writes_a_change_goes_on_serving,
    changes_are_made_in_the_order_in_which_they_came,
    whoever_waits_for_a_disk_that_hangs_is_told,
    a_caller_that_leaves_takes_nothing_with_it,
    p6_a_worker_that_is_killed_while_it_writes_has_changed_nothing,
    a_reload_and_a_quit_wait_for_the_change,
    a_worker_that_is_terminated_finishes_what_it_writes,
    a_worker_whose_time_to_shut_down_is_over_finishes_what_it_writes,
    without_a_connection_left_a_change_is_made_all_the_same,
    without_a_connection_left_a_caller_may_leave_too,
);
