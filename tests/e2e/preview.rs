//! Preview and canary: requests that go to another release than the active one, and why.

use shunt_api::{Canary, Portion};
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Response;
use shunt_tests::nginx::{Nginx, Setup};

use crate::wish::{answer, ask};

fn start(build: &Build) -> (Nginx, [Backend; 3]) {
    let backends = ["a", "b", "c"].map(|release| Backend::start(release, 1));
    let lines: String = backends.iter().map(Backend::lines).collect();
    let upstream = format!(
        "upstream web {{ shunt; shunt_preview $http_x_want; shunt_canary_key $http_x_key;\n\
         {lines} keepalive 8; }}"
    );
    (Nginx::start(build, Setup::standard(&upstream)), backends)
}

fn share(nginx: &Nginx, release: &str, share: f64) -> Response {
    let body = format!(r#"{{"release":"{release}","share":{share}}}"#);
    nginx.admin().ask("PUT", "/v1/upstreams/web/canary", &[], body.as_bytes())
}

fn a_request_that_names_a_release_goes_there(build: &Build) {
    let (nginx, _backends) = start(build);
    assert_eq!(ask(&nginx, &[]), answer("a", "active"));
    assert_eq!(ask(&nginx, &[("X-Want", "b")]), answer("b", "preview"));
    assert_eq!(ask(&nginx, &[("X-Want", "a")]), answer("a", "preview"));
    for nothing in ["nothing", "", "a/b", "\u{fc}", &"x".repeat(4000)] {
        assert_eq!(ask(&nginx, &[("X-Want", nothing)]), answer("a", "active"), "{nothing:?}");
    }
    assert_eq!(nginx.admin().state("web").release("b").unwrap().requests, 1);
}

fn p2_a_release_that_may_be_previewed_is_not_drained_and_one_that_users_left_gets_no_preview(
    build: &Build,
) {
    let (nginx, [a, ..]) = start(build);
    let admin = nginx.admin();
    let drained = |release: &str, timeout: &str| {
        let query = format!("wait=drained&release={release}&timeout={timeout}");
        let start = std::time::Instant::now();
        let response = admin.ask("GET", &format!("/v1/upstreams/web?{query}"), &[], b"");
        assert_eq!(response.status, 200);
        start.elapsed().as_millis() < 190
    };
    assert!(!drained("b", "200ms"), "who names it gets it");
    admin.switch("web", "b", None).unwrap();
    assert!(drained("a", "20s"));
    assert_eq!(ask(&nginx, &[("X-Want", "a")]), answer("b", "active"));
    // Put anew, with the servers that it has, it can be looked at before it is switched to again.
    let generation = admin.state("web").generation;
    assert_eq!(admin.put("web", "a", &a.addresses).status, 200);
    assert_eq!(admin.state("web").generation, generation + 1);
    assert_eq!(ask(&nginx, &[("X-Want", "a")]), answer("a", "preview"));
    assert!(!drained("a", "200ms"));
}

fn a_canary_gets_its_share_and_a_client_keeps_its_side(build: &Build) {
    const CLIENTS: usize = 1000;
    let (nginx, _backends) = start(build);
    let mut connection = nginx.connect();
    let mut sides = || -> Vec<bool> {
        let side = |n: usize| {
            let key = format!("client {n}");
            connection.send("GET", "/", &[("X-Key", &key)], b"").unwrap();
            connection.receive().unwrap().release() == "b"
        };
        (0..CLIENTS).map(side).collect()
    };
    let mut before = vec![false; CLIENTS];
    // Five standard deviations of so many clients.
    for (part, off) in [(0.0, 0.0), (0.1, 0.048), (0.5, 0.08), (0.9, 0.048), (1.0, 0.0)] {
        assert_eq!(share(&nginx, "b", part).status, 200);
        let now = sides();
        let measured = now.iter().filter(|b| **b).count() as f64 / CLIENTS as f64;
        assert!((measured - part).abs() <= off, "{part}: {measured}");
        assert!(before.iter().zip(&now).all(|(before, now)| !before || *now), "somebody went back");
        before = now;
    }
    // A fresh connection may be another worker's; a client is on its side there, too.
    assert_eq!(share(&nginx, "b", 0.5).status, 200);
    let once = sides();
    for (n, side) in once.iter().take(40).enumerate() {
        let key = format!("client {n}");
        let (release, _) = ask(&nginx, &[("X-Key", &key)]);
        assert_eq!(release == "b", *side, "client {n}");
    }
    assert_eq!(ask(&nginx, &[("X-Want", "a"), ("X-Key", "x")]), answer("a", "preview"));
}

fn a_canary_is_shown_kept_over_a_restart_and_ends_when_it_is_switched_to(build: &Build) {
    let (mut nginx, _backends) = start(build);
    assert_eq!(share(&nginx, "b", 1.0).status, 200);
    assert_eq!(ask(&nginx, &[]), answer("b", "canary"));
    assert_eq!(share(&nginx, "a", 0.5).status, 409, "it is active");
    let known = || nginx.admin().state("web").canary;
    let canary = Canary { release: "b".parse().unwrap(), share: Portion::try_from(1.0).unwrap() };
    assert_eq!(known(), Some(canary.clone()));
    nginx.quit();
    nginx.run();
    assert_eq!(nginx.admin().state("web").canary, Some(canary));
    assert_eq!(ask(&nginx, &[]), answer("b", "canary"));
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(nginx.admin().state("web").canary, None);
    assert_eq!(ask(&nginx, &[]), answer("b", "active"));
    assert_eq!(share(&nginx, "c", 1.0).status, 200);
    assert_eq!(ask(&nginx, &[]), answer("c", "canary"));
    let ended = nginx.admin().ask("DELETE", "/v1/upstreams/web/canary", &[], b"");
    assert_eq!(ended.status, 200);
    // P1 for what gets a share: nothing goes there after the reply.
    for _ in 0..50 {
        assert_eq!(ask(&nginx, &[]), answer("b", "active"));
    }
}

each_nginx!(
    a_request_that_names_a_release_goes_there,
    p2_a_release_that_may_be_previewed_is_not_drained_and_one_that_users_left_gets_no_preview,
    a_canary_gets_its_share_and_a_client_keeps_its_side,
    a_canary_is_shown_kept_over_a_restart_and_ends_when_it_is_switched_to,
);
