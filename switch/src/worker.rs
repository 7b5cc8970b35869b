//! Who a worker is, and whether it still lives.

use rustix::process::{Pid, test_kill_process};

/// A process, told apart from a later one with the same pid.
///
/// The pid in the upper half, the lower 32 bits of its start time in the lower one: field 22 of
/// `/proc/<pid>/stat`, in clock ticks since boot (`proc(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64);

/// A bit that no pid has: Linux's have 22.
const STAND_IN: u64 = 1 << 63;

impl Identity {
    /// This process.
    #[must_use]
    pub fn me() -> Self {
        Self::of(std::process::id())
    }

    /// The process that has this pid now.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let start = match Stat::read(pid) {
            Some(stat) => stat.start,
            None => 0,
        };
        Self::new(pid, start)
    }

    /// A process by its pid and start time; a start of 0 is "not known".
    #[must_use]
    pub fn new(pid: u32, start: u32) -> Self {
        Self(u64::from(pid) << 32 | u64::from(start))
    }

    /// As it stands in the zone, where 0 is nobody; whether it counts there itself, or somebody counts
    /// for it, makes no difference.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        let word = word & !STAND_IN;
        (word != 0).then_some(Self(word))
    }

    /// As it stands in the zone where others count for it what it has in flight elsewhere.
    #[must_use]
    pub fn stand_in(self) -> u64 {
        self.0 | STAND_IN
    }

    /// Whether others count for who stands in this word.
    #[must_use]
    pub fn is_stand_in(word: u64) -> bool {
        word & STAND_IN != 0
    }

    /// As it stands in the zone.
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Its pid.
    #[must_use]
    pub fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether the process still runs.
    ///
    /// `kill(pid, 0)` alone would take a zombie, or a stranger with the same pid, for the worker.
    /// It decides only where `/proc` cannot be read.
    #[must_use]
    pub fn is_alive(self) -> bool {
        let start = self.0 as u32;
        match Stat::read(self.pid()) {
            Some(stat) => !stat.ended && (start == 0 || stat.start == start),
            None => {
                let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
                // No entry, or one that is hidden (`hidepid` in `proc(5)`). "Not permitted" means
                // that it is there.
                pid.is_some_and(|pid| {
                    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
                })
            }
        }
    }
}

/// What `/proc/<pid>/stat` tells.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ended: bool,
    start: u32,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// The name (field 2) stands in parentheses and may have blanks and parentheses itself, so the
    /// fields are counted from the last one.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let state = fields.next()?;
        let threads: u64 = fields.nth(16)?.parse().ok()?;
        let start: u64 = fields.nth(1)?.trim_end().parse().ok()?;
        // Of a process that was killed, a thread may still be in a call of the system's that cannot be
        // broken off (a write to a disk), while the first one is a zombie already.
        let ended = matches!(state, "Z" | "X" | "x") && threads <= 1;
        Some(Self { ended, start: start as u32 })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn i_am_alive_and_a_stranger_with_my_pid_is_not_me() {
        let me = Identity::me();
        assert!(me.is_alive());
        assert_eq!(Identity::from_word(me.word()), Some(me));
        let other = Identity::new(std::process::id(), (me.word() as u32).wrapping_add(1));
        assert!(!other.is_alive());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !Stat::read(pid).unwrap().ended {
            assert!(std::time::Instant::now() < deadline, "the child did not end");
            std::thread::yield_now();
        }
        let stat = Stat::read(pid).unwrap();
        assert!(!Identity::new(pid, stat.start).is_alive());
        child.wait().unwrap();
        assert!(!Identity::new(pid, stat.start).is_alive());
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_is_skipped() {
        let text = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4294967299 20\n";
        assert_eq!(Stat::parse(text), Some(Stat { ended: false, start: 3 }));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) Z 1"), None);
    }

    #[test]
    fn a_process_whose_first_thread_alone_has_ended_is_alive() {
        for (threads, ended) in [("0", true), ("1", true), ("2", false)] {
            let text =
                format!("7 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 {threads} 18 3 20\n");
            assert_eq!(Stat::parse(&text), Some(Stat { ended, start: 3 }), "{threads} threads");
        }
    }
}
