//! `shunt_metrics`, and the same figures in the API.

use std::collections::BTreeMap;

use prometheus_parse::{Scrape, Value};
use rustix::process::Signal;
use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::Load;
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

/// Every counter, by its name and labels; a histogram's buckets and its count are counters, too.
fn counters(nginx: &Nginx) -> BTreeMap<String, f64> {
    let scrape = scrape(nginx);
    let mut counters = BTreeMap::new();
    for sample in &scrape.samples {
        let labels = &sample.labels;
        let release = format!(
            "{} {:?} {:?} {:?}",
            sample.metric,
            labels.get("upstream"),
            labels.get("release"),
            labels.get("class")
        );
        match &sample.value {
            Value::Counter(value) => {
                counters.insert(release, *value);
            }
            Value::Histogram(buckets) => {
                for bucket in buckets {
                    counters.insert(format!("{release} {}", bucket.less_than), bucket.count);
                }
            }
            Value::Untyped(value) if sample.metric.ends_with("_count") => {
                counters.insert(release, *value);
            }
            _ => {}
        }
    }
    counters
}

fn scrape(nginx: &Nginx) -> Scrape {
    let response = Admin::new(&nginx.path("metrics.sock")).ask("GET", "/metrics", &[], b"");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    assert!(text.ends_with('\n'));
    let scrape = Scrape::parse(text.lines().map(|l| Ok(l.to_owned()))).expect("Prometheus' format");
    // Each line is a series of a family that was announced.
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = |name: &str| text.contains(&format!("# TYPE {name} "));
        assert!(known(name) || base.is_some_and(known), "{line}");
    }
    scrape
}

fn value(nginx: &Nginx, name: &str, release: &str) -> f64 {
    let found = scrape(nginx).samples.into_iter().find(|s| {
        s.metric == name && (release.is_empty() || s.labels.get("release") == Some(release))
    });
    match found.unwrap_or_else(|| panic!("there is no {name} of {release:?}")).value {
        Value::Counter(v) | Value::Gauge(v) | Value::Untyped(v) => v,
        other => panic!("{other:?}"),
    }
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
    let two = counters(&nginx);
    assert_eq!(two[r#"shunt_responses_total Some("web") Some("a") Some("2xx")"#], 8.0);
    assert_eq!(two[r#"shunt_responses_total Some("web") Some("a") Some("4xx")"#], 3.0);

    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(value(&nginx, "shunt_switches_total", ""), 1.0);
    assert_eq!(value(&nginx, "shunt_generation", ""), 2.0);
    let post = Admin::new(&nginx.path("metrics.sock")).ask("POST", "/metrics", &[], b"");
    assert_eq!(post.status, 405);
}

fn counters_never_go_backwards(build: &Build) {
    let (mut nginx, _backends) = start(build);
    let load = Load::start(nginx.port, 16);
    let mut before = counters(&nginx);
    let mut grows = |nginx: &Nginx, what: &str| {
        until(what, || {
            let after = counters(nginx);
            for (name, value) in &before {
                let now = after.get(name).copied().unwrap_or_default();
                assert!(now >= *value, "{what}: {name} was {value} and is {now}");
            }
            let requests =
                |c: &BTreeMap<String, f64>| c[r#"shunt_requests_total Some("web") Some("a") None"#];
            let grown = requests(&after) > requests(&before) + 100.0;
            before = after;
            grown.then_some(())
        });
    };
    grows(&nginx, "load");
    nginx.reload();
    grows(&nginx, "a reload");
    for _ in 0..3 {
        let workers = nginx.workers();
        signal(workers[0], Signal::KILL);
        until("a new worker", || {
            let now = nginx.workers();
            (now.len() == 4 && !now.contains(&workers[0])).then_some(())
        });
        grows(&nginx, "a worker's death");
    }
    let larger = nginx.http().replace("shunt_zone shunt:1m", "shunt_zone shunt:2m");
    nginx.set_http(&larger);
    nginx.reload();
    grows(&nginx, "a zone of another size");
    // Requests of killed workers failed, which is not what this is about.
    let _ = load.stop();
}

each_nginx!(the_figures_are_those_of_the_requests, counters_never_go_backwards);
