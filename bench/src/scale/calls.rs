//! How many calls of the API a worker answers in a second.

use std::time::{Duration, Instant};

use shunt_tests::client::Connection;
use shunt_tests::nginx::Nginx;

use super::site::{Size, WITH, WITHOUT};
use crate::application::Application;
use crate::bench::Bench;
use crate::results::Figures;

const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_millis(500);

/// A call, and whether it changes something, so that it costs more with a state file.
struct Call {
    name: &'static str,
    method: &'static str,
    target: &'static str,
    /// One after the other.
    bodies: &'static [&'static str],
}

const CALLS: [Call; 4] = [
    Call { name: "GET an upstream", method: "GET", target: "/v1/upstreams/u0", bodies: &[""] },
    Call {
        name: "PUT a release as it is",
        method: "PUT",
        target: "/v1/upstreams/u0/releases/new",
        bodies: &[r#"{"servers":[{"address":"127.0.0.1:1"}]}"#],
    },
    Call {
        name: "PUT a release anew",
        method: "PUT",
        target: "/v1/upstreams/u0/releases/new",
        bodies: &[
            r#"{"servers":[{"address":"127.0.0.1:1"}]}"#,
            r#"{"servers":[{"address":"127.0.0.1:2"}]}"#,
        ],
    },
    Call {
        name: "POST a switch",
        method: "POST",
        target: "/v1/upstreams/u0/switch",
        bodies: &[r#"{"release":"r1"}"#, r#"{"release":"r0"}"#],
    },
];

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::made_by(super::COMMAND, "calls");
    let application = Application::start(&bench.build, "a");
    let address = application.address();
    let all = [("without a state file", WITHOUT), ("with a state file", WITH)];
    let all = all.map(|(case, zone)| {
        let size = Size { upstreams: 1, releases: 2, address: &address, zone: Some(zone) };
        (case, size.start(bench))
    });
    for _ in 0..ROUNDS {
        for (case, nginx) in &all {
            for call in &CALLS {
                let case = format!("calls a second, {case}");
                figures.add(&case, call.name, "a kept connection", rate(nginx, call, true));
                figures.add(&case, call.name, "a connection each", rate(nginx, call, false));
            }
        }
    }
    figures.finish(&bench.folder);
}

fn rate(nginx: &Nginx, call: &Call, keeps: bool) -> f64 {
    let socket = nginx.path("api.sock");
    let connect = || Connection::unix(&socket).expect("the API");
    let began = Instant::now();
    let (mut calls, mut connection) = (0usize, connect());
    while began.elapsed() < TIME {
        if calls > 0 && !keeps {
            connection = connect();
        }
        let body = call.bodies[calls % call.bodies.len()].as_bytes();
        let answer = connection.ask(call.method, call.target, body).expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{}: {}", call.name, answer.text());
        calls += 1;
    }
    calls as f64 / began.elapsed().as_secs_f64()
}
