//! Many flips under load.

use std::time::{Duration, Instant};

use shunt_tests::client::Connection;
use shunt_tests::until;

use crate::bench::{Bench, Running};
use crate::contender::Kind;
use crate::flip::{flush_line, release};
use crate::machine::{memory, sleep_until};
use crate::results::Figures;
use crate::wrk::{Measured, Wrk};

/// Clients, each of which waits for its answer before it asks again.
const CONNECTIONS: usize = 16;

/// How long there is load without a flip, for comparison: at a pace, and before as many as possible.
const SHORT: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(2);

/// Flips as fast as possible, and how long they may take: whoever has not made all by then, has made
/// fewer. Shunt has more time, as it promises something for all of them.
const MANY: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(10);
const LONGER: Duration = Duration::from_secs(60);

/// More than any load here takes; it is ended by whoever has started it.
const LONG: Duration = Duration::from_secs(600);

/// The cases.
pub const SLOW: &str = "200 flips, 5 a second";
pub const FAST: &str = "1,200 flips, 100 a second";
pub const MOST: &str = "10,000 flips as fast as possible";

/// Columns: the 99th percentile in terms of that without flips; what there is before and after them.
pub const P99: &str = "p99 ÷ without flips";
pub const PROCESSES: [&str; 2] = ["processes before", "processes after"];
pub const MEMORY: [&str; 2] = ["MB before", "MB after"];

/// Rounds, in each of which all take turns, the flips in each, and how many a second. Rounds are many
/// and short: by how much one differs from the next is more than what is looked for.
struct Pace {
    case: &'static str,
    rounds: usize,
    flips: usize,
    rate: f64,
}

const PACES: [Pace; 2] = [
    Pace { case: SLOW, rounds: 20, flips: 10, rate: 5.0 },
    Pace { case: FAST, rounds: 12, flips: 100, rate: 100.0 },
];

/// Who is looked at while nobody flips, and something else has the disk write as often.
const DISK_ALONE: &str = "no flips, but a line flushed as often by something else on its core";

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("flips");
    let applications = bench.applications();
    let setup = bench.setup(&applications);
    let kinds = bench.flipping_and_volatile();
    let mut all: Vec<Running> = kinds.map(|kind| Running::start(kind, &setup)).collect();
    let [slow, fast] = PACES;
    for _ in 0..slow.rounds {
        for one in all.iter_mut().filter(|one| one.kind != Kind::Volatile) {
            round(one, &slow, &mut figures);
        }
    }
    // That latency does not suffer even so is what Shunt is held to.
    for _ in 0..fast.rounds {
        for one in all.iter_mut().filter(|one| is_shunt(one.kind)) {
            round(one, &fast, &mut figures);
            if one.kind == Kind::Volatile {
                flushing(bench, one, &fast, &mut figures);
            }
        }
    }
    for one in &mut all {
        many(one, &mut figures);
    }
    figures.finish(&bench.folder);
}

/// Flips at a pace, after a time without.
fn round(one: &mut Running, pace: &Pace, figures: &mut Figures) {
    let quiet = Wrk::start(one.proxy.port(), CONNECTIONS, SHORT).wait();
    let measured = paced(one, pace.flips, pace.rate);
    add(figures, pace.case, one.kind.name(), &measured, &quiet);
}

/// What the disk takes of the proxy's core, and of its latency, whoever it is that writes.
fn flushing(bench: &Bench, one: &Running, pace: &Pace, figures: &mut Figures) {
    let file = tempfile::NamedTempFile::new().expect("a folder");
    let quiet = Wrk::start(one.proxy.port(), CONNECTIONS, SHORT).wait();
    let load = Wrk::start(one.proxy.port(), CONNECTIONS, LONG);
    let began = Instant::now();
    bench.cores.as_proxy(|| {
        for n in 0..pace.flips {
            sleep_until(began + Duration::from_secs_f64((n + 1) as f64 / pace.rate));
            flush_line(file.as_file()).expect("a disk with room");
        }
    });
    let measured = load.stop();
    figures.add(pace.case, DISK_ALONE, "flips", 0.0);
    figures.add(pace.case, DISK_ALONE, P99, measured.p99 / quiet.p99);
    figures.add(pace.case, DISK_ALONE, "p99, ms", measured.p99);
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
    name: &str,
    (measured, flips): &(Measured, usize),
    quiet: &Measured,
) {
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
    add(figures, case, name, &(measured, flips), &quiet);
    for (n, (processes, memory)) in [before, after].into_iter().enumerate() {
        figures.add(case, name, PROCESSES[n], processes as f64);
        figures.add(case, name, MEMORY[n], memory as f64 / 1e6);
    }
}
