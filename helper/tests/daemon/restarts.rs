//! The daemon ends, or is killed anywhere, and what the next one finds.

use rustix::process::Signal;

use crate::world::module::Cut;
use crate::world::{World, app, good, is_running, until};

#[test]
fn p9_a_daemon_that_is_killed_after_the_switch_drains_and_stops_at_its_next_start() {
    let mut world = World::new("");
    good(&world, "v1");
    let v1 = world.pid_of("v1").unwrap();
    world.module.in_flight("v1", 1, 0);
    let mut deploy = world.begin_deploy("v2", &[]);
    until("the deploy drains", || {
        let calls = world.module.calls();
        calls.iter().any(|call| call.contains("wait=drained&release=v1")).then_some(())
    });
    world.end(Signal::KILL);
    deploy.wait().unwrap();
    assert!(is_running(v1));
    world.module.in_flight("v1", 0, 0);
    world.start();
    until("v1 has ended", || (!is_running(v1)).then_some(()));
    until("the daemon is idle", || world.status().filter(|status| status["job"].is_null()));
    assert_eq!(world.module.names(), ["default", "v2"]);
    assert_eq!(world.current(), "v2");
    assert_eq!(world.shunt(&["rollback", "web"]).code, 0);
    assert_eq!(world.module.active(), "v1");
}

#[test]
fn p9_a_killed_daemon_costs_nothing_and_the_next_one_takes_its_releases_over() {
    let mut world = World::new("");
    good(&world, "v1");
    let v1 = world.pid_of("v1").unwrap();
    // In the middle of a deploy.
    let mut deploy = world.begin_deploy("v2", &[("sick", "never\n")]);
    until("v2 is in its slot", || world.pid_of("v2"));
    world.end(Signal::KILL);
    assert_eq!(deploy.wait().unwrap().code(), Some(8));
    assert!(is_running(v1));
    world.start();
    // Others than root may not look into their processes everywhere (`kernel.yama.ptrace_scope`).
    if rustix::process::geteuid().is_root() {
        assert_eq!(world.pid_of("v1"), Some(v1), "the same process as before: {}", world.log());
    }
    assert_eq!(world.module.active(), "v1");
    // What was half done holds no slot.
    good(&world, "v3");
    until("v1 has ended", || (!is_running(v1)).then_some(()));
    assert!(world.pid_of("v2").is_none());
}

/// The next daemon is there: what is active runs, and the next deploy works.
#[track_caller]
fn all_is_well(world: &World, next: &str) {
    until("the daemon is idle", || world.status().filter(|status| status["job"].is_null()));
    let active = world.module.active();
    assert!(active == "default" || world.pid_of(&active).is_some(), "\"{active}\" does not run");
    good(world, next);
}

/// Kills the daemon at each call of a deploy, one after the other.
fn kill_at_each_call(how: Cut) {
    let mut world = World::new("");
    good(&world, "first");
    for n in 0.. {
        let release = format!("v{n}");
        world.module.cut(n, how);
        let mut deploy = world.begin_deploy(&release, &[]);
        let ended = until("a call is cut off, or there were all", || {
            let ended = deploy.try_wait().unwrap();
            ended.map(Some).or_else(|| world.module.is_stalled().then_some(None))
        });
        if let Some(status) = ended {
            assert!(status.success());
            assert!(n > 8, "a deploy makes more calls than {n}");
            return;
        }
        world.end(Signal::KILL);
        deploy.wait().unwrap();
        if how == Cut::Late {
            world.start();
            world.module.let_go();
        } else {
            world.module.let_go();
            world.start();
        }
        all_is_well(&world, &format!("after-{n}"));
    }
}

#[test]
fn p9_a_daemon_that_is_killed_before_any_of_its_calls_leaves_traffic_on_what_runs() {
    kill_at_each_call(Cut::Before);
}

#[test]
fn p9_a_daemon_that_is_killed_after_any_of_its_calls_leaves_traffic_on_what_runs() {
    kill_at_each_call(Cut::After);
}

#[test]
fn p9_a_call_that_comes_late_leaves_traffic_on_what_runs() {
    kill_at_each_call(Cut::Late);
}

