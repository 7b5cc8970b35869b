//! A release's log: the file that its output goes to, straight from the process, so that nothing is
//! lost when the daemon ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of the end of a log is looked at for its last lines, in bytes.
const TAIL: u64 = 64 << 10;

/// The log of a release, from the moment on that it was started.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens the log of a release, to append to it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let start = Self::append(path)?.metadata()?.len();
        Ok(Self { path: path.to_owned(), start })
    }

    /// A handle for the process to write to.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn writer(&self) -> io::Result<File> {
        Self::append(&self.path)
    }

    fn append(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(path)
    }

    /// The last lines since the start, at most so many.
    #[must_use]
    pub fn last_lines(&self, n: usize) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let from = self.start.max(file.metadata()?.len().saturating_sub(TAIL));
            file.seek(SeekFrom::Start(from))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(tail)
        };
        // A log that cannot be read has no lines; that is no reason to fail.
        let text = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(n)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_lines_since_the_start_count() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log/v1.log");
        writeln!(Log::open(&path).unwrap().writer().unwrap(), "old").unwrap();
        let log = Log::open(&path).unwrap();
        assert!(log.last_lines(3).is_empty());
        for i in 0..5 {
            writeln!(log.writer().unwrap(), "line {i}").unwrap();
        }
        assert_eq!(log.last_lines(2), ["line 3", "line 4"]);
        assert_eq!(log.last_lines(9).len(), 5);
    }
}
