//! P1, P3: a thousand switches under load, for each balancing method, with and without `keepalive`.

use std::time::Instant;

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::{Load, Switch, failures, late_answers};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::private_dirty;
use shunt_tests::until;

const SWITCHES: usize = 1000;

/// After so many switches workers have met everything that there is to meet.
const WARM: usize = 200;

/// How much more memory all workers together may have in the end: a few pages of the allocator's,
/// far less than one view for each of the 800 switches.
const GROWTH: u64 = 256 << 10;

fn switches(build: &Build, method: &str, keepalive: &str) {
    let sockets = tempfile::tempdir().unwrap();
    // Without `keepalive` every request makes a connection to a server, more than the kernel wants to
    // remember of TCP (see `Load`).
    let backend = |release| match keepalive {
        "" => Backend::unix(release, 3, sockets.path()),
        _ => Backend::start(release, 3),
    };
    let (a, b) = (backend("a"), backend("b"));
    let (la, lb) = (a.lines(), b.lines());
    let upstream = format!("upstream web {{ {method} shunt;\n{la}{lb}{keepalive} }}");
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let admin = nginx.admin();
    let (master, workers) = (nginx.master(), nginx.workers());
    let memory = || workers.iter().map(|pid| private_dirty(*pid)).sum::<u64>();

    let load = Load::start(nginx.port, 32);
    let mut switches = Vec::new();
    let mut warm = 0;
    for n in 0..SWITCHES {
        let release = if n % 2 == 0 { "b" } else { "a" };
        let sent = Instant::now();
        let reply = admin.switch("web", release, Some(n as u32 + 1)).expect("a switch");
        let replied = Instant::now();
        assert_eq!(reply.generation, n as u32 + 2);
        switches.push(Switch { sent, replied, release: release.to_owned() });
        // Now and then a client that has seen the reply asks at once.
        if n % 10 == 0 {
            let answer = nginx.connect().ask("GET", "/after", b"").expect("an answer");
            assert_eq!(answer.release(), release, "a request after the reply");
        }
        if n == WARM {
            warm = memory();
        }
    }
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    assert!(samples.len() > SWITCHES, "there was load: {}", samples.len());
    let late = late_answers(&samples, "a", &switches);
    assert!(late.is_empty(), "{} late answers, the first: {:?}", late.len(), late[0]);

    until("nothing is in flight", || {
        let left = ["a", "b"].map(|release| admin.in_flight("web", release).total());
        (left == [0, 0]).then_some(())
    });
    let grown = memory().saturating_sub(warm);
    assert!(grown <= GROWTH, "workers have {grown} bytes more");
    assert_eq!((nginx.master(), nginx.workers()), (master, workers), "no new process");
    // Every request was counted once: those of the load, and one after every tenth switch.
    let counted: u64 = admin.state("web").releases.iter().map(|r| r.requests).sum();
    assert_eq!(counted, samples.len() as u64 + (SWITCHES / 10) as u64);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

macro_rules! methods {
    ($($name:ident $keep:ident: $method:literal),+ $(,)?) => {
        $(
            fn $name(build: &Build) { switches(build, $method, ""); }
            fn $keep(build: &Build) { switches(build, $method, "keepalive 16;"); }
        )+
        each_nginx!($($name, $keep),+);
    };
}

methods! {
    p1_p3_round_robin p1_p3_round_robin_keepalive: "",
    p1_p3_least_conn p1_p3_least_conn_keepalive: "least_conn;",
    p1_p3_ip_hash p1_p3_ip_hash_keepalive: "ip_hash;",
    p1_p3_hash p1_p3_hash_keepalive: "hash $request_uri;",
    p1_p3_hash_consistent p1_p3_hash_consistent_keepalive: "hash $request_uri consistent;",
    p1_p3_random p1_p3_random_keepalive: "random;",
    p1_p3_random_two p1_p3_random_two_keepalive: "random two least_conn;",
}
