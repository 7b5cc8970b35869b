//! The real `shuntd` and `shunt` against a module that is none, to see what real NGINX does rarely:
//! lost answers, people who switch meanwhile, a daemon that is killed in the middle.

mod world;

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use world::module::{Accident, Cut};
use world::{Output, World, app, is_running, output, pid, until};

fn world() -> World {
    World::new("")
}

#[track_caller]
fn good(world: &World, release: &str) {
    let output = world.deploy(release, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(world.module.active(), release);
    assert_eq!(world.current(), release);
}

#[test]
fn a_deploy_goes_its_way_and_leaves_nothing_behind() {
    let world = world();
    good(&world, "v1");
    let first = world.pid_of("v1").unwrap();
    let before = world.module.calls().len();
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    let steps: Vec<_> = output.stdout.lines().filter_map(|l| l.strip_prefix("  ok ")).collect();
    let steps: Vec<_> = steps.iter().filter_map(|l| l.split(' ').next()).collect();
    let all = ["fetch", "start", "health", "switch", "drain", "stop", "publish", "prune"];
    assert_eq!(steps, all, "{}", output.stdout);
    assert!(!is_running(first));
    assert_eq!(world.module.names(), ["default", "v2"]);
    // Told of the release, switched, no way back, nothing in flight, forgotten: in this order.
    let calls = world.module.calls()[before..].to_vec();
    let at = |what: &str| {
        let found = calls.iter().position(|call| call.starts_with(what));
        found.unwrap_or_else(|| panic!("{what}: {calls:#?}"))
    };
    let order = [
        at("PUT /v1/upstreams/web/releases/v2"),
        at("POST /v1/upstreams/web/switch"),
        at("DELETE /v1/upstreams/web/previous"),
        at("GET /v1/upstreams/web?wait=drained&release=v1"),
        at("DELETE /v1/upstreams/web/releases/v1"),
    ];
    assert!(order.is_sorted(), "{calls:#?}");
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!((world.module.active(), world.current()), ("v1".to_owned(), "v1".to_owned()));
    assert_eq!(world.module.names(), ["default", "v1"]);
}

#[test]
fn p8_what_is_not_healthy_is_refused_with_its_last_answer_and_its_log() {
    let world = World::new("");
    good(&world, "v1");
    let output = world.deploy("v2", &[("sick", "no database\n")]);
    assert_eq!(output.code, 4, "{output:?}");
    for said in
        ["503 Service Unavailable: no database", "| release v2 starts", "\"v1\" still serves"]
    {
        assert!(output.stdout.contains(said), "{said}: {}", output.stdout);
    }
    let output = world.deploy("v3", &[("crash", "out of luck\n")]);
    assert_eq!(output.code, 4, "{output:?}");
    for said in ["exit status 3", "| out of luck"] {
        assert!(output.stdout.contains(said), "{said}: {}", output.stdout);
    }
    assert_eq!((world.module.active().as_str(), world.current().as_str()), ("v1", "v1"));
    assert!(world.module.calls().iter().all(|call| !call.contains("v2") && !call.contains("v3")));
    // The slot is free again.
    good(&world, "v4");
}

#[test]
fn p7_somebody_who_switches_back_during_the_drain_keeps_his_release() {
    let world = world();
    good(&world, "v1");
    let old = world.pid_of("v1").unwrap();
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v2", &[]);
    until("the deploy drains", || {
        let calls = world.module.calls();
        calls.iter().any(|call| call.contains("wait=drained&release=v1")).then_some(())
    });
    // Back, and then the next deploy that somebody makes by hand.
    world.module.switch_in_turn(&["v1", "default"]);
    world.module.in_flight("v1", 0, 0);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 5, "{output:?}");
    assert!(output.stdout.contains("somebody else has switched to \"default\""), "{output:?}");
    assert!(is_running(old), "v1 may be needed");
    assert!(world.pid_of("v2").is_some(), "v2 may be needed");
    assert_eq!(world.current(), "v1");
}

#[test]
fn p7_a_change_at_the_last_moment_is_not_overwritten() {
    let world = world();
    good(&world, "v1");
    world.module.at_the_next_switch(Accident::SomebodyFaster);
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("\"v1\" still serves"), "{output:?}");
    assert_eq!(world.module.names(), ["default", "v1"], "what was told of v2 is taken back");
    assert!(!world.path("web/releases/v2").exists());
    good(&world, "v2");
}

#[test]
fn a_switch_whose_answer_is_lost_is_found_out() {
    let world = world();
    good(&world, "v1");
    world.module.at_the_next_switch(Accident::AnswerLost);
    good(&world, "v2");
    assert!(world.pid_of("v1").is_none());
}

