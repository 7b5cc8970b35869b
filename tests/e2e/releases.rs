//! P1, P3, P6: releases are added, replaced and deleted while they are in use.

use std::time::Instant;

use shunt_api::{InFlight, Upstream};
use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::{Load, Switch, failures, late_answers};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::private_dirty;
use shunt_tests::until;

fn p6_a_release_is_deleted_only_when_nothing_uses_it(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!("upstream web {{ shunt;\n{}keepalive 4; }}", a.lines());
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "b", &b.addresses).status, 201);
    admin.switch("web", "b", None).unwrap();

    let target = "/v1/upstreams/web/releases/b";
    let refused = |why: &str| {
        let before = admin.state("web");
        let problem = problem(&admin.ask("DELETE", target, &[], b""));
        assert_eq!(problem.status, 409, "{problem}");
        assert!(problem.detail.contains(why), "{problem}");
        let now = admin.state("web");
        assert_eq!((now.generation, now.releases.len()), (before.generation, 2));
    };
    refused("active");
    b.hold();
    let mut slow = nginx.connect();
    slow.send("GET", "/held", &[], b"").unwrap();
    until("the request is held", || (b.held() == 1).then_some(()));
    admin.switch("web", "a", None).unwrap();
    refused("in flight");
    b.let_go();
    assert_eq!(slow.receive().unwrap().release(), "b");
    until("b is idle", || (admin.in_flight("web", "b").total() == 0).then_some(()));

    // The previous release, too, when nothing is in flight any more.
    let before = admin.state("web");
    assert_eq!(before.previous.as_ref().unwrap().as_str(), "b");
    let response = admin.ask("DELETE", target, &[], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    let now: Upstream = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(now.generation, before.generation + 1);
    assert_eq!((now.previous, now.releases.len()), (None, 1));
    let etag = format!("\"{}\"", before.generation + 1);
    assert_eq!(response.header("etag"), Some(etag.as_str()));
    assert_eq!(admin.ask("DELETE", target, &[], b"").status, 404);
    // What the configuration declares would be back after the next reload.
    let target = "/v1/upstreams/web/releases/a";
    assert_eq!(problem(&admin.ask("DELETE", target, &[], b"")).status, 409);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p1_p3_the_active_release_gets_other_servers_under_load(build: &Build) {
    const TIMES: usize = 400;
    const WARM: usize = 100;
    // As with switches: far less than one view for each of the 300 times.
    const GROWTH: u64 = 256 << 10;
    let backends = [Backend::start("x", 3), Backend::start("y", 2)];
    let upstream = "upstream web { least_conn; shunt; server 127.0.0.1:1; keepalive 8; }";
    let nginx = Nginx::start(build, Setup::standard(upstream));
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "live", &backends[0].addresses).status, 201);
    admin.switch("web", "live", None).unwrap();
    let workers = nginx.workers();
    let memory = || workers.iter().map(|pid| private_dirty(*pid)).sum::<u64>();

    let load = Load::start(nginx.port, 16);
    let (mut changes, mut warm) = (Vec::new(), 0);
    for n in 0..TIMES {
        let (name, backend) = if n % 2 == 0 { ("y", &backends[1]) } else { ("x", &backends[0]) };
        let sent = Instant::now();
        assert_eq!(admin.put("web", "live", &backend.addresses).status, 200);
        changes.push(Switch { sent, replied: Instant::now(), release: name.to_owned() });
        let answer = nginx.connect().ask("GET", "/after", b"").expect("an answer");
        assert_eq!(answer.release(), name, "a request after the reply");
        if n == WARM {
            warm = memory();
        }
    }
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    let late = late_answers(&samples, "x", &changes);
    assert!(late.is_empty(), "{} late answers, the first: {:?}", late.len(), late[0]);
    until("nothing is in flight", || {
        (admin.in_flight("web", "live") == InFlight::default()).then_some(())
    });
    let grown = memory().saturating_sub(warm);
    assert!(grown <= GROWTH, "workers have {grown} bytes more");
    assert_eq!(nginx.workers(), workers);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

each_nginx!(
    p6_a_release_is_deleted_only_when_nothing_uses_it,
    p1_p3_the_active_release_gets_other_servers_under_load,
);
