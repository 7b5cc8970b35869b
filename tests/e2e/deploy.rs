//! The helper with real NGINX: deploys, refusals, rollbacks, crashes.

use std::time::Duration;

use rustix::process::Signal;
use shunt_tests::build::Build;
use shunt_tests::helper::{DEADLINE, Daemon};
use shunt_tests::load::{Load, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{children, is_running, signal};
use shunt_tests::until;

fn start(build: &Build, more: &str) -> (Nginx, Daemon) {
    let upstream = "upstream web { shunt; server 127.0.0.1:1; keepalive 8; }";
    let nginx = Nginx::start(build, Setup { workers: 2, ..Setup::standard(upstream) });
    let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), more);
    (nginx, daemon)
}

#[track_caller]
fn deploy(daemon: &Daemon, name: &str) {
    let _ = daemon.release(name);
    let output = daemon.deploy(name);
    assert_eq!(output.code, 0, "{output:?}");
}

fn release_that_answers(nginx: &Nginx) -> String {
    nginx.connect().ask("GET", "/", b"").expect("an answer").release().to_owned()
}

fn p8_deploys_and_rollbacks_lose_no_request_and_a_sick_release_is_refused(build: &Build) {
    let (nginx, daemon) = start(build, "");
    deploy(&daemon, "v1");
    let load = Load::start(nginx.port, 8);
    deploy(&daemon, "v2");
    assert_eq!(release_that_answers(&nginx), "v2");

    let _ = daemon.sick_release("v3");
    let output = daemon.deploy("v3");
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("503 Service Unavailable: the database has no table"));
    assert!(output.stdout.contains("| not healthy: the database"), "{}", output.stdout);
    assert!(output.stdout.contains("\"v2\" still serves"), "{}", output.stdout);
    assert!(!daemon.path("web/releases/v3").exists(), "what was refused is not kept");
    assert_eq!(release_that_answers(&nginx), "v2");

    let output = daemon.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(release_that_answers(&nginx), "v1");
    let current = std::fs::read_link(daemon.path("web/current")).unwrap();
    assert_eq!(current, std::path::Path::new("releases/v1"));

    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    let answered = |release: &str| samples.iter().any(|s| s.result.as_deref() == Ok(release));
    assert!(answered("v1") && answered("v2") && !answered("v3"));
    // The old releases' processes are gone, and so are their names in NGINX.
    let state = nginx.admin().state("web");
    let names: Vec<_> = state.releases.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["default", "v1"]);
}

fn p8_a_release_that_dies_at_start_is_refused_at_once(build: &Build) {
    let (nginx, daemon) = start(build, "");
    deploy(&daemon, "v1");
    let folder = daemon.release("v2");
    let script = "#!/bin/sh\necho out of luck >&2\nexit 3\n";
    std::fs::write(folder.join("server"), script).unwrap();
    let began = std::time::Instant::now();
    let output = daemon.deploy("v2");
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("exit status 3"), "{}", output.stdout);
    assert!(output.stdout.contains("| out of luck"), "{}", output.stdout);
    assert!(began.elapsed() < DEADLINE, "the deadline was not waited for");
    assert_eq!(release_that_answers(&nginx), "v1");
}

fn p7_a_second_deploy_is_told_of_the_first(build: &Build) {
    let (_nginx, daemon) = start(build, "");
    deploy(&daemon, "v1");
    let _ = daemon.sick_release("v2");
    let _ = daemon.release("v3");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| daemon.deploy("v2"));
        until("the first deploy runs", || {
            daemon.shunt(&["status", "web"]).stdout.contains("job").then_some(())
        });
        let second = daemon.deploy("v3");
        assert_eq!(second.code, 7, "{second:?}");
        assert!(second.stderr.contains("a deploy of release \"v2\""), "{}", second.stderr);
        assert_eq!(first.join().unwrap().code, 4);
    });
}

fn p7_a_switch_by_somebody_else_meanwhile_is_not_overwritten(build: &Build) {
    let (nginx, daemon) = start(build, "[drain]\ntimeout = \"1s\"");
    deploy(&daemon, "v1");
    // A release that becomes healthy only when the file is gone.
    let _ = daemon.sick_release("v2");
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| daemon.deploy("v2"));
        let sick = daemon.path("web/releases/v2/sick");
        until("v2 is asked for its health", || sick.exists().then_some(()));
        nginx.admin().switch("web", "default", None).unwrap();
        std::fs::remove_file(&sick).unwrap();
        let output = deploy.join().unwrap();
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stdout.contains("somebody else has switched to \"default\""));
    });
    assert_eq!(nginx.admin().state("web").active.unwrap().as_str(), "default");
}

fn a_request_in_flight_is_waited_for_before_the_old_release_stops(build: &Build) {
    let (nginx, daemon) = start(build, "");
    deploy(&daemon, "v1");
    let mut slow = nginx.connect();
    slow.send("GET", "/slow?ms=1500", &[], b"").unwrap();
    until("it is in flight", || (nginx.admin().in_flight("web", "v1").requests == 1).then_some(()));
    deploy(&daemon, "v2");
    let response = slow.receive().unwrap();
    assert_eq!((response.status, response.release()), (200, "v1"));
}

