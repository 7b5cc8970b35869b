//! What the system tells of processes.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Whether it runs; a zombie does not.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// The processes that this one has started and that run.
///
/// # Panics
///
/// Without `/proc`.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| stat(*child).is_some_and(|(state, p)| p == pid && state != "Z")).collect()
}

/// Its command line.
#[must_use]
pub fn command_line(pid: u32) -> String {
    let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\0', " ")
}

/// Memory that it has for itself alone and has written to, in bytes.
#[must_use]
pub fn private_dirty(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Private_Dirty:"));
    let kib = line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// How often its first thread has slept and was woken up.
#[must_use]
pub fn wake_ups(pid: u32) -> u64 {
    wake_ups_of_thread(pid, pid)
}

/// The same of one of its threads.
#[must_use]
pub fn wake_ups_of_thread(pid: u32, thread: u32) -> u64 {
    let path = format!("/proc/{pid}/task/{thread}/status");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let count = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|c| c.trim().parse().ok()).unwrap_or_default()
}

/// Its threads but the first.
#[must_use]
pub fn other_threads(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    ids.filter(|id| *id != pid).collect()
}

/// Sends a signal to a process that the caller has started.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}
