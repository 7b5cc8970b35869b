//! NGINX under valgrind's memcheck: how it is started, and what its logs say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What marks a line of a stack as the module's: all of it, and nothing else, is Rust.
const MODULE: [&str; 2] = ["ngx_http_shunt_module", ".rs:"];

/// Where NGINX makes the pool of a connection to a server, which `keepalive` keeps.
const CONNECTING: &str = " ngx_http_upstream_connect ";

/// The command that NGINX is started under, with a log for each process in this folder.
#[must_use]
pub fn command(folder: &Path) -> Vec<String> {
    let suppressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("memcheck.supp");
    let folder = folder.display();
    [
        "valgrind",
        "--tool=memcheck",
        "--leak-check=full",
        // What is only "possibly lost" is what NGINX does not give back when it ends: the table of its
        // connections, and with it requests that a fast end cuts off.
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
        // In the end NGINX unloads the module, whose names the leaks' stacks need.
        "--keep-debuginfo=yes",
        "--num-callers=40",
        "--error-limit=no",
        "--gen-suppressions=all",
        "--vgdb=yes",
        // Without it, workers cannot be asked for what they have allocated.
        "--trace-children=yes",
    ]
    .into_iter()
    .map(ToOwned::to_owned)
    .chain([
        format!("--suppressions={}", suppressions.display()),
        format!("--log-file={folder}/%p.log"),
        format!("--vgdb-prefix={folder}/vgdb"),
    ])
    .collect()
}

/// Something that valgrind has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is, and where it happened.
    pub text: String,
    /// Whether the module takes part in it.
    pub module: bool,
}

/// What a process did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The process.
    pub pid: u32,
    /// The one that started it.
    pub parent: u32,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Errors, and those that were suppressed; `None` when the process did not end in order.
    pub errors: Option<(u64, u64)>,
    /// Blocks that were definitely lost and not suppressed.
    pub lost: u64,
    /// Allocations in all.
    pub allocations: u64,
}

impl Log {
    /// Reads the lines of a process, without what they start with.
    fn parse<'a>(pid: u32, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut log = Self { pid, ..Self::default() };
        let mut block: Vec<&str> = Vec::new();
        for line in lines.into_iter().chain([""]) {
            if !line.trim().is_empty() {
                log.read(line.trim());
                block.push(line);
                continue;
            }
            let mut stack = block.iter().filter(|l| {
                let l = l.trim_start();
                l.starts_with("at 0x") || l.starts_with("by 0x")
            });
            if stack.clone().next().is_some() {
                let module = stack.any(|line| MODULE.iter().any(|m| line.contains(m)));
                log.findings.push(Finding { text: block.join("\n"), module });
            }
            block.clear();
        }
        log
    }

    fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("Parent PID: ") {
            self.parent = number(rest).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("ERROR SUMMARY: ") {
            let suppressed = rest.split("suppressed: ").nth(1).and_then(number);
            self.errors = number(rest).zip(suppressed);
        } else if let Some(rest) = line.strip_prefix("definitely lost: ") {
            self.lost = rest.split(" in ").nth(1).and_then(number).unwrap_or(u64::MAX);
        } else if let Some(rest) = line.strip_prefix("total heap usage: ") {
            self.allocations = number(rest).unwrap_or(0);
        }
    }
}

/// What all processes did.
///
/// A process that was asked with [`growth`] gives its own log to those that it starts later, so that
/// only what each line starts with tells whose it is.
///
/// # Panics
///
/// When the logs cannot be read.
#[must_use]
pub fn logs(folder: &Path) -> Vec<Log> {
    let entries = fs::read_dir(folder).expect("the folder of the logs");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "log"));
    paths.sort();
    let text: String = paths.iter().map(|path| fs::read_to_string(path).expect("a log")).collect();
    parse(&text)
}

/// Reads the lines of all processes.
fn parse(text: &str) -> Vec<Log> {
    let mut lines: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let own = line.strip_prefix("==").and_then(|rest| rest.split_once("=="));
        // All others are suppressions, as one could write them.
        if let Some((pid, line)) = own
            && let Ok(pid) = pid.parse()
        {
            lines.entry(pid).or_default().push(line);
        }
    }
    lines.into_iter().map(|(pid, lines)| Log::parse(pid, lines)).collect()
}

/// How many blocks more there are in a process than when it was asked before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Growth {
    /// All of them.
    pub all: i64,
    /// Those that the module takes part in.
    pub module: i64,
    /// Where the module allocates that of which there is more, or less: valgrind's own words.
    pub places: Vec<String>,
}

/// Asks a process that runs what it has allocated, whether it can be reached or not, and compares
/// that with what it said when it was asked before. The first answer is of no use.
///
/// # Panics
///
/// When there is no answer.
#[must_use]
pub fn growth(folder: &Path, pid: u32) -> Growth {
    let output = Command::new("vgdb")
        .arg(format!("--vgdb-prefix={}/vgdb", folder.display()))
        .args([&format!("--pid={pid}"), "--wait=60", "leak_check", "full", "reachable"])
        .args(["changed", "unlimited"])
        .output()
        .expect("vgdb, which comes with valgrind");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("LEAK SUMMARY"),
        "vgdb: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Growth::parse(&text)
}

