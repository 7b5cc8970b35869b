//! Many flips under load.

use std::time::{Duration, Instant};

use shunt_tests::client::Connection;
use shunt_tests::until;

use crate::bench::{Bench, Running};
use crate::contender::Kind;
use crate::flip::release;
use crate::machine::{memory, sleep_until};
use crate::results::Figures;
use crate::wrk::{Measured, Wrk};

/// Clients, each of which waits for its answer before it asks again.
const CONNECTIONS: usize = 16;

/// Rounds, in each of which all take turns: at the slow pace, and at the fast one, where what is looked
/// for is smaller than what rounds differ by.
const ROUNDS: usize = 4;
const MORE_ROUNDS: usize = 10;

/// How long there is load without a flip, for comparison.
const QUIET: Duration = Duration::from_secs(2);

/// Flips as fast as possible, and how long they may take: whoever has not made all by then, has made
/// fewer. Shunt has more time, as it promises something for all of them.
const MANY: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(10);
const LONGER: Duration = Duration::from_secs(60);

/// More than any load here takes; it is ended by whoever has started it.
const LONG: Duration = Duration::from_secs(600);

/// The cases, and how many flips a second the first two have.
pub const SLOW: &str = "200 flips, 5 a second";
pub const FAST: &str = "2,000 flips, 100 a second";
const PACES: [(&str, usize, f64); 2] = [(SLOW, 50, 5.0), (FAST, 200, 100.0)];
pub const MOST: &str = "10,000 flips as fast as possible";

/// Columns: the 99th percentile in terms of that without flips; what there is before and after them.
pub const P99: &str = "p99 ÷ without flips";
pub const PROCESSES: [&str; 2] = ["processes before", "processes after"];
pub const MEMORY: [&str; 2] = ["MB before", "MB after"];

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("flips");
    let applications = bench.applications();
    let setup = bench.setup(&applications);
    let kinds = bench.flipping_and_volatile();
    let mut all: Vec<Running> = kinds.map(|kind| Running::start(kind, &setup)).collect();
    let [slow, fast] = PACES;
    for _ in 0..ROUNDS {
        for one in all.iter_mut().filter(|one| one.kind != Kind::Volatile) {
            round(one, slow, &mut figures);
        }
    }
    // That latency does not suffer even so is what Shunt is held to.
    for _ in 0..MORE_ROUNDS {
        for one in all.iter_mut().filter(|one| is_shunt(one.kind)) {
            round(one, fast, &mut figures);
        }
    }
    for one in &mut all {
        many(one, &mut figures);
    }
    figures.finish(&bench.folder);
}

/// Flips at a pace, after a time without.
fn round(one: &mut Running, (case, flips, pace): (&str, usize, f64), figures: &mut Figures) {
    let quiet = Wrk::start(one.proxy.port(), CONNECTIONS, QUIET).wait();
    let measured = paced(one, flips, pace);
    add(figures, case, one, &measured, &quiet);
}

fn is_shunt(kind: Kind) -> bool {
    matches!(kind, Kind::Shunt | Kind::Volatile)
}

/// So many flips on a beat, under load.
pub fn paced(one: &mut Running, flips: usize, pace: f64) -> (Measured, usize) {
    let load = Wrk::start(one.proxy.port(), CONNECTIONS, LONG);
    let began = Instant::now();
    for n in 0..flips {
        sleep_until(began + Duration::from_secs_f64((n + 1) as f64 / pace));
        one.flip(release(n));
    }
    let measured = load.stop();
    arrived(one, release(flips - 1));
    (measured, flips)
}

/// The last flip has come true.
pub fn arrived(one: &Running, release: &str) {
    until(&format!("{} is at {release}", one.kind.name()), || {
        let mut connection = Connection::tcp(one.proxy.port()).ok()?;
        let answer = connection.ask("GET", "/", b"").ok()?;
        (answer.status == 200 && answer.release() == release).then_some(())
    });
}

fn add(
    figures: &mut Figures,
    case: &str,
    one: &Running,
    (measured, flips): &(Measured, usize),
    quiet: &Measured,
) {
    let name = one.kind.name();
    figures.add(case, name, "flips", *flips as f64);
    figures.add(case, name, "flips/s", *flips as f64 / measured.seconds);
    figures.add(case, name, "failed", measured.failures);
    figures.add(case, name, "requests/s ÷ without flips", measured.rate() / quiet.rate());
    figures.add(case, name, P99, measured.p99 / quiet.p99);
    figures.add(case, name, "p99, ms", measured.p99);
}

/// As many flips as possible, under load.
fn many(one: &mut Running, figures: &mut Figures) {
    let (case, name) = (MOST, one.kind.name());
    let quiet = Wrk::start(one.proxy.port(), CONNECTIONS, QUIET).wait();
    let before = (one.proxy.pids().len(), memory(&one.proxy.pids()));
    let load = Wrk::start(one.proxy.port(), CONNECTIONS, LONG);
    let began = Instant::now();
    let mut flips = 0;
    let limit = if is_shunt(one.kind) { LONGER } else { LIMIT };
    while flips < MANY && began.elapsed() < limit {
        one.flip(release(flips));
        flips += 1;
    }
    let measured = load.stop();
    arrived(one, release(flips - 1));
    let after = (one.proxy.pids().len(), memory(&one.proxy.pids()));
    add(figures, case, one, &(measured, flips), &quiet);
    for (n, (processes, memory)) in [before, after].into_iter().enumerate() {
        figures.add(case, name, PROCESSES[n], processes as f64);
        figures.add(case, name, MEMORY[n], memory as f64 / 1e6);
    }
}
