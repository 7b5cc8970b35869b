//! What grows with what: a switch and a request with the number of upstreams and of releases, the zone,
//! the wait for a drain, a reload.

mod calls;
mod drain;
mod growth;
mod reload;
mod site;
mod zone;

use crate::bench::Bench;

/// The command that makes all of it.
pub const COMMAND: &str = "scripts/bench scale";

/// The curves of a switch over the number of upstreams: without a state file, and with one.
pub const SWITCH_UPSTREAMS: [&str; 2] = ["switch-upstreams", "switch-upstreams-state"];

/// Numbers of upstreams.
const UPSTREAMS: [usize; 4] = [1, 10, 100, 1000];

/// Numbers of releases in an upstream.
const RELEASES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Measures.
pub fn run(bench: &Bench) {
    drain::run(bench);
    growth::of_upstreams(bench);
    growth::of_releases(bench);
    zone::run(bench);
    reload::run(bench);
    calls::run(bench);
}
