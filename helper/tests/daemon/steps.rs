//! What a deploy makes around the switch: hooks, warm-up, and who is told.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::world::{World, good, until};

fn hooks(text: &str) -> World {
    World::new(&format!("[hooks]\n{text}"))
}

#[test]
fn a_build_that_fails_ends_the_deploy_and_on_failure_is_told_why() {
    let world = hooks(
        r#"build = ["/bin/sh", "-c", "echo building; echo no compiler >&2; [ $RELEASE != v2 ]"]
        on_failure = ["/bin/sh", "-c", "echo $SHUNT_FAILURE > $SHUNT_ROOT/why"]"#,
    );
    good(&world, "v1");
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stdout.contains("| building") && output.stdout.contains("| no compiler"));
    assert_eq!(output.stdout.matches("no compiler").count(), 1, "{output:?}");
    assert!(output.stdout.contains("failed build"), "{output:?}");
    let undo = output.stdout.lines().find(|line| line.contains("ok undo")).unwrap();
    assert!(undo.ends_with("  its folder is removed"), "nothing ran: {undo}");
    assert!(output.stdout.contains("\"v1\" still serves"), "{output:?}");
    assert!(!world.path("web/releases/v2").exists());
    let why = std::fs::read_to_string(world.path("web/why")).unwrap();
    assert!(why.starts_with("hook build: it ended with exit status 1"), "{why}");
    let logs = world.shunt(&["logs", "web", "v2", "--hooks"]);
    assert!(logs.stdout.contains("building\nno compiler\n"), "{logs:?}");
    // Nobody else sees what hooks say, and the journal has not kept it.
    let events = world.events_as(65534, 2);
    assert!(events.contains("Build") && !events.contains("compiler"), "{events}");
    for file in ["journal.db", "journal.db-wal"] {
        let journal = std::fs::read(world.path("state").join(file)).unwrap();
        assert!(!String::from_utf8_lossy(&journal).contains("compiler"));
    }
}

#[test]
fn a_hook_that_fails_after_the_switch_takes_nothing_back_and_ends_with_3() {
    let world = hooks("after_switch = [\"/bin/false\"]");
    let output = world.deploy("v1", &[]);
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stdout.contains("web is on \"v1\", but hook after_switch"), "{output:?}");
    assert_eq!((world.module.active().as_str(), world.current().as_str()), ("v1", "v1"));
}

#[test]
fn hooks_run_in_their_order_each_with_what_is_known_by_then() {
    let line = |hook: &str| {
        format!(
            "{hook} = [\"/bin/sh\", \"-c\", \"echo $SHUNT_HOOK $RELEASE \
             ${{SHUNT_PREVIOUS_RELEASE:-none}} ${{SHUNT_SLOT:+slot}} >> $SHUNT_ROOT/said\"]\n"
        )
    };
    let all = ["build", "migrate", "before_switch", "after_switch", "after_deploy", "on_failure"];
    let world = hooks(&all.map(line).concat());
    good(&world, "v1");
    good(&world, "v2");
    assert_eq!(world.shunt(&["rollback", "web"]).code, 0);
    let said = std::fs::read_to_string(world.path("web/said")).unwrap();
    let of = |release: &str, old: &str| {
        format!(
            "build {release} {old}\nmigrate {release} {old}\nbefore_switch {release} {old} slot\n\
             after_switch {release} {old} slot\nafter_deploy {release} {old} slot\n"
        )
    };
    let back = "after_switch v1 v2 slot\nafter_deploy v1 v2 slot\n";
    assert_eq!(said.replace(" \n", "\n"), of("v1", "default") + &of("v2", "v1") + back);
}

