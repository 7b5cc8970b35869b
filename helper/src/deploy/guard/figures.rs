//! What a release has done in a time: how much NGINX's counters have grown.

use shunt_api::{Release, Upstream};

use super::times::Times;

/// What a release has done.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// Requests that were answered, or that fell back because they were not.
    pub(super) responses: u64,
    /// Those of them that were answered with a status of 5xx, or fell back.
    pub(super) errors: u64,
    /// Attempts to connect that failed.
    pub(super) connect_failures: u64,
    /// Requests that wait for their answer at the end of the time.
    pub(super) waiting: u64,
    /// How long responses took.
    pub(super) times: Times,
}

impl From<&Release> for Figures {
    fn from(release: &Release) -> Self {
        let r = &release.responses;
        let classes =
            [r.informational, r.successful, r.redirection, r.client_error, r.server_error];
        let answered = classes.into_iter().fold(0, u64::saturating_add);
        Self {
            responses: answered.saturating_add(release.fallbacks),
            errors: r.server_error.saturating_add(release.fallbacks),
            connect_failures: release.connect_failures,
            waiting: release.in_flight.requests,
            times: Times::from(&release.response_time),
        }
    }
}

impl Figures {
    /// Since the release was made, or since NGINX started; nothing if NGINX does not know it.
    pub(super) fn of(upstream: &Upstream, release: &str) -> Self {
        upstream.release(release).map(Self::from).unwrap_or_default()
    }

    /// What was added to `before`. Counters that went backwards have begun anew in between, as NGINX
    /// was started again: then all that they show was added.
    pub(super) fn since(&self, before: &Self) -> Self {
        self.grown(before).unwrap_or_else(|| self.clone())
    }

    fn grown(&self, before: &Self) -> Option<Self> {
        Some(Self {
            responses: self.responses.checked_sub(before.responses)?,
            errors: self.errors.checked_sub(before.errors)?,
            connect_failures: self.connect_failures.checked_sub(before.connect_failures)?,
            waiting: self.waiting,
            times: self.times.since(&before.times)?,
        })
    }

    fn add(&mut self, later: &Self) {
        self.responses = self.responses.saturating_add(later.responses);
        self.errors = self.errors.saturating_add(later.errors);
        self.connect_failures = self.connect_failures.saturating_add(later.connect_failures);
        self.waiting = later.waiting;
        self.times.add(&later.times);
    }
}

/// Adds up what a release does from one look at its counters to the next.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    last: Figures,
    sum: Figures,
}

impl Tally {
    /// Counts from these figures on.
    pub(super) fn from(start: Figures) -> Self {
        Self { last: start, sum: Figures::default() }
    }

    /// Another look.
    pub(super) fn look(&mut self, now: Figures) {
        self.sum.add(&now.since(&self.last));
        self.last = now;
    }

    /// What was done until the last look.
    pub(super) fn sum(&self) -> &Figures {
        &self.sum
    }

    /// Counts from the last look on.
    pub(super) fn restart(&mut self) {
        self.sum = Figures::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::times::tests::times;
    use super::*;
    use proptest::prelude::*;

    fn figures(responses: u64, errors: u64, connect_failures: u64) -> Figures {
        let mut counts = [0; 16];
        counts[3] = responses;
        Figures { responses, errors, connect_failures, waiting: 0, times: times(&counts) }
    }

    #[test]
    fn what_fell_back_is_an_error() {
        let release: Release = serde_json::from_value(serde_json::json!({
            "name": "v1", "source": "api", "state": "active", "servers": [],
            "in_flight": {"requests": 3, "upgraded": 9},
            "requests": 20,
            "responses": {"1xx": 1, "2xx": 2, "3xx": 3, "4xx": 4, "5xx": 5},
            "connect_failures": 6, "fallbacks": 2,
            "response_time": {"count": 14, "sum": 1.5, "buckets": []},
        }))
        .unwrap();
        let figures = Figures::from(&release);
        assert_eq!((figures.responses, figures.errors, figures.connect_failures), (17, 7, 6));
        assert_eq!(figures.waiting, 3);
    }

    #[test]
    fn a_restart_of_nginx_loses_only_what_nobody_saw() {
        let mut tally = Tally::from(figures(100, 5, 1));
        tally.look(figures(110, 6, 1));
        assert_eq!(*tally.sum(), figures(10, 1, 0));
        // Started again: from nothing to 3 responses.
        tally.look(figures(3, 1, 0));
        tally.look(figures(3, 1, 0));
        assert_eq!(*tally.sum(), figures(13, 2, 0));
        tally.look(figures(4, 1, 2));
        assert_eq!(*tally.sum(), figures(14, 2, 2));
    }

    proptest! {
        #[test]
        fn looking_more_often_makes_no_difference(
            steps in prop::collection::vec((0u64..50, 0u64..5, 0u64..3), 1..20)
        ) {
            let start = figures(7, 3, 1);
            let (mut often, mut once) = (Tally::from(start.clone()), Tally::from(start.clone()));
            let mut now = start;
            for (responses, errors, failures) in steps {
                now.add(&figures(responses, errors, failures));
                often.look(now.clone());
            }
            once.look(now);
            prop_assert_eq!(often.sum(), once.sum());
        }
    }
}
