//! A process that an earlier daemon started and that still runs.

use std::path::Path;

use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process_group};
use shunt_api::ReleaseName;

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

    /// The leader of a group that was started with all of this in its environment, and is not a
    /// step of a job.
    #[must_use]
    pub fn find(env: &[(&str, &str)]) -> Option<Self> {
        let leads = |pid: &Pid| getpgid(Some(*pid)) == Ok(*pid);
        let mut found = processes(|environ| environ.has(env) && !environ.is_step()).filter(leads);
        found.find_map(|pid| Self::of(pid.as_raw_nonzero().get().unsigned_abs()))
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

/// Kills what an earlier daemon has left running of the steps of a job: hooks, git, whatever
/// [`crate::program`] runs. What was started in a slot is none of it.
///
/// `root` is the application's folder: another daemon may have one of the same name.
pub fn end_steps(app: &ReleaseName, root: &Path, release: &ReleaseName) {
    let root = root.to_string_lossy();
    let env = [("SHUNT_APP", app.as_str()), ("SHUNT_ROOT", &root), ("RELEASE", release.as_str())];
    for pid in processes(|environ| environ.has(&env) && environ.is_step()) {
        if let Ok(group) = getpgid(Some(pid))
            && group != getpgrp()
        {
            // Somebody may have been faster.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The environment that a process was started with.
struct Environ(Vec<u8>);

impl Environ {
    fn has(&self, env: &[(&str, &str)]) -> bool {
        let line = |(name, value): &(&str, &str)| {
            let line = format!("{name}={value}");
            self.lines().any(|l| l == line.as_bytes())
        };
        env.iter().all(line)
    }

    /// Whether it was started as a step of a job.
    fn is_step(&self) -> bool {
        self.lines().any(|line| line.starts_with(b"SHUNT_STEP="))
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == 0)
    }
}

/// The processes of this machine whose environment is like this.
fn processes(accept: impl Fn(&Environ) -> bool) -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // Others than root see only their own.
    let environ =
        |pid: &i32| Environ(std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
    pids.filter(move |pid| accept(&environ(pid))).filter_map(Pid::from_raw)
}
