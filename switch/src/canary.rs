//! Which requests a canary gets.
//!
//! A key has a fixed point between 0 and 10,000 for each release; the canary gets those below its
//! share. So a client stays on its side while the share grows, and the next release has other
//! clients go first.

use std::hash::Hasher;

use shunt_api::Portion;
use siphasher::sip::SipHasher13;

/// A place among the 10,000 that a share is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point(u16);

impl Point {
    /// The point of a key. The same in every worker, and in every version of this code.
    #[must_use]
    pub fn of(key: &[u8], release: &str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(release.as_bytes());
        // No name of a release has this byte, so that none runs into the key.
        hasher.write_u8(0);
        hasher.write(key);
        Self(scale(hasher.finish()))
    }

    /// Any point, for a request without a key.
    #[must_use]
    pub fn random() -> Self {
        Self(scale(fastrand::u64(..)))
    }

    /// Whether a canary with this share gets it.
    #[must_use]
    pub fn is_within(self, share: Portion) -> bool {
        self.0 < share.parts()
    }
}

/// Spreads 64 random bits evenly over the 10,000.
fn scale(bits: u64) -> u16 {
    ((u128::from(bits) * u128::from(Portion::WHOLE)) >> 64) as u16
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measured(share: f64) -> f64 {
        let portion = Portion::try_from(share).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let keys = (0..100_000).map(|_| random.u64(..).to_le_bytes());
        let within = keys.filter(|key| Point::of(key, "v2").is_within(portion)).count();
        within as f64 / 100_000.0
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an hour, and has nothing for Miri")]
    fn a_hundred_thousand_keys_are_divided_as_asked() {
        for (share, off) in [(0.5, 0.01), (0.01, 0.05), (0.1, 0.03)] {
            let measured = measured(share);
            assert!((measured / share - 1.0).abs() <= off, "{share}: {measured}");
        }
        assert_eq!((measured(0.0), measured(1.0)), (0.0, 1.0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an hour, and has nothing for Miri")]
    fn requests_without_a_key_are_divided_as_asked() {
        let half = Portion::try_from(0.5).unwrap();
        let within = (0..100_000).filter(|_| Point::random().is_within(half)).count();
        // Six standard deviations: one run in 500 million is further off.
        assert!((within as f64 - 50_000.0).abs() < 950.0, "{within}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an hour, and has nothing for Miri")]
    fn the_next_release_has_other_clients_go_first() {
        let tenth = Portion::try_from(0.1).unwrap();
        let keys = || (0u32..10_000).map(u32::to_le_bytes);
        let both = keys()
            .filter(|key| Point::of(key, "v2").is_within(tenth))
            .filter(|key| Point::of(key, "v3").is_within(tenth))
            .count();
        assert!((50..150).contains(&both), "{both} of 10,000 are first twice");
    }

    #[test]
    fn a_point_is_the_same_for_ever() {
        let points = [b"a".as_slice(), b"", b"10.0.0.1"].map(|key| Point::of(key, "v2").0);
        assert_eq!(points, [6379, 3369, 3468]);
    }

    proptest! {
        #[test]
        fn a_key_stays_on_its_side_while_the_share_grows(
            key in prop::collection::vec(any::<u8>(), 0..40),
            a in 0..=Portion::WHOLE,
            b in 0..=Portion::WHOLE,
        ) {
            let point = Point::of(&key, "v2");
            let (small, large) = (Portion::of_parts(a.min(b)), Portion::of_parts(a.max(b)));
            prop_assert!(!point.is_within(small) || point.is_within(large));
        }
    }
}
