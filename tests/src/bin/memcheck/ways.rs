//! The other ways that a request may go: preview, canary, fallback, hold; and the metrics, which count
//! them. All of it in the upstream `ways`.

use rustix::process::Signal;
use shunt_tests::client::Connection;
use shunt_tests::metrics::Page;
use shunt_tests::process::{children, is_running, signal};
use shunt_tests::until;

use crate::{Driver, WORKERS};

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

impl Driver {
    /// A call about `ways` that must be answered so.
    fn call(&self, method: &str, rest: &str, body: &str, status: u16) {
        let target = format!("/v1/upstreams/ways{rest}");
        let response = self.admin.ask(method, &target, &[], body.as_bytes());
        assert_eq!(response.status, status, "{method} {target} {body}: {}", response.text());
    }

    /// Sends a request to `ways` over a connection of its own, and leaves the answer there.
    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Connection {
        self.counts.requests += 1;
        let mut connection = self.nginx.connect();
        let body: &[u8] = if method == "POST" { &[b'x'; 50_000] } else { b"" };
        connection.send(method, path, headers, body).expect("a request");
        connection
    }

    /// Asks `ways`, and tells for which reason the request went where it went.
    fn went(&mut self, method: &str, headers: &[(&str, &str)]) -> (String, String) {
        let response = self.send(method, "/ways", headers).receive().expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        let reason = response.header("x-reason").unwrap_or_default().to_owned();
        (response.release().to_owned(), reason)
    }

    fn parked(&self, requests: u64) {
        until("requests are parked", || {
            (self.admin.state("ways").parked == requests).then_some(())
        });
    }

    /// Every way once, from a state to the same state.
    pub fn way(&mut self, i: usize) {
        let release = format!("c{i}");
        let servers = self.others.addresses.clone();
        assert_eq!(self.admin.put("ways", &release, &servers).status, 201);
        self.preview_and_canary(&release);
        self.fall_back(i);
        self.hold();
        self.count_all();
        self.call("DELETE", &format!("/releases/{release}"), "", 200);
    }