fn p9_after_a_kill_of_the_daemon_its_release_serves_on_and_is_taken_over(build: &Build) {
    let (nginx, mut daemon) = start(build, "");
    deploy(&daemon, "v1");
    let load = Load::start(nginx.port, 4);
    daemon.kill();
    assert_eq!(release_that_answers(&nginx), "v1");
    daemon.run();
    until("v1 is the daemon's again", || daemon.log().contains("\"v1\" runs again").then_some(()));
    deploy(&daemon, "v2");
    assert_eq!(release_that_answers(&nginx), "v2");
    assert_eq!(failures(&load.stop()), [] as [&String; 0]);
}

fn a_daemon_that_ends_in_order_starts_its_release_again(build: &Build) {
    let (nginx, mut daemon) = start(build, "");
    deploy(&daemon, "v1");
    deploy(&daemon, "v2");
    let status = daemon.shunt(&["--json", "status", "web"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let mut pids = status["slots"].as_array().unwrap().iter().filter_map(|s| s["pid"].as_u64());
    let pid = pids.next_back().unwrap() as u32;
    daemon.end();
    assert!(!is_running(pid), "the release ends with its daemon");
    daemon.run();
    until("v2 serves again", || {
        let mut connection = nginx.connect();
        connection.ask("GET", "/", b"").ok().filter(|r| r.release() == "v2").map(|_| ())
    });
    // What a rollback goes to is remembered, too.
    until("the daemon is idle", || {
        (!daemon.shunt(&["status", "web"]).stdout.contains("job")).then_some(())
    });
    assert_eq!(daemon.shunt(&["rollback", "web"]).code, 0);
    assert_eq!(release_that_answers(&nginx), "v1");
}

fn a_release_that_crashes_later_is_started_again(build: &Build) {
    let (nginx, daemon) = start(build, "");
    deploy(&daemon, "v1");
    let app = until("the application", || {
        let own = children(daemon.pid());
        own.into_iter().next()
    });
    signal(app, Signal::KILL);
    // Its socket stays open: connections wait for the next process.
    until("it answers again", || {
        let mut connection = nginx.connect();
        connection.ask("GET", "/", b"").ok().filter(|r| r.release() == "v1").map(|_| ())
    });
    let status = daemon.shunt(&["status", "web"]).stdout;
    assert!(status.contains("started again 1 times"), "{status}");
}

fn p12_old_releases_are_removed_but_none_in_use(build: &Build) {
    let (_nginx, daemon) = start(build, "[keep]\nreleases = 2");
    for name in ["v1", "v2", "v3", "v4"] {
        deploy(&daemon, name);
    }
    let mut left: Vec<_> = std::fs::read_dir(daemon.path("web/releases"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["v3", "v4"]);
    assert_eq!(daemon.shunt(&["rollback", "web"]).code, 0);
}

fn a_deploy_takes_hardly_longer_than_what_it_waits_for(build: &Build) {
    let (_nginx, daemon) = start(build, "");
    let overhead = ["v1", "v2", "v3", "v4", "v5"].map(|name| {
        let from = daemon.release(name).display().to_string();
        let args = ["--json", "deploy", "web", "--release", name, "--from", &from];
        let output = daemon.shunt(&args);
        assert_eq!(output.code, 0, "{output:?}");
        let end = output.events().last().expect("an end").at;
        let fetch = output.found("done", "fetch").took.expect("a time");
        // Between the two checks that it passes it waits.
        let waits = Duration::from_millis(20);
        Duration::from_millis(end).saturating_sub(Duration::from_secs_f64(fetch / 1000.0) + waits)
    });
    // The application's own start is in it. A machine that has other things to do may have been slow,
    // but hardly each time.
    println!("{} adds {overhead:?}", build.version);
    assert!(overhead.iter().any(|it| *it < Duration::from_millis(100)), "{overhead:?}");
}

fn a_switch_by_hand_needs_a_running_release(build: &Build) {
    let (_nginx, daemon) = start(build, "");
    deploy(&daemon, "v1");
    let output = daemon.shunt(&["switch", "web", "v9"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("does not run; running: v1"), "{}", output.stderr);
    assert_eq!(daemon.shunt(&["switch", "web", "v1"]).code, 0);
    let output = daemon.shunt(&["deploy", "nothing", "--from", "/tmp"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("there is: web"), "{}", output.stderr);
}

each_nginx!(
    p8_deploys_and_rollbacks_lose_no_request_and_a_sick_release_is_refused,
    p8_a_release_that_dies_at_start_is_refused_at_once,
    p7_a_second_deploy_is_told_of_the_first,
    p7_a_switch_by_somebody_else_meanwhile_is_not_overwritten,
    a_request_in_flight_is_waited_for_before_the_old_release_stops,
    p9_after_a_kill_of_the_daemon_its_release_serves_on_and_is_taken_over,
    a_daemon_that_ends_in_order_starts_its_release_again,
    a_release_that_crashes_later_is_started_again,
    p12_old_releases_are_removed_but_none_in_use,
    a_deploy_takes_hardly_longer_than_what_it_waits_for,
    a_switch_by_hand_needs_a_running_release,
);
