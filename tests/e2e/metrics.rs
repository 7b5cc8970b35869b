//! `shunt_metrics`, and the same figures in the API.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::{self, Build};
use shunt_tests::load::Load;
use shunt_tests::metrics::{Backwards, Monotone, Page};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::signal;
use shunt_tests::scenario::nothing_in_flight;
use shunt_tests::until;

fn start(build: &Build) -> (Nginx, [Backend; 2]) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!(
        "upstream web {{ shunt; shunt_fallback on;\n{}{} keepalive 8; }}
         server {{ listen unix:%FOLDER%/metrics.sock; location = /metrics {{ shunt_metrics; }} }}",
        a.lines(),
        b.lines()
    );
    (Nginx::start(build, Setup::standard(&upstream)), [a, b])
}

fn page(nginx: &Nginx) -> Page {
    let response = Admin::new(&nginx.path("metrics.sock")).ask("GET", "/metrics", &[], b"");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    check(&text);
    Page::parse(&text)
}

/// Lets Prometheus' own tool look at a page.
fn check(text: &str) {
    let mut promtool = Command::new(build::promtool());
    promtool.args(["check", "metrics"]);
    promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    // It says nothing of a page that is good.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "promtool says {said:?} to\n{text}");
}

#[track_caller]
fn value(nginx: &Nginx, name: &str, release: &str) -> f64 {
    let release = Some(release).filter(|r| !r.is_empty());
    let found = page(nginx).value(name, release);
    found.unwrap_or_else(|| panic!("there is no {name} of {release:?}"))
}

fn the_figures_are_those_of_the_requests(build: &Build) {
    let (nginx, [a, _b]) = start(build);
    let mut connection = nginx.connect();
    for n in 0..10 {
        let path = if n < 3 { "/missing" } else { "/" };
        connection.ask("GET", path, b"").unwrap();
    }
    nothing_in_flight(&nginx, "web");
    let mut tunnel = nginx.connect();
    tunnel.send("GET", "/ws", &[("Connection", "upgrade"), ("Upgrade", "websocket")], b"").unwrap();
    assert_eq!(tunnel.receive().unwrap().status, 101);
    a.hold();
    let mut slow = nginx.connect();
    slow.send("GET", "/held", &[], b"").unwrap();
    until("the request is held", || (a.held() == 1).then_some(()));
    assert_eq!(value(&nginx, "shunt_requests_total", "a"), 12.0);
    assert_eq!(value(&nginx, "shunt_in_flight_requests", "a"), 1.0);
    assert_eq!(value(&nginx, "shunt_in_flight_upgraded", "a"), 1.0);
    assert_eq!(value(&nginx, "shunt_release_active", "a"), 1.0);
    a.let_go();
    slow.receive().unwrap();
    drop(tunnel);
    let release = nothing_in_flight(&nginx, "web").release("a").unwrap().clone();
    let r = release.responses;
    assert_eq!((r.informational, r.successful, r.client_error, r.server_error), (1, 8, 3, 0));
    // All but the tunnel.
    assert_eq!(release.response_time.count, 11);
    assert_eq!(release.response_time.buckets.last().unwrap().count, 11);
    let counters = page(&nginx).counters();
    let of = |class: &str| {
        counters[&format!(r#"shunt_responses_total{{class="{class}",release="a",upstream="web"}}"#)]
    };
    assert_eq!((of("2xx"), of("4xx")), (8.0, 3.0));

    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(value(&nginx, "shunt_switches_total", ""), 1.0);
    assert_eq!(value(&nginx, "shunt_generation", ""), 2.0);
    let post = Admin::new(&nginx.path("metrics.sock")).ask("POST", "/metrics", &[], b"");
    assert_eq!(post.status, 405);
}

/// What a scraper saw that asks all the time.
#[derive(Default)]
struct Seen {
    pages: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

/// Asks for page after page, over a connection each, until it is told to stop.
fn scrape(socket: &Path, seen: &Seen, stop: &AtomicBool) {
    let (admin, mut monotone) = (Admin::new(socket), Monotone::default());
    while !stop.load(Ordering::Relaxed) {
        // A worker may be killed under it, and one whose zone was given up says so.
        let Ok(response) = admin.try_ask("GET", "/metrics", &[], b"") else { continue };
        let wrong = match response.status {
            200 => {
                let Backwards { less, gone } = monotone.look(&Page::parse(&response.text()));
                seen.pages.fetch_add(1, Ordering::Relaxed);
                [less, gone].concat()
            }
            503 if response.text().contains("reloaded with another zone") => Vec::new(),
            _ => vec![format!("{response:?}")],
        };
        seen.wrong.lock().unwrap().extend(wrong);
    }
}

fn counters_never_go_backwards(build: &Build) {
    let (mut nginx, _backends) = start(build);
    let load = Load::start(nginx.port, 8);
    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    let socket = nginx.path("metrics.sock");
    std::thread::scope(|scope| {
        scope.spawn(|| scrape(&socket, &seen, &stop));
        // Everything goes on until some more pages were seen, and some more requests were counted.
        let goes_on = |nginx: &Nginx, what: &str| {
            let pages = seen.pages.load(Ordering::Relaxed);
            let before = nginx.admin().state("web").release("a").unwrap().requests;
            until(what, || {
                let requests = nginx.admin().state("web").release("a").unwrap().requests;
                let more = seen.pages.load(Ordering::Relaxed) >= pages + 20;
                (more && requests > before + 100).then_some(())
            });
        };
        goes_on(&nginx, "load");
        for _ in 0..2 {
            nginx.reload();
            goes_on(&nginx, "a reload");
        }
        for _ in 0..3 {
            let workers = nginx.workers();
            signal(workers[0], Signal::KILL);
            until("a new worker", || {
                let now = nginx.workers();
                (now.len() == 4 && !now.contains(&workers[0])).then_some(())
            });
            goes_on(&nginx, "a worker's death");
        }
        for size in ["2m", "512k", "1m"] {
            let first = nginx.http().find("shunt_zone shunt:").unwrap();
            let (before, rest) = nginx.http().split_at(first);
            let rest = rest.split_once(' ').unwrap().1.split_once(' ').unwrap().1;
            let http = format!("{before}shunt_zone shunt:{size} {rest}");
            nginx.set_http(&http);
            nginx.reload();
            goes_on(&nginx, "a zone of another size");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(*seen.wrong.lock().unwrap(), [] as [String; 0]);
    assert!(seen.pages.load(Ordering::Relaxed) >= 9 * 20);
    // Requests of killed workers failed, which is not what this is about.
    let _ = load.stop();
}

each_nginx!(the_figures_are_those_of_the_requests, counters_never_go_backwards);
