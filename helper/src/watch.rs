//! The proof: asks all the time and records every answer.
//!
//! Requests start on a fixed beat, whatever became of those before, so that a stall is seen as many
//! late answers and not as few. Half of them have a connection of their own; the others take turns
//! on connections that are kept open.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::tungstenite::Message;

/// How often the WebSocket sends something.
const ECHO: Duration = Duration::from_millis(50);

/// How many failures are listed in the verdict.
const LISTED: usize = 20;

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
        let uri: http::Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{url:?}: only http:// can be watched"));
        }
        let host = uri.authority().ok_or_else(|| format!("{url:?} has no host"))?;
        let name = host.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = host.port_u16().unwrap_or(80);
        let mut found = tokio::net::lookup_host((name.as_str(), port))
            .await
            .map_err(|e| format!("{host}: {e}"))?;
        let address = found.next().ok_or_else(|| format!("{host} has no address"))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { address, host: host.to_string(), path })
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
    /// How long an answer may take.
    pub timeout: Duration,
    /// The header that names the release.
    pub header: String,
}

/// How something was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// GET.
    Get,
    /// POST.
    Post,
    /// A message over the WebSocket.
    Websocket,
}

/// One answer, or none.
#[derive(Debug)]
struct Sample {
    way: Way,
    start: Instant,
    end: Instant,
    result: Result<Option<String>, String>,
}

/// Something worth a line while it goes on.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Noticed {
    /// Another release answers.
    Release {
        /// Seconds since the start.
        at: f64,
        /// Which.
        release: String,
    },
    /// A request has failed.
    Failure(Failure),
}

/// A request that has failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Seconds since the start.
    pub at: f64,
    /// How it was asked.
    pub way: Way,
    /// Why.
    pub why: String,
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { at, release } => write!(f, "{at:9.3} s  release \"{release}\""),
            Self::Failure(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = format!("{:?}", self.way).to_uppercase();
        write!(f, "{:9.3} s  FAILED {way}: {}", self.at, self.why)
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// How long it went on, in seconds.
    pub seconds: f64,
    /// Requests, and messages over the WebSocket.
    pub requests: u64,
    /// Of these, over the WebSocket.
    pub messages: u64,
    /// Those that failed.
    pub failures: u64,
    /// The first of them.
    pub first_failures: Vec<Failure>,
    /// The longest time without any good answer, in milliseconds.
    pub longest_gap: f64,
    /// Latency in milliseconds: 50, 90, 99 and 100 percent were faster.
    pub latency: [f64; 4],
    /// Answers by release.
    pub releases: BTreeMap<String, u64>,
}

impl Verdict {
    /// Whether something was asked and nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.requests > 0 && self.failures == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let releases: Vec<_> = self.releases.iter().map(|(r, n)| format!("{r}: {n}")).collect();
        let [p50, p90, p99, max] = self.latency;
        writeln!(f, "requests     {} in {:.1} s", self.requests, self.seconds)?;
        writeln!(f, "by release   {}", releases.join(", "))?;
        writeln!(f, "longest gap  {:.1} ms", self.longest_gap)?;
        writeln!(
            f,
            "latency      p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
        )?;
        writeln!(f, "failures     {}", self.failures)?;
        if self.failures > self.first_failures.len() as u64 {
            writeln!(f, "             the first {} are above", self.first_failures.len())?;
        }
        Ok(())
    }
}

/// Watches until `stop`, then waits for what is still open.
pub async fn run(
    options: Options,
    stop: impl Future<Output = ()>,
    mut show: impl FnMut(&Noticed),
) -> Verdict {
    let (send, mut receive) = mpsc::unbounded_channel();
    let began = Instant::now();
    let (end, ended) = tokio::sync::watch::channel(false);
    let beat = tokio::spawn(beat(options, send, ended));
    tokio::pin!(stop);
    let mut tally = Tally::new(began);
    loop {
        tokio::select! {
            () = &mut stop, if !*end.borrow() => {
                end.send_replace(true);
            }
            sample = receive.recv() => match sample {
                Some(sample) => tally.add(sample, &mut show),
                None => break,
            },
        }
    }
    // The channel is closed, so whoever sent has ended.
    let _ = beat.await;
    tally.verdict()
}

