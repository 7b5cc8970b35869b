//! The route word: everything that a request needs to choose its release, in one load.

use shunt_api::Portion;

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
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Route(u64);

const NONE: u8 = u8::MAX;
const ACTIVE: u32 = 24;
const CANARY: u32 = 16;
const SHARE: u32 = 2;
const SHARE_MASK: u64 = (1 << 14) - 1;
const HOLD: u64 = 1 << 1;

impl Route {
    /// A route to this release, or to none, without canary and hold.
    #[must_use]
    pub fn new(generation: u32, active: Option<u8>) -> Self {
        Self(u64::from(generation) << 32).with_canary(None).with_active(active)
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
        Some((self.0 >> ACTIVE) as u8).filter(|index| *index != NONE)
    }

    /// The index of the canary, and its share.
    #[must_use]
    pub fn canary(self) -> Option<(u8, Portion)> {
        let index = Some((self.0 >> CANARY) as u8).filter(|index| *index != NONE)?;
        Some((index, Portion::of_parts((self.0 >> SHARE & SHARE_MASK) as u16)))
    }

    /// Whether new requests are parked, unless the time of the hold is over.
    #[must_use]
    pub fn is_held(self) -> bool {
        self.0 & HOLD != 0
    }

    /// The route that follows this one. The counter starts again at 0 after 2³² changes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 & 0xffff_ffff | u64::from(self.generation().wrapping_add(1)) << 32)
    }

    /// The same with another generation.
    #[must_use]
    pub fn with_generation(self, generation: u32) -> Self {
        Self(self.0 & 0xffff_ffff | u64::from(generation) << 32)
    }

    /// The same with another active release.
    #[must_use]
    pub fn with_active(self, active: Option<u8>) -> Self {
        let active = active.unwrap_or(NONE);
        Self(self.0 & !(0xff << ACTIVE) | u64::from(active) << ACTIVE)
    }

    /// The same with another canary.
    #[must_use]
    pub fn with_canary(self, canary: Option<(u8, Portion)>) -> Self {
        let (index, share) = canary.unwrap_or((NONE, Portion::of_parts(0)));
        let rest = self.0 & !(0xff << CANARY | SHARE_MASK << SHARE);
        Self(rest | u64::from(index) << CANARY | u64::from(share.parts()) << SHARE)
    }

    /// The same with a hold, or without.
    #[must_use]
    pub fn with_hold(self, hold: bool) -> Self {
        Self(if hold { self.0 | HOLD } else { self.0 & !HOLD })
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("generation", &self.generation())
            .field("active", &self.active())
            .field("canary", &self.canary())
            .field("hold", &self.is_held())
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_route_keeps_what_it_was_given(
            generation: u32,
            active in prop::option::of(0u8..64),
            canary in prop::option::of((0u8..64, (0..=Portion::WHOLE).prop_map(Portion::of_parts))),
            hold: bool,
        ) {
            let word = AtomicU64::new(0);
            let route = Route::new(generation, active).with_canary(canary).with_hold(hold);
            route.publish(&word);
            let route = Route::load(&word);
            let parts = |r: Route| (r.active(), r.canary(), r.is_held());
            prop_assert_eq!(route.generation(), generation);
            prop_assert_eq!(parts(route), (active, canary, hold));
            let next = route.next();
            prop_assert_eq!(next.generation(), generation.wrapping_add(1));
            prop_assert_eq!(parts(next), parts(route));
            prop_assert_eq!(parts(next.with_active(Some(3))), (Some(3), canary, hold));
            prop_assert_eq!(parts(next.with_canary(None)), (active, None, hold));
            prop_assert_eq!(next.with_generation(generation), route);
        }
    }
}
