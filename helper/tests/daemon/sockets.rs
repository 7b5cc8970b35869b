//! What was stopped in order keeps its socket: a rollback switches to it at once, and whoever else
//! connects starts it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, good, is_running, output, until};

/// How long a client of the load pauses between two requests: it is not the load that is tested.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// The slot of a release, as the daemon shows it.
fn slot_of(world: &World, release: &str) -> Option<Value> {
    let status = world.status()?;
    let slots = status["slots"].as_array()?;
    slots.iter().find(|slot| slot["release"] == release).cloned()
}

#[track_caller]
fn listens(world: &World, release: &str) -> String {
    let slot = slot_of(world, release).unwrap();
    assert!(slot["listens"] == true && slot["runs"] == false && slot["pid"].is_null(), "{slot}");
    slot["address"].as_str().unwrap().to_owned()
}

/// Two releases, of which the first one takes a while to start and was stopped.
fn world(more: &str) -> World {
    let world = World::new(more);
    let output = world.deploy("v1", &[("slow-start", "1000")]);
    assert_eq!(output.code, 0, "{output:?}");
    good(&world, "v2");
    world
}

/// Asks, and gives the release that has answered well.
fn ask(address: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(|e| format!("send: {e}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("receive: {e}"))?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(answer);
    }
    let named = answer.lines().find_map(|line| line.strip_prefix("x-release: "));
    named.map(str::to_owned).ok_or(answer)
}

/// Asks wherever NGINX would, until it is told to end; gives the answers.
fn load(world: &World, end: &AtomicBool) -> Vec<Result<String, String>> {
    let mut answers = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let state = world.module.state();
        let active = state.release(state.active.as_ref().unwrap().as_str()).unwrap();
        answers.push(ask(&active.servers[0].address));
        std::thread::sleep(PAUSE);
    }
    answers
}

/// What happened in a job, and when: `done switch`.
fn events(json: &str) -> Vec<(String, u64)> {
    let events = json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = |event: &Value| {
        let step = event["step"].as_str().unwrap_or_default();
        format!("{} {step}", event["event"].as_str().unwrap())
    };
    events.map(|event| (line(&event), event["at"].as_u64().unwrap())).collect()
}

/// The steps that were done, in their order.
fn done(events: &[(String, u64)]) -> Vec<&str> {
    events.iter().filter_map(|(what, _)| what.strip_prefix("done ")).collect()
}

#[test]
fn p8_a_rollback_switches_at_once_and_nothing_fails_while_the_release_starts() {
    let world = World::new("");
    for release in ["v1", "v2"] {
        let output = world.deploy(release, &[("slow-start", "500")]);
        assert_eq!(output.code, 0, "{output:?}");
    }
    let end = AtomicBool::new(false);
    let (times, answers) = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| load(&world, &end))).collect();
        // There and back: from here one can go forward as fast.
        let times =
            [("v2", "v1"), ("v1", "v2"), ("v2", "v1")].map(|(from, to)| back(&world, from, to));
        end.store(true, Ordering::Relaxed);
        (times, loads.into_iter().flat_map(|load| load.join().unwrap()).collect::<Vec<_>>())
    });
    let failed: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for release in ["v1", "v2"] {
        assert!(answers.iter().any(|a| a.as_deref() == Ok(release)), "{release}");
    }
    // A machine that has other things to do may have been slow, but hardly each time.
    println!("switched after {times:?} ms");
    assert!(times.iter().any(|ms| *ms < 100), "{times:?}");
}

/// Rolls back, and gives the milliseconds until all requests went to the other release.
fn back(world: &World, from: &str, to: &str) -> u64 {
    let (slot, old) = (listens(world, to), world.pid_of(from).unwrap());
    let output = std::thread::scope(|scope| {
        let rollback = scope.spawn(|| world.shunt(&["--json", "rollback", "web"]));
        until("it is active and starts", || {
            let status = world.status()?;
            (status["active"] == to && status["job"]["step"] == "health").then_some(())
        });
        assert!(is_running(old), "there has to be something to go back to");
        rollback.join().unwrap()
    });
    assert_eq!(output.code, 0, "{output:?}");
    let events = events(&output.stdout);
    assert_eq!(done(&events), ["start", "switch", "health", "drain", "stop", "publish"]);
    let at = |what: &str| events.iter().find(|(known, _)| known == what).unwrap().1;
    assert!(at("done health") - at("done start") >= 400, "{events:?}");
    assert_eq!(slot_of(world, to).unwrap()["address"], slot);
    assert!(!is_running(old));
    listens(world, from);
    assert_eq!(world.current(), to);
    assert_eq!(world.module.names(), ["default", to], "nothing can fall back to what listens");
    at("done switch")
}

