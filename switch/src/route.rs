//! The route word: everything that a request needs to choose its release, in one load.

use crate::sync::{AtomicU64, Ordering, fence};

/// The value of the route word of one upstream at one moment.
///
/// | bits | meaning |
/// | --- | --- |
/// | 32–63 | generation |
/// | 24–31 | index of the active release; 255 is none |
/// | 16–23 | index of the canary; 255 is none |
/// | 2–15 | the canary's share in 1/10,000 |
/// | 1 | hold |
/// | 0 | unused |
///
/// The lower half beside the active release is written by canary and hold, which this version of
/// the module does not offer; it is always "none, 0, no" here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route(u64);

const NONE: u8 = u8::MAX;
const NO_CANARY: u64 = (NONE as u64) << 16;

impl Route {
    /// A route to this release, or to none.
    #[must_use]
    pub fn new(generation: u32, active: Option<u8>) -> Self {
        let active = active.unwrap_or(NONE);
        Self(u64::from(generation) << 32 | u64::from(active) << 24 | NO_CANARY)
    }

    /// Reads the word of an upstream.
    pub fn load(word: &AtomicU64) -> Self {
        Self(word.load(Ordering::Acquire))
    }

    /// Makes this the route of an upstream, for everybody, at once.
    ///
    /// The fence orders the store before whatever the caller reads next, the in-flight counts above
    /// all (see [`crate::cells`]).
    pub fn publish(self, word: &AtomicU64) {
        word.store(self.0, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Raised by one with every change of the upstream.
    #[must_use]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The index of the active release in the upstream's table.
    #[must_use]
    pub fn active(self) -> Option<u8> {
        Some((self.0 >> 24) as u8).filter(|index| *index != NONE)
    }

    /// The route that follows this one. The counter starts again at 0 after 2³² changes.
    #[must_use]
    pub fn next(self, active: Option<u8>) -> Self {
        Self::new(self.generation().wrapping_add(1), active)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_route_keeps_what_it_was_given(generation: u32, active in prop::option::of(0u8..64)) {
            let word = AtomicU64::new(0);
            Route::new(generation, active).publish(&word);
            let route = Route::load(&word);
            prop_assert_eq!(route.generation(), generation);
            prop_assert_eq!(route.active(), active);
            let next = route.next(Some(3));
            prop_assert_eq!(next.generation(), generation.wrapping_add(1));
            prop_assert_eq!(next.active(), Some(3));
        }
    }
}
