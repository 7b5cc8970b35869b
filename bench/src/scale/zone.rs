//! How large a zone has to be, as NGINX itself says it when one is too small.

use super::site::Size;
use super::{COMMAND, RELEASES, UPSTREAMS};
use crate::bench::Bench;
use crate::results::{Curves, Figures};
use crate::stats::slope;

/// The smallest zone that there is, in KiB.
const SMALLEST: f64 = 32.0;

/// Upstreams, each of which has the releases that are counted.
const MANY: usize = 100;

/// Measures.
pub fn run(bench: &Bench) {
    let title = "The smallest zone, with one worker";
    let y = "KiB";
    let (name, x) = ("zone-upstreams", "upstreams, two releases each");
    let mut upstreams = Curves { name, title, x, y, lines: Vec::new() };
    for n in UPSTREAMS {
        upstreams.add("zone", n as f64, needed(bench, n, 2));
    }
    upstreams.finish(COMMAND, &bench.folder);
    let (name, x) = ("zone-releases", "releases in each of 100 upstreams");
    let mut releases = Curves { name, title, x, y, lines: Vec::new() };
    for n in RELEASES {
        releases.add("zone", n as f64, needed(bench, MANY, n));
    }
    releases.finish(COMMAND, &bench.folder);

    let mut figures = Figures::made_by(super::COMMAND, "zone");
    let bytes = |curves: &Curves, of: usize| {
        slope(&curves.lines[0].medians()).expect("several sizes") * 1024.0 / of as f64
    };
    let case = "memory of the zone, in bytes";
    figures.add(case, "an upstream with two releases", "bytes", bytes(&upstreams, 1));
    figures.add(case, "each further release", "bytes", bytes(&releases, MANY));
    figures.finish(&bench.folder);
}

/// The smallest zone for this, in KiB.
fn needed(bench: &Bench, upstreams: usize, releases: usize) -> f64 {
    let size = Size { upstreams, releases, address: "127.0.0.1:1", zone: Some("32k") };
    let (good, said) = size.prepare(bench, 1).test();
    if good {
        return SMALLEST;
    }
    would_do(&said).unwrap_or_else(|| panic!("{upstreams} upstreams: {said}"))
}

/// The size in NGINX's advice.
fn would_do(said: &str) -> Option<f64> {
    let (size, _) = said.split_once("\"shunt_zone shunt:")?.1.split_once("k\" would do")?;
    size.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_read() {
        let said = "[emerg] 1#1: upstreams do not fit into zone \"shunt\": the zone is full, it has \
                    room for 8 upstreams; \"shunt_zone shunt:480k\" would do in nginx.conf:4";
        assert_eq!(would_do(said), Some(480.0));
        assert_eq!(would_do("[emerg] 1#1: unknown directive"), None);
    }
}
