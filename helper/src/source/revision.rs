//! What a release was made of, as its folder says.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::origin::REVISION;

/// The longest revision that is taken from a file, in bytes.
const LONGEST: u64 = 100;

/// What a release's folder says; `None` when it says nothing, or what is no revision.
#[must_use]
pub fn of(folder: &Path) -> Option<String> {
    read(File::open(folder).ok()?).ok()?
}

/// The revision in a folder; `None` when its file has something else in it.
pub(super) fn read(folder: impl AsFd) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, REVISION, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A link is somebody's own idea of a revision.
        Err(Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    let line = text.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
    let good = !line.is_empty() && line.iter().all(u8::is_ascii_graphic);
    Ok(good.then(|| String::from_utf8_lossy(line).into_owned()))
}
