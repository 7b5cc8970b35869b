//! The daemon's own log: lines on the standard error. Under systemd, which puts them into its journal,
//! each begins with its priority (`sd-daemon(3)`); elsewhere with the daemon's name.

use std::fmt::Display;
use std::io::Write;
use std::sync::LazyLock;

/// How serious a line is: the priorities of `syslog(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

/// Something failed that should not have.
pub fn error(text: impl Display) {
    write(Level::Error, &text);
}

/// Something that somebody should look at.
pub fn warning(text: impl Display) {
    write(Level::Warning, &text);
}

/// Something that is right, and that one wants to find again.
pub fn notice(text: impl Display) {
    write(Level::Notice, &text);
}

/// What goes on.
pub fn info(text: impl Display) {
    write(Level::Info, &text);
}

/// Whether the standard error goes to systemd's journal.
static JOURNAL: LazyLock<bool> = LazyLock::new(|| {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    // Which stream it is stands there, as whoever inherits the variable may write somewhere else.
    std::env::var("JOURNAL_STREAM").is_ok_and(|s| s == format!("{}:{}", stat.st_dev, stat.st_ino))
});

fn write(level: Level, text: &dyn Display) {
    // There is nobody else to tell, as when the terminal is gone.
    let _ = std::io::stderr().lock().write_all(lines(level, text, *JOURNAL).as_bytes());
}

/// A text of several lines is several entries in the journal: each gets its priority.
fn lines(level: Level, text: &dyn Display, journal: bool) -> String {
    let text = text.to_string();
    match journal {
        true => text.lines().map(|line| format!("<{}>{line}\n", level as u8)).collect(),
        false => format!("shuntd: {text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority_in_the_journal_and_only_there() {
        let text = "web.toml: line 3\nunknown field";
        let journal = lines(Level::Error, &text, true);
        assert_eq!(journal, "<3>web.toml: line 3\n<3>unknown field\n");
        assert_eq!(lines(Level::Info, &text, false), format!("shuntd: {text}\n"));
    }
}
