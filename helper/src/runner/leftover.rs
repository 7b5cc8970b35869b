//! A process that an earlier daemon started and that still runs.

use rustix::process::{Pid, Signal, getpgid, kill_process_group};

/// A process, told apart from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Its pid, which is also its group's.
    pub pid: u32,
    /// Its start time: field 22 of `/proc/<pid>/stat`, in clock ticks since boot (`proc(5)`).
    pub start: u64,
}

impl Identity {
    /// The process with this pid as it is now; `None` when there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before may have blanks and parentheses itself.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        // One that has ended and only waits for its parent runs no more.
        if fields.next()? == "Z" {
            return None;
        }
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// The leader of a group that was started with all of this in its environment.
    #[must_use]
    pub fn find(env: &[(&str, &str)]) -> Option<Self> {
        let wanted: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let entries = std::fs::read_dir("/proc").ok()?;
        let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let matches = |pid: &u32| {
            // Others than root see only their own.
            let text = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let has = |line: &String| text.split(|b| *b == 0).any(|l| l == line.as_bytes());
            let raw = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            wanted.iter().all(has) && raw.is_some_and(|pid| getpgid(Some(pid)) == Ok(pid))
        };
        pids.filter(matches).find_map(Self::of)
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Asks its group to end.
    pub fn terminate(self) {
        if self.is_alive()
            && let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            // Somebody may have been faster.
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}
