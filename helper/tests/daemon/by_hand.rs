//! What people do by hand between deploys: they switch, roll back, and look.

use crate::world::module::Cut;
use crate::world::{World, good, output, until};

#[test]
fn p8_what_runs_but_is_ill_is_not_switched_to_by_hand() {
    let world = World::new("");
    good(&world, "v1");
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v2", &[]);
    until("v2 is active", || (world.module.active() == "v2").then_some(()));
    world.module.switch("default");
    world.module.in_flight("v1", 0, 0);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 5);
    // Both run now.
    std::fs::write(world.path("web/releases/v1/sick"), "ill\n").unwrap();
    let output = world.shunt(&["switch", "web", "v1"]);
    assert_eq!(output.code, 4, "{output:?}");
    assert_eq!(world.module.active(), "default");
    let output = world.shunt(&["switch", "web", "v2"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(world.module.active(), "v2");
    assert!(world.pid_of("v1").is_some(), "a switch by hand stops nothing");
    assert_eq!(world.shunt(&["switch", "web", "v7"]).code, 2);
}

/// Deploys v2 over v1, and somebody switches back by hand while v1 drains. Both run on.
fn overruled() -> World {
    let world = World::new("");
    good(&world, "v1");
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v2", &[]);
    until("the deploy drains", || {
        let calls = world.module.calls();
        calls.iter().any(|call| call.contains("wait=drained&release=v1")).then_some(())
    });
    world.module.switch("v1");
    world.module.in_flight("v1", 0, 0);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 5);
    world
}

#[test]
fn a_rollback_goes_to_what_was_active_before_somebody_switched_by_hand() {
    let world = overruled();
    assert_eq!(world.status().unwrap()["previous"], "v2");
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!((world.module.active(), world.current()), ("v2".to_owned(), "v2".to_owned()));
    assert!(world.pid_of("v1").is_none(), "it is drained and stopped, as after any rollback");
    // And there again.
    assert_eq!(world.status().unwrap()["previous"], "v1");
    assert_eq!(world.shunt(&["rollback", "web"]).code, 0);
    assert_eq!(world.module.active(), "v1");
}

#[test]
fn a_rollback_with_nothing_to_go_back_to_says_so_and_does_nothing() {
    let mut world = World::new("");
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 2, "{output:?}");
    for said in ["nothing to go back to", "active is \"default\"", "running: none"] {
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
    // What was there before the first deploy is not the daemon's to start.
    good(&world, "v1");
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("\"default\" is not one that shuntd can start"), "{output:?}");
    // v1 was the previous release of v2, not of what somebody has made active since.
    good(&world, "v2");
    world.module.switch("default");
    world.module.forget_previous();
    assert!(world.status().unwrap()["previous"].is_null());
    let calls = world.module.calls().len();
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("running: v2"), "{output:?}");
    assert!(world.module.calls()[calls..].iter().all(|call| call.starts_with("GET")));
    world.module.end();
    assert_eq!(world.shunt(&["rollback", "web"]).code, 8);
}

#[test]
fn status_shows_which_release_is_where_and_what_each_has_in_flight() {
    let world = World::new("");
    good(&world, "v1");
    world.module.in_flight("v1", 2, 1);
    let deploy = world.begin_deploy("v2", &[]);
    until("v2 is active", || (world.module.active() == "v2").then_some(()));
    world.module.in_flight("v2", 3, 0);
    world.module.in_flight("default", 1, 0);
    until("the deploy is settled", || world.status().filter(|status| status["previous"] == "v1"));
    let text = world.shunt(&["status", "web"]).stdout;
    let slot = |release: &str, rest: &str| {
        let line = text.lines().find(|line| line.contains(&format!("  \"{release}\"  ")));
        let line = line.unwrap_or_else(|| panic!("{release}: {text}"));
        assert!(line.contains(rest), "{rest}: {text}");
    };
    slot("v1", "previous; in flight: 2 requests, 1 upgraded; pid ");
    slot("v2", "active; in flight: 3 requests, 0 upgraded; pid ");
    slot("default", "in flight: 1 requests, 0 upgraded");
    let status = world.status().unwrap();
    let releases = status["releases"].as_array().unwrap();
    let v1 = releases.iter().find(|release| release["name"] == "v1").unwrap();
    assert_eq!(v1["in_flight"], serde_json::json!({ "requests": 2, "upgraded": 1 }));
    assert!(v1["slot"].is_string());
    world.module.in_flight("v1", 0, 0);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 0);
}

#[test]
fn whoever_holds_what_no_location_parks_requests_for_is_told() {
    let world = World::new("");
    let held = world.shunt(&["hold", "web"]);
    assert_eq!((held.code, held.stderr.as_str()), (0, ""));
    assert!(held.stdout.contains("new requests to web wait"), "{held:?}");
    world.module.has_no_hold();
    let held = world.shunt(&["hold", "web"]);
    assert_eq!((held.code, held.stdout.as_str()), (0, "web is held\n"));
    assert!(held.stderr.starts_with("warning: no \"shunt_hold web;\" is in NGINX's"), "{held:?}");
    let held = world.shunt(&["--json", "hold", "web"]);
    assert!(held.stderr.starts_with("warning: no \"shunt_hold web;\""), "{held:?}");
    let json: serde_json::Value = serde_json::from_str(&held.stdout).unwrap();
    assert_eq!(json["holdable"], false);
    let status = world.shunt(&["status", "web"]).stdout;
    assert!(status.contains("hold       no \"shunt_hold web;\" is in"), "{status}");
    assert_eq!(world.shunt(&["resume", "web"]).code, 0);
}

#[test]
fn a_deploy_in_place_warns_when_no_location_parks_requests() {
    let world = World::in_place("");
    good(&world, "v1");
    let said = world.deploy("v2", &[]).stdout;
    assert!(!said.contains("warning"), "{said}");
    world.module.has_no_hold();
    let output = world.deploy("v3", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    let warning = output.stdout.lines().filter(|line| line.contains("warning")).collect::<Vec<_>>();
    assert_eq!(warning.len(), 1, "{output:?}");
    assert!(warning[0].starts_with("  warning hold "), "{warning:?}");
    assert!(
        warning[0].contains("no \"shunt_hold web;\" is in NGINX's configuration"),
        "{warning:?}"
    );
}

#[test]
fn p7_of_a_job_and_what_is_done_by_hand_the_second_is_told_of_the_first() {
    let world = World::new("");
    good(&world, "v1");
    world.module.cut(0, Cut::After);
    let hold = world.begin(&["hold", "web", "--timeout", "30s"]);
    until("NGINX is at it", || world.module.is_stalled().then_some(()));
    for second in [world.shunt(&["prune", "web"]), world.deploy("v2", &[])] {
        assert_eq!(second.code, 7, "{second:?}");
        assert!(second.stderr.contains("web is locked since 2"), "{second:?}");
        let holder = match rustix::process::geteuid().is_root() {
            true => "by a hold that root does by hand",
            false => "by a hold that the user with uid ",
        };
        assert!(second.stderr.contains(holder), "{second:?}");
    }
    world.module.let_go();
    assert_eq!(output(hold.wait_with_output().unwrap()).code, 0);
    good(&world, "v2");
}
