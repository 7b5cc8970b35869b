//! Flips while long WebSockets are open.

use shunt_tests::client::Connection;

use crate::bench::{Bench, Running};
use crate::flips::{Flipped, add_footprints, footprint, paced};
use crate::results::Figures;

/// How many are open.
const STREAMS: usize = 200;

/// Flips, and how many of them in a second.
const FLIPS: usize = 200;
const PACE: f64 = 20.0;

/// The case.
pub const CASE: &str = "200 flips, 20 a second, 200 WebSockets open";

const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Measures.
pub fn run(bench: &Bench) {
    let mut figures = Figures::new("websockets");
    let applications = bench.applications();
    let setup = bench.setup(&applications);
    for kind in bench.flipping() {
        let mut one = Running::start(kind, &setup);
        measure(&mut one, &mut figures);
    }
    figures.finish(&bench.folder);
}

fn measure(one: &mut Running, figures: &mut Figures) {
    let case = CASE;
    let name = one.kind.name();
    let mut streams: Vec<Connection> = (0..STREAMS).map(|_| open(one)).collect();
    assert!(streams.iter_mut().all(echoes), "{name}: a WebSocket does not echo");
    let before = footprint(one);
    let Flipped { measured, flips, .. } = paced(one, FLIPS, PACE);
    let after = footprint(one);
    let broken = streams.iter_mut().filter_map(|stream| (!echoes(stream)).then_some(())).count();
    figures.add(case, name, "flips", flips as f64);
    figures.add(case, name, "broken WebSockets", broken as f64);
    figures.add(case, name, "failed requests", measured.failures);
    figures.add(case, name, "requests/s", measured.rate());
    figures.add(case, name, "p99, ms", measured.p99);
    add_footprints(figures, case, name, [before, after]);
}

fn open(one: &Running) -> Connection {
    let opened = Connection::tcp(one.proxy.port()).and_then(|mut connection| {
        connection.send("GET", "/ws", &UPGRADE, b"")?;
        let answer = connection.receive()?;
        assert_eq!(answer.status, 101, "{}: {answer:?}", one.kind.name());
        Ok(connection)
    });
    opened.unwrap_or_else(|e| panic!("{}: a WebSocket: {e}", one.kind.name()))
}

/// Whether what is sent comes back.
fn echoes(stream: &mut Connection) -> bool {
    stream.raw(b"still there?").is_ok() && stream.read(12).is_ok_and(|b| b == b"still there?")
}
