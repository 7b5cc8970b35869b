//! How long after the last request has ended the API says that a release has drained.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use shunt_api::Upstream;
use shunt_tests::client::Connection;
use shunt_tests::nginx::Nginx;
use shunt_tests::until;

use super::COMMAND;
use super::site::{Size, WITHOUT};
use crate::application::Application;
use crate::bench::Bench;
use crate::http;
use crate::results::Curves;

/// Requests in flight.
const CONNECTIONS: [usize; 4] = [10, 100, 1000, 10_000];

/// Files that NGINX and this process need beside them.
const OTHERS: u64 = 200;

/// Files that it may have more at the end than at the begin: connections to the API.
const OWN_FILES: usize = 8;

/// Connections of a worker: to the client, and to the application.
const EACH: usize = 20_000;

/// Measures.
pub fn run(bench: &Bench) {
    let application = Application::start(&bench.build, "a");
    let address = application.address();
    // The first one is answered at once.
    let first = Connection::tcp(application.port()).and_then(|mut c| c.ask("GET", "/long", b""));
    assert_eq!(first.expect("an answer").status, 200);
    let title = "Requests in flight at a release that was switched away from";
    let (x, y) = ("requests in flight", "ms");
    let mut curves = Curves { name: "drain", title, x, y, lines: Vec::new() };
    for connections in CONNECTIONS {
        if bench.files < connections as u64 + OTHERS {
            println!(
                "left out: {connections} connections; a process may have {} files",
                bench.files
            );
            continue;
        }
        measure(bench, &address, connections, &mut curves);
    }
    curves.finish(COMMAND, &bench.folder);
}

fn measure(bench: &Bench, address: &str, connections: usize, curves: &mut Curves) {
    let size = Size { upstreams: 1, releases: 2, address, zone: Some(WITHOUT) };
    // Each has half of the connections, as each connection is two files.
    let mut nginx = size.prepare(bench, 2);
    nginx.set_connections(EACH);
    bench.cores.as_proxy(|| nginx.run());
    let before = files(&nginx);
    let streams: Vec<TcpStream> = (0..connections).map(|_| begin(nginx.port)).collect();
    until("all are in flight", || {
        let in_flight = nginx.admin().in_flight("u0", "r0").requests;
        (in_flight == connections as u64).then_some(())
    });

    let x = connections as f64;
    let began = Instant::now();
    let body = br#"{"release":"r1"}"#;
    let socket = nginx.path("api.sock");
    http::change(&socket, "POST", "/v1/upstreams/u0/switch", &[], body).expect("a switch");
    curves.add("the switch", x, began.elapsed().as_secs_f64() * 1e3);

    let admin = nginx.admin();
    let wait = std::thread::spawn(move || {
        let target = "/v1/upstreams/u0?wait=drained&release=r0&timeout=60s";
        (admin.ask("GET", target, &[], b""), Instant::now())
    });
    drop(streams);
    let closed = Instant::now();
    // NGINX has to close them, too, at both ends. That is seen from outside, without asking it.
    until("NGINX has closed them", || (files(&nginx) <= before + OWN_FILES).then_some(()));
    let gone = Instant::now();
    let (answer, told) = wait.join().expect("an answer");
    let state: Upstream = serde_json::from_slice(&answer.body).expect("an upstream");
    let left = state.release("r0").map(|release| release.in_flight.requests);
    assert_eq!((answer.status, left), (200, Some(0)), "it has drained");
    let ms = |at: Instant| at.saturating_duration_since(closed).as_secs_f64() * 1e3;
    curves.add("NGINX has closed them, after the last client has gone", x, ms(gone));
    curves.add("the API says that it is drained, after the same", x, ms(told));
}

/// How many files the workers have open.
fn files(nginx: &Nginx) -> usize {
    let of = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    nginx.workers().iter().map(of).sum()
}

/// A request that is not answered while all this lasts.
fn begin(port: u16) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(b"GET /long HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    stream
}
