//! P5, P2: a binary upgrade (`USR2`) keeps the state, and while two masters run nothing is changed.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use shunt_tests::admin::{Admin, problem};
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::load::{Load, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{is_running, signal};
use shunt_tests::scenario::active;
use shunt_tests::until;

/// Releases `a` and `b` are configured, `c` is the API's and active; NGINX is in the background.
fn start(build: &Build, state: bool) -> (Nginx, [Backend; 3]) {
    let backends = ["a", "b", "c"].map(|release| Backend::start(release, 2));
    let lines: String = backends[..2].iter().map(Backend::lines).collect();
    let mut setup = Setup::standard(&format!("upstream web {{ shunt;\n{lines}keepalive 4; }}"));
    if !state {
        setup.http = setup.http.replace(" state=%STATE%", "");
    }
    let mut nginx = Nginx::prepare(build, setup);
    nginx.run_in_background();
    assert_eq!(nginx.admin().put("web", "c", &backends[2].addresses).status, 201);
    nginx.admin().switch("web", "c", None).unwrap();
    (nginx, backends)
}

/// Every change is refused, whichever master gets it, and says why.
#[track_caller]
fn refused(nginx: &Nginx, old: u32, new: u32) {
    let before = active(nginx);
    let file = fs::read(nginx.path("state/state.json")).ok();
    let servers = br#"{"servers":[{"address":"127.0.0.1:1"}]}"#;
    for (method, path, body) in [
        ("POST", "switch", &br#"{"release":"a"}"#[..]),
        ("PUT", "releases/d", servers),
        ("DELETE", "releases/a", b""),
        ("PUT", "canary", br#"{"release":"a","share":0.5}"#),
        ("DELETE", "canary", b""),
        ("PUT", "hold", br#"{"timeout":"10s"}"#),
        ("DELETE", "hold", b""),
        ("DELETE", "previous", b""),
    ] {
        let target = format!("/v1/upstreams/web/{path}");
        let problem = problem(&nginx.admin().ask(method, &target, &[], body));
        assert_eq!(problem.status, 409, "{method} {path}: {problem}");
        let why = format!("two NGINX masters run, {old} and {new}, as in a binary upgrade");
        assert!(problem.detail.contains(&why), "{method} {path}: {problem}");
    }
    assert_eq!(active(nginx), before);
    assert_eq!(fs::read(nginx.path("state/state.json")).ok(), file);
}

/// Lets a master's workers end, but not the master itself.
#[track_caller]
fn winch(nginx: &Nginx, master: u32) {
    signal(master, Signal::WINCH);
    until("its workers take no more connections", || {
        nginx.workers_of(master).is_empty().then_some(())
    });
}

/// Goes back to the old master, whose workers were let end, as NGINX's manual has it: its state is as
/// it was, and cannot be changed before the new one has ended.
#[track_caller]
fn take_back(nginx: &Nginx, old: u32, new: u32, before: &(u32, String)) {
    signal(old, Signal::HUP);
    until("new workers of the old one", || (nginx.workers_of(old).len() == 4).then_some(()));
    winch(nginx, new);
    // Now the old one answers.
    assert_eq!(active(nginx), *before);
    refused(nginx, old, new);
    signal(new, Signal::QUIT);
    until("the new one ends", || (!is_running(new)).then_some(()));
    assert_eq!(active(nginx), *before);
}

#[track_caller]
fn switches(nginx: &Nginx) {
    let (generation, _) = active(nginx);
    for (n, release) in ["a", "b", "c"].iter().enumerate() {
        let reply = nginx.admin().switch("web", release, None).unwrap();
        assert_eq!(reply.generation, generation + 1 + n as u32);
        assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), *release);
    }
}

/// Starts load, which lasts until [`nothing_is_lost`].
fn load(nginx: &Nginx) -> Load {
    let load = Load::start(nginx.port, 8);
    there_is_load(nginx);
    load
}

/// Waits until the masters that answer have got many more requests.
fn there_is_load(nginx: &Nginx) {
    let requests = || nginx.admin().state("web").release("c").unwrap().requests;
    let before = requests();
    until("there is load", || (requests() > before + 200).then_some(()));
}

/// All but what a worker that ends cuts off: kept connections on which nothing has come yet.
#[track_caller]
fn nothing_is_lost(nginx: &Nginx, load: Load) {
    there_is_load(nginx);
    let samples = load.stop();
    let (kept, new): (Vec<_>, Vec<_>) = samples.into_iter().partition(|s| s.kept);
    assert_eq!(failures(&new), [] as [&String; 0]);
    let closed = |why: &str| why.starts_with("receive: ") || why.starts_with("send: ");
    let other: Vec<_> = failures(&kept).into_iter().filter(|why| !closed(why)).collect();
    assert_eq!(other, [] as [&String; 0]);
    let all = new.iter().chain(&kept).filter_map(|s| s.result.as_ref().ok());
    assert!(all.clone().all(|release| release == "c"), "another release has answered");
}

fn p5_an_upgrade_keeps_the_state_and_loses_no_request(build: &Build) {
    let (mut nginx, _backends) = start(build, true);
    let (old, before) = (nginx.master(), active(&nginx));
    let load = load(&nginx);
    let new = nginx.upgrade();
    refused(&nginx, old, new);
    winch(&nginx, old);
    // Now the new one answers.
    assert_eq!(active(&nginx), before);
    refused(&nginx, old, new);
    nginx.go_on_with(new);
    assert_eq!(active(&nginx), before);
    nothing_is_lost(&nginx, load);
    switches(&nginx);
    // The next one, and a reload of the new one.
    let newer = nginx.upgrade();
    nginx.go_on_with(newer);
    nginx.reload();
    switches(&nginx);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p5_an_upgrade_that_is_taken_back_keeps_the_state(build: &Build) {
    let (nginx, _backends) = start(build, true);
    let (old, before) = (nginx.master(), active(&nginx));
    let load = load(&nginx);
    let new = nginx.upgrade();
    winch(&nginx, old);
    refused(&nginx, old, new);
    take_back(&nginx, old, new, &before);
    nothing_is_lost(&nginx, load);
    switches(&nginx);
    // And once more, as if nothing had been.
    let new = nginx.upgrade();
    refused(&nginx, old, new);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p5_an_upgrade_to_a_binary_that_fails_changes_nothing(build: &Build) {
    let (mut nginx, _backends) = start(build, true);
    let good = nginx.http().to_owned();
    nginx.set_http(&format!("{good} shunt_nothing;"));
    signal(nginx.master(), Signal::USR2);
    until("it fails", || nginx.log().contains("shunt_nothing").then_some(()));
    switches(&nginx);
    nginx.set_http(&good);
    nginx.reload();
    switches(&nginx);
}

fn p5_whichever_master_is_killed_the_other_one_goes_on(build: &Build) {
    let (mut nginx, _backends) = start(build, true);
    let (old, before) = (nginx.master(), active(&nginx));
    let new = nginx.upgrade();
    let workers = nginx.workers_of(new);
    signal(new, Signal::KILL);
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    until("all are gone", || workers.iter().all(|w| !is_running(*w)).then_some(()));
    until("the old one has seen it", || nginx.path("nginx.pid").exists().then_some(()));
    assert_eq!(active(&nginx), before);
    switches(&nginx);

    let new = nginx.upgrade();
    assert_ne!(old, new);
    let workers = nginx.workers_of(old);
    signal(old, Signal::KILL);
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    until("all are gone", || workers.iter().all(|w| !is_running(*w)).then_some(()));
    nginx.go_on_with(new);
    switches(&nginx);
}

fn without_a_state_file_the_new_binary_starts_from_the_configuration(build: &Build) {
    let (mut nginx, _backends) = start(build, false);
    let (old, before) = (nginx.master(), active(&nginx));
    assert_eq!(before.1, "c");
    let new = nginx.upgrade();
    // Each is as it was, and neither can be changed.
    winch(&nginx, old);
    assert_eq!(active(&nginx), (1, "a".to_owned()));
    refused(&nginx, old, new);
    assert!(nginx.log().contains("zone \"shunt\" has no state file: this binary starts from"));
    take_back(&nginx, old, new, &before);
    switches(&nginx);

    let new = nginx.upgrade();
    nginx.go_on_with(new);
    assert_eq!(active(&nginx), (1, "a".to_owned()));
    assert_eq!(nginx.admin().switch("web", "b", None).unwrap().generation, 2);
}

fn p5_no_change_is_lost_between_two_masters(build: &Build) {
    let (mut nginx, _backends) = start(build, true);
    for _ in 0..10 {
        let done = AtomicBool::new(false);
        let (last, new) = std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                let mut last = active(&nginx);
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let release = ["a", "b"][n % 2];
                    match nginx.admin().switch("web", release, None) {
                        Ok(reply) => last = (reply.generation, release.to_owned()),
                        Err(problem) => assert_eq!(problem.status, 409, "{problem}"),
                    }
                }
                last
            });
            let before = active(&nginx).0;
            until("there are changes", || (active(&nginx).0 > before + 10).then_some(()));
            let new = nginx.upgrade();
            done.store(true, Ordering::Relaxed);
            (changing.join().unwrap(), new)
        });
        nginx.go_on_with(new);
        assert_eq!(active(&nginx), last, "what was confirmed last");
    }
}

