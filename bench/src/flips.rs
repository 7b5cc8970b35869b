//! Many flips under load.

use std::time::{Duration, Instant};

use shunt_tests::client::Connection;
use shunt_tests::until;

use crate::bench::{Bench, Running};
use crate::contender::Kind;
use crate::flip::{flush_line, release};
use crate::machine::{memory, sleep_until};
use crate::results::Figures;
use crate::stats::Summary;
use crate::wrk::{Measured, Wrk};

/// Clients, each of which waits for its answer before it asks again.
const CONNECTIONS: usize = 16;

/// How long there is load without a flip, for comparison with as many as possible.
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

/// Columns: what was measured with flips and without, and the latter in terms of the former; failures for
/// each thousand flips; what there is before and after them.
const RATE: &str = "requests/s";
const QUIET_RATE: &str = "requests/s without flips";
const LATENCY: &str = "p99, ms";
const QUIET_LATENCY: &str = "p99 without flips, ms";
pub const FAILED_OF: &str = "failed for 1,000 flips";
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

impl Pace {
    /// How long a round takes. The time without flips is as long: what now and then comes between is in
    /// the one as often as in the other.
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.flips as f64 / self.rate)
    }
}

const PACES: [Pace; 2] = [
    Pace { case: SLOW, rounds: 20, flips: 10, rate: 5.0 },
    Pace { case: FAST, rounds: 12, flips: 100, rate: 100.0 },
];

/// Who is looked at while nobody flips, and something else has the disk write as often.
pub const DISK_ALONE: &str = "no flips, but a line flushed as often by something else on its core";

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("flips");
    let applications = bench.applications();
    let setup = bench.setup(&applications);
    let kinds = bench.flipping_and_volatile();
    let mut all: Vec<Running> = kinds.map(|kind| Running::start(kind, &setup)).collect();
    let [slow, fast] = PACES;
    for n in 0..slow.rounds {
        for one in all.iter_mut().filter(|one| one.kind != Kind::Volatile) {
            round(one, &slow, n, &mut figures);
        }
    }
    // That latency does not suffer even so is what Shunt is held to.
    for n in 0..fast.rounds {
        for one in all.iter_mut().filter(|one| is_shunt(one.kind)) {
            round(one, &fast, n, &mut figures);
            if one.kind == Kind::Volatile && n.is_multiple_of(2) {
                flushing(bench, one, &fast, &mut figures);
            }
        }
    }
    for one in &mut all {
        many(one, &mut figures);
    }
    for case in [SLOW, FAST, MOST] {
        for name in all.iter().map(|one| one.kind.name()).chain([DISK_ALONE]) {
            compare(&mut figures, case, name);
        }
    }
    figures.finish(&bench.folder);
}

/// Flips at a pace; every other time after a time without.
fn round(one: &mut Running, pace: &Pace, n: usize, figures: &mut Figures) {
    let name = one.kind.name();
    if n.is_multiple_of(2) {
        quiet(figures, pace.case, name, one.proxy.port(), pace.time());
    }
    let flipped = paced(one, pace.flips, pace.rate);
    add(figures, pace.case, name, &flipped);
}

fn quiet(figures: &mut Figures, case: &str, name: &str, port: u16, time: Duration) {
    let quiet = Wrk::start(port, CONNECTIONS, time).wait();
    figures.add(case, name, QUIET_RATE, quiet.rate());
    figures.add(case, name, QUIET_LATENCY, quiet.p99);
}

/// What the disk takes of the proxy's core, and of its latency, whoever it is that writes.
fn flushing(bench: &Bench, one: &Running, pace: &Pace, figures: &mut Figures) {
    let file = tempfile::NamedTempFile::new().expect("a folder");
    quiet(figures, pace.case, DISK_ALONE, one.proxy.port(), pace.time());
    let load = Wrk::start(one.proxy.port(), CONNECTIONS, LONG);
    bench.cores.as_proxy(|| {
        on_beat(pace.flips, pace.rate, |_| {
            flush_line(file.as_file()).expect("a disk with room");
        });
    });
    let measured = load.stop();
    figures.add(pace.case, DISK_ALONE, RATE, measured.rate());
    figures.add(pace.case, DISK_ALONE, LATENCY, measured.p99);
}