/// Starts requests on the beat until the end is told, then lets go of the channel.
async fn beat(
    options: Options,
    send: mpsc::UnboundedSender<Sample>,
    mut ended: tokio::sync::watch::Receiver<bool>,
) {
    let options = Arc::new(options);
    let kept: Arc<Mutex<VecDeque<Kept>>> = Arc::default();
    if let Some(path) = options.websocket.clone() {
        tokio::spawn(websockets(options.clone(), path, send.clone(), ended.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / options.rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for n in 0u64.. {
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
            let ask = ask(&options, post, pool);
            let result = match tokio::time::timeout(options.timeout, ask).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {:?}", options.timeout)),
            };
            // Nobody listens any more only when the whole watch is over.
            let _ = send.send(Sample { way, start, end: Instant::now(), result });
        });
    }
}

/// Waits until the watch is over.
async fn over(ended: &mut tokio::sync::watch::Receiver<bool>) {
    // A closed channel says the same.
    let _ = ended.wait_for(|ended| *ended).await;
}

/// A connection that is kept open.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
}

async fn ask(
    options: &Options,
    post: Option<&str>,
    pool: Option<&Mutex<VecDeque<Kept>>>,
) -> Result<Option<String>, String> {
    let request = || {
        let target = &options.target;
        let builder = match post {
            Some(path) => Request::post(path),
            None => Request::get(&target.path),
        };
        let connection = if pool.is_some() { "keep-alive" } else { "close" };
        builder
            .header(header::HOST, &target.host)
            .header(header::USER_AGENT, "shunt-watch")
            .header(header::CONNECTION, connection)
            .body(Full::new(Bytes::from_static(if post.is_some() { b"shunt" } else { b"" })))
            .map_err(|e| e.to_string())
    };
    if let Some(pool) = pool {
        loop {
            let Some(mut kept) = pool.lock().await.pop_front() else { break };
            // One that the server has closed while it was idle is no failure (RFC 9112, section
            // 9.3.1): nothing was asked on it.
            if kept.sender.ready().await.is_err() {
                continue;
            }
            match kept.sender.try_send_request(request()?).await {
                Ok(response) => {
                    let answer = read(response, &options.header).await;
                    pool.lock().await.push_back(kept);
                    return answer;
                }
                Err(mut error) => {
                    // What is handed back was not sent: closed at this very moment.
                    if error.take_message().is_none() {
                        return Err(format!("kept-open connection: {}", error.into_error()));
                    }
                }
            }
        }
    }
    let stream =
        TcpStream::connect(options.target.address).await.map_err(|e| format!("connect: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let response =
        sender.send_request(request()?).await.map_err(|e| format!("new connection: {e}"))?;
    let answer = read(response, &options.header).await;
    if let Some(pool) = pool {
        pool.lock().await.push_back(Kept { sender });
    }
    answer
}

/// Reads a whole answer; an error status is a failure.
async fn read(response: Response<Incoming>, name: &str) -> Result<Option<String>, String> {
    let status = response.status();
    let release = response.headers().get(name);
    let release = release.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    response.into_body().collect().await.map_err(|e| format!("body: {e}"))?;
    if status.is_client_error() || status.is_server_error() {
        return Err(format!("status {status}"));
    }
    Ok(release)
}

/// Keeps one WebSocket open at a time and checks that everything comes back.
async fn websockets(
    options: Arc<Options>,
    path: String,
    send: mpsc::UnboundedSender<Sample>,
    mut ended: tokio::sync::watch::Receiver<bool>,
) {
    while !*ended.borrow() {
        let start = Instant::now();
        if let Err(why) = websocket(&options, &path, &send, &mut ended).await {
            let end = Instant::now();
            // Nobody listens any more only when the whole watch is over.
            let _ = send.send(Sample { way: Way::Websocket, start, end, result: Err(why) });
            tokio::select! {
                () = over(&mut ended) => {}
                () = tokio::time::sleep(ECHO) => {}
            }
        }
    }
}

/// One WebSocket from its opening to its end in order; whatever else ends it is an error.
async fn websocket(
    options: &Options,
    path: &str,
    send: &mpsc::UnboundedSender<Sample>,
    ended: &mut tokio::sync::watch::Receiver<bool>,
) -> Result<(), String> {
    let late = |what: &str| format!("{what} within {:?}", options.timeout);
    let url = format!("ws://{}{path}", options.target.host);
    let connect = async {
        let stream = TcpStream::connect(options.target.address).await.map_err(|e| e.to_string())?;
        tokio_tungstenite::client_async(url, stream).await.map_err(|e| e.to_string())
    };
    let connected = tokio::time::timeout(options.timeout, connect).await;
    let (mut socket, _) = connected.map_err(|_| late("not open"))??;
    let opened = Instant::now();
    let mut ticks = tokio::time::interval(ECHO);
    let mut n = 0u64;
    while opened.elapsed() < options.websocket_time {
        tokio::select! {
            () = over(ended) => break,
            _ = ticks.tick() => {}
        }
        n += 1;
        let (start, text) = (Instant::now(), format!("shunt {n}"));
        let echo = async {
            socket.send(Message::text(text.clone())).await.map_err(|e| e.to_string())?;
            loop {
                match socket.next().await {
                    // A server may say something of its own.
                    Some(Ok(Message::Text(back))) if *back == *text => return Ok(()),
                    Some(Ok(Message::Close(frame))) => return Err(format!("closed: {frame:?}")),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("closed".to_owned()),
                }
            }
        };
        tokio::time::timeout(options.timeout, echo).await.map_err(|_| late("no echo"))??;
        let end = Instant::now();
        let _ = send.send(Sample { way: Way::Websocket, start, end, result: Ok(None) });
    }
    // The other side answers the close, or has gone: both end it.
    let _ = socket.close(None).await;
    let _ = tokio::time::timeout(options.timeout, async { while socket.next().await.is_some() {} })
        .await;
    Ok(())
}

/// Counts samples.
struct Tally {
    began: Instant,
    last_good: Instant,
    longest_gap: Duration,
    last_release: Option<(Instant, String)>,
    latency: Histogram<u64>,
    requests: u64,
    messages: u64,
    failures: u64,
    first_failures: Vec<Failure>,
    releases: BTreeMap<String, u64>,
}

impl Tally {
    fn new(began: Instant) -> Self {
        // Microseconds up to an hour, with three digits: these bounds are always accepted.
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3)
            .unwrap_or_else(|_| unreachable!("the bounds are constants"));
        Self {
            began,
            last_good: began,
            longest_gap: Duration::ZERO,
            last_release: None,
            latency,
            requests: 0,
            messages: 0,
            failures: 0,
            first_failures: Vec::new(),
            releases: BTreeMap::new(),
        }
    }

    fn add(&mut self, sample: Sample, show: &mut impl FnMut(&Noticed)) {
        let Sample { way, start, end, result } = sample;
        self.requests += 1;
        self.messages += u64::from(way == Way::Websocket);
        let at = start.duration_since(self.began).as_secs_f64();
        match result {
            Ok(release) => {
                self.longest_gap =
                    self.longest_gap.max(end.saturating_duration_since(self.last_good));
                self.last_good = self.last_good.max(end);
                let took = u64::try_from((end - start).as_micros()).unwrap_or(u64::MAX);
                self.latency.saturating_record(took.max(1));
                let Some(release) = release else { return };
                *self.releases.entry(release.clone()).or_default() += 1;
                // Answers overtake each other: one that was asked for earlier tells nothing new.
                let news = match &self.last_release {
                    None => true,
                    Some((asked, known)) => *known != release && start > *asked,
                };
                if news {
                    show(&Noticed::Release { at, release: release.clone() });
                    self.last_release = Some((start, release));
                } else if let Some((asked, known)) = &mut self.last_release
                    && *known == release
                {
                    *asked = start.max(*asked);
                }
            }
            Err(why) => {
                self.failures += 1;
                let failure = Failure { at, way, why };
                if self.first_failures.len() < LISTED {
                    self.first_failures.push(failure.clone());
                    show(&Noticed::Failure(failure));
                }
            }
        }
    }

    fn verdict(self) -> Verdict {
        let percentile = |p| self.latency.value_at_percentile(p) as f64 / 1000.0;
        Verdict {
            seconds: self.began.elapsed().as_secs_f64(),
            requests: self.requests,
            messages: self.messages,
            failures: self.failures,
            longest_gap: self.longest_gap.as_secs_f64() * 1000.0,
            latency: [percentile(50.0), percentile(90.0), percentile(99.0), percentile(100.0)],
            first_failures: self.first_failures,
            releases: self.releases,
        }
    }
}
