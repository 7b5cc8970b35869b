//! How a release takes the old one's place, with real NGINX and its figures: canary, guard, in place.

use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_tests::build::Build;
use shunt_tests::helper::{Daemon, Output};
use shunt_tests::load::{Load, Sample, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::until;

const UPSTREAM: &str = "upstream web { shunt; server 127.0.0.1:1; keepalive 8; }";

/// What there must be to judge by, soon.
const GUARD: &str = "[guard]\ntime = \"20s\"\nmin_requests = 10";

fn nginx(build: &Build) -> Nginx {
    Nginx::start(build, Setup { workers: 2, ..Setup::standard(UPSTREAM) })
}

fn blue_green(build: &Build, more: &str) -> (Nginx, Daemon) {
    let nginx = nginx(build);
    let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), more);
    (nginx, daemon)
}

/// NGINX that parks what comes while the upstream is held, and one slot.
fn in_place(build: &Build, more: &str) -> (Nginx, Daemon) {
    let http = Setup::standard(UPSTREAM).http;
    let parks = http.replace("proxy_pass ", "shunt_hold web timeout=30s; proxy_pass ");
    assert_ne!(parks, http);
    let nginx = Nginx::start(build, Setup { http: parks, workers: 2 });
    let daemon = Daemon::in_place(&nginx.path("helper"), &nginx.path("api.sock"), more);
    (nginx, daemon)
}

/// A release with these files, deployed.
#[track_caller]
fn deploy(daemon: &Daemon, name: &str, files: &[(&str, &str)]) -> Output {
    let folder = daemon.release(name);
    for (file, text) in files {
        std::fs::write(folder.join(file), text).expect("a file");
    }
    daemon.deploy(name)
}

#[track_caller]
fn good(daemon: &Daemon, name: &str, files: &[(&str, &str)]) {
    let output = deploy(daemon, name, files);
    assert_eq!(output.code, 0, "{output:?}");
}

fn active(nginx: &Nginx) -> String {
    nginx.admin().state("web").active.expect("one").to_string()
}

/// The step that the job of `web` is at.
fn step(daemon: &Daemon) -> Option<String> {
    let status = daemon.shunt(&["--json", "status", "web"]).stdout;
    let status: Value = serde_json::from_str(&status).ok()?;
    Some(status["job"]["step"].as_str()?.to_owned())
}

fn answered(samples: &[Sample], release: &str) -> usize {
    samples.iter().filter(|s| s.result.as_deref() == Ok(release)).count()
}

fn p8_a_release_that_is_bad_after_the_switch_is_switched_away_from_by_itself(build: &Build) {
    let (nginx, daemon) = blue_green(build, GUARD);
    // The first release has none to go back to but the configuration's.
    let load = Load::start(nginx.port, 1);
    let output = deploy(&daemon, "v1", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    drop(load.stop());
    let load = Load::start(nginx.port, 8);
    let output = deploy(&daemon, "v2", &[("bad", "")]);
    assert_eq!(output.code, 5, "{output:?}");
    assert_eq!(active(&nginx), "v1");
    assert!(output.stdout.contains("failed guard"), "{}", output.stdout);
    assert!(output.stdout.contains("ok switch-back"), "{}", output.stdout);
    let samples = load.stop();
    let failed: Vec<_> = samples.iter().filter(|s| s.result.is_err()).collect();
    assert!(!failed.is_empty(), "users have met it");
    assert!(failed.iter().all(|s| s.result == Err("status 500".to_owned())), "{failed:?}");
    let first = failed.iter().map(|s| s.start).min().expect("one");
    let last = failed.iter().map(|s| s.start).max().expect("one");
    // Seen within so many looks, and acted upon within a second of that.
    assert!(last - first < Duration::from_secs(2), "{:?}", last - first);
    assert!(!daemon.path("web/releases/v2").exists());
    let state = nginx.admin().state("web");
    assert!(state.release("v2").is_none(), "{state:?}");
    // And all is as it was before.
    let history = daemon.shunt(&["history", "web"]).stdout;
    assert!(history.lines().nth(1).is_some_and(|l| l.contains("switched back")), "{history}");
    good_without_load(&nginx, &daemon);
}

/// A deploy whose guard somebody ends.
fn good_without_load(nginx: &Nginx, daemon: &Daemon) {
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| deploy(daemon, "v3", &[]));
        until("it is watched", || (step(daemon)? == "guard").then_some(()));
        let output = daemon.shunt(&["promote", "web"]);
        assert_eq!(output.code, 0, "{output:?}");
        let output = deploy.join().expect("no panic");
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains("promoted by hand"), "{}", output.stdout);
    });
    assert_eq!(active(nginx), "v3");
}

