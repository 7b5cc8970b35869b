//! Deploys: their way, their refusals, and accidents on it.

use rustix::process::{Signal, kill_process};

use crate::world::module::Accident;
use crate::world::{World, good, is_running, output, pid, until};

#[test]
fn a_deploy_goes_its_way_and_leaves_nothing_behind() {
    let world = World::new("");
    good(&world, "v1");
    let first = world.pid_of("v1").unwrap();
    let before = world.module.calls().len();
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    let steps: Vec<_> = output.stdout.lines().filter_map(|l| l.strip_prefix("  ok ")).collect();
    let steps: Vec<_> = steps.iter().filter_map(|l| l.split(' ').next()).collect();
    let all = ["fetch", "start", "health", "switch", "drain", "stop", "publish", "prune"];
    assert_eq!(steps, all, "{}", output.stdout);
    assert!(!output.stdout.contains("warning"), "{}", output.stdout);
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
    for said in [
        "503 Service Unavailable: no database",
        "| release v2 starts",
        "stopped, its folder is removed",
        "\"v1\" still serves",
    ] {
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
    let world = World::new("");
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
    let world = World::new("");
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
    let world = World::new("");
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
fn p8_a_canary_that_cannot_be_ended_is_said_to_go_on_and_ended_once_nginx_is_back() {
    let mut world = World::impatient("[canary]\nsteps = [{ share = 0.1, time = \"10ms\" }]");
    good(&world, "v1");
    world.edit_config("time = \"10ms\"", "time = \"1h\"");
    world.reload();
    let deploy = world.begin_deploy("v2", &[]);
    until("v2 has its share", || world.module.state().canary);
    world.module.end();
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 5, "{output:?}");
    assert!(output.stdout.contains("\"v2\" is not taken back yet"), "{output:?}");
    assert!(world.pid_of("v2").is_some(), "users may still be sent to it");
    world.module.serve(&world.path("nginx.sock"));
    // Whoever is that fast does not make the daemon forget it.
    world.deploy("v3", &[]);
    until("it is taken back", || world.module.state().canary.is_none().then_some(()));
    until("nothing of it is left", || {
        (world.pid_of("v2").is_none() && !world.path("web/releases/v2").exists()).then_some(())
    });
    assert!(!world.module.names().contains(&"v2".to_owned()));
    until("that has ended", || world.status()?["job"].is_null().then_some(()));
    assert_eq!(world.module.active(), "v1");
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
    let world = World::new("");
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

#[test]
fn p7_one_job_at_a_time_and_ctrl_c_does_not_end_it() {
    let world = World::new("");
    good(&world, "v1");
    let sick = [("sick", "not yet\n")];
    let deploy = world.begin_deploy("v2", &sick);
    until("v2 is in its slot", || world.pid_of("v2"));
    let second = world.deploy("v3", &[]);
    assert_eq!(second.code, 7, "{second:?}");
    assert!(second.stderr.contains("locked since 20"), "{second:?}");
    assert!(second.stderr.contains("a deploy of release \"v2\""), "{second:?}");
    kill_process(pid(deploy.id()), Signal::INT).unwrap();
    let output = output(deploy.wait_with_output().unwrap());
    assert_eq!(output.code, 130, "{output:?}");
    assert!(output.stderr.contains("goes on in shuntd"), "{output:?}");
    std::fs::remove_file(world.path("web/releases/v2/sick")).unwrap();
    until("v2 is active all the same", || (world.module.active() == "v2").then_some(()));
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
    assert!(!is_running(pids[1]), "v2 was idle");
    assert!(is_running(pids[2]), "a rollback went to v3, which was active before \"default\"");
}

#[test]
fn a_release_cannot_take_the_name_of_one_of_nginx() {
    let world = World::new("");
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
    let world = World::new("");
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
    let world = World::new("");
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
    let world = World::new("");
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
    let world = World::new("");
    let url = format!("http://{}/", world.free_address());
    let socket = world.path("shuntd.sock").display().to_string();
    let watch = ["watch", &url, "--rate", "1000", "--timeout", "1s"];
    for args in [&watch[..], &["--socket", &socket, "status", "web"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shunt"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = output(command.args(args).stdout(writer).output().unwrap());
        assert_eq!((output.code, output.stderr.as_str()), (141, ""), "{args:?}");
    }
}

#[test]
fn what_cannot_be_watched_is_refused_as_usage() {
    let world = World::new("");
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
fn a_daemon_that_is_not_there_is_said_with_its_place_and_what_to_do() {
    let world = World::new("");
    let (missing, dead) = (world.path("missing.sock"), world.path("dead.sock"));
    // A socket that was left behind.
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    for (socket, why) in
        [(missing, "there is no such socket"), (dead, "nobody listens there any more")]
    {
        let socket = socket.display().to_string();
        for command in [&["status"][..], &["hold", "web"], &["show", "1", "--follow"]] {
            let output = world.shunt(&[&["--socket", &socket], command].concat());
            assert_eq!((output.code, output.stdout.as_str()), (8, ""), "{output:?}");
            let said =
                format!("shunt: shuntd cannot be reached at unix:{socket}: {why}; start shuntd ");
            assert!(output.stderr.starts_with(&said), "{output:?}");
            assert!(output.stderr.contains("(--socket)"), "{output:?}");
        }
    }
}