impl Growth {
    /// Reads an answer.
    fn parse(text: &str) -> Self {
        let mut growth = Self::default();
        // What has no such prefix is how one could suppress a record.
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("==")).collect();
        for record in lines.split(|line| line.ends_with("== ")) {
            let Some(head) = record.first().filter(|line| line.contains(" in loss record ")) else {
                continue;
            };
            let change = delta(head);
            growth.all += change;
            if change != 0 && is_of_module(record) {
                growth.module += change;
                growth.places.push(record.join("\n"));
            }
        }
        growth
    }
}

/// Whether it is the module that allocates, and not NGINX for a connection that it keeps, though the
/// module had let its request go on.
fn is_of_module(record: &[&str]) -> bool {
    let is_of = |line: &&&str| MODULE.iter().chain(&[CONNECTING]).any(|name| line.contains(name));
    record.iter().find(is_of).is_some_and(|line| !line.contains(CONNECTING))
}

/// The change of the blocks in `1,024 (+512) bytes in 2 (+1) blocks are …`.
fn delta(line: &str) -> i64 {
    let blocks = line.split(" in ").nth(1).and_then(|b| b.split('(').nth(1)).unwrap_or_default();
    let sign = if blocks.starts_with('-') { -1 } else { 1 };
    let change = number(blocks.trim_start_matches(['+', '-'])).and_then(|n| i64::try_from(n).ok());
    sign * change.unwrap_or(0)
}

/// The number that a text starts with, with its commas.
fn number(text: &str) -> Option<u64> {
    let digits = text.chars().take_while(|c| c.is_ascii_digit() || *c == ',');
    digits.filter(|c| *c != ',').collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
==7== Memcheck, a memory error detector
==7== Parent PID: 5
==7== 
==7== Invalid read of size 8
==7==    at 0x1: <shunt_api::call::Call as Clone>::clone (call.rs:31)
==7==    by 0x2: ngx_http_handler (ngx_http_core_module.c:865)
==8== Parent PID: 7
==7==  Address 0x3 is 0 bytes after a block of size 8 alloc'd
==7==    at 0x4: malloc (in vgpreload_memcheck-amd64-linux.so)
==7== 
{
   <insert_a_suppression_name_here>
   fun:clone
}
==7== HEAP SUMMARY:
==7==   total heap usage: 1,234 allocs, 1,233 frees, 5 bytes allocated
==7== 
==7== 16 bytes in 1 blocks are definitely lost in loss record 1 of 1
==7==    at 0x5: malloc (in vgpreload_memcheck-amd64-linux.so)
==7==    by 0x6: ngx_alloc (ngx_alloc.c:22)
==7== 
==7== LEAK SUMMARY:
==7==    definitely lost: 16 bytes in 1 blocks
==7== 
==7== ERROR SUMMARY: 2 errors from 2 contexts (suppressed: 3 from 1)
";

    #[test]
    fn a_log_tells_what_was_found_and_where() {
        let [seven, eight] = parse(LOG).try_into().unwrap();
        assert_eq!((seven.pid, seven.parent, seven.allocations, seven.lost), (7, 5, 1234, 1));
        assert_eq!(seven.errors, Some((2, 3)));
        let module: Vec<bool> = seven.findings.iter().map(|f| f.module).collect();
        assert_eq!(module, [true, false]);
        assert!(seven.findings[0].text.contains("Invalid read"));
        assert_eq!((eight.pid, eight.parent, eight.errors), (8, 7, None));
    }

    #[test]
    fn growth_is_counted_in_blocks_and_once_for_each_stack() {
        let text = "\
==7== 96 (-32) bytes in 3 (-1) blocks are still reachable in loss record 1 of 3
==7==    at 0x1: malloc (in vgpreload_memcheck-amd64-linux.so)
==7==    by 0x2: ngx_alloc (ngx_alloc.c:22)
==7== 
==7== 2,048 (+1,024) bytes in 2,002 (+1,001) blocks are still reachable in loss record 2 of 3
==7==    at 0x1: malloc (in vgpreload_memcheck-amd64-linux.so)
==7==    by 0x3: new (view.rs:60)
==7==    by 0x3: admit (worker.rs:70)
==7== 
{
   <insert_a_suppression_name_here>
   fun:ngx_http_shunt_module
}
==7== 256 (+256) bytes in 2 (+2) blocks are still reachable in loss record 3 of 3
==7==    at 0x1: memalign (in vgpreload_memcheck-amd64-linux.so)
==7==    by 0x2: ngx_create_pool (ngx_palloc.c:23)
==7==    by 0x3: ngx_http_upstream_connect (ngx_http_upstream.c:1650)
==7==    by 0x4: ngx_http_shunt_module::hold::look (hold.rs:231)
==7== 
==7== LEAK SUMMARY:
";
        let growth = Growth::parse(text);
        assert_eq!((growth.all, growth.module), (1002, 1001));
        let [place] = growth.places.try_into().unwrap();
        assert!(
            place.starts_with("==7== 2,048 (+1,024) bytes") && place.ends_with("worker.rs:70)")
        );
    }
}
