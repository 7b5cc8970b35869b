//! What goes wrong: releases that are dead or die, processes that are killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use shunt_tests::client::Connection;
use shunt_tests::free_port;
use shunt_tests::load::Sample;
use shunt_tests::process::signal;

use crate::application::Application;
use crate::bench::{Bench, Running};
use crate::contender::{Kind, Setup};
use crate::flips::arrived;
use crate::load::Load;
use crate::results::Figures;

/// Requests a second.
const RATE: u32 = 800;

/// How long there is load before a fault, and after it.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(2);

/// When a release dies that does not live long.
const LIFE: Duration = Duration::from_secs(1);

/// Kills of each kind.
const KILLS: usize = 3;

/// How long there is load after one, and after what has ended runs again.
const RECOVERY: Duration = Duration::from_secs(1);

/// How long systemd waits before it starts again what has ended: its default.
const RESTART: Duration = Duration::from_millis(100);

/// The cases.
pub const DEAD: &str = "the new release is dead, for 2 s";
pub const DYING: &str = "the new release dies 1 s after the flip, for 1 s";
pub const WORKER: &str = "kill -9 of the worker";
pub const ALL: &str = "kill -9 of all processes";

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("faults");
    for kind in bench.flipping() {
        dead(bench, kind, &mut figures);
        dying(bench, kind, &mut figures);
    }
    let applications = bench.applications();
    let setup = bench.setup(&applications);
    for _ in 0..KILLS {
        for kind in bench.flipping() {
            killed(kind, &setup, false, &mut figures);
            killed(kind, &setup, true, &mut figures);
        }
    }
    figures.finish(&bench.folder);
}

fn add(figures: &mut Figures, case: &str, one: &Running, samples: &[Sample], since: Instant) {
    let since: Vec<&Sample> = samples.iter().filter(|s| s.end >= since).collect();
    let failed = since.iter().filter(|s| s.result.is_err()).count();
    assert!(!since.is_empty(), "{}: nothing was asked", one.kind.name());
    figures.add(case, one.kind.name(), "failed", failed as f64);
    figures.add(case, one.kind.name(), "of", since.len() as f64);
    let longest = since.iter().map(|s| s.end - s.start).max().unwrap_or_default();
    figures.add(case, one.kind.name(), "longest, ms", longest.as_secs_f64() * 1e3);
}

/// A new release that nobody is at home in.
fn dead(bench: &Bench, kind: Kind, figures: &mut Figures) {
    let application = Application::start(&bench.build, "a");
    let mut setup = Setup { fallback: true, ..bench.setup(std::slice::from_ref(&application)) };
    setup.releases.0.push(("b".to_owned(), format!("127.0.0.1:{}", free_port())));
    let mut one = Running::start(kind, &setup);
    let load = Load::start(one.proxy.port(), RATE);
    std::thread::sleep(BEFORE);
    let began = Instant::now();
    one.flip("b");
    std::thread::sleep(AFTER);
    add(figures, DEAD, &one, &load.stop(), began);
}

/// A new release that dies a second after the flip.
fn dying(bench: &Bench, kind: Kind, figures: &mut Figures) {
    let applications = bench.applications();
    let setup = Setup { fallback: true, ..bench.setup(&applications) };
    let mut one = Running::start(kind, &setup);
    let load = Load::start(one.proxy.port(), RATE);
    std::thread::sleep(BEFORE);
    let began = Instant::now();
    one.flip("b");
    std::thread::sleep(LIFE);
    let answered = Connection::tcp(one.proxy.port()).and_then(|mut c| c.ask("GET", "/", b""));
    let answered = answered.map(|answer| answer.release().to_owned());
    assert_eq!(answered.ok().as_deref(), Some("b"), "{}: while it lives", kind.name());
    applications[1].die();
    std::thread::sleep(AFTER - LIFE);
    add(figures, DYING, &one, &load.stop(), began);
}

/// `kill -9`, of the process that has the connections, or of all.
fn killed(kind: Kind, setup: &Setup, all: bool, figures: &mut Figures) {
    let mut one = Running::start(kind, setup);
    one.flip("b");
    arrived(&one, "b");
    let load = Load::start(one.proxy.port(), RATE);
    std::thread::sleep(BEFORE);
    let victims = if all { one.proxy.pids() } else { vec![one.proxy.worker()] };
    let began = Instant::now();
    victims.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    std::thread::sleep(RESTART);
    let restarted = one.proxy.revive();
    std::thread::sleep(RECOVERY);
    let samples = load.stop();
    let case = if all { ALL } else { WORKER };
    add(figures, case, &one, &samples, began);
    let answers = samples.iter().max_by_key(|s| s.start).and_then(|s| s.result.clone().ok());
    let kept = answers.as_deref() == Some("b");
    let name = one.kind.name();
    figures.add(case, name, "ms until all is well", recovery(&samples, began).as_secs_f64() * 1e3);
    figures.add(case, name, "had to be started again", f64::from(u8::from(restarted)));
    figures.add(case, name, "the flip is forgotten", f64::from(u8::from(!kept)));
    assert!(answers.is_some(), "{name}: it has not recovered");
}

/// From an instant to the begin of the first answer after the last failure; nothing if none failed.
fn recovery(samples: &[Sample], since: Instant) -> Duration {
    let failed = |s: &&Sample| s.end >= since && s.result.is_err();
    let Some(last) = samples.iter().filter(failed).map(|s| s.end).max() else {
        return Duration::ZERO;
    };
    let good = samples.iter().filter(|s| s.start >= last && s.result.is_ok());
    good.map(|s| s.end).min().unwrap_or(last) - since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_recovered_with_the_first_answer_after_the_last_failure() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let sample = |start, end, good: bool| Sample {
            start: at(start),
            end: at(end),
            kept: true,
            result: if good { Ok("b".to_owned()) } else { Err("status 502".to_owned()) },
        };
        let samples = [
            sample(0, 10, false),
            sample(20, 30, false),
            sample(21, 60, true),
            sample(31, 40, true),
        ];
        assert_eq!(recovery(&samples, at(15)), Duration::from_millis(25));
        assert_eq!(recovery(&samples, at(31)), Duration::ZERO);
    }
}
