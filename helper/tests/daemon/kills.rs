//! The daemon is killed at every moment of a deploy, or of a rollback: after each thing that it does, and
//! before the next one that it writes down; and whatever it was at, the next one finishes or takes back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::world::{World, good, is_running, until};

/// All that a deploy can do.
const EVERYTHING: &str = r#"
    [hooks]
    build = ["/bin/sh", "-c", "echo built > built"]
    migrate = ["/bin/true"]
    before_switch = ["/bin/true"]
    after_switch = ["/bin/true"]
    after_deploy = ["/bin/true"]
    on_failure = ["/bin/true"]
    [warm_up]
    requests = ["/health"]
    [guard]
    time = "1s"
"#;

/// What nobody cuts off, and how it ends: a deploy of `v2` over `v1`, or a rollback from `v2` to `v1`, whose
/// socket listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The deploy goes well.
    Done,
    /// `v2` is never healthy.
    Refused,
    /// `v2` is switched away from by the guard.
    SwitchedBack,
    /// The rollback goes well.
    RolledBack,
    /// `v1` does not become healthy any more, and `v2` serves on.
    NotRolledBack,
}

impl End {
    /// Whether it is a rollback.
    fn is_back(self) -> bool {
        matches!(self, Self::RolledBack | Self::NotRolledBack)
    }

    /// What is active before, and after it if it goes well.
    fn releases(self) -> (&'static str, &'static str) {
        if self.is_back() { ("v2", "v1") } else { ("v1", "v2") }
    }

    /// Does it; tells whether it has come to its end.
    fn run(self, world: &World) -> bool {
        let (output, code) = match self {
            Self::Done => (world.deploy("v2", &[]), 0),
            Self::Refused => (world.deploy("v2", &[("sick", "never\n")]), 4),
            Self::SwitchedBack => {
                world.module.is_bad("v2");
                (world.deploy("v2", &[]), 5)
            }
            Self::RolledBack => (world.shunt(&["rollback", "web"]), 0),
            Self::NotRolledBack => {
                std::fs::write(world.path("web/releases/v1/sick"), "no more\n").unwrap();
                (world.shunt(&["rollback", "web"]), 5)
            }
        };
        if output.code != code {
            println!("{self:?} is cut off: {output:?}");
        }
        output.code == code
    }
}

/// How many worlds there are at a time; most of the time each waits for something.
const AT_A_TIME: usize = 4;

/// Kills the daemon at every moment, each time in a world of its own.
fn at_every_moment(end: End, new: impl Fn() -> World + Sync) {
    let (next, last) = (AtomicUsize::new(1), AtomicUsize::new(usize::MAX));
    let table = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let moment = next.fetch_add(1, Ordering::Relaxed);
                    if moment > last.load(Ordering::Relaxed) {
                        return;
                    }
                    match at_moment(end, moment, new()) {
                        Some(line) => drop(table.lock().unwrap().insert(moment, line)),
                        None => drop(last.fetch_min(moment, Ordering::Relaxed)),
                    }
                }
            });
        }
    });
    let table = table.into_inner().unwrap();
    let moments = last.into_inner() - 1;
    table.values().take(moments).for_each(|line| println!("{line}"));
    assert!(moments > 20, "there are more moments than {moments}");
}

/// Kills the daemon at this moment and looks what comes of it; `None` if all is done before.
fn at_moment(end: End, moment: usize, mut world: World) -> Option<String> {
    good(&world, "v1");
    if end.is_back() {
        good(&world, "v2");
    }
    world.end(Signal::KILL);
    world.start_mortal(moment);
    let died_at_start = until("the daemon is there, or dead", || {
        if world.is_dead() {
            return Some(true);
        }
        world.status().filter(|status| status["job"].is_null()).map(|_| false)
    });
    if !died_at_start {
        if end.run(&world) {
            return None;
        }
        until("the daemon is dead, as it was cut off", || world.is_dead().then_some(()));
    }
    let old = world.log().len();
    world.start();
    let said = world.log()[old..].to_owned();
    let active = world.module.active();
    let how = match () {
        () if said.contains("is taken back") => "taken back",
        () if said.contains("is finished") => "finished",
        // There was nothing to do but to let it run.
        () => "runs again",
    };
    let words = said.lines().find(|line| line.contains("cut off")).unwrap_or_default();
    check(&world, end, moment, &active, how, &said);
    if !matches!(end, End::Done | End::RolledBack) {
        assert_eq!(active, end.releases().0, "moment {moment}: {said}");
    }
    Some(format!("killed at moment {moment:>2}: {how:<10} {active}  {words}"))
}

