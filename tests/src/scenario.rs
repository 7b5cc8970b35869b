//! What tests of many kinds do with NGINX and its API: a switch under a request above all, which
//! every way to proxy must stand.

use std::time::Instant;

use shunt_api::{InFlight, Upstream};

use crate::backend::Backend;
use crate::nginx::Nginx;
use crate::until;

/// Switches the upstream `web` from release `a` to `b` while a request is held at `a`, and back.
///
/// `ask` sends a request to a path over a connection that it has made for it, and gives what was
/// answered: the name of the release. No other requests go to the upstream meanwhile; it was not
/// switched before.
///
/// # Panics
///
/// When an answer is another release's, or a request is not counted as it should be.
#[track_caller]
pub fn switch_under(nginx: &Nginx, a: &Backend, ask: impl Fn(&str) -> String + Sync) {
    let admin = nginx.admin();
    let one = InFlight { requests: 1, upgraded: 0 };
    assert_eq!(ask("/before"), "a", "before the switch");
    a.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| ask("/held"));
        until("the request is held", || (a.held() == 1).then_some(()));
        until("what came before has ended", || (admin.in_flight("web", "a") == one).then_some(()));
        admin.switch("web", "b", None).expect("a switch");
        assert_eq!(ask("/after"), "b", "after the switch");
        assert_eq!(admin.in_flight("web", "a"), one, "while it runs");
        a.let_go();
        assert_eq!(held.join().expect("an answer"), "a", "across the switch");
    });
    admin.switch("web", "a", None).expect("a switch");
    assert_eq!(ask("/back"), "a", "after the switch back");
    nothing_in_flight(nginx, "web");
    assert_eq!(requests(nginx, "web"), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
}

/// Waits until no release of an upstream has anything in flight, and gives its state then.
///
/// Only then are its counters final: a client has its answer a little before the request ends, which
/// is when it is counted what became of it.
///
/// # Panics
///
/// When it does not come to that.
#[track_caller]
pub fn nothing_in_flight(nginx: &Nginx, upstream: &str) -> Upstream {
    until("nothing is in flight", || {
        let state = nginx.admin().state(upstream);
        state.releases.iter().all(|r| r.in_flight == InFlight::default()).then_some(state)
    })
}

/// The generation of the upstream `web`, and its active release.
///
/// # Panics
///
/// When none is active.
#[must_use]
#[track_caller]
pub fn active(nginx: &Nginx) -> (u32, String) {
    let state = nginx.admin().state("web");
    (state.generation, state.active.expect("an active release").to_string())
}

/// The releases of an upstream, and how many requests each was given.
#[must_use]
#[track_caller]
pub fn requests(nginx: &Nginx, upstream: &str) -> Vec<(String, u64)> {
    let releases = nginx.admin().state(upstream).releases;
    releases.iter().map(|r| (r.name.to_string(), r.requests)).collect()
}

/// Holds the upstream `web` for at most so long.
///
/// # Panics
///
/// When it is refused.
#[track_caller]
pub fn hold(nginx: &Nginx, timeout: &str) {
    let body = format!(r#"{{"timeout":"{timeout}"}}"#);
    let response = nginx.admin().ask("PUT", "/v1/upstreams/web/hold", &[], body.as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
}

/// Ends the hold; tells when the reply was there.
///
/// # Panics
///
/// When it is refused.
#[track_caller]
pub fn resume(nginx: &Nginx) -> Instant {
    let response = nginx.admin().ask("DELETE", "/v1/upstreams/web/hold", &[], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    Instant::now()
}

/// Waits until so many requests are parked for `web`.
///
/// # Panics
///
/// When it does not come to that.
#[track_caller]
pub fn parked(nginx: &Nginx, requests: u64) {
    until("requests are parked", || (nginx.admin().state("web").parked == requests).then_some(()));
}
