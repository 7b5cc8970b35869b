//! The terminal that a daemon may have been started on, and what `SIGHUP` means with it.
//!
//! To a daemon `SIGHUP` is the order to read its configuration again. But it is also what a terminal
//! says when it is closed, and whoever ran `shuntd` there expects that it ends as any other program.

use std::fs::File;

/// Whether the end of a terminal is the end of the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    bound: bool,
}

impl Terminal {
    /// As it is at the daemon's start, before it listens for signals: it depends on a terminal if it
    /// has one, unless somebody has said that it should not (`nohup`).
    #[must_use]
    pub fn at_start() -> Self {
        Self { bound: is_there() && !ignores_hangup() }
    }

    /// Whether `SIGHUP` came because the terminal is gone.
    #[must_use]
    pub fn is_gone(self) -> bool {
        self.bound && !is_there()
    }
}

/// Whether this process has a controlling terminal (`tty(4)`). The kernel takes it away before it
/// sends the signal.
fn is_there() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether the parent has set `SIGHUP` to be ignored; bit 0 of `SigIgn` (`proc(5)`).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|m| m & 1 == 1)
}
