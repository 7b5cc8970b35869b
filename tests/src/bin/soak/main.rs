//! NGINX with the module under load while everything is done to it that can be, at random: switches,
//! canaries, holds, previews, releases that come, drain and go, releases that die, reloads, zones of
//! another size, killed workers. Ends with counts, and fails on one request that failed without a
//! reason which can be named.
//!
//! `TIME` is how long, in seconds; `SEED` decides what is done, and in which order.

#![forbid(unsafe_code)]

mod clients;
mod driver;
mod timeline;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shunt_tests::build::Build;

use clients::Tally;
use driver::Driver;

/// Clients of each kind.
const CLIENTS: usize = 4;

fn main() -> ExitCode {
    let (time, seed) = match shunt_tests::soak::settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("shunt-soak: {error}");
            return ExitCode::from(2);
        }
    };
    println!("soak: {time} seconds, SEED={seed}");
    let mut driver = Driver::start(&Build::stable(), seed);
    let desk = driver.desk();
    let threads = desk.start(CLIENTS);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(time) {
        driver.step();
    }
    desk.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a client does not panic");
    }
    driver.end();
    print(&driver)
}

fn print(driver: &Driver) -> ExitCode {
    let done: Vec<_> = driver.counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
    println!("\ndone: {}", done.join(", "));
    let Tally {
        active,
        preview,
        canary,
        fallback,
        tunnels,
        pages,
        killed,
        cut,
        closed,
        failures,
        examples,
    } = driver.tally();
    let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("\nrequests answered by");
    for (reason, count) in [
        ("the active release", active),
        ("the canary", canary),
        ("a fallback", fallback),
        ("a preview", preview),
    ] {
        println!("{:>10}  {reason}", n(count));
    }
    println!("{:>10}  tunnels, to their end", n(tunnels));
    println!("{:>10}  pages of metrics", n(pages));
    println!("\nbroken, for a reason");
    for (reason, count) in [
        ("a worker was killed under it", killed),
        ("a tunnel to a release whose processes were killed", cut),
        ("a reload closed a kept connection that was idle", closed),
    ] {
        println!("{:>10}  {reason}", n(count));
    }
    println!("\n{:>10}  failures", n(failures));
    for example in examples.lock().expect("no client is left").iter() {
        println!("            {example}");
    }
    // A soak in which nothing happened has shown nothing.
    let idle = [active, tunnels, pages].iter().any(|counter| n(counter) == 0);
    if n(failures) > 0 || idle {
        println!("soak: failed");
        return ExitCode::FAILURE;
    }
    println!("soak: nothing is wrong");
    ExitCode::SUCCESS
}
