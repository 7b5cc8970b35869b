//! Clients that ask all the time, and judge every answer at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shunt_tests::admin::Admin;
use shunt_tests::client::{Connection, Response};
use shunt_tests::metrics::{Monotone, Page};

use crate::timeline::{Places, Timeline};

/// How long a client pauses after each request: it is the order of things that is to be tried here,
/// not how many there can be.
const PAUSE: Duration = Duration::from_millis(5);

/// So many failures are kept as texts.
const EXAMPLES: usize = 20;

/// What clients have seen.
#[derive(Default)]
pub struct Tally {
    pub active: AtomicU64,
    pub preview: AtomicU64,
    pub canary: AtomicU64,
    pub fallback: AtomicU64,
    pub tunnels: AtomicU64,
    pub pages: AtomicU64,
    /// What had to break: a worker was killed under it.
    pub killed: AtomicU64,
    /// Tunnels to a release whose processes were killed.
    pub cut: AtomicU64,
    /// Connections that a worker which ends has closed while nobody used them, and that a request met.
    pub closed: AtomicU64,
    /// What should not be.
    pub failures: AtomicU64,
    pub examples: Mutex<Vec<String>>,
}

impl Tally {
    /// Something went wrong.
    pub fn fail(&self, what: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().expect("nobody panics while it is locked");
        if examples.len() < EXAMPLES {
            examples.push(what);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Everything that a client needs.
#[derive(Clone)]
pub struct Desk {
    pub port: u16,
    pub metrics: Admin,
    pub timeline: Arc<Timeline>,
    pub tally: Arc<Tally>,
    pub stop: Arc<AtomicBool>,
}

impl Desk {
    /// Starts so many clients of each kind, and one that reads the metrics.
    pub fn start(&self, clients: usize) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        for n in 0..clients {
            for kind in [Client::kept, Client::new_each, Client::tunnel] {
                let mut client = Client { desk: self.clone(), n, connection: None };
                threads.push(std::thread::spawn(move || {
                    let mut i = 0;
                    while !client.desk.stop.load(Ordering::Relaxed) {
                        i += 1;
                        kind(&mut client, i);
                        std::thread::sleep(PAUSE);
                    }
                }));
            }
        }
        let desk = self.clone();
        threads.push(std::thread::spawn(move || desk.scrape()));
        threads
    }

    /// Reads the metrics all the time: no counter may go backwards.
    fn scrape(&self) {
        let mut monotone = Monotone::default();
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
            let start = Instant::now();
            match self.metrics.try_ask("GET", "/metrics", &[], b"") {
                Ok(response) if response.status == 200 => {
                    count(&self.tally.pages);
                    // A release's may be gone with it.
                    for less in monotone.look(&Page::parse(&response.text())).less {
                        self.tally.fail(format!("a counter went backwards: {less}"));
                    }
                }
                // An old worker, whose zone was given up.
                Ok(response) if response.status == 503 && response.text().contains("reloaded") => {}
                Ok(response) => self.tally.fail(format!("metrics: {response:?}")),
                Err(_) if self.timeline.was_killed(None, start) => count(&self.tally.killed),
                Err(error) => self.tally.fail(format!("metrics: {error}")),
            }
        }
    }
}

/// A connection, and what is known of it.
struct Kept {
    connection: Connection,
    opened: Instant,
    /// The worker that has it, once that has answered.
    worker: Option<u32>,
}

struct Client {
    desk: Desk,
    n: usize,
    connection: Option<Kept>,
}

impl Client {
    /// Asks over a connection that it keeps.
    fn kept(&mut self, i: u64) {
        self.ask(i, false);
    }

    /// Asks over a connection of its own.
    fn new_each(&mut self, i: u64) {
        self.ask(i, true);
        self.connection = None;
    }

    fn connect(&mut self) -> Option<Kept> {
        if let Some(kept) = self.connection.take() {
            return Some(kept);
        }
        let opened = Instant::now();
        match Connection::tcp(self.desk.port) {
            Ok(connection) => Some(Kept { connection, opened, worker: None }),
            Err(error) => {
                self.desk.tally.fail(format!("connect: {error}"));
                None
            }
        }
    }

