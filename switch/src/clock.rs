//! The two clocks: one that never jumps and that all processes share, and the calendar's.

use std::time::{Duration, SystemTime};

use rustix::time::ClockId;

/// Miri has only one of this kind.
const CLOCK: ClockId = if cfg!(miri) { ClockId::Monotonic } else { ClockId::Boottime };

/// Milliseconds since the machine started, sleep included (`CLOCK_BOOTTIME` in `clock_gettime(2)`).
#[must_use]
pub fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(CLOCK);
    let millis = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    u64::try_from(millis).unwrap_or(0)
}

/// Milliseconds since 1970, for what has to be understood after the machine was started again.
#[must_use]
pub fn since_1970() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
