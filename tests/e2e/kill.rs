//! P4: a killed worker leaves no lock and no count behind.

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::Load;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::signal;
use shunt_tests::scenario::nothing_in_flight;
use shunt_tests::until;

use rustix::process::Signal;

fn p4_fifty_killed_workers_leave_nothing_behind(build: &Build) {
    let (a, b) = (Backend::start("a", 2), Backend::start("b", 2));
    let upstream = format!("upstream web {{ shunt;\n{}{}keepalive 8; }}", a.lines(), b.lines());
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let admin = nginx.admin();
    let load = Load::start(nginx.port, 32);
    let mut generation = admin.state("web").generation;
    for n in 0..50 {
        let workers = until("all workers run", || Some(nginx.workers()).filter(|w| w.len() == 4));
        signal(workers[n % workers.len()], Signal::KILL);
        // A switch goes on meanwhile. The connection may be the killed worker's: then it is asked
        // again, and the generation tells whether it has happened.
        let release = if n % 2 == 0 { "b" } else { "a" };
        let body = serde_json::json!({ "release": release }).to_string();
        until("a switch", || {
            let target = "/v1/upstreams/web/switch";
            let response = admin.try_ask("POST", target, &[], body.as_bytes()).ok()?;
            assert_eq!(response.status, 200, "{response:?}");
            Some(())
        });
        let state = until("the state", || {
            let response = admin.try_ask("GET", "/v1/upstreams/web", &[], b"").ok()?;
            serde_json::from_slice::<shunt_api::Upstream>(&response.body).ok()
        });
        assert_eq!(state.active.unwrap().as_str(), release);
        assert_eq!(state.generation, generation + 1);
        generation = state.generation;
    }
    let samples = load.stop();
    // Requests of killed workers fail, which no one can prevent; all others do not.
    let good = samples.iter().filter(|s| s.result.is_ok()).count();
    assert!(good > samples.len() / 2, "{good} of {} were answered", samples.len());
    let refused = samples.iter().filter_map(|s| s.result.as_ref().err());
    let refused: Vec<_> = refused.filter(|why| why.starts_with("status")).collect();
    assert_eq!(refused, [] as [&String; 0], "no error page, only broken connections");
    nothing_in_flight(&nginx, "web");
    until("the last one is replaced", || (admin.index().workers == 4).then_some(()));
    // The rows of the dead were given to the living: nothing is used up.
    assert_eq!(admin.index().zones[0].releases.used, 2);
    let wrong: Vec<_> =
        nginx.complaints().into_iter().filter(|line| !line.contains("signal 9")).collect();
    assert_eq!(wrong, [] as [String; 0]);
}

fn p4_requests_of_a_killed_worker_do_not_hold_up_a_drain(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let admin = nginx.admin();
    a.hold();
    let mut held: Vec<_> = (0..20).map(|_| nginx.connect()).collect();
    for connection in &mut held {
        connection.send("GET", "/held", &[], b"").unwrap();
    }
    until("the requests are held", || (a.held() == 20).then_some(()));
    admin.switch("web", "b", None).unwrap();
    assert_eq!(admin.in_flight("web", "a").requests, 20);
    for worker in nginx.workers() {
        signal(worker, Signal::KILL);
    }
    until("new workers", || (nginx.workers().len() == 4).then_some(()));
    let target = "/v1/upstreams/web?wait=drained&release=a&timeout=20s";
    let response = until("an answer", || admin.try_ask("GET", target, &[], b"").ok());
    let state: shunt_api::Upstream = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(state.release("a").unwrap().in_flight.total(), 0);
    a.let_go();
}

fn p4_workers_killed_during_reloads_do_not_hang_the_master(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody holds the lock most of the time.
        for release in ["a", "b", "a", "b"] {
            let (admin, stop) = (nginx.admin(), &stop);
            let body = serde_json::json!({ "release": release }).to_string();
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Of a killed worker there is no answer.
                    let _ = admin.try_ask("POST", "/v1/upstreams/web/switch", &[], body.as_bytes());
                }
            });
        }
        for _ in 0..15 {
            let before =
                until("all workers run", || Some(nginx.workers()).filter(|w| w.len() == 4));
            signal(nginx.master(), Signal::HUP);
            before.iter().for_each(|worker| signal(*worker, Signal::KILL));
            until("new workers", || {
                let now = nginx.workers();
                (now.len() == 4 && now.iter().all(|w| !before.contains(w))).then_some(())
            });
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), "b");
}

fn p4_more_workers_than_rows_leave_nothing_behind_either(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    // The zone is made for one worker, and has 16 rows.
    let mut nginx = Nginx::start(build, Setup { workers: 1, ..Setup::standard(&upstream) });
    nginx.set_workers(64);
    nginx.reload();
    let admin = nginx.admin();
    until("the old worker ends", || (admin.index().workers == 64).then_some(()));
    a.hold();
    let mut held: Vec<_> = (0..100).map(|_| nginx.connect()).collect();
    for connection in &mut held {
        connection.send("GET", "/held", &[], b"").unwrap();
    }
    until("the requests are held", || (a.held() == 100).then_some(()));
    admin.switch("web", "b", None).unwrap();
    assert_eq!(admin.in_flight("web", "a").requests, 100);
    // Half of them, so that every bank has workers that live.
    for worker in nginx.workers().iter().step_by(2) {
        signal(*worker, Signal::KILL);
    }
    until("new workers", || (nginx.workers().len() == 64).then_some(()));
    // What is still in flight is what those have that live: it is answered.
    a.let_go();
    for connection in &mut held {
        // Those of the killed are cut off.
        let _ = connection.receive();
    }
    until("nothing is in flight", || {
        let response = admin.try_ask("GET", "/v1/upstreams/web", &[], b"").ok()?;
        let state: shunt_api::Upstream = serde_json::from_slice(&response.body).ok()?;
        (state.release("a")?.in_flight.total() == 0).then_some(())
    });
    let wait = "/v1/upstreams/web?wait=drained&release=a&timeout=20s";
    assert_eq!(admin.ask("GET", wait, &[], b"").status, 200);
    assert_eq!(admin.index().workers, 64);
    // With fewer workers again, there is room for as many releases as before.
    let room = |nginx: &Nginx| nginx.admin().index().zones[0].releases.capacity;
    let before = room(&nginx);
    nginx.set_workers(1);
    // First the 64 end, then the one that counts in the place that they had left.
    for _ in 0..3 {
        nginx.reload();
        until("the others end", || (nginx.admin().index().workers == 1).then_some(()));
    }
    assert!(room(&nginx) > before, "{} {before}", room(&nginx));
    assert!(nginx.complaints().iter().all(|line| line.contains("signal 9")));
}

fn p4_a_reload_with_more_workers_than_there_is_room_for_is_refused(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    let mut setup = Setup { workers: 1, ..Setup::standard(&upstream) };
    setup.http = setup.http.replace("shunt:1m", "shunt:32k");
    let mut nginx = Nginx::start(build, setup);
    nginx.set_workers(200);
    let said = nginx.reload_refused();
    assert!(said.contains("workers do not fit into zone \"shunt\""), "{said}");
    assert!(said.contains("would do, or wait until old workers have ended"), "{said}");
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), "b");
}

each_nginx!(
    p4_workers_killed_during_reloads_do_not_hang_the_master,
    p4_more_workers_than_rows_leave_nothing_behind_either,
    p4_a_reload_with_more_workers_than_there_is_room_for_is_refused,
    p4_fifty_killed_workers_leave_nothing_behind,
    p4_requests_of_a_killed_worker_do_not_hold_up_a_drain,
);