    fn ask(&mut self, i: u64, close: bool) {
        let Some(mut kept) = self.connect() else { return };
        let (key, body) = (format!("client {}", self.n), format!("body {i} of {}", self.n));
        let mut headers = vec![("X-Key", key.as_str())];
        if close {
            headers.push(("Connection", "close"));
        }
        let (method, body): (_, &[u8]) =
            if i.is_multiple_of(3) { ("POST", body.as_bytes()) } else { ("GET", b"") };
        let start = Instant::now();
        let result = kept.connection.send(method, &format!("/{}/{i}", self.n), &headers, body);
        match result.and_then(|()| kept.connection.receive()) {
            Ok(response) => {
                self.judge(&response, start, body);
                kept.worker = response.header("x-worker").and_then(|pid| pid.parse().ok());
                let closes = response.header("connection") == Some("close");
                if response.status == 200 && !closes {
                    self.connection = Some(kept);
                }
            }
            Err(error) => self.broken(&kept, &format!("{method}: {error}")),
        }
    }

    /// Judges an answer.
    fn judge(&self, response: &Response, start: Instant, body: &[u8]) {
        let (end, tally) = (Instant::now(), &self.desk.tally);
        let fail = |what: &str| tally.fail(format!("{what}: {response:?}"));
        if response.status != 200 {
            return fail("status");
        }
        let release = response.release();
        let expected = if body.is_empty() { release.as_bytes() } else { body };
        if response.body != expected {
            return fail("another body came back");
        }
        let reason = response.header("x-reason").unwrap_or_default();
        let was = |so: fn(&Places, &str) -> bool| {
            self.desk.timeline.was(start, end, |places| so(places, release))
        };
        let (counter, right) = match reason {
            "active" => (&tally.active, was(|places, release| places.active == release)),
            "canary" => {
                (&tally.canary, was(|places, release| places.canary.as_deref() == Some(release)))
            }
            "fallback" => {
                let may = |places: &Places, release: &str| {
                    places.active == release || places.previous.as_deref() == Some(release)
                };
                (&tally.fallback, was(may))
            }
            _ => return fail("another reason"),
        };
        if right { count(counter) } else { fail("P1: another release") }
    }

    /// Why a connection broke.
    fn broken(&self, kept: &Kept, what: &str) {
        let Desk { timeline, tally, .. } = &self.desk;
        if timeline.was_killed(kept.worker, kept.opened) {
            count(&tally.killed);
        } else if timeline.has_ended(kept.worker) {
            count(&tally.closed);
        } else {
            let (worker, age) = (kept.worker, kept.opened.elapsed());
            tally
                .fail(format!("{what}, of worker {worker:?}, of a connection that is {age:?} old"));
        }
    }

    /// Opens a tunnel, sends something through it now and then, and closes it.
    fn tunnel(&mut self, i: u64) {
        let Some(mut kept) = self.connect() else { return };
        let headers = [("Connection", "upgrade"), ("Upgrade", "websocket")];
        let start = Instant::now();
        let opened = kept
            .connection
            .send("GET", "/ws", &headers, b"")
            .and_then(|()| kept.connection.receive());
        let release = match opened {
            Ok(response) if response.status == 101 => {
                kept.worker = response.header("x-worker").and_then(|pid| pid.parse().ok());
                response.release().to_owned()
            }
            Ok(response) => return self.desk.tally.fail(format!("tunnel: {response:?}")),
            Err(error) => return self.broken(&kept, &format!("tunnel: {error}")),
        };
        // Across a switch or two, but not for ever: a release is not drained as long as it lasts.
        for n in 0..10 + i % 20 {
            let bytes = format!("{n:08}");
            let echo = kept.connection.raw(bytes.as_bytes()).and_then(|()| kept.connection.read(8));
            match echo {
                Ok(echo) if echo == bytes.as_bytes() => {}
                Ok(echo) => return self.desk.tally.fail(format!("{echo:?} came back")),
                Err(_) if self.desk.timeline.is_dead(&release) => {
                    return count(&self.desk.tally.cut);
                }
                Err(error) => {
                    let after = start.elapsed();
                    let what = format!("tunnel to {release} after {after:?}: {error}");
                    return self.broken(&kept, &what);
                }
            }
            std::thread::sleep(PAUSE);
        }
        count(&self.desk.tally.tunnels);
    }
}
