//! P2: a release that is called drained has no request, and gets none.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use shunt_api::{InFlight, ReleaseState, Upstream};
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::until;

fn start(build: &Build) -> (Nginx, Backend, Backend) {
    let (a, b) = (Backend::start("a", 2), Backend::start("b", 2));
    let upstream = format!("upstream web {{ shunt;\n{}{}keepalive 4; }}", a.lines(), b.lines());
    (Nginx::start(build, Setup::standard(&upstream)), a, b)
}

/// Asks for the drain of release `a` in a thread of its own.
fn wait_for_drain(nginx: &Nginx, timeout: &str) -> mpsc::Receiver<(Upstream, Instant)> {
    let (send, receive) = mpsc::channel();
    let admin = nginx.admin();
    let target = format!("/v1/upstreams/web?wait=drained&release=a&timeout={timeout}");
    std::thread::spawn(move || {
        let response = admin.ask("GET", &target, &[], b"");
        let state = serde_json::from_slice(&response.body).expect("an upstream");
        // The test may have ended.
        let _ = send.send((state, Instant::now()));
    });
    receive
}

fn p2_a_release_is_drained_when_its_last_request_has_ended(build: &Build) {
    let (nginx, a, _b) = start(build);
    let admin = nginx.admin();
    a.hold();
    let mut slow = nginx.connect();
    slow.send("GET", "/held", &[], b"").unwrap();
    until("the request is held", || (a.held() == 1).then_some(()));
    assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 1, upgraded: 0 });

    admin.switch("web", "b", None).unwrap();
    let state = admin.state("web");
    assert_eq!(state.release("a").unwrap().state, ReleaseState::Draining);
    let drained = wait_for_drain(&nginx, "30s");
    // While it is in flight, an order of things that takes longer than the module's look-out.
    assert!(drained.recv_timeout(Duration::from_millis(300)).is_err(), "drained too early");
    // What is asked now goes to the new release, also over a connection that was there before.
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), "b");

    let opened = Instant::now();
    a.let_go();
    assert_eq!(slow.receive().unwrap().release(), "a");
    let (state, at) = drained.recv_timeout(Duration::from_secs(10)).expect("an answer");
    assert_eq!(state.release("a").unwrap().in_flight, InFlight::default());
    assert_eq!(state.release("a").unwrap().state, ReleaseState::Idle);
    assert!(at - opened < Duration::from_secs(1), "answered after {:?}", at - opened);
}

fn p2_an_upgraded_connection_is_in_flight_until_it_is_closed(build: &Build) {
    let (nginx, _a, _b) = start(build);
    let admin = nginx.admin();
    let mut tunnel = nginx.connect();
    tunnel.send("GET", "/ws", &[("Upgrade", "websocket"), ("Connection", "Upgrade")], b"").unwrap();
    assert_eq!(tunnel.receive().unwrap().status, 101);
    admin.switch("web", "b", None).unwrap();
    assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 0, upgraded: 1 });
    tunnel.raw(b"still here").unwrap();
    assert_eq!(tunnel.read(10).unwrap(), b"still here");
    let drained = wait_for_drain(&nginx, "30s");
    assert!(drained.recv_timeout(Duration::from_millis(200)).is_err(), "drained too early");
    drop(tunnel);
    let (state, _) = drained.recv_timeout(Duration::from_secs(10)).expect("an answer");
    assert_eq!(state.release("a").unwrap().in_flight.total(), 0);
}

fn p2_a_download_is_in_flight_until_its_last_byte(build: &Build) {
    for buffering in ["on", "off"] {
        let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
        let upstream = format!(
            "proxy_buffering {buffering};\nupstream web {{ shunt;\n{}{} }}",
            a.lines(),
            b.lines()
        );
        let nginx = Nginx::start(build, Setup::standard(&upstream));
        let admin = nginx.admin();
        let mut download = nginx.connect();
        download.send("GET", "/big", &[], b"").unwrap();
        assert_eq!(download.read(12).unwrap(), b"HTTP/1.1 200");
        admin.switch("web", "b", None).unwrap();
        assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 1, upgraded: 0 });
        let drained = wait_for_drain(&nginx, "30s");
        assert!(drained.recv_timeout(Duration::from_millis(200)).is_err(), "drained too early");
        download.read(Backend::BIG).unwrap();
        let (state, _) = drained.recv_timeout(Duration::from_secs(10)).expect("an answer");
        assert_eq!(state.release("a").unwrap().in_flight.total(), 0, "proxy_buffering {buffering}");
    }
}