#[test]
fn p8_a_rollback_to_what_does_not_come_up_goes_back_to_what_has_served_all_the_time() {
    for (file, text, why) in [
        ("crash", "out of luck\n", "exit status 3"),
        ("sick", "no database\n", "not healthy within"),
    ] {
        let world = world("");
        let v1 = listens(&world, "v1");
        let v2 = world.pid_of("v2");
        std::fs::write(world.path("web/releases/v1").join(file), text).unwrap();
        let output = world.shunt(&["rollback", "web"]);
        assert_eq!(output.code, 5, "{output:?}");
        for said in [why, text.trim(), "ok switch-back", "\"v2\" still serves"] {
            assert!(output.stdout.contains(said), "{said}: {}", output.stdout);
        }
        assert_eq!((world.module.active().as_str(), world.current().as_str()), ("v2", "v2"));
        assert_eq!(world.pid_of("v2"), v2, "it was never stopped");
        assert_eq!(world.module.names(), ["default", "v2"]);
        // What was refused is closed, and is not switched to at once again.
        assert!(slot_of(&world, "v1").is_none());
        drop(TcpListener::bind(&v1).unwrap());
        assert_eq!(world.status().unwrap()["previous"], "v1");
        let output = world.shunt(&["rollback", "web"]);
        assert_eq!(output.code, 4, "{output:?}");
        std::fs::remove_file(world.path("web/releases/v1").join(file)).unwrap();
        // What is well may take its time, on a machine that has other things to do.
        world.edit_config("deadline = \"2s\"", "deadline = \"1m\"");
        assert!(world.reload().contains("changed: web"));
        let output = world.shunt(&["rollback", "web"]);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(world.module.active(), "v1");
    }
}

#[test]
fn a_program_that_is_gone_is_not_switched_to() {
    let world = world("");
    let program = world.path("no-program").display().to_string();
    let text = std::fs::read_to_string(world.path("apps/web.toml")).unwrap();
    let command = text.lines().find(|line| line.trim().starts_with("command = ")).unwrap();
    world.edit_config(command, &format!("command = [{program:?}]"));
    assert!(world.reload().contains("changed: web"));
    let calls = world.module.calls().len();
    // The configuration of now counts, and not that which it was stopped with.
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("cannot start [\""), "{output:?}");
    let calls = world.module.calls().split_off(calls);
    assert!(calls.iter().all(|call| call.starts_with("GET")), "{calls:?}");
}

#[test]
fn an_abort_while_the_release_starts_goes_back_at_once() {
    let world = world("");
    std::fs::write(world.path("web/releases/v1/sick"), "not yet\n").unwrap();
    let rollback = world.begin(&["rollback", "web"]);
    until("it starts", || (world.status()?["job"]["step"] == "health").then_some(()));
    assert_eq!(world.module.active(), "v1");
    let abort = world.shunt(&["abort", "web"]);
    assert_eq!(abort.code, 0, "{abort:?}");
    let output = output(rollback.wait_with_output().unwrap());
    assert_eq!(output.code, 5, "{output:?}");
    assert_eq!(world.module.active(), "v2");
}

#[test]
fn a_stray_connection_starts_what_listens_which_is_in_no_deploy_s_way() {
    let world = world("");
    let v1 = listens(&world, "v1");
    let status = world.shunt(&["status", "web"]).stdout;
    let line = status.lines().find(|line| line.contains(&v1)).unwrap();
    assert!(line.contains("\"v1\"  previous; stopped, but its socket listens"), "{status}");
    // What was stopped is not down.
    let page = crate::world::ask::ask(&world.path("shuntd.sock"), "GET", "/metrics", "").body;
    let up = page.lines().filter(|line| line.starts_with("shuntd_slot_up"));
    assert_eq!(up.filter(|line| line.contains("release=\"v1\"")).count(), 0, "{page}");
    // To look starts nothing.
    world.shunt(&["doctor", "web"]);
    listens(&world, "v1");
    assert_eq!(ask(&v1).as_deref(), Ok("v1"));
    let woken = world.pid_of("v1").unwrap();
    assert_eq!(world.module.active(), "v2");
    // What runs is asked for its health before it is switched to.
    std::fs::write(world.path("web/releases/v1/sick"), "ill\n").unwrap();
    let output = world.shunt(&["rollback", "web"]);
    assert_eq!((output.code, world.module.active()), (4, "v2".to_owned()), "{output:?}");
    std::fs::remove_file(world.path("web/releases/v1/sick")).unwrap();
    // Its slot is the one that is free.
    good(&world, "v3");
    assert!(!is_running(woken));
    assert_eq!(slot_of(&world, "v3").unwrap()["address"], v1);
    assert_eq!(ask(&v1).as_deref(), Ok("v3"));
    let v2 = listens(&world, "v2");
    good(&world, "v4");
    assert_eq!(ask(&v2).as_deref(), Ok("v4"));
}

