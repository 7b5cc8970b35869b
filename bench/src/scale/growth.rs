//! A switch and a request beside the number of upstreams, or of releases.

use std::time::{Duration, Instant};

use shunt_tests::nginx::Nginx;

use super::site::{Size, WITH, WITHOUT};
use super::{COMMAND, RELEASES, SWITCH_UPSTREAMS, UPSTREAMS};
use crate::application::Application;
use crate::bench::Bench;
use crate::machine::ProcessorTime;
use crate::results::Curves;
use crate::stats::percentile;
use crate::wrk::Wrk;

/// Rounds, in each of which all sizes take turns.
const ROUNDS: usize = 3;

/// Switches in a round.
const SWITCHES: usize = 100;

/// How long there is load in a round.
const TIME: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 16;

/// A size that runs, with a state file and without.
struct Site {
    x: usize,
    with: Switching,
    without: Switching,
}

/// NGINX, and which release is active in each upstream.
struct Switching {
    nginx: Nginx,
    active: Vec<usize>,
    releases: usize,
}

/// Against the number of upstreams.
pub fn of_upstreams(bench: &Bench) {
    let sizes = UPSTREAMS.map(|n| (n, n, 2));
    measure(
        bench,
        &sizes,
        "upstreams",
        [SWITCH_UPSTREAMS[0], SWITCH_UPSTREAMS[1], "request-upstreams"],
    );
}

/// Against the number of releases.
pub fn of_releases(bench: &Bench) {
    let sizes = RELEASES.map(|n| (n, 1, n));
    measure(
        bench,
        &sizes,
        "releases",
        ["switch-releases", "switch-releases-state", "request-releases"],
    );
}

fn measure(
    bench: &Bench,
    sizes: &[(usize, usize, usize)],
    x: &'static str,
    [switch, state, request]: [&'static str; 3],
) {
    let application = Application::start(&bench.build, "a");
    let address = application.address();
    let start = |upstreams, releases, state| Switching {
        nginx: Size { upstreams, releases, address: &address, zone: Some(state) }.start(bench),
        active: vec![0; upstreams],
        releases,
    };
    let site = |&(x, upstreams, releases): &(usize, usize, usize)| Site {
        x,
        with: start(upstreams, releases, WITH),
        without: start(upstreams, releases, WITHOUT),
    };
    let mut sites: Vec<Site> = sizes.iter().map(site).collect();
    let (title, y) =
        ("Time of a switch, reply included, without a state file", "ms, median of 100");
    let mut switches = Curves { name: switch, title, x, y, lines: Vec::new() };
    let title = "Time of a switch, reply included, with a state file";
    let mut written = Curves { name: state, title, x, y, lines: Vec::new() };
    let (title, y) = ("Processor time of a proxied request", "µs");
    let mut requests = Curves { name: request, title, x, y, lines: Vec::new() };
    for _ in 0..ROUNDS {
        for site in &mut sites {
            let x = site.x as f64;
            // With one release there is nothing to switch to.
            if site.with.releases > 1 {
                written.add("a switch", x, switch_time(&mut site.with));
                switches.add("a switch", x, switch_time(&mut site.without));
            }
            requests.add("a request", x, request_time(&site.without.nginx));
        }
    }
    switches.finish(COMMAND, &bench.folder);
    written.finish(COMMAND, &bench.folder);
    requests.finish(COMMAND, &bench.folder);
}

/// The median of some switches, in milliseconds, each of another upstream if there are several.
fn switch_time(site: &mut Switching) -> f64 {
    let admin = site.nginx.admin();
    let mut time = |n: usize| {
        let upstream = n * 7 % site.active.len();
        let release = (site.active[upstream] + 1) % site.releases;
        let (upstream_name, name) = (format!("u{upstream}"), format!("r{release}"));
        let began = Instant::now();
        let reply = admin.switch(&upstream_name, &name, None).expect("a switch");
        let took = began.elapsed().as_secs_f64() * 1e3;
        assert!(reply.from.is_some_and(|from| from.as_str() != name), "it was active before");
        site.active[upstream] = release;
        took
    };
    let times: Vec<f64> = (0..SWITCHES).map(&mut time).collect();
    percentile(&times, 0.5).expect("switches")
}

/// The processor time of a request, in microseconds.
fn request_time(nginx: &Nginx) -> f64 {
    let pids = nginx.workers();
    let before = ProcessorTime::of(&pids);
    let measured = Wrk::start(nginx.port, CONNECTIONS, TIME).wait();
    assert_eq!(measured.failures, 0.0, "a failure without a cause");
    ProcessorTime::of(&pids).since(&before).as_secs_f64() * 1e6 / measured.requests
}
