//! Followers of a job that lose their connection, or the daemon.

use rustix::process::Signal;
use serde_json::Value;

use crate::world::ask::Follower;
use crate::world::{World, good, output, until};

const HOOKS: &str = "[hooks]\nbuild = [\"sh\", \"-c\", \"echo one; echo two\"]";

/// Deploys v2 up to the drain of v1, which lasts, and gives its job.
fn draining(world: &World) -> (u64, std::process::Child) {
    good(world, "v1");
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v2", &[]);
    let job = until("the deploy drains", || {
        let job = world.status()?["job"].clone();
        (job["step"] == "drain").then(|| job["job"].as_u64().unwrap())
    });
    (job, deploy)
}

/// Takes events up to the first that is so, that one included.
fn take_until(follower: &mut Follower, is_it: impl Fn(&Value) -> bool) -> Vec<(u64, Value)> {
    let mut taken = Vec::new();
    for event in follower.by_ref() {
        let found = is_it(&event.1);
        taken.push(event);
        if found {
            return taken;
        }
    }
    panic!("the stream has ended: {taken:?}")
}

fn ids(events: &[(u64, Value)]) -> Vec<u64> {
    events.iter().map(|(id, _)| *id).collect()
}

#[test]
fn a_follower_that_comes_back_gets_what_follows_once_each() {
    let world = World::new(HOOKS);
    let (job, deploy) = draining(&world);
    let socket = world.path("shuntd.sock");
    // It loses the connection after each single event, up to the drain, which waits.
    let (mut seen, mut last) = (Vec::new(), 0);
    loop {
        let event = Follower::new(&socket, job, last).next().unwrap();
        last = event.0;
        let is_drain = event.1["event"] == "step" && event.1["step"] == "drain";
        seen.push(event);
        if is_drain {
            break;
        }
    }
    // And waits with the connection for what has not happened yet.
    let follower = Follower::new(&socket, job, last);
    world.module.in_flight("v1", 0, 0);
    seen.extend(follower);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 0);
    let count = seen.len() as u64;
    assert_eq!(ids(&seen), (1..=count).collect::<Vec<_>>());
    assert_eq!(seen.last().unwrap().1["event"], "ended");
    let lines: Vec<_> = seen.iter().filter(|(_, event)| event["event"] == "line").collect();
    assert_eq!(lines.len(), 2, "what the hook has said: {seen:?}");
    // Whoever comes after the end gets the same, or nothing more.
    assert_eq!(Follower::new(&socket, job, 0).collect::<Vec<_>>(), seen);
    assert_eq!(Follower::new(&socket, job, count).count(), 0);
}

#[test]
fn a_follower_gets_what_follows_from_the_next_daemon_but_for_lines_of_hooks() {
    let mut world = World::new(HOOKS);
    let (job, mut deploy) = draining(&world);
    let socket = world.path("shuntd.sock");
    let mut follower = Follower::new(&socket, job, 0);
    let before = take_until(&mut follower, |event| event["step"] == "drain");
    let is_line = |event: &Value| event["event"] == "line";
    assert!(before.iter().any(|(_, event)| is_line(event)));
    // In order: the journal has all that was said.
    world.end(Signal::TERM);
    deploy.wait().unwrap();
    world.module.in_flight("v1", 0, 0);
    world.start();

    let kept: Vec<_> = before.iter().filter(|(_, event)| !is_line(event)).cloned().collect();
    let all: Vec<_> = Follower::new(&socket, job, 0).collect();
    assert_eq!(all[..kept.len()], kept, "the same ids, and the same events");
    assert!(all.iter().all(|(_, event)| !is_line(event)));
    for (at, (id, _)) in all.iter().enumerate() {
        let rest: Vec<_> = Follower::new(&socket, job, *id).collect();
        assert_eq!(rest, all[at + 1..], "after {id}");
    }
    // Also after an event that is not kept.
    let (line, _) = before.iter().find(|(_, event)| is_line(event)).unwrap();
    let rest: Vec<_> = Follower::new(&socket, job, *line).collect();
    assert_eq!(ids(&rest), ids(&all).into_iter().filter(|id| id > line).collect::<Vec<_>>());
    // What the next daemon does of it is a job of its own.
    let recovery: Vec<_> = Follower::new(&socket, job + 1, 0).collect();
    assert_eq!(recovery[0].1["job"], "recover");
    assert_eq!(recovery.last().unwrap().1["event"], "ended");
}

#[test]
fn whoever_follows_a_job_is_told_where_to_look_when_the_daemon_is_killed() {
    let mut world = World::new("");
    let (job, deploy) = draining(&world);
    world.end(Signal::KILL);
    let ended = output(deploy.wait_with_output().unwrap());
    assert_eq!(ended.code, 8, "{ended:?}");
    for said in [format!("`shunt show {job} --follow`"), "`shunt history ".to_owned()] {
        assert!(ended.stderr.contains(&said), "{said}: {ended:?}");
    }
    // And what it names tells.
    world.module.in_flight("v1", 0, 0);
    world.start();
    let history = world.shunt(&["history", "web"]);
    assert!(history.stdout.contains("recover"), "{history:?}");
    let again = world.shunt(&["show", &job.to_string(), "--follow"]);
    assert!(again.stderr.contains("`shunt history web`"), "{again:?}");
}

#[test]
fn whoever_follows_a_job_is_let_go_when_the_daemon_ends_and_finds_it_at_the_next_one() {
    let mut world = World::new("");
    let (job, deploy) = draining(&world);
    world.end(Signal::TERM);
    let ended = output(deploy.wait_with_output().unwrap());
    assert_eq!(ended.code, 8, "{ended:?}");
    let said =
        format!("shunt: shuntd ended before job {job} did; the next start of shuntd finishes");
    assert!(ended.stderr.starts_with(&said), "{ended:?}");
    world.module.in_flight("v1", 0, 0);
    world.start();
    let history = world.shunt(&["history", "web"]).stdout;
    assert!(history.contains("recover"), "{history}");
}