    fn preview_and_canary(&mut self, release: &str) {
        let went = |release: &str, reason: &str| (release.to_owned(), reason.to_owned());
        let long = "x".repeat(2000);
        assert_eq!(self.went("GET", &[("X-Want", release)]).1, "preview");
        for nothing in ["none", "a/b", "", &long] {
            assert_eq!(self.went("GET", &[("X-Want", nothing)]), went("a", "active"));
        }
        self.call("PUT", "/canary", r#"{"release":"a","share":0.5}"#, 409);
        self.call("PUT", "/canary", r#"{"release":"none","share":0.5}"#, 404);
        self.call("PUT", "/canary", r#"{"release":"a","share":1.5}"#, 422);
        for share in ["0.0001", "0.5", "1"] {
            let body = format!(r#"{{"release":"{release}","share":{share}}}"#);
            self.call("PUT", "/canary", &body, 200);
            for key in ["", "one", "another", &long] {
                self.went("POST", &[("X-Key", key)]);
            }
        }
        assert_eq!(self.went("GET", &[]).1, "canary");
        self.call("DELETE", &format!("/releases/{release}"), "", 409);
        self.call("DELETE", "/canary", "", 200);
        assert_eq!(self.went("GET", &[]), went("a", "active"));
    }

    /// Requests of a canary, and of the active release, that cannot be connected to.
    fn fall_back(&mut self, i: usize) {
        let dead = format!("dead{i}");
        assert_eq!(self.admin.put("ways", &dead, &[DEAD.to_owned()]).status, 201);
        self.call("PUT", "/canary", &format!(r#"{{"release":"{dead}","share":1}}"#), 200);
        self.went_back("GET");
        self.call("DELETE", "/canary", "", 200);
        self.switch("ways", &dead);
        // The first in each worker finds nobody there, the next ones know.
        for n in 0..4 {
            self.went_back(if n % 2 == 0 { "POST" } else { "GET" });
        }
        self.switch("ways", "a");
        self.call("DELETE", "/previous", "", 200);
        let mut wait = self.wait("ways", &dead, "30s");
        assert_eq!(wait.receive().expect("an answer").status, 200);
        self.call("DELETE", &format!("/releases/{dead}"), "", 200);
        self.counts.drains += 1;
    }

    fn went_back(&mut self, method: &str) {
        assert_eq!(self.went(method, &[]), ("a".to_owned(), "fallback".to_owned()));
        self.counts.fallbacks += 1;
    }

    /// Requests that wait, some whose client leaves, and some that wait for too long or are too many.
    fn hold(&mut self) {
        self.call("PUT", "/hold", r#"{"timeout":"2h"}"#, 422);
        self.call("PUT", "/hold", r#"{"timeout":"1m"}"#, 200);
        let mut waiting: Vec<_> = ["GET", "POST", "GET", "POST", "GET"]
            .iter()
            .map(|method| self.send(method, "/ways", &[]))
            .collect();
        self.parked(5);
        let full = self.send("GET", "/few/ways", &[]).receive().expect("an answer");
        assert_eq!((full.status, full.header("retry-after").is_some()), (503, true));
        waiting.drain(1..3);
        self.parked(3);
        let late = self.send("GET", "/late/ways", &[]).receive().expect("an answer");
        assert_eq!((late.status, late.header("retry-after").is_some()), (503, true));
        self.call("DELETE", "/hold", "", 200);
        for mut connection in waiting {
            assert_eq!(connection.receive().expect("an answer").status, 200);
        }
        self.parked(0);
        self.counts.parked += 6;
    }

    fn count_all(&mut self) {
        let response = self.admin.ask("GET", "/metrics", &[], b"");
        assert_eq!(response.status, 200);
        let page = Page::parse(&response.text());
        let parked = page.counters()[r#"shunt_parked_requests_total{upstream="ways"}"#];
        assert!(parked >= 6.0, "{}", response.text());
        let response = self.admin.ask("POST", "/metrics", &[], b"");
        assert_eq!(response.status, 405);
    }

    /// Requests that wait in workers which a reload ends, and in new ones; some of their clients leave.
    pub fn hold_across_a_reload(&mut self) {
        let (master, old) = (self.nginx.master(), self.nginx.workers());
        self.call("PUT", "/hold", r#"{"timeout":"1m"}"#, 200);
        let mut waiting: Vec<_> = (0..6).map(|_| self.send("POST", "/ways", &[])).collect();
        self.parked(6);
        self.nginx.reload();
        self.counts.reloads += 1;
        waiting.extend((0..4).map(|_| self.send("GET", "/ways", &[])));
        self.parked(10);
        waiting.drain(4..8);
        self.parked(6);
        self.call("DELETE", "/hold", "", 200);
        for mut connection in waiting {
            assert_eq!(connection.receive().expect("an answer").status, 200);
        }
        self.counts.parked += 10;
        until("the old workers have ended", || {
            let ended = !old.iter().any(|pid| is_running(*pid));
            (ended && children(master).len() == WORKERS).then_some(())
        });
    }

    /// A worker that dies with requests that wait.
    pub fn kill_under_a_hold(&mut self) {
        self.call("PUT", "/hold", r#"{"timeout":"1m"}"#, 200);
        let mut waiting: Vec<_> = (0..6).map(|_| self.send("GET", "/ways", &[])).collect();
        self.parked(6);
        let killed = self.nginx.workers()[0];
        signal(killed, Signal::KILL);
        self.killed.insert(killed);
        until("another worker is there", || {
            (!is_running(killed) && self.nginx.workers().len() == WORKERS).then_some(())
        });
        self.call("DELETE", "/hold", "", 200);
        // Those of the killed worker are gone, all others go on.
        let answered = waiting.iter_mut().filter_map(|connection| connection.receive().ok());
        assert!(answered.map(|response| response.status).all(|status| status == 200));
        self.parked(0);
        self.counts.parked += 6;
    }
}
