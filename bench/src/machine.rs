//! The machine: which core does what, and what processes have used of it.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores of this machine that this process may use.
#[derive(Debug, Clone)]
pub struct Cores {
    /// The one that the proxy has for itself.
    proxy: CpuSet,
    /// The one of load and application.
    load: CpuSet,
    /// Whether these are two.
    pub apart: bool,
}

impl Cores {
    /// Gives one core to what proxies, and another one to all else that this thread will start.
    ///
    /// # Panics
    ///
    /// When the kernel does not tell what there is.
    pub fn divide() -> Self {
        let all = sched_getaffinity(None).expect("the kernel tells");
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let only = |core| {
            let mut set = CpuSet::new();
            set.set(core);
            set
        };
        let first = cores.next().expect("there is one");
        let second = cores.next();
        let cores = Self {
            proxy: only(first),
            load: only(second.unwrap_or(first)),
            apart: second.is_some(),
        };
        cores.settle(&cores.load);
        cores
    }

    /// Does something on the proxy's core. What it starts stays there.
    pub fn as_proxy<T>(&self, f: impl FnOnce() -> T) -> T {
        self.settle(&self.proxy);
        let result = f();
        self.settle(&self.load);
        result
    }

    fn settle(&self, core: &CpuSet) {
        sched_setaffinity(None, core).expect("a core that this process has");
    }
}

/// Lets this process and what it starts have as many files open as they may; gives how many that are.
///
/// # Panics
///
/// Never: what is allowed may be asked for.
pub fn allow_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("as many as allowed");
    maximum.unwrap_or(u64::MAX)
}

/// Time on a processor that each thread of some processes has had.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessorTime(HashMap<PathBuf, u64>);

impl ProcessorTime {
    /// Of these processes.
    pub fn of(pids: &[u32]) -> Self {
        let of_thread = |path: PathBuf| -> Option<(PathBuf, u64)> {
            let text = fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path, text.split(' ').next()?.parse().ok()?))
        };
        let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
        let paths = threads.flatten().flatten().map(|thread| thread.path());
        Self(paths.filter_map(of_thread).collect())
    }

    /// What was used since then; not by threads that have ended meanwhile.
    pub fn since(&self, before: &Self) -> Duration {
        let of_thread = |(path, now): (&PathBuf, &u64)| {
            now.saturating_sub(before.0.get(path).copied().unwrap_or_default())
        };
        Duration::from_nanos(self.0.iter().map(of_thread).sum())
    }
}

/// Memory of these processes, in bytes; what several share is counted once.
pub fn memory(pids: &[u32]) -> u64 {
    let of_process = |pid: &u32| -> Option<u64> {
        proportional(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
    };
    pids.iter().filter_map(of_process).sum()
}

/// The line `Pss:` of `smaps_rollup`, in bytes.
fn proportional(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Time that all cores have been busy and idle, in the kernel's ticks: the first line of `/proc/stat`.
fn ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // idle and iowait; what guests have is in the first two already.
    let (idle, all) = (fields.get(3)? + fields.get(4)?, fields.iter().take(8).sum::<u64>());
    Some((all - idle, idle))
}

/// How busy the machine is with other things, while this process waits: a share of all cores.
pub fn busy() -> f64 {
    let now = || ticks(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default();
    let before = now();
    std::thread::sleep(Duration::from_secs(1));
    let after = now();
    let (busy, idle) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    busy as f64 / (busy + idle).max(1) as f64
}

/// What kind of machine it is.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count().max(cores);
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// Lets time pass until an instant.
pub fn sleep_until(instant: Instant) {
    std::thread::sleep(instant.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_counted_once() {
        let text = "00400000-7ffe [rollup]\nRss:    9000 kB\nPss:     512 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(proportional(text), Some(512 * 1024));
        assert_eq!(proportional("Rss: 1 kB\n"), None);
    }

    #[test]
    fn waiting_for_a_disk_is_idle() {
        let text = "cpu  100 20 30 1000 50 5 5 0 40 0\ncpu0 1 2 3\n";
        assert_eq!(ticks(text), Some((160, 1050)));
        assert_eq!(ticks("intr 5\n"), None);
    }

    #[test]
    fn a_thread_that_has_ended_takes_nothing_away() {
        let of = |threads: &[(&str, u64)]| {
            ProcessorTime(threads.iter().map(|(path, n)| (PathBuf::from(path), *n)).collect())
        };
        let (before, after) = (of(&[("1", 50), ("2", 900)]), of(&[("1", 70), ("3", 5)]));
        assert_eq!(after.since(&before), Duration::from_nanos(25));
    }

    #[test]
    fn this_process_has_used_the_processor_and_has_memory() {
        let pid = [std::process::id()];
        let before = ProcessorTime::of(&pid);
        let used = || ProcessorTime::of(&pid).since(&before);
        while used() < Duration::from_millis(5) {}
        assert!(memory(&pid) > 100_000);
    }
}
