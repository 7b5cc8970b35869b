//! Load on a beat that records every answer: what failed, and which release answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shunt_tests::client::Connection;
use shunt_tests::load::Sample;

use crate::machine::sleep_until;

/// How many clients there are: half of them keep their connection, the others make a new one for each
/// request.
const CLIENTS: u32 = 8;

/// Clients that ask.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    /// Asks so many times a second. A client whose answer takes longer than that asks less often.
    pub fn start(port: u16, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs(1) * CLIENTS / rate;
        let client = |n: u32| {
            let (stop, keeps) = (stop.clone(), n.is_multiple_of(2));
            std::thread::spawn(move || client(port, keeps, every, every * n / CLIENTS, &stop))
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { stop, threads }
    }

    /// Ends it, and gives what was recorded.
    ///
    /// # Panics
    ///
    /// When nothing was.
    pub fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.threads.into_iter().flat_map(|t| t.join().expect("a client"));
        let samples: Vec<Sample> = all.collect();
        assert!(!samples.is_empty(), "the load has asked nothing");
        samples
    }
}

fn client(
    port: u16,
    keeps: bool,
    every: Duration,
    offset: Duration,
    stop: &AtomicBool,
) -> Vec<Sample> {
    let (mut samples, mut connection) = (Vec::new(), None);
    let mut next = Instant::now() + offset;
    while !stop.load(Ordering::Relaxed) {
        sleep_until(next);
        // As every client does it: what the server has closed meanwhile is not used again.
        connection = connection.filter(Connection::is_open);
        let start = Instant::now();
        let kept = connection.is_some();
        let result = ask(port, keeps, &mut connection);
        if result.is_err() || !keeps {
            connection = None;
        }
        samples.push(Sample { start, end: Instant::now(), kept, result });
        // What could not be asked in time is not asked at once afterwards.
        next = (next + every).max(Instant::now());
    }
    samples
}

fn ask(port: u16, keeps: bool, kept: &mut Option<Connection>) -> Result<String, String> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::tcp(port).map_err(|e| format!("connect: {e}"))?),
    };
    let headers: &[_] = if keeps { &[] } else { &[("Connection", "close")] };
    connection.send("GET", "/products/17", headers, b"").map_err(|e| format!("send: {e}"))?;
    let response = connection.receive().map_err(|e| format!("receive: {e}"))?;
    let closes = response.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
    if closes {
        *kept = None;
    }
    match response.status {
        200 if response.release().is_empty() => Err("an answer of nobody".to_owned()),
        200 => Ok(response.release().to_owned()),
        status => Err(format!("status {status}")),
    }
}
