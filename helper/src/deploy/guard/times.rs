//! How long responses took: NGINX's histogram, and what can be read from it.

use shunt_api::ResponseTime;

/// A histogram. Each bucket counts those before it, too.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Times {
    /// All responses.
    pub(super) count: u64,
    /// The longest time of each bucket, in seconds, and how many took no longer.
    buckets: Vec<(f64, u64)>,
}

impl From<&ResponseTime> for Times {
    fn from(time: &ResponseTime) -> Self {
        let buckets = time.buckets.iter().map(|bucket| (bucket.le, bucket.count));
        Self { count: time.count, buckets: buckets.collect() }
    }
}

impl Times {
    /// What was added to `before`; none if this does not go on from it.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        if before.buckets.is_empty() && before.count == 0 {
            return Some(self.clone());
        }
        let buckets = self.zip(before)?.map(|(le, now, then)| Some((le, now.checked_sub(then)?)));
        Some(Self {
            count: self.count.checked_sub(before.count)?,
            buckets: buckets.collect::<Option<_>>()?,
        })
    }

    /// Adds what came later. If that has other buckets, only it counts.
    pub(super) fn add(&mut self, later: &Self) {
        let sum = self
            .zip(later)
            .map(|pairs| pairs.map(|(le, one, other)| (le, one.saturating_add(other))).collect());
        *self = match sum {
            Some(buckets) => Self { count: self.count.saturating_add(later.count), buckets },
            None => later.clone(),
        };
    }

    /// The buckets of both, if they are the same ones.
    fn zip(&self, other: &Self) -> Option<impl Iterator<Item = (f64, u64, u64)>> {
        let same = self.buckets.len() == other.buckets.len()
            && self.buckets.iter().zip(&other.buckets).all(|(one, other)| one.0 == other.0);
        let pairs = self.buckets.iter().zip(&other.buckets);
        same.then(|| pairs.map(|(one, other)| (one.0, one.1, other.1)))
    }

    /// The time within which this share of the responses came, in seconds: between the ends of its
    /// bucket they are taken to be spread evenly. None if there is none, or if it is longer than any
    /// bucket.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count as f64;
        let (start, below, end, within) =
            self.spans().find(|(_, _, _, within)| *within > 0 && *within as f64 >= rank)?;
        let inside = within.saturating_sub(below) as f64;
        let part = if inside > 0.0 { (rank - below as f64) / inside } else { 1.0 };
        Some(start + (end - start) * part.clamp(0.0, 1.0))
    }

    /// How many took longer, if they are spread as for [`Times::quantile`]; parts of one are left out.
    /// Beyond the last bucket nobody can tell, and none did.
    pub(super) fn slower(&self, than: f64) -> u64 {
        let Some((start, below, end, within)) = self.spans().find(|span| than < span.2) else {
            return 0;
        };
        let part = if than > start { (than - start) / (end - start) } else { 0.0 };
        let faster = below as f64 + within.saturating_sub(below) as f64 * part;
        ((self.count as f64 - faster) as u64).min(self.count)
    }

    /// How many took longer, however they are spread: those of the buckets that begin there or later.
    pub(super) fn certainly_slower(&self, than: f64) -> u64 {
        let begins = self.buckets.iter().find(|(end, _)| *end >= than);
        begins.map_or(0, |(_, within)| self.count.saturating_sub(*within))
    }

    /// The ends of the buckets, in seconds, and how many responses took longer.
    pub(super) fn ends(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().map(|(end, within)| (*end, self.count.saturating_sub(*within)))
    }

    /// Each bucket: its start and how many were faster, its end and how many took no longer.
    fn spans(&self) -> impl Iterator<Item = (f64, u64, f64, u64)> {
        let starts = std::iter::once((0.0, 0)).chain(self.buckets.iter().copied());
        let spans = starts.zip(&self.buckets);
        spans.map(|((start, below), (end, within))| (start, below, *end, *within))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The module's own buckets, in seconds.
    pub(in super::super) const ENDS: [f64; 15] =
        [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0];

    /// A histogram of so many responses in each bucket, and of so many longer ones.
    pub(in super::super) fn times(counts: &[u64; 16]) -> Times {
        let mut sum = 0;
        let buckets = ENDS.iter().zip(counts).map(|(end, n)| {
            sum += n;
            (*end, sum)
        });
        Times { buckets: buckets.collect(), count: counts.iter().sum() }
    }

    /// The same responses, each one bucket later.
    pub(in super::super) fn later(all: &Times) -> Times {
        let within = std::iter::once(0).chain(all.buckets.iter().map(|(_, within)| *within));
        let buckets = all.buckets.iter().zip(within).map(|((end, _), within)| (*end, within));
        Times { buckets: buckets.collect(), count: all.count }
    }

    /// So many responses of up to 50 ms, 100 ms, 200 ms and 500 ms.
    fn some(counts: [u64; 4]) -> Times {
        let mut all = [0; 16];
        all[5..9].copy_from_slice(&counts);
        times(&all)
    }

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let some = some([50, 40, 10, 0]);
        let is = |share, at: f64| {
            let found = some.quantile(share).unwrap();
            assert!((found - at).abs() < 1e-9, "{share}: {found}");
        };
        is(0.0, 0.02);
        is(0.25, 0.035);
        is(0.5, 0.05);
        is(0.99, 0.19);
        is(1.0, 0.2);
        assert_eq!(Times::default().quantile(0.99), None);
        // Nobody knows how long what took longest took.
        let mut long = [0; 16];
        long[15] = 5;
        assert_eq!(times(&long).quantile(0.99), None);
    }

    #[test]
    fn those_that_took_longer_are_counted() {
        let some = some([50, 40, 10, 0]);
        for (than, slower, certainly) in [
            (0.0, 100, 100),
            (0.02, 100, 100),
            (0.05, 50, 50),
            (0.075, 30, 10),
            (0.1, 10, 10),
            (0.185, 1, 0),
            (0.2, 0, 0),
            (100.0, 0, 0),
        ] {
            assert_eq!(some.slower(than), slower, "{than}");
            assert_eq!(some.certainly_slower(than), certainly, "{than}");
        }
    }

    #[test]
    fn other_buckets_are_another_count() {
        let (one, mut two) = (some([1, 2, 3, 4]), some([2, 2, 3, 4]));
        assert_eq!(two.since(&one), Some(some([1, 0, 0, 0])));
        assert_eq!(one.since(&two), None);
        assert_eq!(one.since(&Times::default()), Some(one.clone()));
        two.add(&one);
        assert_eq!(two, some([3, 4, 6, 8]));
        let other = Times { count: 1, buckets: vec![(0.3, 1)] };
        assert_eq!(other.since(&one), None);
        two.add(&other);
        assert_eq!(two, other);
    }

    proptest! {
        #[test]
        fn a_time_and_its_quantile_agree(
            counts in prop::array::uniform16(0u64..1000), share in 0.5f64..1.0
        ) {
            let times = times(&counts);
            if let Some(at) = times.quantile(share) {
                let slower = times.slower(at) as f64 / times.count as f64;
                let error = 1.0 / times.count as f64;
                prop_assert!((slower - (1.0 - share)).abs() <= error, "{} {}", slower, share);
                prop_assert!(times.certainly_slower(at) <= times.slower(at));
            }
        }

        #[test]
        fn no_histogram_is_too_strange(
            buckets in prop::collection::vec((any::<f64>(), any::<u64>()), 0..6),
            count in any::<u64>(), than in any::<f64>(),
        ) {
            let times = Times { count, buckets };
            prop_assert!(times.certainly_slower(than) <= count);
            prop_assert!(times.slower(than) <= count);
            // What is found lies between the ends of all buckets.
            let ends = times.buckets.iter().map(|(end, _)| *end);
            if let Some(at) = times.quantile(0.99) {
                prop_assert!(ends.clone().chain([0.0]).any(|end| at <= end || at.is_nan()));
            }
            let mut sum = times.clone();
            sum.add(&times);
            prop_assert_eq!(sum.count, count.saturating_mul(2));
            prop_assert_eq!(times.since(&times).map(|none| none.count), Some(0));
        }
    }
}