fn ask(admin: &Admin, query: &str) -> Response {
    admin.ask("GET", &format!("/v1/upstreams/web?{query}"), &[], b"")
}

fn p2_no_release_is_drained_before_the_old_master_has_ended(build: &Build) {
    let (mut nginx, [_a, _b, c]) = start(build, true);
    c.hold();
    let mut held = Connection::tcp(nginx.port).unwrap();
    held.send("GET", "/held", &[], b"").unwrap();
    until("the request is held", || (c.held() == 1).then_some(()));
    nginx.admin().switch("web", "b", None).unwrap();
    let (old, new) = (nginx.master(), nginx.upgrade());
    winch(&nginx, old);
    // The new one has none of it, and cannot know what the old one's workers still do.
    let admin = nginx.admin();
    let state = ask(&admin, "wait=drained&release=c&timeout=300ms");
    let state: shunt_api::Upstream = serde_json::from_slice(&state.body).unwrap();
    assert_eq!(state.release("c").unwrap().in_flight.requests, 1);
    assert_eq!(state.release("c").unwrap().state, shunt_api::ReleaseState::Draining);
    assert_eq!(admin.index().workers, 4, "the other master is none");

    let waiting = std::thread::spawn(move || ask(&admin, "wait=drained&release=c&timeout=60s"));
    signal(old, Signal::QUIT);
    c.let_go();
    assert_eq!(held.receive().unwrap().release(), "c");
    let state: shunt_api::Upstream = serde_json::from_slice(&waiting.join().unwrap().body).unwrap();
    assert_eq!(state.release("c").unwrap().in_flight.total(), 0);
    assert!(!is_running(old), "it was called drained before");
    nginx.go_on_with(new);
    switches(&nginx);
}

fn two_servers_with_a_state_file_each_know_nothing_of_each_other(build: &Build) {
    let (nginx, _backends) = start(build, true);
    let (other, _others) = start(build, true);
    let new = nginx.upgrade();
    refused(&nginx, nginx.master(), new);
    switches(&other);
}

each_nginx!(
    p5_an_upgrade_keeps_the_state_and_loses_no_request,
    p5_an_upgrade_that_is_taken_back_keeps_the_state,
    p5_an_upgrade_to_a_binary_that_fails_changes_nothing,
    p5_whichever_master_is_killed_the_other_one_goes_on,
    p5_no_change_is_lost_between_two_masters,
    without_a_state_file_the_new_binary_starts_from_the_configuration,
    p2_no_release_is_drained_before_the_old_master_has_ended,
    two_servers_with_a_state_file_each_know_nothing_of_each_other,
);
