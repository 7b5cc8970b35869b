//! What a request costs while nothing is changed.

use std::time::Duration;

use shunt_tests::client::Connection;

use crate::bench::{Bench, Running};
use crate::contender::{Kind, Setup};
use crate::machine::ProcessorTime;
use crate::results::Figures;
use crate::wrk::Wrk;

/// Rounds, in each of which all take turns, and how long each has.
const ROUNDS: usize = 7;
const TIME: Duration = Duration::from_secs(1);

/// Clients, each of which waits for its answer before it asks again.
const CONNECTIONS: usize = 32;

/// The cases.
pub const KEPT: &str = "connections to the application kept open";
const EACH: &str = "a connection to the application for each request";

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("steady");
    let applications = bench.applications();
    for (case, keepalive) in [(KEPT, true), (EACH, false)] {
        let setup = Setup { keepalive, ..bench.setup(&applications) };
        let all: Vec<Running> =
            bench.kinds.iter().map(|kind| Running::start(*kind, &setup)).collect();
        all.iter().for_each(warm_up);
        for _ in 0..ROUNDS {
            all.iter().for_each(|one| round(one, case, &mut figures));
        }
    }
    figures.finish(&bench.folder);
}

/// It answers, with the release that is active.
fn warm_up(one: &Running) {
    let answer = Connection::tcp(one.proxy.port()).and_then(|mut c| c.ask("GET", "/", b""));
    let answer = answer.unwrap_or_else(|e| panic!("{}: {e}", one.kind.name()));
    assert_eq!((answer.status, answer.release()), (200, "a"), "{}", one.kind.name());
    Wrk::start(one.proxy.port(), CONNECTIONS, Duration::from_secs(1)).wait();
}

fn round(one: &Running, case: &str, figures: &mut Figures) {
    let name = one.kind.name();
    let pids = one.proxy.pids();
    let before = ProcessorTime::of(&pids);
    let measured = Wrk::start(one.proxy.port(), CONNECTIONS, TIME).wait();
    let used = ProcessorTime::of(&pids).since(&before);
    assert_eq!(measured.failures, 0.0, "{name}: a failure without a cause");
    figures.add(case, name, "requests/s", measured.rate());
    let plain = figures.rounds(case, Kind::Plain.name(), "requests/s");
    if let Some(plain) = plain.last() {
        figures.add(case, name, "÷ plain", measured.rate() / plain);
    }
    let time = used.as_secs_f64() * 1e6 / measured.requests;
    figures.add(case, name, "µs CPU/request", time);
    let plain = figures.rounds(case, Kind::Plain.name(), "µs CPU/request");
    if let Some(plain) = plain.last() {
        figures.add(case, name, "CPU ÷ plain", time / plain);
    }
    figures.add(case, name, "p50, ms", measured.p50);
    figures.add(case, name, "p99, ms", measured.p99);
}