#[test]
fn webhooks_are_told_how_a_deploy_went() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/secret", listener.local_addr().unwrap());
    let world = World::new(&format!(
        "[[notify]]\nurl = {url:?}\nevents = [\"began\", \"done\", \"failed\"]"
    ));
    let told = std::thread::spawn(move || (0..4).map(|_| message(&listener)).collect::<Vec<_>>());
    good(&world, "v1");
    assert_eq!(world.deploy("v2", &[("sick", "never\n")]).code, 4);
    let told = told.join().unwrap();
    let what: Vec<_> = told.iter().map(|m| (m["event"].as_str().unwrap(), &m["release"])).collect();
    assert_eq!(
        what,
        [
            ("began", &"v1".into()),
            ("done", &"v1".into()),
            ("began", &"v2".into()),
            ("failed", &"v2".into())
        ]
    );
    assert_eq!(told[3]["previous"], "v1");
    assert!(told[3]["text"].as_str().unwrap().contains("not healthy within"), "{}", told[3]);
    assert!(!world.log().contains("secret"));
}

#[test]
fn a_daemon_that_ends_waits_for_webhooks_to_be_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/secret", listener.local_addr().unwrap());
    let mut world =
        World::new(&format!("[[notify]]\nurl = {url:?}\nevents = [\"began\", \"done\"]"));
    good(&world, "v1");
    // Nobody has listened until now: the daemon is told to end, and answers nobody else any more.
    let daemon = crate::world::pid(world.daemon());
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
    until("the daemon lets nobody in", || (world.shunt(&["status"]).code == 8).then_some(()));
    let told = ["began", "done"].map(|_| message(&listener));
    assert_eq!([&told[0]["event"], &told[1]["event"]], ["began", "done"]);
    world.killed();
    assert!(!world.log().contains("is not told"), "{}", world.log());
}

/// The body of the next request, which is answered well.
fn message(listener: &TcpListener) -> Value {
    let (mut stream, _) = listener.accept().unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..n]);
        let all = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = all.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap() {
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
            return serde_json::from_str(body).unwrap();
        }
    }
}

#[test]
fn what_was_done_is_known_to_the_next_daemon() {
    let mut world = World::new("");
    good(&world, "v1");
    assert_eq!(world.deploy("v2", &[("sick", "the database is gone\n")]).code, 4);
    world.end(rustix::process::Signal::KILL);
    world.start();
    let history = world.shunt(&["history", "web"]).stdout;
    let lines: Vec<_> = history.lines().collect();
    assert!(lines[1].contains("recover") && lines[1].contains("done"), "{history}");
    assert!(lines[2].contains("deploy") && lines[2].contains("unhealthy"), "{history}");
    let shown = world.shunt(&["show", "2"]).stdout;
    assert!(shown.contains("failed health") && shown.contains("ok undo"), "{shown}");
    assert!(
        !shown.contains("database"),
        "the journal keeps nothing of what applications say: {shown}"
    );
    assert_eq!(world.shunt(&["show", "99"]).code, 2);
    let followed = world.shunt(&["show", "1", "--follow"]);
    assert_eq!(followed.code, 0, "{followed:?}");
    let kept = world.shunt(&["releases", "web"]).stdout;
    assert!(
        kept.lines().nth(1).is_some_and(|l| l.contains("v1") && l.contains("active")),
        "{kept}"
    );
}

#[test]
fn warm_up_requests_are_sent_before_the_switch() {
    let world = World::new("[warm_up]\nrequests = [\"/health\", \"/missing\"]\ntimes = 2");
    let output = world.deploy("v1", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("4 requests, 2 of them not answered well"), "{output:?}");
}

#[test]
fn an_abort_ends_what_a_hook_does() {
    let world = hooks("build = [\"/bin/sh\", \"-c\", \"echo $$; exec sleep 600\"]");
    let mut deploy = world.begin_deploy("v1", &[]);
    until("it builds", || (world.status()?["job"]["step"] == "build").then_some(()));
    let abort = world.shunt(&["abort", "web"]);
    assert_eq!(abort.code, 0, "{abort:?}");
    assert!(abort.stdout.contains("\"v1\" is taken back"), "{abort:?}");
    assert_eq!(deploy.wait().unwrap().code(), Some(1));
    assert!(!world.path("web/releases/v1").exists());
    let late = world.shunt(&["abort", "web"]);
    assert_eq!(late.code, 2, "{late:?}");
    assert!(late.stderr.contains("no job runs for web"), "{late:?}");
}
