//! The proof: asks all the time and records every answer.
//!
//! Requests start on a fixed beat, whatever became of those before, so that a stall is seen as many
//! late answers and not as few. Half of them have a connection of their own; the others take turns
//! on connections that are kept open.

mod ask;
mod tally;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

pub use tally::{Failure, Noticed, Verdict, Way};

use ask::Pool;
use tally::{Sample, Tally};

use crate::clock::Span;
use crate::url::Url;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

impl Target {
    /// Reads a URL and looks its host up.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub async fn parse(url: &str) -> Result<Self, String> {
        let url = Url::parse(url)?;
        let found = url.resolve().await?.into_iter().next();
        let address = found.ok_or_else(|| format!("{} has no address", url.host))?;
        Ok(Self { address, host: url.host, path: url.path })
    }
}

/// How it is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// What.
    pub target: Target,
    /// A path to POST to.
    pub post: Option<String>,
    /// A path with a WebSocket that echoes.
    pub websocket: Option<String>,
    /// How long one is kept open; then it is closed in order, and the next one opened.
    pub websocket_time: Duration,
    /// Requests a second.
    pub rate: u32,
    /// How many requests; without an end if left out. Messages over the WebSocket do not count.
    pub count: Option<u64>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The header that names the release.
    pub header: String,
}

/// Watches until `stop` or until enough was asked, then waits for what is still open.
pub async fn run(
    options: Options,
    stop: impl Future<Output = ()>,
    mut show: impl FnMut(&Noticed),
) -> Verdict {
    let (send, mut receive) = mpsc::unbounded_channel();
    let began = Instant::now();
    let (end, ended) = watch::channel(false);
    let mut beat = tokio::spawn(beat(options, send, ended));
    tokio::pin!(stop);
    let mut tally = Tally::new(began);
    loop {
        tokio::select! {
            () = &mut stop, if !*end.borrow() => {
                end.send_replace(true);
            }
            _ = &mut beat, if !*end.borrow() => {
                end.send_replace(true);
            }
            sample = receive.recv() => match sample {
                Some(sample) => tally.add(sample, &mut show),
                None => break,
            },
        }
    }
    // The channel is closed, so whoever sent has ended.
    tally.verdict()
}

/// Starts requests on the beat until the end is told, then lets go of the channel.
async fn beat(
    options: Options,
    send: mpsc::UnboundedSender<Sample>,
    mut ended: watch::Receiver<bool>,
) {
    let options = Arc::new(options);
    let kept: Arc<Pool> = Arc::default();
    if let Some(path) = options.websocket.clone() {
        tokio::spawn(websocket::keep(options.clone(), path, send.clone(), ended.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / options.rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for n in 0..options.count.unwrap_or(u64::MAX) {
        tokio::select! {
            () = over(&mut ended) => return,
            _ = ticks.tick() => {}
        }
        let (options, kept, send) = (options.clone(), kept.clone(), send.clone());
        tokio::spawn(async move {
            // Each way over both kinds of connections.
            let post = options.post.as_deref().filter(|_| n % 4 >= 2);
            let pool = (n % 2 == 1).then_some(&*kept);
            let way = if post.is_some() { Way::Post } else { Way::Get };
            let start = Instant::now();
            let ask = ask::ask(&options, post, pool);
            let result = match tokio::time::timeout(options.timeout, ask).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {}", Span(options.timeout))),
            };
            // Nobody listens any more only when the whole watch is over.
            let _ = send.send(Sample::new(way, start, result));
        });
    }
}

/// Waits until the watch is over.
async fn over(ended: &mut watch::Receiver<bool>) {
    // A closed channel says the same.
    let _ = ended.wait_for(|ended| *ended).await;
}
