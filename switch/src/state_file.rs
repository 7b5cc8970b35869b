//! The file that a [`Snapshot`] is kept in: what outlives a restart and a power loss (P5).
//!
//! It is written whole beside the old one, flushed, renamed over it, and the folder flushed: after a
//! crash at any instant there is the old file or the new one. A change after that appends one line and
//! flushes it: after a crash the line is there, or it is not, and half of it counts as none. What a
//! change costs does not depend on how many upstreams there are, but for the one in a hundred or so that
//! writes the file whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, Uid};

use crate::mark::Mark;
use crate::snapshot::{Saved, Snapshot};

/// A state file is never longer; a longer file is not one.
const MAX_BYTES: u64 = 64 << 20;

/// Lines that take less than this are not worth it to write the file whole; a small disk has room for it.
const MIN_APPENDED: u64 = 32 << 10;

/// Why there is nothing to take over from the file, or it cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read.
    #[error("cannot read state file {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write state file {path:?}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Its content is not a state file's.
    #[error("state file {path:?} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a line was not appended: the file is to be written whole.
#[derive(Debug, thiserror::Error)]
pub enum NotAppended {
    /// All that was appended takes more than what it was appended to.
    #[error("the file has grown enough")]
    Grown,
    /// Somebody else has had it in hand.
    #[error("the file is not as its last writer left it")]
    Changed,
    /// The system does not let it.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A file that was written.
#[derive(Debug, Default)]
#[must_use]
pub struct Written {
    /// How it was left; `None` when nothing is to be appended to it.
    pub mark: Option<Mark>,
    /// It is there, but the system cannot say that it will be after a power loss.
    pub unsure: Option<StateFileError>,
}

/// Reads the file; `None` when there is none.
///
/// # Errors
///
/// [`StateFileError::Read`] and [`StateFileError::Damaged`].
pub fn read(path: &Path) -> Result<Option<Snapshot>, StateFileError> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateFileError::Read { path: path.to_owned(), error }),
    };
    let parsed = if text.len() as u64 > MAX_BYTES {
        Err(format!("it is longer than {MAX_BYTES} bytes"))
    } else {
        Snapshot::parse(&text)
    };
    parsed.map(Some).map_err(|why| StateFileError::Damaged { path: path.to_owned(), why })
}

/// Its content, or the beginning of one that is too long.
fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    // A file that is none (a pipe, a device) must not hold NGINX up.
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "it is a folder" } else { "it is not a file" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Writes the file whole, so that it is there after a power loss, and gives it to this user, who can
/// then replace it in whatever folder.
///
/// # Errors
///
/// [`StateFileError::Write`]; the old file is then still there.
pub fn write(
    path: &Path,
    snapshot: &Snapshot,
    owner: Option<Uid>,
) -> Result<Written, StateFileError> {
    let beside = sibling(path, "tmp");
    let failed = |error| StateFileError::Write { path: path.to_owned(), error };
    let (folder, mark) = replace(path, &beside, snapshot, owner).map_err(|error| {
        // On a disk that is full, half of it would be in the way.
        let _ = fs::remove_file(&beside);
        failed(error)
    })?;
    // Miri syncs files only.
    let synced = if cfg!(miri) { Ok(()) } else { folder.sync_all() };
    Ok(match synced {
        Ok(()) => Written { mark, unsure: None },
        // After a power loss the file may be the old one, and what was appended to this one gone.
        Err(error) => Written { mark: None, unsure: Some(failed(error)) },
    })
}

/// Puts a new file in the place of the old one, and gives the folder, which is not flushed yet.
fn replace(
    path: &Path,
    beside: &Path,
    snapshot: &Snapshot,
    owner: Option<Uid>,
) -> io::Result<(File, Option<Mark>)> {
    if is_device(path) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device"));
    }
    let text = snapshot.text()?;
    let length = text.len() as u64;
    if length > MAX_BYTES {
        let why = format!("it would be longer than {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    // Before the file is replaced, so that it need not be undone.
    let folder = File::open(folder(path))?;
    // One that a killed writer, or another user, left behind.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    if owner.is_some() {
        rustix::fs::fchown(&file, owner, None)?;
    }
    file.write_all(&text)?;
    file.sync_all()?;
    let mark = Mark::of(&file.metadata()?, length);
    fs::rename(beside, path)?;
    Ok((folder, mark))
}

/// Appends a line, so that it is there after a power loss, to a file that is as it was left.
///
/// # Errors
///
/// [`NotAppended`]; the file says then what it said before, as far as the system lets it.
pub fn append(path: &Path, left: &Mark, saved: &Saved) -> Result<Mark, NotAppended> {
    let line = saved.line().map_err(io::Error::from)?;
    if !has_room(left, line.len() as u64) {
        return Err(NotAppended::Grown);
    }
    let mut file = open_to_append(path)?;
    if Mark::of(&file.metadata()?, left.base) != Some(*left) {
        return Err(NotAppended::Changed);
    }
    append_to(&mut file, left, &line)
}

/// Whether so many bytes more are to be appended.
fn has_room(left: &Mark, bytes: u64) -> bool {
    let length = left.length.saturating_add(bytes);
    length.saturating_sub(left.base) <= left.base.max(MIN_APPENDED) && length <= MAX_BYTES
}

fn open_to_append(path: &Path) -> io::Result<File> {
    // Who may not replace the file is to be told now, and not when it has grown; as far as the folder's
    // permissions tell. Miri has no users.
    if !cfg!(miri) {
        rustix::fs::access(folder(path), Access::WRITE_OK)?;
    }
    let flags = flags(OFlags::NOFOLLOW | OFlags::NONBLOCK);
    OpenOptions::new().append(true).custom_flags(flags).open(path)
}

fn append_to(file: &mut File, left: &Mark, line: &[u8]) -> Result<Mark, NotAppended> {
    let appended = flush_line(file, left, line);
    if appended.is_err() {
        // Should it not be possible to write it whole either, the change has not happened.
        let _ = file.set_len(left.length).and_then(|()| file.sync_data());
    }
    appended
}

fn flush_line(file: &mut File, left: &Mark, line: &[u8]) -> Result<Mark, NotAppended> {
    file.write_all(line)?;
    file.sync_data()?;
    let now = Mark::of(&file.metadata()?, left.base);
    now.filter(|now| now.is_grown_by(line.len() as u64, left)).ok_or(NotAppended::Changed)
}

/// Flags for the system's `open`; Miri knows none of them.
fn flags(flags: OFlags) -> i32 {
    if cfg!(miri) { 0 } else { i32::try_from(flags.bits()).unwrap_or(0) }
}

/// Puts a damaged file aside under another name and tells which.
///
/// # Errors
///
/// What the system says.
pub fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    for n in 0..1000 {
        let aside = sibling(path, &format!("damaged.{n}"));
        if !aside.exists() {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "there are 1000 damaged ones already"))
}

/// Whether the path leads to a device (`/dev/null`). The whole system has that: it must be neither
/// put aside nor replaced.
#[must_use]
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        metadata.file_type().is_char_device() || metadata.file_type().is_block_device()
    })
}

/// The folder of a file.
#[must_use]
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(all(test, not(loom)))]
mod tests;