#[test]
fn p9_a_switch_that_is_not_answered_is_not_taken_for_one_that_did_not_happen() {
    let world = World::impatient("");
    good(&world, "v1");
    let old = world.pid_of("v1").unwrap();
    // As with a worker that hangs and has the lock: others show the state, and change nothing.
    world.module.at_the_next_switch(Accident::Stalled);
    world.module.busy(&["POST", "DELETE"]);
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(output.stdout.contains("`shunt switch web v2`"), "{output:?}");
    assert!(is_running(old) && world.pid_of("v2").is_some(), "either may get the traffic");
    world.module.busy(&[]);
    world.module.let_go();
    assert_eq!(world.module.active(), "v2");
    assert!(world.pid_of("v2").is_some());
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(world.module.active(), "v1");
    assert_eq!(world.pid_of("v1"), Some(old), "it was not stopped");
    good(&world, "v3");
}

#[test]
fn p9_a_daemon_that_is_killed_after_the_switch_drains_and_stops_at_its_next_start() {
    let mut world = world();
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
fn p7_a_switch_that_comes_late_does_not_overwrite_the_one_that_was_ordered_again() {
    let world = World::impatient("");
    good(&world, "v1");
    world.module.at_the_next_switch(Accident::Stalled);
    good(&world, "v2");
    world.module.switch("default");
    world.module.let_go();
    assert_eq!(world.module.active(), "default");
}

#[test]
fn p9_what_nginx_cannot_forget_is_not_stopped() {
    let world = World::impatient("");
    good(&world, "v1");
    world.module.at_the_next_switch(Accident::SomebodyFaster);
    world.module.busy(&["DELETE"]);
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("\"v2\" is not stopped: NGINX refuses: another"), "{output:?}");
    assert!(world.pid_of("v2").is_some());
    assert!(world.path("web/releases/v2").exists());
    world.module.busy(&[]);
    good(&world, "v3");
}

#[test]
fn nothing_is_stopped_that_nginx_cannot_be_asked_about() {
    let world = World::impatient("");
    good(&world, "v1");
    let old = world.pid_of("v1").unwrap();
    world.module.busy(&["GET /v1/upstreams/web?wait=drained"]);
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("\"v1\" is not stopped: NGINX refuses: another"), "{output:?}");
    assert!(is_running(old));
    assert_eq!((world.module.active(), world.current()), ("v2".to_owned(), "v2".to_owned()));
    world.module.busy(&[]);
    good(&world, "v3");
    assert!(!is_running(old));
}

#[test]
fn what_cannot_be_forgotten_as_the_previous_release_is_drained_all_the_same() {
    let world = World::impatient("");
    good(&world, "v1");
    let old = world.pid_of("v1").unwrap();
    world.module.in_flight("v1", 1, 0);
    world.module.busy(&["DELETE /v1/upstreams/web/previous"]);
    let deploy = world.begin_deploy("v2", &[]);
    until("the deploy drains", || {
        let calls = world.module.calls();
        calls.iter().any(|call| call.contains("wait=drained&release=v1")).then_some(())
    });
    assert!(is_running(old), "it has a request");
    world.module.in_flight("v1", 0, 0);
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("stays the previous one"), "{output:?}");
    assert!(!is_running(old));
}

#[test]
fn a_module_that_is_busy_is_asked_again() {
    let world = world();
    good(&world, "v1");
    world.module.busy(&["PUT"]);
    let deploy = world.begin_deploy("v2", &[]);
    until("it is asked again", || {
        let calls = world.module.calls();
        (calls.iter().filter(|call| call.ends_with("releases/v2")).count() > 1).then_some(())
    });
    world.module.busy(&[]);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 0);
}

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
    assert!(output.stdout.contains("1 requests and 0 upgraded"), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "the WebSocket's limit was waited for");
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
    assert_eq!(world.module.names(), ["default", "v2"]);
}

#[test]
fn p7_one_job_at_a_time_and_ctrl_c_does_not_end_it() {
    let world = world();
    good(&world, "v1");
    let sick = [("sick", "not yet\n")];
    let deploy = world.begin_deploy("v2", &sick);
    until("v2 is in its slot", || world.pid_of("v2"));
    let second = world.deploy("v3", &[]);
    assert_eq!(second.code, 7, "{second:?}");
    assert!(second.stderr.contains("for release \"v2\" since 20"), "{second:?}");
    kill_process(pid(deploy.id()), Signal::INT).unwrap();
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 130, "{output:?}");
    assert!(output.stderr.contains("goes on in shuntd"), "{output:?}");
    std::fs::remove_file(world.path("web/releases/v2/sick")).unwrap();
    until("v2 is active all the same", || (world.module.active() == "v2").then_some(()));
}

