//! What was answered, and what comes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// How many failures are listed in the verdict.
const LISTED: usize = 20;

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
pub(super) struct Sample {
    way: Way,
    start: Instant,
    end: Instant,
    result: Result<Answer, String>,
}

impl Sample {
    /// What was asked at `start` and is answered now.
    pub(super) fn new(way: Way, start: Instant, result: Result<Answer, String>) -> Self {
        Self { way, start, end: Instant::now(), result }
    }
}

/// A good answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The release that has given it, if it names one.
    pub(super) release: Option<String>,
    /// Whether it was asked for twice, as the first connection was closed.
    pub(super) retried: bool,
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
    /// GETs that had to be asked a second time, as the server closed the kept-open connection when
    /// they were sent. It may do so at any time, and every client has to be ready for it (RFC 9112,
    /// section 9.3.1).
    pub retried: u64,
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
        let by_release = if releases.is_empty() { "none".to_owned() } else { releases.join(", ") };
        writeln!(f, "by release   {by_release}")?;
        writeln!(f, "longest gap  {:.1} ms", self.longest_gap)?;
        if !releases.is_empty() {
            writeln!(
                f,
                "latency      p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
            )?;
        }
        if self.retried > 0 {
            writeln!(
                f,
                "retried      {} after the server closed an idle connection",
                self.retried
            )?;
        }
        writeln!(f, "failures     {}", self.failures)?;
        if self.failures > self.first_failures.len() as u64 {
            writeln!(f, "             the first {} are above", self.first_failures.len())?;
        }
        Ok(())
    }
}

/// Counts samples.
pub(super) struct Tally {
    began: Instant,
    last_good: Instant,
    longest_gap: Duration,
    last_release: Option<(Instant, String)>,
    latency: Histogram<u64>,
    requests: u64,
    messages: u64,
    retried: u64,
    failures: u64,
    first_failures: Vec<Failure>,
    releases: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new(began: Instant) -> Self {
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
            retried: 0,
            failures: 0,
            first_failures: Vec::new(),
            releases: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, sample: Sample, show: &mut impl FnMut(&Noticed)) {
        let Sample { way, start, end, result } = sample;
        self.requests += 1;
        self.messages += u64::from(way == Way::Websocket);
        let at = start.duration_since(self.began).as_secs_f64();
        match result {
            Ok(Answer { release, retried }) => {
                self.retried += u64::from(retried);
                // An open WebSocket says nothing about whether requests are answered.
                if way != Way::Websocket {
                    let gap = end.saturating_duration_since(self.last_good);
                    self.longest_gap = self.longest_gap.max(gap);
                    self.last_good = self.last_good.max(end);
                }
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
                // There is a gap even if nothing good ever follows.
                let gap = end.saturating_duration_since(self.last_good);
                self.longest_gap = self.longest_gap.max(gap);
                self.failures += 1;
                let failure = Failure { at, way, why };
                if self.first_failures.len() < LISTED {
                    self.first_failures.push(failure.clone());
                    show(&Noticed::Failure(failure));
                }
            }
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        let percentile = |p| self.latency.value_at_percentile(p) as f64 / 1000.0;
        Verdict {
            seconds: self.began.elapsed().as_secs_f64(),
            requests: self.requests,
            messages: self.messages,
            retried: self.retried,
            failures: self.failures,
            longest_gap: self.longest_gap.as_secs_f64() * 1000.0,
            latency: [percentile(50.0), percentile(90.0), percentile(99.0), percentile(100.0)],
            first_failures: self.first_failures,
            releases: self.releases,
        }
    }
}
