//! Files that others have put where they are: no pipe is waited for, and no more is read than there
//! should be. And what takes long with files holds up nobody else.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Does something with files on a thread that may wait for them: a disk can be slow, and a folder large.
///
/// # Errors
///
/// What the work says; also when it has panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Opens a file to read it.
///
/// # Errors
///
/// What the system says; also when it is a folder, a pipe, or whatever else is no file.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe has no writer yet, and a terminal would become the daemon's.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    match (meta.is_file(), meta.is_dir()) {
        (true, _) => Ok(file),
        (_, true) => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("it is no file, but a pipe, a device or the like")),
    }
}

/// Reads a file that is a text of at most so many bytes.
///
/// # Errors
///
/// As [`open`], and for a longer one.
pub fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not a text in UTF-8");
    String::from_utf8(bytes).map_err(wrong)
}

/// The longest token, in bytes.
const TOKEN: u64 = 64 << 10;

/// Reads a file that holds a token.
///
/// # Errors
///
/// As [`read`].
pub fn read_token(path: &Path) -> io::Result<String> {
    read(path, TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, mknodat};

    #[test]
    fn what_is_no_file_or_too_long_is_refused_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let path = |name: &str| tmp.path().join(name);
        let text = |name: &str| read(&path(name), 5).map_err(|error| error.to_string());
        std::fs::write(path("five"), "12345").unwrap();
        std::fs::write(path("six"), "123456").unwrap();
        // The limit is in the middle of a character.
        std::fs::write(path("wide"), "12345\u{e9}").unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::os::unix::fs::symlink("five", path("link")).unwrap();
        assert_eq!([text("five"), text("link")], [Ok("12345".to_owned()), Ok("12345".to_owned())]);
        assert!(text("six").unwrap_err().contains("more than 5 bytes"));
        assert!(text("wide").unwrap_err().contains("more than 5 bytes"));
        std::fs::write(path("latin"), b"caf\xe9").unwrap();
        assert!(text("latin").unwrap_err().contains("UTF-8"));
        assert!(text("pipe").unwrap_err().contains("a pipe"));
        assert!(text("none").unwrap_err().contains("No such file"));
        assert!(read(tmp.path(), 5).is_err());
        assert!(read(Path::new("/dev/zero"), 5).is_err());
    }
}
