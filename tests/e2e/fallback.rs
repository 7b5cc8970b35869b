//! P8: a release that cannot be connected to costs no request while the previous one is still up.

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::{Load, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::nothing_in_flight;
use shunt_tests::until;

use crate::wish::{answer, ask};

/// Two releases, of which `a` was active before `b`.
fn start(build: &Build, method: &str, keepalive: &str, servers: usize) -> (Nginx, [Backend; 2]) {
    let (a, b) = (Backend::start("a", servers), Backend::start("b", servers));
    let upstream = format!(
        "upstream web {{ {method} shunt; shunt_fallback on; shunt_preview $http_x_want;\n\
         {}{} {keepalive} }}",
        a.lines(),
        b.lines()
    );
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    nginx.admin().switch("web", "b", None).unwrap();
    (nginx, [a, b])
}

/// The same with other rules for the next server.
fn start_with_rules(build: &Build, rules: &str) -> (Nginx, [Backend; 2]) {
    let (mut nginx, backends) = start(build, "", "", 1);
    let http = nginx.http().replace("location / {", &format!("{rules} location / {{"));
    nginx.set_http(&http);
    nginx.reload();
    (nginx, backends)
}

fn p8_a_request_goes_to_the_previous_release_when_the_active_one_refuses(build: &Build) {
    let (nginx, [a, b]) = start(build, "", "keepalive 4;", 2);
    let admin = nginx.admin();
    assert_eq!(ask(&nginx, &[]), answer("b", "active"));
    b.die();
    let mut connection = nginx.connect();
    for n in 0..20 {
        let (method, body): (_, &[u8]) = if n % 2 == 0 { ("GET", b"") } else { ("POST", b"body") };
        let response = connection.ask(method, "/", body).unwrap();
        assert_eq!((response.status, response.release()), (200, "a"), "{method}");
        assert_eq!(response.header("x-reason"), Some("fallback"));
    }
    let state = nothing_in_flight(&nginx, "web");
    let (old, new) = (state.release("a").unwrap(), state.release("b").unwrap());
    assert_eq!((old.requests, new.requests, new.fallbacks), (20, 21, 20));
    assert_eq!((old.fallbacks, old.connect_failures), (0, 0));
    assert!(new.connect_failures >= 2, "{new:?}");
    assert_eq!((old.responses.successful, new.responses.successful), (20, 1));
    assert_eq!((new.responses.server_error, old.responses.server_error), (0, 0));

    // It is counted in flight where it is, and nowhere else.
    a.hold();
    let mut slow = nginx.connect();
    slow.send("POST", "/held", &[], b"body").unwrap();
    until("the request is held", || (a.held() == 1).then_some(()));
    assert_eq!(admin.in_flight("web", "a").requests, 1);
    assert_eq!(admin.in_flight("web", "b").requests, 0);
    a.let_go();
    assert_eq!(slow.receive().unwrap().release(), "a");

    // Whoever names a release shall see how it is.
    connection.send("GET", "/", &[("X-Want", "b")], b"").unwrap();
    assert_eq!(connection.receive().unwrap().status, 502);
}

fn p2_the_previous_release_drains_once_nothing_falls_back_to_it(build: &Build) {
    let (nginx, [_a, b]) = start(build, "", "", 1);
    let admin = nginx.admin();
    let wait = |timeout: &str| {
        let start = std::time::Instant::now();
        let target = format!("/v1/upstreams/web?wait=drained&release=a&timeout={timeout}");
        assert_eq!(admin.ask("GET", &target, &[], b"").status, 200);
        start.elapsed().as_millis()
    };
    assert!(wait("300ms") >= 290, "it may get requests");
    assert_eq!(admin.ask("DELETE", "/v1/upstreams/web/previous", &[], b"").status, 200);
    assert!(wait("20s") < 5000, "it gets none");
    b.die();
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().status, 502);
    assert_eq!(admin.state("web").release("a").unwrap().requests, 0);
}

fn what_was_sent_once_and_may_not_be_sent_twice_is_not(build: &Build) {
    let (nginx, [a, b]) = start(build, "", "", 1);
    let admin = nginx.admin();
    b.hold();
    let mut posting = nginx.connect();
    posting.send("POST", "/held", &[], b"body").unwrap();
    let mut getting = nginx.connect();
    getting.send("GET", "/held", &[], b"").unwrap();
    until("both are held", || (b.held() == 2).then_some(()));
    b.die();
    assert_eq!(posting.receive().unwrap().status, 502);
    assert_eq!(getting.receive().unwrap().release(), "a");
    assert_eq!(admin.state("web").release("a").unwrap().requests, 1);
    drop(a);
}