fn check(world: &World, end: End, moment: usize, active: &str, how: &str, said: &str) {
    let why = format!("moment {moment}, {how}: {said}");
    let (before, after) = end.releases();
    match how {
        "taken back" => assert_eq!(active, before, "{why}"),
        "finished" => assert_eq!(active, after, "{why}"),
        _ => {}
    }
    // Traffic goes to what runs, where it runs, and nothing else is left.
    let pid = world.pid_of(active).unwrap_or_else(|| panic!("{active} does not run: {why}"));
    assert!(is_running(pid), "{why}");
    let state = world.module.state();
    let status = world.status().unwrap();
    let slots = status["slots"].as_array().unwrap();
    let slot = slots.iter().find(|slot| slot["release"] == active).unwrap();
    let address = &state.release(active).unwrap().servers[0].address;
    assert_eq!(address, slot["address"].as_str().unwrap(), "{why}");
    assert_eq!(world.current(), active, "{why}");
    assert_eq!((&state.canary, &state.hold), (&None, &None), "{why}");
    let running: Vec<_> = slots.iter().filter(|slot| slot["runs"] == true).collect();
    assert_eq!(running.len(), 1, "{running:?} {why}");
    let other = if active == "v1" { "v2" } else { "v1" };
    assert!(state.release(other).is_none(), "{why}");
    if !end.is_back() && active == "v1" {
        assert!(!world.path("web/releases/v2").exists(), "{why}");
    }
    // Only the socket of what was stopped in order can be rolled back to at once.
    let listening: Vec<_> = slots.iter().filter(|slot| slot["listens"] == true).collect();
    for slot in &listening {
        assert_eq!(slot["release"], other, "{why}");
        assert!(std::net::TcpListener::bind(slot["address"].as_str().unwrap()).is_err(), "{why}");
    }
    if active == after && slots.len() > 1 {
        assert_eq!(listening.len(), 1, "{slots:?} {why}");
    }
    // And it goes on as if nothing had been.
    good(world, "v3");
    assert_eq!(world.shunt(&["rollback", "web"]).code, 0, "{why}");
    assert_eq!(world.module.active(), active, "{why}");
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_blue_green_deploy() {
    let canary = "[canary]\nsteps = [{ share = 0.1, time = \"20ms\" }]";
    at_every_moment(End::Done, || World::new(&format!("{EVERYTHING}{canary}")));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_deploy_in_place() {
    at_every_moment(End::Done, || World::in_place(EVERYTHING));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_blue_green_deploy_that_is_refused() {
    at_every_moment(End::Refused, || World::new(EVERYTHING));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_deploy_in_place_that_is_refused() {
    at_every_moment(End::Refused, || World::in_place(EVERYTHING));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_blue_green_deploy_that_is_switched_back() {
    at_every_moment(End::SwitchedBack, || World::new(EVERYTHING));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_deploy_in_place_that_is_switched_back() {
    at_every_moment(End::SwitchedBack, || World::in_place(EVERYTHING));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_rollback_behind_a_socket() {
    at_every_moment(End::RolledBack, || World::new(EVERYTHING));
}

#[test]
fn p9_a_daemon_killed_at_any_moment_of_a_rollback_behind_a_socket_to_what_does_not_come_up() {
    at_every_moment(End::NotRolledBack, || World::new(EVERYTHING));
}
