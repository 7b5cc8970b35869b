//! What a release has answered: counters that only grow, for as long as the release exists.
//!
//! All workers add to the same words. A worker that dies takes nothing with it, so the sums never go
//! backwards, and a reload changes nothing about them.

use shunt_api::{Bucket, ResponseTime, Responses};

use crate::sync::{AtomicU64, Ordering};

/// The upper ends of the response-time buckets, in milliseconds.
pub const BUCKETS: [u32; 15] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000];

/// The words of a release.
mod field {
    /// Five, by the first digit of the status.
    pub const RESPONSES: usize = 0;
    pub const CONNECT_FAILURES: usize = 5;
    pub const FALLBACKS: usize = 6;
    /// In milliseconds.
    pub const TIME: usize = 7;
    /// One for each of the buckets, and one for what took longer.
    pub const BUCKETS: usize = 8;
}

/// Words that a release's counters take: three cache lines.
pub const COUNTERS: usize = field::BUCKETS + BUCKETS.len() + 1;

/// How a request ended at a release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ending {
    /// The status of the response; 0 when there was none.
    pub status: u16,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// How long the response took, in milliseconds; `None` leaves it out of the histogram.
    pub time: Option<u64>,
}

/// The counters of a release.
#[derive(Debug, Clone, Copy)]
pub struct Counters<'z>(&'z [AtomicU64; COUNTERS]);

/// The counters as plain numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// What it answered.
    pub responses: Responses,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Requests that went on to another release.
    pub fallbacks: u64,
    /// How long responses took.
    pub response_time: ResponseTime,
}

impl<'z> Counters<'z> {
    /// The counters in these words.
    pub(crate) fn new(words: &'z [AtomicU64; COUNTERS]) -> Self {
        Self(words)
    }

    fn add(&self, field: usize, n: u64) {
        if n != 0 {
            self.0[field].fetch_add(n, Ordering::Relaxed);
        }
    }

    fn get(&self, field: usize) -> u64 {
        self.0[field].load(Ordering::Relaxed)
    }

    /// Counts a request that has ended.
    #[inline]
    pub fn end(&self, ending: Ending) {
        // Nearly all are of this class, and a division takes its time.
        let is_successful = (200..300).contains(&ending.status);
        let class = if is_successful { 2 } else { usize::from(ending.status / 100) };
        if (1..=5).contains(&class) {
            self.add(field::RESPONSES + class - 1, 1);
        }
        self.add(field::CONNECT_FAILURES, ending.connect_failures);
        if let Some(time) = ending.time {
            let bucket = BUCKETS.iter().position(|end| time <= u64::from(*end));
            self.add(field::TIME, time);
            self.add(field::BUCKETS + bucket.unwrap_or(BUCKETS.len()), 1);
        }
    }

    /// Counts a request that goes on to another release, after so many failures to connect.
    pub fn fall_back(&self, connect_failures: u64) {
        self.add(field::CONNECT_FAILURES, connect_failures);
        self.add(field::FALLBACKS, 1);
    }

    /// The counters as they are now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let class = |n: usize| self.get(field::RESPONSES + n - 1);
        // In damaged memory any number may stand.
        let mut count = 0u64;
        let mut buckets = Vec::with_capacity(BUCKETS.len());
        for (at, end) in BUCKETS.iter().enumerate() {
            count = count.wrapping_add(self.get(field::BUCKETS + at));
            buckets.push(Bucket { le: f64::from(*end) / 1000.0, count });
        }
        count = count.wrapping_add(self.get(field::BUCKETS + BUCKETS.len()));
        Figures {
            responses: Responses {
                informational: class(1),
                successful: class(2),
                redirection: class(3),
                client_error: class(4),
                server_error: class(5),
            },
            connect_failures: self.get(field::CONNECT_FAILURES),
            fallbacks: self.get(field::FALLBACKS),
            response_time: ResponseTime {
                count,
                sum: self.get(field::TIME) as f64 / 1000.0,
                buckets,
            },
        }
    }

    /// The words as they are, for another zone to go on from.
    #[must_use]
    pub fn copy(&self) -> Vec<u64> {
        (0..COUNTERS).map(|field| self.get(field)).collect()
    }

    /// Adds what another zone had counted.
    pub fn go_on_from(&self, words: &[u64]) {
        for (field, n) in words.iter().take(COUNTERS).enumerate() {
            self.add(field, *n);
        }
    }

    /// Starts from nothing, for another release.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_counted_in_its_class_and_bucket() {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        let counters = Counters::new(&words);
        for (status, time) in [
            (200, Some(1)),
            (204, Some(3)),
            (101, None),
            (502, Some(60_001)),
            (0, None),
            (999, None),
        ] {
            counters.end(Ending { status, connect_failures: 0, time });
        }
        counters.end(Ending { status: 502, connect_failures: 3, time: None });
        counters.fall_back(2);
        let figures = counters.figures();
        let r = figures.responses;
        assert_eq!((r.informational, r.successful, r.redirection), (1, 2, 0));
        assert_eq!((r.client_error, r.server_error), (0, 2));
        assert_eq!((figures.connect_failures, figures.fallbacks), (5, 1));
        let t = &figures.response_time;
        assert_eq!((t.count, t.sum), (3, 60.005));
        let counts: Vec<u64> = t.buckets.iter().map(|b| b.count).collect();
        assert_eq!(counts[..3], [1, 1, 2]);
        assert_eq!(counts.last(), Some(&2));
        assert_eq!((t.buckets[0].le, t.buckets[14].le), (0.001, 60.0));
        counters.go_on_from(&counters.copy());
        assert_eq!(counters.figures().responses.successful, 4);
    }

    #[test]
    fn damaged_counters_are_read_like_others() {
        let words = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        let counters = Counters::new(&words);
        assert_eq!(counters.figures().responses.successful, u64::MAX);
        counters.end(Ending { status: 200, connect_failures: 1, time: Some(1) });
        counters.go_on_from(&counters.copy());
        assert_eq!(counters.figures().responses.successful, 0);
    }

    #[test]
    fn they_fill_whole_cache_lines() {
        assert_eq!(COUNTERS % 8, 0);
    }
}
