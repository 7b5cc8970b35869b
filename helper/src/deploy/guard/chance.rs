//! Is a share too large, or is it chance?
//!
//! Two errors in twenty responses are a tenth, and say little: a release with one error in fifty shows
//! them often enough. How much figures say is measured by the likelihood ratio: how many times as
//! likely are they with the share that they show as with the share that is allowed? Its logarithm, the
//! *evidence*, grows with the number of responses and with the distance from the limit.
//!
//! One look, at the end of a window, needs as much evidence as a one-sided test at 5 % (S. S. Wilks,
//! 1938). Whoever looks again and again, and acts when the evidence suffices once, is misled more often
//! than that. So an early look needs more, by the cost of not knowing the share beforehand (R. E.
//! Krichevsky, V. K. Trofimov, 1981): then the chance that it *ever* suffices, though the share is not
//! above the limit, is below 5 %, however often one looks (J. Ville, 1939). Where several counts are
//! looked at like this, each gets its part of those 5 %.

/// The evidence that one look needs: half the square of 1.645, the normal distribution's 95th
/// percentile.
const ONE_LOOK: f64 = 1.353;

/// The logarithm of 20: one false alarm in so many.
const MANY_LOOKS: f64 = 2.996;

/// How often the figures are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// Once.
    One,
    /// As often as one likes, at each of so many counts.
    Many(u32),
}

impl Looks {
    /// The evidence that is needed with so many responses.
    fn needed(self, of: u64) -> f64 {
        match self {
            Self::One => ONE_LOOK,
            // What Krichevsky's and Trofimov's mixture may lose against the best share.
            Self::Many(counts) => {
                let mixture = (of.max(1) as f64).ln() / 2.0 + std::f64::consts::LN_2;
                MANY_LOOKS + f64::from(counts.max(1)).ln() + mixture
            }
        }
    }
}

/// Where a share stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Not above the limit.
    Within,
    /// Above it, which may be chance.
    Above,
    /// Above it, and not by chance.
    Beyond,
}

/// Compares `count` out of `of` with the largest share that is allowed.
pub(super) fn compare(count: u64, of: u64, limit: f64, looks: Looks) -> Standing {
    if count as f64 <= limit * of as f64 {
        Standing::Within
    } else if evidence(count, of, limit) >= looks.needed(of) {
        Standing::Beyond
    } else {
        Standing::Above
    }
}

/// The largest share that `count` out of `of` do not speak against: the upper end of a one-sided
/// confidence interval of 95 %.
pub(super) fn largest(count: u64, of: u64) -> f64 {
    if of == 0 {
        return 1.0;
    }
    let (mut low, mut high) = ((count as f64 / of as f64).min(1.0), 1.0);
    // Each step halves what is not known; after so many nothing is left of it.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if evidence(count, of, middle) < ONE_LOOK { low = middle } else { high = middle }
    }
    high
}

/// The logarithm of how many times as likely `count` out of `of` are with the share that they show as
/// with `share`.
fn evidence(count: u64, of: u64, share: f64) -> f64 {
    // 0 times anything is 0 here, as in the limit.
    let term = |n: u64, share: f64| match n {
        0 => 0.0,
        n => n as f64 * (n as f64 / of as f64 / share).ln(),
    };
    term(count, share) + term(of.saturating_sub(count), 1.0 - share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_errors_are_chance_and_many_are_not() {
        use Standing::{Above, Beyond, Within};
        for (count, of, limit, once, often) in [
            (0, 0, 0.05, Within, Within),
            (1, 20, 0.05, Within, Within),
            (2, 20, 0.05, Above, Above),
            (3, 20, 0.05, Beyond, Above),
            (6, 20, 0.05, Beyond, Beyond),
            (10, 100, 0.05, Beyond, Above),
            (15, 100, 0.05, Beyond, Beyond),
            (600, 10_000, 0.05, Beyond, Beyond),
            // Nothing is allowed.
            (1, 1_000_000, 0.0, Beyond, Beyond),
            // Everything is.
            (20, 20, 1.0, Within, Within),
        ] {
            assert_eq!(compare(count, of, limit, Looks::One), once, "{count} of {of}");
            assert_eq!(compare(count, of, limit, Looks::Many(1)), often, "{count} of {of}");
        }
    }

    #[test]
    fn the_largest_share_is_that_of_the_interval() {
        for (count, of, share) in
            [(0, 100, 0.0134), (0, 1000, 0.00135), (10, 1000, 0.0164), (5, 5, 1.0), (0, 0, 1.0)]
        {
            let found = largest(count, of);
            assert!((found - share).abs() < 0.0005, "{count} of {of}: {found}");
        }
    }

    /// Random numbers from 0 to 1, the same in each run (G. Marsaglia's xorshift).
    fn random() -> impl FnMut() -> f64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// In how many of a thousand windows something is found beyond the limit, with a look after each
    /// response from the 20th on.
    fn alarms(share: f64, limit: f64, responses: u64) -> u32 {
        let mut random = random();
        (0..1000).fold(0, |alarms, _| {
            let mut errors = 0;
            let alarm = (1..=responses).any(|n| {
                errors += u64::from(random() < share);
                n >= 20 && compare(errors, n, limit, Looks::Many(1)) == Standing::Beyond
            });
            alarms + u32::from(alarm)
        })
    }

    #[test]
    fn however_often_one_looks_a_good_release_is_rarely_called_bad_and_a_bad_one_always() {
        for limit in [0.01, 0.05, 0.2] {
            let at_the_limit = alarms(limit, limit, 2000);
            assert!(at_the_limit < 50, "{limit}: {at_the_limit}");
            let below = alarms(limit / 2.0, limit, 2000);
            assert!(below < 5, "{limit}: {below}");
            let above = alarms(limit * 3.0, limit, 2000);
            assert!(above > 990, "{limit}: {above}");
        }
    }

    proptest! {
        #[test]
        fn the_more_the_worse(
            of in 1u64..2000, part in 0.0f64..1.0, limit in 0.0f64..=1.0, many in any::<bool>()
        ) {
            let count = (of as f64 * part) as u64;
            let looks = if many { Looks::Many(1) } else { Looks::One };
            let now = compare(count, of, limit, looks);
            prop_assert!(compare(count + 1, of, limit, looks) >= now, "instead of a good one");
            prop_assert!(compare(count + 1, of + 1, limit, looks) >= now, "one more");
            prop_assert!(compare(count, of, limit, Looks::One) >= now, "at the end");
            let share = largest(count, of);
            prop_assert!(share * of as f64 >= count as f64 && share <= 1.0);
            prop_assert!(largest(count + 1, of.max(count + 1)) >= share - 1e-9);
        }
    }
}
