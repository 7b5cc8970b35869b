//! The old release drains: what is waited for, for how long, and what is said of what is cut off.

use std::time::{Duration, Instant};

use crate::world::module::Cut;
use crate::world::{Output, World, good, is_running, output, until};

/// Deploys v2 over v1, which has a request and a WebSocket; the test ends one of them.
fn drain(limits: &str, end: impl FnOnce(&World)) -> Output {
    let world = World::new(limits);
    good(&world, "v1");
    world.module.in_flight("v1", 1, 1);
    let deploy = world.begin_deploy("v2", &[]);
    until("the deploy drains", || {
        let calls = world.module.calls();
        calls.iter().any(|call| call.contains("wait=drained&release=v1")).then_some(())
    });
    end(&world);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 0, "{output:?}");
    output
}

#[test]
fn a_request_is_waited_for_no_longer_because_there_is_a_websocket() {
    let began = Instant::now();
    let limits = "[drain]\ntimeout = \"60s\"\nupgraded_timeout = \"0s\"";
    let output = drain(limits, |world| world.module.in_flight("v1", 0, 1));
    assert!(output.stdout.contains("0 requests and 1 upgraded"), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "the request's limit was waited for");
}

#[test]
fn a_request_that_hangs_is_waited_for_no_longer_because_websockets_may_stay() {
    let began = Instant::now();
    let limits = "[drain]\ntimeout = \"100ms\"\nupgraded_timeout = \"60s\"";
    let output = drain(limits, |world| world.module.in_flight("v1", 1, 0));
    assert!(output.stdout.contains("1 request and 0 upgraded"), "{output:?}");
    assert!(output.stdout.contains("with 1 request (drain timeout 100ms) in"), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "the WebSocket's limit was waited for");
}

/// As the new NGINX of a binary upgrade says it when the old one, which had nothing left, has just
/// answered: it counts a request for the old one until that has ended.
#[test]
fn what_is_in_flight_again_when_the_release_should_stop_is_waited_for() {
    let world = World::new("");
    good(&world, "v1");
    let old = world.pid_of("v1").unwrap();
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v2", &[]);
    let drains = || {
        let calls = world.module.calls();
        calls.iter().filter(|call| call.contains("wait=drained&release=v1")).count()
    };
    until("the deploy drains", || (drains() > 1).then_some(()));
    world.module.cut(0, Cut::After);
    world.module.in_flight("v1", 0, 0);
    until("it is answered that nothing is in flight", || world.module.is_stalled().then_some(()));
    world.module.in_flight("v1", 1, 0);
    let before = drains();
    world.module.let_go();
    until("it is waited for", || (drains() > before).then_some(()));
    assert!(is_running(old));
    world.module.in_flight("v1", 0, 0);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.ends_with("web is on \"v2\"\n"), "{output:?}");
    assert!(!is_running(old));
}

#[test]
fn websockets_that_stay_are_reported_and_cut_at_their_limit() {
    let world = World::new("[drain]\ntimeout = \"30s\"\nupgraded_timeout = \"100ms\"");
    good(&world, "v1");
    let old = world.pid_of("v1").unwrap();
    world.module.in_flight("v1", 0, 3);
    let deploy = world.begin_deploy("v2", &[]);
    until("v1 is stopped", || (!is_running(old)).then_some(()));
    // NGINX sees that the connections are gone.
    world.module.in_flight("v1", 0, 0);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("0 requests and 3 upgraded connections"), "{output:?}");
    let warning = "web is on \"v2\"; warning: \"v1\" was stopped with 3 upgraded connections \
                   (drain upgraded_timeout 100ms) in flight";
    assert!(output.stdout.contains(warning), "{output:?}");
    assert!(world.log().contains(warning), "{}", world.log());
    let events = world.events_as(0, 2);
    assert!(events.contains("cut: Some(InFlight { requests: 0, upgraded: 3 })"), "{events}");
    assert_eq!(world.module.names(), ["default", "v2"]);
}

/// A deploy of v2, which has a share of the requests and so many in flight, and is aborted; gives the world
/// when v2 is stopped, and the deploy.
fn cut_while_taken_back(requests: u64) -> (World, std::process::Child) {
    let world = World::impatient(
        "[canary]\nsteps = [{ share = 0.1, time = \"10ms\" }]\n[drain]\ntimeout = \"100ms\"",
    );
    good(&world, "v1");
    world.edit_config("time = \"10ms\"", "time = \"1h\"");
    world.reload();
    let deploy = world.begin_deploy("v2", &[]);
    until("v2 has its share", || world.module.state().canary);
    let new = world.pid_of("v2").unwrap();
    world.module.in_flight("v2", requests, 0);
    let abort = world.begin(&["abort", "web"]);
    until("v2 is stopped", || (!is_running(new)).then_some(()));
    drop(abort);
    (world, deploy)
}

#[test]
fn p2_what_is_taken_back_at_the_limit_of_its_drain_is_said_to_be_cut_and_leaves_nginx() {
    let (world, deploy) = cut_while_taken_back(2);
    // NGINX sees that the connections are gone.
    world.module.in_flight("v2", 0, 0);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("\"v2\" is taken back, \"v1\" still serves"), "{output:?}");
    let warning = "; warning: \"v2\" was stopped with 2 requests (drain timeout 100ms) in flight\n";
    assert!(output.stdout.ends_with(warning), "{output:?}");
    let events = world.events_as(0, 2);
    assert!(events.contains("cut: Some(InFlight { requests: 2, upgraded: 0 })"), "{events}");
    assert_eq!(world.module.names(), ["default", "v1"]);
    assert!(!world.path("web/releases/v2").exists());
}

#[test]
fn what_runs_no_more_leaves_no_folder_though_nginx_refuses_to_forget_it() {
    let (world, deploy) = cut_while_taken_back(1);
    world.module.busy(&["DELETE"]);
    world.module.in_flight("v2", 0, 0);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 1, "{output:?}");
    let said = "not all of \"v2\" is taken back: \"v2\" is stopped, but NGINX still has it: NGINX \
                refuses: another";
    assert!(output.stdout.contains(said), "{output:?}");
    assert!(
        output.stdout.contains("\"v2\" is to be taken back, \"v1\" still serves"),
        "{output:?}"
    );
    assert!(!world.path("web/releases/v2").exists());
    world.module.busy(&[]);
    world.edit_config("time = \"1h\"", "time = \"10ms\"");
    world.reload();
    good(&world, "v3");
    assert!(!world.module.names().contains(&"v2".to_owned()), "{:?}", world.module.names());
}
