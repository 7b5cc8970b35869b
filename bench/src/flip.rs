//! A flip, as clients see it.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use shunt_tests::load::{Sample, Switch, failures, late_answers};

use crate::bench::{Bench, Running};
use crate::contender::Kind;
use crate::flips::arrived;
use crate::load::Load;
use crate::machine::ProcessorTime;
use crate::results::Figures;
use crate::stats::percentile;

/// Rounds, in each of which all take turns, and flips in each.
const ROUNDS: usize = 3;
const FLIPS: usize = 10;

/// How long nothing else is done after a flip. Whoever has not taken it over by then, has the rest of
/// the time counted as what it took.
const AFTER: Duration = Duration::from_millis(200);

/// Requests a second meanwhile.
const RATE: u32 = 4000;

/// Flips without load, for the time that one takes; and reloads, which take longer.
const ALONE: usize = 1000;
const ALONE_RELOADS: usize = 200;

/// The cases.
pub const UNDER_LOAD: &str = "a flip under load";
pub const ALONE_CASE: &str = "a flip without load";

/// Columns.
pub const LATE: &str = "begun after the return, of the old";
pub const P99: &str = "p99, ms";

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("flip");
    let applications = bench.applications();
    let setup = bench.setup(&applications);
    let kinds = bench.flipping_and_volatile();
    let mut all: Vec<Running> = kinds.map(|kind| Running::start(kind, &setup)).collect();
    for _ in 0..ROUNDS {
        all.iter_mut().for_each(|one| round(one, &mut figures));
    }
    for one in &mut all {
        alone(one, &mut figures);
    }
    disk(&mut figures);
    figures.finish(&bench.folder);
}

/// Which release a flip goes to, if the first one goes to `b`.
pub fn release(n: usize) -> &'static str {
    ["b", "a"][n % 2]
}

fn round(one: &mut Running, figures: &mut Figures) {
    let case = UNDER_LOAD;
    let name = one.kind.name();
    let load = Load::start(one.proxy.port(), RATE);
    std::thread::sleep(AFTER);
    let mut switches = Vec::new();
    for n in 0..FLIPS {
        let sent = Instant::now();
        one.flip(release(n));
        let replied = Instant::now();
        switches.push(Switch { sent, replied, release: release(n).to_owned() });
        std::thread::sleep(AFTER);
    }
    let samples = load.stop();
    arrived(one, release(FLIPS - 1));
    for (n, switch) in switches.iter().enumerate() {
        let until = switches.get(n + 1).map(|next| next.sent);
        let seen = Seen::of(&samples, switch, until);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        figures.add(case, name, "returns, ms", ms(switch.replied - switch.sent));
        figures.add(case, name, "first of the new, ms", ms(seen.first));
        figures.add(case, name, "last of the old, begun after the return, ms", ms(seen.last));
    }
    let late = late_answers(&samples, "a", &switches).len();
    figures.add(case, name, LATE, late as f64);
    let failed = failures(&samples);
    figures.add(case, name, "failed", failed.len() as f64);
    if let Some(first) = failed.first() {
        println!("{name}: {} failed, the first: {first}", failed.len());
    }
    figures.add(case, name, "requests", samples.len() as f64);
}

/// What was seen of a flip.
#[derive(Debug, PartialEq)]
struct Seen {
    /// From its begin to the end of the first answer of the new release.
    first: Duration,
    /// From its return to the end of the last answer of the old release to a request that was begun
    /// after the return; nothing if there was none.
    last: Duration,
}

impl Seen {
    /// What ends after `until` may be of the next one.
    fn of(samples: &[Sample], switch: &Switch, until: Option<Instant>) -> Self {
        let own = |s: &&Sample| s.end > switch.sent && until.is_none_or(|until| s.end < until);
        let is_new = |s: &Sample| s.result.as_ref().is_ok_and(|r| *r == switch.release);
        let is_old = |s: &Sample| s.result.as_ref().is_ok_and(|r| *r != switch.release);
        let first = samples.iter().filter(own).filter(|s| is_new(s)).map(|s| s.end).min();
        let late = samples.iter().filter(own).filter(|s| s.start >= switch.replied && is_old(s));
        let never = until.unwrap_or(switch.replied + AFTER);
        Self {
            first: first.unwrap_or(never) - switch.sent,
            last: late.map(|s| s.end - switch.replied).max().unwrap_or_default(),
        }
    }
}

/// The time of flips while there is nothing else to do.
fn alone(one: &mut Running, figures: &mut Figures) {
    // A reload takes workers; that many at once would be another measurement.
    let (flips, pause) = match one.kind {
        Kind::Reload => (ALONE_RELOADS, Duration::from_millis(20)),
        _ => (ALONE, Duration::ZERO),
    };
    let pids = one.proxy.pids();
    let before = ProcessorTime::of(&pids);
    let times: Vec<f64> = (0..flips)
        .map(|n| {
            std::thread::sleep(pause);
            let began = Instant::now();
            one.flip(release(n));
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    arrived(one, release(flips - 1));
    add_times(one.kind.name(), &times, figures);
    // What processes that have ended have used is not known.
    if one.proxy.pids() == pids {
        let used = ProcessorTime::of(&pids).since(&before).as_secs_f64() * 1e6 / flips as f64;
        figures.add(ALONE_CASE, one.kind.name(), "µs CPU/flip", used);
    }
}

/// What the disk alone takes for a line that is there after a power loss: as the state file has it.
fn disk(figures: &mut Figures) {
    let file = tempfile::NamedTempFile::new().expect("a folder");
    let time = |_| {
        let began = Instant::now();
        flush_line(file.as_file()).expect("a disk with room");
        began.elapsed().as_secs_f64() * 1e3
    };
    let times: Vec<f64> = (0..ALONE).map(time).collect();
    add_times("the disk alone: a line, flushed", &times, figures);
}

/// Appends a line as long as that of a switch, and waits until it is on the disk.
pub fn flush_line(mut file: &File) -> io::Result<()> {
    file.write_all(&[b'.'; 256])?;
    file.sync_data()
}

fn add_times(who: &str, times: &[f64], figures: &mut Figures) {
    for (what, share) in [("p50, ms", 0.5), (P99, 0.99)] {
        figures.add(ALONE_CASE, who, what, percentile(times, share).expect("flips"));
    }
    figures.add(ALONE_CASE, who, "flips", times.len() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_ends_with_the_last_answer_of_the_old_release() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let sample = |start, end, release: &str| Sample {
            start: at(start),
            end: at(end),
            kept: true,
            result: Ok(release.to_owned()),
        };
        let switch = Switch { sent: at(10), replied: at(20), release: "b".to_owned() };
        let samples = [
            sample(0, 5, "b"),
            sample(5, 50, "a"),
            sample(19, 30, "b"),
            sample(25, 42, "a"),
            sample(26, 28, "b"),
            sample(79, 95, "a"),
        ];
        let ms = Duration::from_millis;
        let seen = Seen::of(&samples, &switch, Some(at(80)));
        assert_eq!(seen, Seen { first: ms(18), last: ms(22) });
        let seen = Seen::of(&samples[..2], &switch, Some(at(80)));
        assert_eq!(seen, Seen { first: ms(70), last: ms(0) });
    }
}