fn p8_a_release_whose_process_dies_after_the_switch_is_switched_away_from(build: &Build) {
    let (nginx, daemon) = blue_green(build, GUARD);
    good_at_once(&daemon, "v1");
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| deploy(&daemon, "v2", &[]));
        until("it is watched", || (step(&daemon)? == "guard").then_some(()));
        let status = daemon.shunt(&["--json", "status", "web"]).stdout;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let slots = status["slots"].as_array().expect("slots");
        let slot = slots.iter().find(|slot| slot["release"] == "v2").expect("its slot");
        let pid = u32::try_from(slot["pid"].as_u64().expect("a pid")).expect("a pid");
        shunt_tests::process::signal(pid, rustix::process::Signal::KILL);
        let output = deploy.join().expect("no panic");
        assert_eq!(output.code, 5, "{output:?}");
        assert!(output.stdout.contains("its process ended with signal 9"), "{}", output.stdout);
    });
    assert_eq!(active(&nginx), "v1");
}

/// A deploy that nobody watches.
#[track_caller]
fn good_at_once(daemon: &Daemon, name: &str) {
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| deploy(daemon, name, &[]));
        until("it is watched", || (step(daemon)? == "guard").then_some(()));
        assert_eq!(daemon.shunt(&["promote", "web"]).code, 0);
        let output = deploy.join().expect("no panic");
        assert_eq!(output.code, 0, "{output:?}");
    });
}

fn a_canary_that_is_good_gets_more_and_more_and_loses_nothing(build: &Build) {
    let steps =
        "[canary]\nsteps = [{ share = 0.2, time = \"1s\" }, { share = 0.5, time = \"1s\" }]";
    let (nginx, daemon) = blue_green(build, steps);
    good(&daemon, "v1", &[]);
    let load = Load::start(nginx.port, 8);
    good(&daemon, "v2", &[]);
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    assert!(answered(&samples, "v1") > 0 && answered(&samples, "v2") > 0);
    let state = nginx.admin().state("web");
    assert_eq!((state.active.expect("one").as_str(), state.canary), ("v2", None));
}

fn a_canary_that_is_bad_is_ended_and_most_have_never_met_it(build: &Build) {
    let more = format!("[canary]\nsteps = [{{ share = 0.1, time = \"20s\" }}]\n{GUARD}");
    let (nginx, daemon) = blue_green(build, &more);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| deploy(&daemon, "v1", &[]));
        for now in ["canary", "guard"] {
            until("it is watched", || (step(&daemon)? == now).then_some(()));
            assert_eq!(daemon.shunt(&["promote", "web", "--detach"]).code, 0);
        }
        assert_eq!(first.join().expect("no panic").code, 0);
    });
    let load = Load::start(nginx.port, 8);
    let output = deploy(&daemon, "v2", &[("bad", "")]);
    let samples = load.stop();
    assert_eq!(output.code, 5, "{output:?}");
    assert!(output.stdout.contains("failed canary"), "{}", output.stdout);
    let failed = failures(&samples).len();
    assert!(failed > 0 && failed * 2 < samples.len(), "{failed} of {}", samples.len());
    let state = nginx.admin().state("web");
    assert_eq!((state.active.expect("one").as_str(), state.canary), ("v1", None));
}

fn an_abort_takes_back_what_had_begun(build: &Build) {
    let more = "[canary]\nsteps = [{ share = 0.1, time = \"60s\" }]\n[guard]\ntime = \"60s\"";
    let (nginx, daemon) = blue_green(build, more);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| deploy(&daemon, "v1", &[]));
        until("it is a canary", || (step(&daemon)? == "canary").then_some(()));
        // From another terminal; it follows to the end.
        let abort = daemon.shunt(&["abort", "web"]);
        assert_eq!(abort.code, 0, "it is what was wanted: {abort:?}");
        let output = first.join().expect("no panic");
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stdout.contains("aborted by hand"), "{}", output.stdout);
    });
    assert_eq!(active(&nginx), "default");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| deploy(&daemon, "v2", &[]));
        until("it is a canary", || (step(&daemon)? == "canary").then_some(()));
        assert_eq!(daemon.shunt(&["promote", "web", "--detach"]).code, 0);
        until("it is watched", || (step(&daemon)? == "guard").then_some(()));
        let abort = daemon.shunt(&["abort", "web"]);
        assert_eq!(abort.code, 0, "{abort:?}");
        assert_eq!(second.join().expect("no panic").code, 5);
    });
}

