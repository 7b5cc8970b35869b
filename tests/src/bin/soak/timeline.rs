//! What happened when, so that every answer, and every lack of one, can be judged.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Where requests may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub active: String,
    pub previous: Option<String>,
    pub canary: Option<String>,
}

/// A change of them, as its client saw it.
struct Change {
    sent: Instant,
    replied: Option<Instant>,
    places: Places,
}

/// Kept for longer than any request takes.
const KEPT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Events {
    changes: Vec<Change>,
    /// Workers that were killed, and when they were gone.
    killed: HashMap<u32, Option<Instant>>,
    /// Releases whose processes were killed.
    dead: HashSet<String>,
    /// Workers that a reload has ended.
    ended: HashSet<u32>,
}

/// What happened.
#[derive(Default)]
pub struct Timeline(Mutex<Events>);

impl Timeline {
    fn events(&self) -> MutexGuard<'_, Events> {
        self.0.lock().expect("nobody panics while it is locked")
    }

    /// A change is about to be sent.
    pub fn sending(&self, places: Places) {
        let mut events = self.events();
        let old = |c: &Change| c.replied.is_some_and(|at| at.elapsed() > KEPT);
        // The last one that is so old is still the state at the time that follows.
        let known = events.changes.partition_point(old).saturating_sub(1);
        events.changes.drain(..known);
        events.changes.push(Change { sent: Instant::now(), replied: None, places });
    }

    /// The reply to it is there.
    pub fn replied(&self) {
        if let Some(last) = self.events().changes.last_mut() {
            last.replied = Some(Instant::now());
        }
    }

    /// The places as they are, or will be once the reply is there.
    pub fn places(&self) -> Places {
        self.events().changes.last().map(|c| c.places.clone()).unwrap_or_default()
    }

    /// Whether something was so at any time between these two (P1): by the last change that was
    /// replied to before the first, or by one that was sent before the second.
    pub fn was(&self, start: Instant, end: Instant, so: impl Fn(&Places) -> bool) -> bool {
        let events = self.events();
        let known = events.changes.partition_point(|c| c.replied.is_some_and(|at| at <= start));
        let since = &events.changes[known.saturating_sub(1)..];
        since.iter().take_while(|c| c.sent <= end).any(|c| so(&c.places))
    }

    /// A worker is about to be killed.
    pub fn killing(&self, pid: u32) {
        self.events().killed.insert(pid, None);
    }

    /// It is gone.
    pub fn killed(&self, pid: u32) {
        self.events().killed.insert(pid, Some(Instant::now()));
    }

    /// Whether a worker was killed; of one that is not known, whether any was since then.
    pub fn was_killed(&self, worker: Option<u32>, since: Instant) -> bool {
        let events = self.events();
        match worker {
            Some(pid) => events.killed.contains_key(&pid),
            None => events.killed.values().any(|gone| gone.is_none_or(|at| at >= since)),
        }
    }

    /// Workers that a reload is about to end.
    pub fn ending(&self, workers: &[u32]) {
        self.events().ended.extend(workers);
    }

    /// Whether a reload has ended this worker.
    pub fn has_ended(&self, worker: Option<u32>) -> bool {
        worker.is_some_and(|pid| self.events().ended.contains(&pid))
    }

    /// The processes of a release are about to be killed.
    pub fn dying(&self, release: &str) {
        self.events().dead.insert(release.to_owned());
    }

    /// Whether they were.
    pub fn is_dead(&self, release: &str) -> bool {
        self.events().dead.contains(release)
    }
}