#[test]
fn p9_a_process_that_was_not_written_down_yet_does_not_block_later_deploys() {
    let mut world = World::with_command(&app::command_that_kills(), "");
    for (release, next) in [("v1", "v2"), ("v3", "v4")] {
        let mut deploy = world.begin_deploy(release, &[("kill", "")]);
        world.killed();
        deploy.wait().unwrap();
        // The daemon may have been faster than the kill.
        world.edit_state(|state| {
            let slots = state["slots"].as_array_mut().unwrap();
            let slot = slots.iter_mut().find(|slot| slot["release"] == release).unwrap();
            slot["process"] = serde_json::Value::Null;
        });
        world.start();
        all_is_well(&world, next);
        assert!(world.pid_of(release).is_none());
        // It can be tried again.
        std::fs::remove_file(world.path("dist").join(release).join("kill")).unwrap();
        good(&world, release);
    }
}

#[test]
fn p9_a_daemon_that_is_killed_between_its_calls_leaves_traffic_on_what_runs() {
    let mut world = World::new("");
    good(&world, "v1");
    let mut deploy = world.begin_deploy("v2", &[("kill-at-health", "")]);
    world.killed();
    deploy.wait().unwrap();
    world.start();
    all_is_well(&world, "v3");
    let mut deploy = world.begin_deploy("v4", &[]);
    until("v4 is published", || (world.current() == "v4").then_some(()));
    world.end(Signal::KILL);
    deploy.wait().unwrap();
    world.start();
    all_is_well(&world, "v5");
}

#[test]
fn p9_what_cannot_be_taken_over_is_replaced_before_it_ends() {
    let mut world = World::with_command(&app::command_behind_a_shell(), "");
    good(&world, "v1");
    let v1 = world.pid_of("v1").unwrap();
    world.end(Signal::KILL);
    world.start();
    assert!(world.log().contains("\"v1\" in 127.0.0.1"), "{}", world.log());
    until("another v1 runs", || world.pid_of("v1").filter(|pid| *pid != v1));
    until("the daemon is idle", || world.status().filter(|status| status["job"].is_null()));
    until("the first one has ended", || (!is_running(v1)).then_some(()));
    let status = world.status().unwrap();
    let slots = status["slots"].as_array().unwrap();
    let slot = slots.iter().find(|slot| slot["release"] == "v1").unwrap();
    let known = world.module.state();
    assert_eq!(known.release("v1").unwrap().servers[0].address, slot["address"].as_str().unwrap());
    good(&world, "v2");
}

#[test]
fn a_daemon_that_ends_in_the_middle_of_a_deploy_has_undone_it_at_the_next_start() {
    let mut world = World::new("");
    good(&world, "v1");
    let mut deploy = world.begin_deploy("v2", &[("sick", "never\n")]);
    let v2 = until("v2 is in its slot", || world.pid_of("v2"));
    world.end(Signal::TERM);
    assert!(!is_running(v2));
    assert!(!deploy.wait().unwrap().success());
    world.start();
    until("v1 runs again", || world.pid_of("v1"));
    until("the daemon is idle", || world.status().filter(|status| status["job"].is_null()));
    assert!(world.pid_of("v2").is_none());
    good(&world, "v3");
}

/// A deploy of v2, after v1, that is watched until somebody ends that.
fn watched() -> (World, std::process::Child) {
    let world = World::new("");
    good(&world, "v1");
    world.edit_config("time = \"0s\"", "time = \"1h\"");
    world.reload();
    let deploy = world.begin_deploy("v2", &[]);
    until("v2 is watched", || world.status().filter(|status| status["job"]["step"] == "guard"));
    (world, deploy)
}

#[test]
fn p9_a_daemon_that_ends_while_it_watches_a_release_does_not_take_that_for_the_release_s_fault() {
    let (mut world, mut deploy) = watched();
    world.end(Signal::TERM);
    assert!(!deploy.wait().unwrap().success());
    assert_eq!(world.module.active(), "v2");
    world.edit_config("time = \"1h\"", "time = \"0s\"");
    world.start();
    until("v2 runs again", || world.pid_of("v2"));
    assert!(world.log().contains("cut off at the step guard"), "{}", world.log());
}