fn in_place_no_request_fails_and_none_waits_longer_than_the_restart(build: &Build) {
    let (nginx, daemon) = in_place(build, "");
    let files = [("alone", ""), ("slow-start", "3000")];
    good(&daemon, "v1", &files);
    let load = Load::start(nginx.port, 8);
    let folder = daemon.release("v2");
    for (file, text) in files {
        std::fs::write(folder.join(file), text).expect("a file");
    }
    let from = folder.display().to_string();
    let args = ["--json", "deploy", "web", "--release", "v2", "--from", &from];
    let output = daemon.shunt(&args);
    assert_eq!(output.code, 0, "{output:?}");
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    assert!(answered(&samples, "v1") > 0 && answered(&samples, "v2") > 0);
    // From the moment on that requests are parked, to that at which they are let go.
    let at = |event: &str, step: &str| Duration::from_millis(output.found(event, step).at);
    let restart = at("done", "resume") - at("step", "hold");
    let longest = samples.iter().map(|s| s.end - s.start).max().expect("samples");
    assert!(restart >= Duration::from_secs(3), "{restart:?}");
    assert!(longest <= restart + Duration::from_millis(100), "{longest:?} of {restart:?}");
}

fn in_place_what_is_not_healthy_gives_way_to_the_old_release_again(build: &Build) {
    let (nginx, daemon) = in_place(build, "");
    good(&daemon, "v1", &[("alone", "")]);
    let load = Load::start(nginx.port, 8);
    let output = deploy(&daemon, "v2", &[("alone", ""), ("sick", "never\n")]);
    assert_eq!(output.code, 4, "{output:?}");
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    assert_eq!(answered(&samples, "v2"), 0);
    assert_eq!(active(&nginx), "v1");
    assert_eq!(nginx.connect().ask("GET", "/", b"").expect("an answer").release(), "v1");
    good(&daemon, "v3", &[("alone", "")]);
    let rollback = daemon.shunt(&["rollback", "web"]);
    assert_eq!(rollback.code, 0, "{rollback:?}");
    assert_eq!(nginx.connect().ask("GET", "/", b"").expect("an answer").release(), "v1");
}

fn in_place_the_guard_goes_back(build: &Build) {
    let (nginx, daemon) = in_place(build, GUARD);
    good_at_once(&daemon, "v1");
    let load = Load::start(nginx.port, 8);
    let output = deploy(&daemon, "v2", &[("bad", "")]);
    assert_eq!(output.code, 5, "{output:?}");
    let samples = load.stop();
    assert!(failures(&samples).iter().all(|f| *f == "status 500"), "{:?}", failures(&samples));
    assert_eq!(active(&nginx), "v1");
    assert_eq!(nginx.connect().ask("GET", "/", b"").expect("an answer").release(), "v1");
}

