//! What valgrind counted, and whether anything is wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use shunt_tests::valgrind::Log;

use crate::{Counts, Grown, SLACK};

/// A process that ended, and what it was.
pub struct Report {
    pub logs: Vec<Log>,
    pub master: BTreeSet<u32>,
    pub killed: BTreeSet<u32>,
    pub switches: usize,
    pub counts: Counts,
}

impl Report {
    /// Prints all of it; fails on any error, any lost block and any growth.
    pub fn print(&self, folder: &Path, grown: &[Grown]) -> ExitCode {
        let Counts { requests, drains, cancelled, upgraded, refused, reloads, fallbacks, parked } =
            self.counts;
        println!(
            "{} switches, {requests} requests, {upgraded} upgraded connections, {drains} drains, \
             {cancelled} waits whose client left, {fallbacks} fallbacks, {parked} parked requests, \
             {refused} bad calls, {reloads} reloads, {} workers killed",
            self.switches,
            self.killed.len()
        );
        let mut wrong = Vec::new();
        println!(
            "\n{:>8}  {:8} {:>12} {:>7} {:>7} {:>11}",
            "pid", "process", "allocations", "errors", "lost", "suppressed"
        );
        for log in &self.logs {
            let process = if self.master.contains(&log.pid) {
                "master"
            } else if self.master.contains(&log.parent) {
                "worker"
            } else {
                "test"
            };
            let Some((errors, suppressed)) = log.errors else {
                println!("{:>8}  {process:8} {:>12}", log.pid, "killed");
                if !self.killed.contains(&log.pid) {
                    wrong.push(format!("process {} did not end in order", log.pid));
                }
                continue;
            };
            println!(
                "{:>8}  {process:8} {:>12} {errors:>7} {:>7} {suppressed:>11}",
                log.pid, log.allocations, log.lost
            );
            if errors > 0 || log.lost > 0 {
                wrong.push(format!("process {}: {errors} errors, {} lost", log.pid, log.lost));
            }
        }
        println!("\n{:>8}  {:10} {:>14} {:>14}", "pid", "stage", "blocks more", "of the module");
        for Grown { stage, pid, growth } in grown {
            println!("{pid:>8}  {stage:10} {:>14} {:>14}", growth.all, growth.module);
            if growth.module > 0 || growth.all > SLACK {
                growth.places.iter().for_each(|place| println!("{place}"));
                wrong.push(format!("process {pid} has grown by {stage}"));
            }
        }
        let findings = self.logs.iter().flat_map(|log| &log.findings);
        let (module, other): (Vec<_>, Vec<_>) = findings.partition(|finding| finding.module);
        for finding in module.iter().chain(&other) {
            println!("\n{}", finding.text);
        }
        println!("\n{} findings with the module, {} without", module.len(), other.len());
        // A run in which valgrind saw nothing has tested nothing.
        if self.logs.len() <= self.killed.len() || self.logs.iter().all(|l| l.allocations == 0) {
            wrong.push(format!("there is no log in {}", folder.display()));
        }
        if wrong.is_empty() && module.is_empty() && other.is_empty() {
            println!("memcheck: nothing is wrong");
            ExitCode::SUCCESS
        } else {
            wrong.iter().for_each(|w| println!("wrong: {w}"));
            println!("memcheck: failed");
            ExitCode::FAILURE
        }
    }
}