/// The medians of what was measured with flips in terms of those without.
fn compare(figures: &mut Figures, case: &str, name: &str) {
    let median = |what| Some(Summary::of(&figures.rounds(case, name, what))?.median);
    let ratio = |with, without| Some(median(with)? / median(without)?);
    let (rate, latency) = (ratio(RATE, QUIET_RATE), ratio(LATENCY, QUIET_LATENCY));
    for (what, ratio) in [("requests/s ÷ without flips", rate), (P99, latency)] {
        if let Some(ratio) = ratio {
            figures.add(case, name, what, ratio);
        }
    }
}

fn is_shunt(kind: Kind) -> bool {
    matches!(kind, Kind::Shunt | Kind::Volatile)
}

/// Flips that were made under load.
pub struct Flipped {
    /// How many.
    pub flips: usize,
    /// How long that took.
    seconds: f64,
    /// The load meanwhile.
    pub measured: Measured,
}

/// So many flips on a beat, under load.
pub fn paced(one: &mut Running, flips: usize, pace: f64) -> Flipped {
    let load = Wrk::start(one.proxy.port(), CONNECTIONS, LONG);
    let seconds = on_beat(flips, pace, |n| one.flip(release(n)));
    let measured = load.stop();
    arrived(one, release(flips - 1));
    Flipped { flips, seconds, measured }
}

/// Does something so many times, so many a second; tells how many seconds that took.
fn on_beat(times: usize, rate: f64, mut f: impl FnMut(usize)) -> f64 {
    let began = Instant::now();
    for n in 0..times {
        sleep_until(began + Duration::from_secs_f64((n + 1) as f64 / rate));
        f(n);
    }
    began.elapsed().as_secs_f64()
}

/// How many processes one has, and their memory in bytes.
pub fn footprint(one: &Running) -> (usize, u64) {
    let pids = one.proxy.pids();
    (pids.len(), memory(&pids))
}

/// Adds what there was before flips, and what after them.
pub fn add_footprints(figures: &mut Figures, case: &str, name: &str, both: [(usize, u64); 2]) {
    for (n, (processes, memory)) in both.into_iter().enumerate() {
        figures.add(case, name, PROCESSES[n], processes as f64);
        figures.add(case, name, MEMORY[n], memory as f64 / 1e6);
    }
}

/// The last flip has come true.
pub fn arrived(one: &Running, release: &str) {
    until(&format!("{} is at {release}", one.kind.name()), || {
        let mut connection = Connection::tcp(one.proxy.port()).ok()?;
        let answer = connection.ask("GET", "/", b"").ok()?;
        (answer.status == 200 && answer.release() == release).then_some(())
    });
}

fn add(figures: &mut Figures, case: &str, name: &str, flipped: &Flipped) {
    let Flipped { flips, seconds, measured } = flipped;
    figures.add(case, name, "flips", *flips as f64);
    figures.add(case, name, "flips/s", *flips as f64 / seconds);
    figures.add(case, name, "failed", measured.failures);
    figures.add(case, name, FAILED_OF, measured.failures * 1e3 / *flips as f64);
    figures.add(case, name, RATE, measured.rate());
    figures.add(case, name, LATENCY, measured.p99);
}

/// As many flips as possible, under load.
fn many(one: &mut Running, figures: &mut Figures) {
    let (case, name) = (MOST, one.kind.name());
    quiet(figures, case, name, one.proxy.port(), QUIET);
    let before = footprint(one);
    let load = Wrk::start(one.proxy.port(), CONNECTIONS, LONG);
    let began = Instant::now();
    let mut flips = 0;
    let limit = if is_shunt(one.kind) { LONGER } else { LIMIT };
    while flips < MANY && began.elapsed() < limit {
        one.flip(release(flips));
        flips += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let measured = load.stop();
    arrived(one, release(flips - 1));
    let after = footprint(one);
    add(figures, case, name, &Flipped { flips, seconds, measured });
    add_footprints(figures, case, name, [before, after]);
}
