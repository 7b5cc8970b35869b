//! Load by wrk: as many requests as its connections can get answered.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use shunt_tests::process::signal;
use tempfile::NamedTempFile;

/// Tells wrk to say what it has measured in one line.
const SCRIPT: &str = include_str!("wrk.lua");

/// wrk that runs.
pub struct Wrk {
    child: Child,
    /// wrk reads it when it begins.
    _script: NamedTempFile,
}

/// What it has measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Requests with an answer.
    pub requests: f64,
    /// For how long.
    pub seconds: f64,
    /// Requests without an answer, or with an error for one.
    pub failures: f64,
    /// The time that half of the requests took at most, in milliseconds.
    pub p50: f64,
    /// The same of 99 in 100.
    pub p99: f64,
}

impl Measured {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests / self.seconds
    }

    /// Reads the script's line.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("measured "))?;
        let of = |name: &str| {
            let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields.find(|(n, _)| *n == name)?.1.parse::<f64>().ok()
        };
        Some(Self {
            requests: of("requests")?,
            seconds: of("microseconds")? / 1e6,
            failures: of("status")? + of("cut")? + of("timeout")?,
            p50: of("p50")? / 1e3,
            p99: of("p99")? / 1e3,
        })
    }
}

impl Wrk {
    /// Starts it, for so long at most, on so many connections that are kept open.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(port: u16, connections: usize, limit: Duration) -> Self {
        let script = NamedTempFile::new().expect("a file");
        std::fs::write(script.path(), SCRIPT).expect("a file");
        let child = Command::new("wrk")
            .args(["--threads", "1", "--timeout", "10s", "--connections"])
            .arg(connections.to_string())
            .arg("--duration")
            .arg(format!("{}s", limit.as_secs().max(1)))
            .arg("--script")
            .arg(script.path())
            .arg(format!("http://127.0.0.1:{port}/products/17"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self { child: child.unwrap_or_else(|e| panic!("wrk: {e}")), _script: script }
    }

    /// Ends it now.
    pub fn stop(self) -> Measured {
        signal(self.child.id(), Signal::INT);
        self.wait()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    ///
    /// When it has measured nothing.
    pub fn wait(self) -> Measured {
        let output = self.child.wait_with_output().expect("wrk ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let measured = Measured::parse(&text).filter(|m| m.requests > 0.0 && m.seconds > 0.0);
        measured.unwrap_or_else(|| panic!("wrk has measured nothing: {output:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "Running 2s test\nmeasured requests=50000 microseconds=2000000 status=3 \
                        cut=2 timeout=1 p50=950 p99=2200\n";

    #[test]
    fn the_line_of_the_script_is_read() {
        let measured =
            Measured { requests: 50_000.0, seconds: 2.0, failures: 6.0, p50: 0.95, p99: 2.2 };
        assert_eq!(Measured::parse(LINE), Some(measured));
        assert_eq!(measured.rate(), 25_000.0);
    }

    #[test]
    fn without_the_line_or_with_less_in_it_nothing_was_measured() {
        assert_eq!(Measured::parse("Running 2s test\n"), None);
        assert_eq!(Measured::parse(&LINE.replace("p99=", "p9=")), None);
        assert_eq!(Measured::parse(&LINE.replace("=50000", "=many")), None);
    }
}