fn at_its_timeout_a_wait_answers_with_what_is(build: &Build) {
    let (nginx, a, _b) = start(build);
    a.hold();
    let mut slow = nginx.connect();
    slow.send("GET", "/held", &[], b"").unwrap();
    until("the request is held", || (a.held() == 1).then_some(()));
    nginx.admin().switch("web", "b", None).unwrap();
    let start = Instant::now();
    let (state, at) = wait_for_drain(&nginx, "400ms").recv().unwrap();
    assert!(at - start >= Duration::from_millis(390), "{:?}", at - start);
    assert_eq!(state.release("a").unwrap().in_flight.requests, 1);
    a.let_go();
    slow.receive().unwrap();
    // An active release is not drained, however idle it is.
    let target = "/v1/upstreams/web?wait=drained&release=b&timeout=100ms";
    let start = Instant::now();
    assert_eq!(nginx.admin().ask("GET", target, &[], b"").status, 200);
    assert!(start.elapsed() >= Duration::from_millis(90));
}

fn a_wait_for_a_change_answers_when_there_is_one(build: &Build) {
    let (nginx, _a, _b) = start(build);
    let admin = nginx.admin();
    let other = nginx.admin();
    let waiting = std::thread::spawn(move || {
        let target = "/v1/upstreams/web?wait=change&generation=1&timeout=30s";
        other.ask("GET", target, &[], b"")
    });
    admin.switch("web", "b", None).unwrap();
    let response = waiting.join().unwrap();
    assert_eq!(response.header("etag"), Some("\"2\""));
    // What has changed already is answered at once.
    let target = "/v1/upstreams/web?wait=change&generation=1&timeout=30s";
    assert_eq!(admin.ask("GET", target, &[], b"").header("etag"), Some("\"2\""));
}

fn a_client_that_leaves_while_it_waits_is_forgotten(build: &Build) {
    let (nginx, _a, _b) = start(build);
    for _ in 0..50 {
        let mut client = Connection::unix(&nginx.path("api.sock")).unwrap();
        let target = "/v1/upstreams/web?wait=drained&release=a&timeout=1h";
        client.send("GET", target, &[], b"").unwrap();
    }
    // A reload ends only when the old workers have nothing left, so the waits must be gone.
    nginx.reload();
    until("the old workers end", || {
        (shunt_tests::process::children(nginx.master()).len() == 4).then_some(())
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn a_wait_whose_body_comes_late_is_answered_at_its_time(build: &Build) {
    let (mut nginx, _a, _b) = start(build);
    let http = format!("{} lingering_timeout 20ms;", nginx.http());
    nginx.set_http(&http);
    nginx.reload();
    let connect = || Connection::unix(&nginx.path("api.sock")).unwrap();
    let head = |timeout: &str| {
        format!(
            "GET /v1/upstreams/web?wait=change&generation=1&timeout={timeout} HTTP/1.1\r\n\
             Host: x\r\nContent-Length: 20\r\n\r\n"
        )
    };
    // The whole body comes while it waits, or only half of it, or that after the answer.
    for (meanwhile, afterwards) in [(20, 0), (10, 0), (10, 10)] {
        let mut client = connect();
        client.raw(head("300ms").as_bytes()).unwrap();
        let _ = nginx.admin().index();
        client.raw(&b"xxxxxxxxxxxxxxxxxxxx"[..meanwhile]).unwrap();
        assert_eq!(client.receive().unwrap().status, 200, "{meanwhile} + {afterwards}");
        if meanwhile + afterwards == 20 {
            client.raw(&b"xxxxxxxxxxxxxxxxxxxx"[..afterwards]).unwrap();
            assert_eq!(client.ask("GET", "/v1/", b"").unwrap().status, 200);
        }
    }
    // And whoever leaves without having sent it is forgotten.
    for _ in 0..10 {
        connect().raw(head("1h").as_bytes()).unwrap();
    }
    nginx.reload();
    until("the old workers end", || {
        (shunt_tests::process::children(nginx.master()).len() == 4).then_some(())
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p2_a_wait_outlives_a_reload(build: &Build) {
    let (nginx, a, _b) = start(build);
    a.hold();
    let mut slow = nginx.connect();
    slow.send("GET", "/held", &[], b"").unwrap();
    until("the request is held", || (a.held() == 1).then_some(()));
    nginx.admin().switch("web", "b", None).unwrap();
    let drained = wait_for_drain(&nginx, "30s");
    nginx.reload();
    // The old workers' requests still count, and new workers see them.
    assert_eq!(nginx.admin().in_flight("web", "a").requests, 1);
    assert!(drained.try_recv().is_err(), "drained too early");
    a.let_go();
    assert_eq!(slow.receive().unwrap().release(), "a");
    let (state, _) = drained.recv_timeout(Duration::from_secs(10)).expect("an answer");
    assert_eq!(state.release("a").unwrap().in_flight.total(), 0);
}

each_nginx!(
    p2_a_release_is_drained_when_its_last_request_has_ended,
    p2_an_upgraded_connection_is_in_flight_until_it_is_closed,
    p2_a_download_is_in_flight_until_its_last_byte,
    at_its_timeout_a_wait_answers_with_what_is,
    a_wait_for_a_change_answers_when_there_is_one,
    a_client_that_leaves_while_it_waits_is_forgotten,
    a_wait_whose_body_comes_late_is_answered_at_its_time,
    p2_a_wait_outlives_a_reload,
);