fn the_rules_of_proxy_next_upstream_hold(build: &Build) {
    for rules in ["proxy_next_upstream off;", "proxy_next_upstream_tries 1;"] {
        let (nginx, [_a, b]) = start_with_rules(build, rules);
        b.die();
        assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().status, 502, "{rules}");
        let state = nginx.admin().state("web");
        assert_eq!(state.release("b").unwrap().fallbacks, 0, "{rules}");
        assert_eq!(state.release("a").unwrap().requests, 0, "{rules}");
    }
    let (nginx, [_a, b]) = start_with_rules(build, "proxy_next_upstream_tries 2;");
    b.die();
    assert_eq!(ask(&nginx, &[]), answer("a", "fallback"));
}

fn an_answer_is_an_answer_however_bad(build: &Build) {
    let (nginx, [_a, b]) = start_with_rules(build, "proxy_next_upstream error http_404;");
    let response = nginx.connect().ask("GET", "/missing", b"").unwrap();
    assert_eq!((response.status, response.release()), (404, "b"));
    // Nor is one that is slow gone.
    drop(nginx);
    let (nginx, [_a, slow]) = start_with_rules(build, "proxy_read_timeout 300ms;");
    slow.hold();
    assert_eq!(nginx.connect().ask("GET", "/held", b"").unwrap().status, 504);
    slow.let_go();
    b.die();
}

fn p8_a_canary_falls_back_to_the_active_release(build: &Build) {
    let (nginx, [_a, _b]) = start(build, "", "", 1);
    let admin = nginx.admin();
    let c = Backend::start("c", 1);
    assert_eq!(admin.put("web", "c", &c.addresses).status, 201);
    let body = br#"{"release":"c","share":1}"#;
    assert_eq!(admin.ask("PUT", "/v1/upstreams/web/canary", &[], body).status, 200);
    assert_eq!(ask(&nginx, &[]), answer("c", "canary"));
    c.die();
    assert_eq!(ask(&nginx, &[]), answer("b", "fallback"));
}

/// A release whose every process dies under load, with each method.
fn dies(build: &Build, method: &str, keepalive: &str) {
    let (nginx, [_a, b]) = start(build, method, keepalive, 2);
    let load = Load::start_idempotent(nginx.port, 64);
    let served = |release: &str, requests: u64| {
        until("requests are served", || {
            let state = nginx.admin().state("web");
            (state.release(release).unwrap().requests >= requests).then_some(())
        });
    };
    served("b", 1000);
    b.die();
    served("a", 1000);
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    let state = nothing_in_flight(&nginx, "web");
    let counted = |release| {
        let r = state.release(release).unwrap();
        r.requests - r.fallbacks
    };
    assert_eq!(counted("a") + counted("b"), samples.len() as u64, "each is counted once");
}

macro_rules! methods {
    ($($name:ident: $method:literal $keepalive:literal),+ $(,)?) => {
        $(fn $name(build: &Build) { dies(build, $method, $keepalive); })+
        each_nginx!(
            p8_a_request_goes_to_the_previous_release_when_the_active_one_refuses,
            p2_the_previous_release_drains_once_nothing_falls_back_to_it,
            what_was_sent_once_and_may_not_be_sent_twice_is_not,
            the_rules_of_proxy_next_upstream_hold,
            an_answer_is_an_answer_however_bad,
            p8_a_canary_falls_back_to_the_active_release,
            $($name),+
        );
    };
}

methods!(
    p8_a_release_that_dies_under_load_costs_nothing_round_robin: "" "",
    p8_a_release_that_dies_under_load_costs_nothing_round_robin_keepalive: "" "keepalive 32;",
    p8_a_release_that_dies_under_load_costs_nothing_least_conn: "least_conn;" "keepalive 32;",
    p8_a_release_that_dies_under_load_costs_nothing_ip_hash: "ip_hash;" "",
    p8_a_release_that_dies_under_load_costs_nothing_hash: "hash $request_uri;" "keepalive 32;",
    p8_a_release_that_dies_under_load_costs_nothing_consistent: "hash $request_uri consistent;" "",
    p8_a_release_that_dies_under_load_costs_nothing_random: "random two;" "keepalive 32;",
);