#[test]
fn p9_a_killed_daemon_costs_nothing_and_the_next_one_takes_its_releases_over() {
    let mut world = world();
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
    let mut world = world();
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
    let mut world = world();
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
    let mut world = world();
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

#[test]
fn a_daemon_that_ends_stops_its_releases_and_the_next_one_starts_the_active_one() {
    let mut world = world();
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

#[test]
fn a_busy_release_in_a_slot_does_not_hide_an_idle_one() {
    let world = World::with_slots(3);
    // Somebody switches away during the drain, so that each stays in its slot.
    for (release, old) in [("v2", "v1"), ("v3", "v2")] {
        if old == "v1" {
            good(&world, "v1");
        }
        world.module.switch(old);
        world.module.in_flight(old, 1, 0);
        let deploy = world.begin_deploy(release, &[]);
        until("it is active", || (world.module.active() == release).then_some(()));
        world.module.switch("default");
        world.module.in_flight(old, 0, 0);
        assert_eq!(output(deploy.wait_with_output().unwrap()).code, 5);
    }
    let pids = ["v1", "v2", "v3"].map(|release| world.pid_of(release).unwrap());
    world.module.in_flight("v1", 1, 0);
    let output = world.deploy("v4", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(is_running(pids[0]), "v1 has a request");
    assert!(is_running(pids[1]), "a rollback went to v2");
    assert!(!is_running(pids[2]), "v3 was idle");
}

#[test]
fn a_release_cannot_take_the_name_of_one_of_nginx() {
    let world = world();
    let output = world.deploy("default", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("choose another name"), "{output:?}");
    assert!(world.module.calls().iter().all(|call| call.starts_with("GET")));
}

#[test]
fn p11_only_root_and_the_daemons_user_may_change_something() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let world = world();
    let args = world.release("v1", &[]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let nobody = 65534;
    for args in [&args[..], &["rollback", "web"], &["switch", "web", "v1"]] {
        let output = world.shunt_as(nobody, args);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("only root and the user of shuntd"), "{output:?}");
    }
    assert!(world.module.calls().iter().all(|call| call.starts_with("GET")));
}

#[test]
fn p11_others_see_that_a_release_is_refused_and_no_word_of_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let world = world();
    let output = world.deploy("v1", &[("sick", "the password is x\n")]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("| release v1 starts"), "{output:?}");
    let events = world.events_as(65534, 1);
    assert!(events.contains("not healthy within"), "{events}");
    assert!(!events.contains("password") && !events.contains("v1 starts"), "{events}");
    assert!(world.events_as(0, 1).contains("password"));
}

#[test]
fn a_name_that_would_be_hidden_or_an_option_is_refused() {
    let world = world();
    for name in [".hid", "-x"] {
        let from = world.path("web").display().to_string();
        let release = format!("--release={name}");
        std::fs::create_dir_all(&from).unwrap();
        let output = world.shunt(&["deploy", "web", &release, "--from", &from]);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains("cannot begin with"), "{output:?}");
    }
}

#[test]
fn whoever_reads_no_further_ends_a_command_quietly() {
    let world = world();
    let url = format!("http://{}/", world.free_address());
    let socket = world.path("shuntd.sock").display().to_string();
    let watch = ["watch", &url, "--rate", "1000", "--timeout", "1s"];
    for args in [&watch[..], &["--socket", &socket, "status", "web"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shunt"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.args(args).stdout(writer).output().unwrap();
        let output = world::output(output);
        assert_eq!((output.code, output.stderr.as_str()), (141, ""), "{args:?}");
    }
}

#[test]
fn what_cannot_be_watched_is_refused_as_usage() {
    let world = world();
    let url = "http://127.0.0.1/";
    for args in [
        &["http://127.0.0.1:99999/"][..],
        &["http://127.0.0.1:x/"],
        &["https://127.0.0.1/"],
        &[url, "--header", "X Y"],
        &[url, "--post", "echo"],
        &[url, "--websocket", "/a b"],
    ] {
        let output = world.shunt(&[&["watch", "--count", "1"], args].concat());
        assert_eq!(output.code, 2, "{args:?} {output:?}");
    }
}

#[test]
fn as_a_unit_of_systemd_it_takes_the_socket_and_tells_when_it_is_ready() {
    use command_fds::{CommandFdExt, FdMapping};
    let mut world = world();
    world.end(Signal::TERM);
    let (socket, notify) = (world.path("systemd.sock"), world.path("notify.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let ready = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args([
            "-c",
            "LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_shuntd"),
        ])
        .arg("--config")
        .arg(world.path("apps"))
        .arg("--state")
        .arg(world.path("state"))
        .env("LISTEN_FDS", "1")
        .env("WATCHDOG_USEC", "200000")
        .env("NOTIFY_SOCKET", &notify);
    let mapping = FdMapping { parent_fd: listener.try_clone().unwrap().into(), child_fd: 3 };
    let mut daemon = command.fd_mappings(vec![mapping]).unwrap().spawn().unwrap();
    let mut told = [0; 100];
    let n = ready.recv(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told[..n]).contains("READY=1"));
    let n = ready.recv(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told[..n]).contains("WATCHDOG=1"));
    let output = world.shunt(&["status", "--socket", &socket.display().to_string()]);
    assert_eq!(output.code, 0, "{output:?}");
    kill_process(pid(daemon.id()), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(socket.exists(), "it is systemd's to remove");
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let world = world();
    std::fs::create_dir(world.path("wrong")).unwrap();
    let text = "name = \"web\"\nroot = \"/srv/web\"\nroots = 1\n";
    std::fs::write(world.path("wrong/web.toml"), text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shuntd"));
    let command = command.arg("--config").arg(world.path("wrong"));
    let output = output(command.output().unwrap());
    assert_eq!(output.code, 2, "{output:?}");
    for said in ["wrong/web.toml", "line 3", "unknown field `roots`"] {
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
}
