//! How long a reload takes, with the module and without it.

use std::time::Instant;

use super::site::{Size, WITH, WITHOUT};
use super::{COMMAND, UPSTREAMS};
use crate::application::Application;
use crate::bench::Bench;
use crate::results::Curves;

const ROUNDS: usize = 5;

/// Measures.
pub fn run(bench: &Bench) {
    let application = Application::start(&bench.build, "a");
    let address = application.address();
    let title = "Time of a reload, until the new worker runs";
    let (x, y) = ("upstreams", "ms");
    let mut curves = Curves { name: "reload-upstreams", title, x, y, lines: Vec::new() };
    let kinds = [("plain", None), ("Shunt", Some(WITHOUT)), ("Shunt, state file", Some(WITH))];
    for upstreams in UPSTREAMS {
        let all = kinds.map(|(name, zone)| {
            (name, Size { upstreams, releases: 2, address: &address, zone }.start(bench))
        });
        for _ in 0..ROUNDS {
            for (name, nginx) in &all {
                let began = Instant::now();
                nginx.reload();
                curves.add(name, upstreams as f64, began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    curves.finish(COMMAND, &bench.folder);
}