/// A daemon and all releases that ended while it was switching back from v2 to v1, as with the machine.
fn lost_while_it_switched_back() -> World {
    let (mut world, mut deploy) = watched();
    let both = ["v1", "v2"].map(|release| world.pid_of(release).unwrap());
    world.end(Signal::KILL);
    deploy.wait().unwrap();
    for pid in both {
        rustix::process::kill_process(crate::world::pid(pid), Signal::KILL).unwrap();
        until("it has ended", || (!is_running(pid)).then_some(()));
    }
    world.edit_state(|state| state["underway"]["step"] = "switch-back".into());
    world.edit_config("time = \"1h\"", "time = \"0s\"");
    world
}

#[test]
fn p9_a_machine_that_is_lost_while_it_switches_back_comes_up_with_the_old_release() {
    let mut world = lost_while_it_switched_back();
    world.start();
    until("v1 serves again", || (world.module.active() == "v1").then_some(()));
    all_is_well(&world, "v3");
}

#[test]
fn p9_if_the_old_release_cannot_be_gone_back_to_the_other_one_serves() {
    let mut world = lost_while_it_switched_back();
    std::fs::write(world.path("web/releases/v1/crash"), "no\n").unwrap();
    world.start();
    until("v2 runs again", || world.pid_of("v2"));
    assert_eq!(world.module.active(), "v2");
    all_is_well(&world, "v3");
}

#[test]
fn a_daemon_that_ends_stops_its_releases_and_the_next_one_starts_the_active_one() {
    let mut world = World::new("");
    good(&world, "v1");
    good(&world, "v2");
    let v2 = world.pid_of("v2").unwrap();
    world.end(Signal::TERM);
    assert!(!is_running(v2));
    world.module.end();
    world.start();
    assert!(world.pid_of("v2").is_none(), "NGINX is asked first");
    assert_eq!(world.shunt(&["status", "web"]).code, 8);
    let output = world.deploy("v3", &[]);
    assert_eq!(output.code, 8, "{output:?}");
    let socket = world.path("nginx.sock");
    world.module.serve(&socket);
    until("v2 runs again", || world.pid_of("v2"));
    until("the daemon is idle", || world.status().filter(|status| status["job"].is_null()));
    assert_eq!(world.shunt(&["rollback", "web"]).code, 0);
    assert_eq!(world.module.active(), "v1");
}

#[test]
fn p9_a_runner_that_does_not_answer_keeps_only_its_own_application_waiting() {
    let mut world = World::new("");
    good(&world, "v1");
    world.end(Signal::KILL);
    // What runs of the other application systemd knows, which is asked over a bus that says nothing.
    let text = format!(
        "name = \"shop\"\nroot = {:?}\nnginx = \"unix:/nowhere\"\n[run]\nunit = \"shop\"\n\
         slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n",
        world.path("shop")
    );
    std::fs::write(world.path("apps/shop.toml"), text).unwrap();
    std::fs::create_dir_all(world.path("shop/releases/v7")).unwrap();
    std::fs::create_dir(world.path("shop/slots")).unwrap();
    std::os::unix::fs::symlink("../releases/v7", world.path("shop/slots/1")).unwrap();
    let journal = rusqlite::Connection::open(world.path("state/journal.db")).unwrap();
    let slot = serde_json::json!({ "slot": "127.0.0.1:1", "release": "v7", "process": null });
    let remembered = serde_json::json!({ "slots": [slot] }).to_string();
    let sql = "INSERT INTO apps (app, remembered) VALUES ('shop', ?1)";
    journal.execute(sql, [remembered]).unwrap();
    drop(journal);
    let bus = std::os::unix::net::UnixListener::bind(world.path("bus.sock")).unwrap();
    let mut command = world.shuntd("shuntd.sock");
    let address = format!("unix:path={}", world.path("bus.sock").display());
    command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
    world.start_as(command);
    bus.set_nonblocking(true).unwrap();
    let asked = until("systemd is asked", || bus.accept().ok());
    world.idle();
    good(&world, "v2");
    let shop = world.shunt(&["prune", "shop"]);
    assert_eq!(shop.code, 7, "{shop:?}");
    assert!(shop.stderr.contains("a recover of release \"v7\""), "{shop:?}");
    drop(asked);
}
