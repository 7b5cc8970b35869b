//! Load that records every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Connection;

/// An answer, or its lack.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When the request was sent.
    pub start: Instant,
    /// When the answer was there.
    pub end: Instant,
    /// Whether it went over a connection that was there before.
    pub kept: bool,
    /// The release, or what went wrong.
    pub result: Result<String, String>,
}

/// How long a client that makes a new connection for each request pauses after it.
///
/// Not for the server's sake: the kernel remembers every connection for minutes, and a table that is
/// full (`nf_conntrack` where Docker is installed) drops the next one.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients that ask as fast as they can.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

/// A switch, as its client saw it.
#[derive(Debug, Clone)]
pub struct Switch {
    /// When it was sent.
    pub sent: Instant,
    /// When the reply was there.
    pub replied: Instant,
    /// To which release.
    pub release: String,
}

impl Load {
    /// Starts so many clients: half of them keep their connection, the others make a new one for
    /// each request. Every fourth request is a `POST`.
    #[must_use]
    pub fn start(port: u16, clients: usize) -> Self {
        Self::start_with(port, clients, true)
    }

    /// Starts so many clients that only send what may be sent twice.
    #[must_use]
    pub fn start_idempotent(port: u16, clients: usize) -> Self {
        Self::start_with(port, clients, false)
    }

    fn start_with(port: u16, clients: usize, posts: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..clients).map(|n| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut samples, mut kept) = (Vec::new(), None);
                let mut i = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    i += 1;
                    let start = Instant::now();
                    let was_kept = kept.is_some();
                    let post = posts && i.is_multiple_of(4);
                    let result = ask(port, n, i, post, &mut kept);
                    samples.push(Sample { start, end: Instant::now(), kept: was_kept, result });
                    if samples.last().is_some_and(|s| s.result.is_err()) || n % 2 == 1 {
                        kept = None;
                        std::thread::sleep(PAUSE);
                    }
                }
                samples
            })
        });
        Self { threads: threads.collect(), stop }
    }

    /// Ends it and gives what was recorded.
    ///
    /// # Panics
    ///
    /// When a client has panicked.
    #[must_use]
    pub fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |t: JoinHandle<Vec<Sample>>| t.join().expect("a client");
        self.threads.into_iter().flat_map(join).collect()
    }
}

fn ask(
    port: u16,
    n: usize,
    i: u64,
    post: bool,
    kept: &mut Option<Connection>,
) -> Result<String, String> {
    if kept.is_none() {
        *kept = Some(Connection::tcp(port).map_err(|e| format!("connect: {e}"))?);
    }
    let Some(connection) = kept else { return Err("no connection".to_owned()) };
    let target = format!("/{n}/{i}");
    let headers: &[_] = if n % 2 == 1 { &[("Connection", "close")] } else { &[] };
    let (method, body): (_, &[u8]) = if post { ("POST", b"a body") } else { ("GET", b"") };
    connection.send(method, &target, headers, body).map_err(|e| format!("send: {e}"))?;
    let response = connection.receive().map_err(|e| format!("receive: {e}"))?;
    if response.status != 200 {
        return Err(format!("status {}", response.status));
    }
    if !body.is_empty() && response.body != body {
        return Err("another body came back".to_owned());
    }
    Ok(response.release().to_owned())
}

/// The failures of a load.
#[must_use]
pub fn failures(samples: &[Sample]) -> Vec<&String> {
    samples.iter().filter_map(|s| s.result.as_ref().err()).collect()
}

/// The answers that came from a release which no longer was the active one when the request began
/// (P1): neither that of the last switch replied to before, nor that of a switch under way since.
#[must_use]
pub fn late_answers(samples: &[Sample], first: &str, switches: &[Switch]) -> Vec<Sample> {
    let late = |sample: &&Sample| {
        let Ok(release) = &sample.result else { return false };
        let known = switches.partition_point(|s| s.replied <= sample.start);
        let active = if known == 0 { first } else { &switches[known - 1].release };
        let since = switches[known..].iter().take_while(|s| s.sent <= sample.end);
        active != release && !since.map(|s| &s.release).any(|r| r == release)
    };
    samples.iter().filter(late).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_old_release_after_the_reply_is_late() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let switches = [Switch { sent: at(10), replied: at(20), release: "new".to_owned() }];
        let sample = |start, end, release: &str| Sample {
            start: at(start),
            end: at(end),
            kept: true,
            result: Ok(release.to_owned()),
        };
        let cases = [
            (sample(0, 5, "old"), 0),
            (sample(0, 5, "new"), 1),
            (sample(15, 30, "old"), 0),
            (sample(15, 30, "new"), 0),
            (sample(20, 30, "old"), 1),
            (sample(20, 30, "new"), 0),
        ];
        for (sample, late) in cases {
            assert_eq!(
                late_answers(std::slice::from_ref(&sample), "old", &switches).len(),
                late,
                "{sample:?}"
            );
        }
    }
}
