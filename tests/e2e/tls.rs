//! TLS to the servers of a release: sessions are a release's own, and end with it.

mod server;

use std::time::Instant;

use shunt_tests::admin::Admin;
use shunt_tests::build::Build;
use shunt_tests::load::{Load, Switch, failures, late_answers};
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::process::private_dirty;
use shunt_tests::scenario::{nothing_in_flight, switch_under};

use server::{Authority, Handshakes, Secure};

/// How often the upstream is changed.
const TIMES: usize = 200;

/// After so many changes workers have met everything that there is to meet.
const WARM: usize = 50;

/// How much more memory all workers together may have in the end: what OpenSSL's and the allocator's
/// buffers may still take, far less than one session, with the server's certificate in it, for each
/// worker and change.
const GROWTH: u64 = 512 << 10;

/// The standard configuration, but with TLS to the servers, whose name is checked.
fn setup(authority: &Authority, upstream: &str) -> Setup {
    let folder = authority.path().display();
    let http = format!(
        "{STANDARD}
         proxy_ssl_trusted_certificate {folder}/ca.pem;
         proxy_ssl_verify on;
         proxy_ssl_name web.test;
         proxy_ssl_server_name on;
         {upstream}"
    );
    Setup { http: http.replace("http://web", "https://web"), workers: 4 }
}

fn proxy_pass_over_tls_is_switched(build: &Build) {
    let authority = Authority::new();
    let [a, b] = ["a", "b"].map(|release| Secure::start(&authority, release, 2));
    let (la, lb) = (a.backend.lines(), b.backend.lines());
    let nginx =
        Nginx::start(build, setup(&authority, &format!("upstream web {{ shunt; {la}{lb} }}")));
    switch_under(&nginx, &a.backend, |path| {
        let answer = nginx.connect().ask("GET", path, b"").unwrap();
        assert_eq!(answer.status, 200);
        answer.text()
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn sessions_are_reused_within_a_release(build: &Build) {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let authority = Authority::new();
        let [a, b] = ["a", "b"].map(|release| Secure::start(&authority, release, 1));
        let (la, lb) = (a.backend.lines(), b.backend.lines());
        let more = format!(
            "upstream web {{ shunt; {la}{lb} }}
             proxy_ssl_protocols {version};
             server {{ listen unix:%FOLDER%/never.sock;
                 location / {{ proxy_ssl_session_reuse off; proxy_pass https://web; }} }}"
        );
        // A session is of one worker.
        let nginx = Nginx::start(build, Setup { workers: 1, ..setup(&authority, &more) });
        let ask = |times: usize, release: &str| {
            for _ in 0..times {
                let answer = nginx.connect().ask("GET", "/", b"").unwrap();
                assert_eq!((answer.status, answer.release()), (200, release), "{version}");
            }
        };
        ask(10, "a");
        assert_eq!(a.handshakes(), Handshakes { full: 1, resumed: 9 }, "{version}");
        nginx.admin().switch("web", "b", None).unwrap();
        ask(10, "b");
        assert_eq!(b.handshakes(), Handshakes { full: 1, resumed: 9 }, "{version}");
        nginx.admin().switch("web", "a", None).unwrap();
        ask(10, "a");
        assert_eq!(a.handshakes(), Handshakes { full: 1, resumed: 19 }, "after a switch back");
        // Other servers under the same name are others.
        assert_eq!(nginx.admin().put("web", "a", &b.backend.addresses).status, 200);
        ask(10, "b");
        assert_eq!(b.handshakes(), Handshakes { full: 2, resumed: 18 }, "{version}");

        let never = Admin::new(&nginx.path("never.sock"));
        for _ in 0..3 {
            assert_eq!(never.ask("GET", "/", &[], b"").release(), "b");
        }
        assert_eq!(b.handshakes(), Handshakes { full: 5, resumed: 18 }, "{version}");
        nothing_in_flight(&nginx, "web");
        assert_eq!(nginx.complaints(), [] as [String; 0]);
    }
}

/// Changes the upstream [`TIMES`] times while so many clients ask, and looks at answers and memory.
fn changes(
    build: &Build,
    setup: Setup,
    clients: usize,
    servers: &[Secure; 2],
    change: impl Fn(&Admin, &Secure),
) {
    let nginx = Nginx::start(build, setup);
    let admin = nginx.admin();
    let workers = nginx.workers();
    let memory = || workers.iter().map(|pid| private_dirty(*pid)).sum::<u64>();
    let load = Load::start(nginx.port, clients);
    let (mut switches, mut warm) = (Vec::new(), 0);
    for n in 0..TIMES {
        let server = &servers[(n + 1) % 2];
        let release = server.backend.release().to_owned();
        let sent = Instant::now();
        change(&admin, server);
        switches.push(Switch { sent, replied: Instant::now(), release: release.clone() });
        let answer = nginx.connect().ask("GET", "/after", b"").expect("an answer");
        assert_eq!(answer.release(), release, "a request after the reply");
        if n == WARM {
            warm = memory();
        }
    }
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    let late = late_answers(&samples, servers[0].backend.release(), &switches);
    assert!(late.is_empty(), "{} late answers, the first: {:?}", late.len(), late[0]);
    nothing_in_flight(&nginx, "web");
    let grown = memory().saturating_sub(warm);
    assert!(grown <= GROWTH, "workers have {grown} bytes more");
    assert_eq!(nginx.workers(), workers);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn switches(build: &Build, keepalive: &str, clients: usize) {
    let authority = Authority::new();
    let servers = ["a", "b"].map(|release| Secure::start(&authority, release, 2));
    let [la, lb] = servers.each_ref().map(|s| s.backend.lines());
    let upstream = format!("upstream web {{ shunt; {la}{lb}{keepalive} }}");
    changes(build, setup(&authority, &upstream), clients, &servers, |admin, server| {
        admin.switch("web", server.backend.release(), None).expect("a switch");
    });
}

fn p3_switching_over_tls_leaks_no_session(build: &Build) {
    // Each request makes a connection, and the tests' own servers are slow at that.
    switches(build, "", 0);
}

fn p3_switching_over_tls_that_is_kept_open_leaks_no_session(build: &Build) {
    switches(build, "keepalive 4;", 4);
}

fn p3_replacing_a_release_over_tls_leaks_no_session(build: &Build) {
    let authority = Authority::new();
    let servers = ["a", "b"].map(|release| Secure::start(&authority, release, 2));
    let addresses = &servers[0].backend.addresses;
    let upstream = format!(
        "upstream web {{ shunt; shunt_release live {}; shunt_release live {}; }}",
        addresses[0], addresses[1]
    );
    // One worker, and no connection that is kept, so that every replacement has a new session.
    let setup = Setup { workers: 1, ..setup(&authority, &upstream) };
    changes(build, setup, 1, &servers, |admin, server| {
        assert_eq!(admin.put("web", "live", &server.backend.addresses).status, 200);
    });
    let full: usize = servers.iter().map(|server| server.handshakes().full).sum();
    assert!(full >= TIMES, "{full} sessions");
}

each_nginx!(
    proxy_pass_over_tls_is_switched,
    sessions_are_reused_within_a_release,
    p3_switching_over_tls_leaks_no_session,
    p3_switching_over_tls_that_is_kept_open_leaks_no_session,
    p3_replacing_a_release_over_tls_leaks_no_session,
);
