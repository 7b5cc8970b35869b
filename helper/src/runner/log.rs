//! A release's log: the file that its output goes to, straight from the process, so that nothing is
//! lost when the daemon ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, fchown, mkdirat, openat};
use rustix::io::Errno;
use shunt_api::ReleaseName;

use crate::plain::plain;

/// The folder of the logs, in an application's root.
pub const FOLDER: &str = "log";

/// The log of a release, in its application's root.
#[must_use]
pub fn path(root: &Path, release: &ReleaseName) -> PathBuf {
    root.join(FOLDER).join(format!("{release}.log"))
}

/// How much of the end of a log is looked at for its last lines, in bytes.
const TAIL: u64 = 64 << 10;

/// As much is looked at when somebody asks for a log.
const LONG_TAIL: u64 = 4 << 20;

/// The log of a release, from the moment on that it was started.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens the log of a release, to append to it; this group may read it.
    ///
    /// # Errors
    ///
    /// What the system says; also when it is a link, or in a folder that is one.
    pub fn open(path: &Path, group: Option<u32>) -> io::Result<Self> {
        let file = Self::append(path)?;
        if let Some(group) = group {
            fchown(&file, None, Some(Gid::from_raw(group)))?;
        }
        Ok(Self { path: path.to_owned(), start: file.metadata()?.len() })
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
        Self::find(path, OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY)
    }

    /// Opens the file. The folder that holds `log/` belongs to the application's user as a rule, and
    /// whoever can write there can put a link in place of anything below it: none is followed.
    fn find(path: &Path, flags: OFlags) -> io::Result<File> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
        let folder = path.parent().ok_or_else(wrong)?;
        let root = folder.parent().ok_or_else(wrong)?;
        let (name, folder) =
            (path.file_name().ok_or_else(wrong)?, folder.file_name().ok_or_else(wrong)?);
        std::fs::create_dir_all(root)?;
        let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, place, Mode::empty())?;
        match mkdirat(&root, folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = openat(&root, folder, place | OFlags::NOFOLLOW, Mode::empty())?;
        // A pipe is not waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o640))?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no file")),
        }
    }

    /// The last lines since the start, at most so many.
    #[must_use]
    pub fn last_lines(&self, n: usize) -> Vec<String> {
        // A log that cannot be read has no lines; that is no reason to fail.
        read(&self.path, self.start, TAIL, n).unwrap_or_default()
    }
}

/// The last lines of a log, at most so many.
///
/// # Errors
///
/// What the system says.
pub fn last_lines_of(path: &Path, n: usize) -> io::Result<Vec<String>> {
    read(path, 0, LONG_TAIL, n)
}

/// The last lines of a log, from a place on, out of its last so many bytes.
fn read(path: &Path, start: u64, most: u64, n: usize) -> io::Result<Vec<String>> {
    let mut file = Log::find(path, OFlags::RDONLY)?;
    let length = file.metadata()?.len();
    // It may have been emptied meanwhile, as logrotate's `copytruncate` does.
    let start = if start > length { 0 } else { start };
    let from = start.max(length.saturating_sub(most));
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(most).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(n)..].iter().map(|line| plain(line)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_lines_since_the_start_count() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log/v1.log");
        writeln!(Log::open(&path, None).unwrap().writer().unwrap(), "old").unwrap();
        let log = Log::open(&path, None).unwrap();
        assert!(log.last_lines(3).is_empty());
        for i in 0..5 {
            writeln!(log.writer().unwrap(), "line {i}").unwrap();
        }
        assert_eq!(log.last_lines(2), ["line 3", "line 4"]);
        assert_eq!(log.last_lines(9).len(), 5);
        // Whoever reads it has a terminal.
        log.writer().unwrap().write_all(b"\x1b]0;title\x07\x1b[2Jend\r\n").unwrap();
        assert_eq!(log.last_lines(1), ["]0;titleend"]);
        assert_eq!(last_lines_of(&path, 1).unwrap(), ["]0;titleend"]);
    }

    #[test]
    fn a_log_that_was_rotated_away_goes_on_at_its_beginning() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log/v1.log");
        writeln!(Log::open(&path, None).unwrap().writer().unwrap(), "a long line").unwrap();
        let log = Log::open(&path, None).unwrap();
        let mut writer = log.writer().unwrap();
        writeln!(writer, "before").unwrap();
        std::fs::File::options().write(true).truncate(true).open(&path).unwrap();
        writeln!(writer, "after").unwrap();
        assert_eq!(log.last_lines(9), ["after"]);
    }

    #[test]
    fn no_link_is_followed_and_only_the_group_may_read() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let tmp = tempfile::tempdir().unwrap();
        let (secret, path) = (tmp.path().join("secret"), tmp.path().join("web/log/v1.log"));
        std::fs::write(&secret, "secret\n").unwrap();
        let log = Log::open(&path, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o037, 0);
        std::fs::remove_file(&path).unwrap();
        symlink(&secret, &path).unwrap();
        assert!(Log::open(&path, None).is_err() && log.writer().is_err());
        assert!(log.last_lines(9).is_empty());
        // The folder, too.
        std::fs::remove_dir_all(tmp.path().join("web/log")).unwrap();
        std::fs::create_dir(tmp.path().join("elsewhere")).unwrap();
        symlink(tmp.path().join("elsewhere"), tmp.path().join("web/log")).unwrap();
        assert!(Log::open(&path, None).is_err());
        assert_eq!(std::fs::read_dir(tmp.path().join("elsewhere")).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret\n");
    }
}