fn a_rollback_to_a_release_that_runs_on_takes_milliseconds(build: &Build) {
    let (nginx, daemon) = blue_green(build, "[keep]\nrunning = true");
    good(&daemon, "v1", &[]);
    good(&daemon, "v2", &[]);
    let load = Load::start(nginx.port, 4);
    // A machine that has other things to do may be slow, but hardly each time.
    let times = ["v1", "v2", "v1"].map(|release| {
        let output = daemon.shunt(&["--json", "rollback", "web"]);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(active(&nginx), release);
        output.done("switch")
    });
    assert!(times.iter().any(|ms| *ms < 100), "{times:?}");
    assert_eq!(failures(&load.stop()), [] as [&String; 0]);
    // A kept release that does not run any more is started.
    good(&daemon, "v3", &[]);
    let output = daemon.shunt(&["rollback", "web", "--to", "v2"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(active(&nginx), "v2");
}

fn a_rollback_to_a_release_whose_socket_listens_switches_at_once(build: &Build) {
    let (nginx, daemon) = blue_green(build, "");
    let slow = [("slow-start", "1500")];
    ["v1", "v2"].iter().for_each(|release| good(&daemon, release, &slow));
    let load = Load::start(nginx.port, 8);
    // A machine that has other things to do may be slow, but hardly each time.
    let times = ["v1", "v2", "v1"].map(|release| {
        let output = daemon.shunt(&["--json", "rollback", "web"]);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(active(&nginx), release);
        let (switched, healthy) = (output.done("switch"), output.done("health"));
        assert!(healthy >= switched + 1000, "{output:?}");
        switched
    });
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    for release in ["v1", "v2"] {
        assert!(answered(&samples, release) > 0, "{release}");
    }
    println!("switched after {times:?} ms");
    assert!(times.iter().any(|ms| *ms < 100), "{times:?}");
    // Whoever asked meanwhile has waited until it had started, and not longer.
    let longest = samples.iter().map(|s| s.end - s.start).max().expect("samples");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

fn a_rollback_to_a_release_that_does_not_come_up_is_taken_back(build: &Build) {
    let (nginx, daemon) = blue_green(build, "");
    ["v1", "v2"].iter().for_each(|release| good(&daemon, release, &[]));
    let server = daemon.path("web/releases/v1/server");
    std::fs::remove_file(&server).expect("the program");
    std::fs::write(&server, "#!/bin/sh\nsleep 0.3\necho no database\nexit 7\n").expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&server, mode).expect("a script");
    let load = Load::start(nginx.port, 4);
    let began = Instant::now();
    let output = daemon.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 5, "{output:?}");
    // Nobody waits for what a process that crashes will never answer.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let samples = load.stop();
    assert!(answered(&samples, "v2") > 0);
    assert!(failures(&samples).iter().all(|f| *f == "status 502"), "{:?}", failures(&samples));
    for said in ["exit status 7", "| no database", "ok switch-back", "\"v2\" still serves"] {
        assert!(output.stdout.contains(said), "{said}: {}", output.stdout);
    }
    let state = nginx.admin().state("web");
    assert_eq!(state.active.as_ref().map(|name| name.as_str()), Some("v2"));
    assert!(state.release("v1").is_none() && state.previous.is_none(), "{state:?}");
    assert_eq!(nginx.connect().ask("GET", "/", b"").expect("an answer").release(), "v2");
}

fn applications_that_are_deployed_at_the_same_time_do_not_disturb_each_other(build: &Build) {
    let port = shunt_tests::free_port();
    let shop = format!(
        "upstream shop {{ shunt; server 127.0.0.1:1; keepalive 8; }}
        server {{
            listen 127.0.0.1:{port};
            add_header X-Shunt \"$shunt_upstream $shunt_release $shunt_generation\" always;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            location / {{ proxy_pass http://shop; }}
        }}"
    );
    let setup = Setup { workers: 2, ..Setup::standard(&format!("{UPSTREAM}\n{shop}")) };
    let nginx = Nginx::start(build, setup);
    let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), "");
    daemon.add("shop");
    let apps = ["web", "shop"];
    for release in ["v1", "v2", "v3", "v4"] {
        let _ = daemon.release(release);
    }
    let deploy = |app: &str, release: &str| {
        let from = daemon.path("dist").join(release);
        let args = ["deploy", app, "--release", release, "--from", &from.display().to_string()];
        let output = daemon.shunt(&args);
        assert_eq!(output.code, 0, "{output:?}");
    };
    apps.iter().for_each(|app| deploy(app, "v1"));
    let loads = [Load::start(nginx.port, 4), Load::start(port, 4)];
    let deploy = &deploy;
    std::thread::scope(|scope| {
        for app in apps {
            scope.spawn(move || ["v2", "v3", "v4"].iter().for_each(|release| deploy(app, release)));
        }
    });
    for (app, load) in apps.iter().zip(loads) {
        let samples = load.stop();
        assert_eq!(failures(&samples), [] as [&String; 0], "{app}");
        for release in ["v1", "v4"] {
            assert!(answered(&samples, release) > 0, "{app} {release}");
        }
        let state = nginx.admin().state(app);
        assert_eq!(state.active.expect("one").as_str(), "v4");
    }
}

each_nginx!(
    applications_that_are_deployed_at_the_same_time_do_not_disturb_each_other,
    p8_a_release_that_is_bad_after_the_switch_is_switched_away_from_by_itself,
    p8_a_release_whose_process_dies_after_the_switch_is_switched_away_from,
    a_canary_that_is_good_gets_more_and_more_and_loses_nothing,
    a_canary_that_is_bad_is_ended_and_most_have_never_met_it,
    an_abort_takes_back_what_had_begun,
    in_place_no_request_fails_and_none_waits_longer_than_the_restart,
    in_place_what_is_not_healthy_gives_way_to_the_old_release_again,
    in_place_the_guard_goes_back,
    a_rollback_to_a_release_that_runs_on_takes_milliseconds,
    a_rollback_to_a_release_whose_socket_listens_switches_at_once,
    a_rollback_to_a_release_that_does_not_come_up_is_taken_back,
);