#[test]
fn a_slot_that_listens_can_be_named_for_the_next_release() {
    let world = world("");
    let v1 = listens(&world, "v1");
    let mut args = world.release("v3", &[]);
    args.extend(["--slot".to_owned(), v1.clone()]);
    let output = world.shunt(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(slot_of(&world, "v3").unwrap()["address"], v1);
}

#[test]
fn only_what_runs_can_be_switched_to_by_hand() {
    let world = world("");
    listens(&world, "v1");
    for args in [&["switch", "web", "v1"][..], &["canary", "web", "v1", "0.1"]] {
        let output = world.shunt(args);
        assert_eq!(output.code, 2, "{output:?}");
        for said in ["\"v1\" does not run; running: v2", "`shunt rollback web --to v1`"] {
            assert!(output.stderr.contains(said), "{output:?}");
        }
    }
    listens(&world, "v1");
}

#[test]
fn p12_what_listens_is_not_removed_and_the_oldest_gives_its_slot_to_the_next() {
    let world = World::with_slots(3);
    ["v1", "v2", "v3"].iter().for_each(|release| good(&world, release));
    let slots = ["v1", "v2"].map(|release| listens(&world, release));
    world.edit_config("[guard]", "[keep]\nreleases = 2\n[guard]");
    assert!(world.reload().contains("changed: web"));
    let pruned = world.shunt(&["prune", "web"]);
    assert!(world.path("web/releases/v1").exists(), "{pruned:?}");
    // Also the one that was not active just before can be gone back to at once.
    let output = world.shunt(&["--json", "rollback", "web", "--to", "v1"]);
    assert_eq!(output.code, 0, "{output:?}");
    let events = events(&output.stdout);
    let place = |what: &str| events.iter().position(|(known, _)| known == what);
    assert!(place("done switch") < place("done health"), "{events:?}");
    assert_eq!(slot_of(&world, "v1").unwrap()["address"], slots[0]);
    // Of v2 and v3, a rollback goes to v3.
    good(&world, "v4");
    assert_eq!(slot_of(&world, "v4").unwrap()["address"], slots[1]);
    listens(&world, "v3");
    assert!(!world.path("web/releases/v2").exists());
}

#[test]
fn with_keep_socket_off_nothing_listens_and_a_rollback_starts_before_it_switches() {
    let world = world("[keep]\nsocket = false");
    assert!(slot_of(&world, "v1").is_none());
    let output = world.shunt(&["--json", "rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    let events = events(&output.stdout);
    assert_eq!(done(&events), ["start", "health", "switch", "drain", "stop", "publish"]);
}

#[test]
fn a_daemon_that_starts_again_lets_listen_what_did() {
    let mut world = world("");
    let v1 = listens(&world, "v1");
    for signal in [Signal::TERM, Signal::KILL] {
        world.end(signal);
        assert!(ask(&v1).is_err(), "it is the daemon's socket");
        world.start();
        until("v2 runs again", || world.pid_of("v2"));
        world.idle();
        assert_eq!(listens(&world, "v1"), v1);
    }
    // One that a connection had started is taken over as any other.
    assert_eq!(ask(&v1).as_deref(), Ok("v1"));
    let woken = world.pid_of("v1").unwrap();
    world.end(Signal::KILL);
    world.start();
    if rustix::process::geteuid().is_root() {
        assert_eq!(world.pid_of("v1"), Some(woken), "{}", world.log());
    }
    assert_eq!(world.shunt(&["rollback", "web"]).code, 0);
    assert_eq!(world.module.active(), "v1");
}

#[test]
fn a_slot_that_only_listens_may_be_taken_away() {
    let world = world("");
    let v1 = listens(&world, "v1");
    let other = world.free_address();
    world.edit_config(&v1, &other);
    assert!(world.reload().contains("changed: web"));
    drop(TcpListener::bind(&v1).unwrap());
    good(&world, "v3");
    assert_eq!(slot_of(&world, "v3").unwrap()["address"], other);
}
