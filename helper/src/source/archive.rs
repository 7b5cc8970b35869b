//! A release from an archive: `.tar.gz` or `.tar.zst`, told apart by how they begin.
//!
//! An archive is not trusted. Each name in it is walked down from the release's own folder and no link
//! is followed, so nothing is written elsewhere: a name that is absolute or has `..` is refused, and so
//! is one whose way leads through a link. A link itself is kept, wherever it leads to, as only the
//! application will follow it. Devices, pipes and sockets are refused; set-user-ID, owners and extended
//! attributes are dropped. What it unpacks to is bounded (`[source] max_size`), as is their number, and
//! so is what describes an entry.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use tar::EntryType;

use super::checksum::{self, Summed};
use super::order::Order;
use super::partial::{Partial, Revision};
use super::{Fetched, SourceError};
use crate::origin::checksum::Sha256;

/// The most that describes one entry: long names and other extensions of its header, in bytes.
const HEADER: u64 = 1 << 20;

/// The most that follows after the end of an archive, in bytes: `tar` fills its last record.
const PADDING: u64 = 64 << 20;

/// The latest time of a file, in seconds since 1970: the year 9999.
const LATEST: u64 = 253_402_300_799;

/// The most entries that an archive may have.
pub(super) const ENTRIES: u64 = 1_000_000;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is of another kind.
    #[error("it is neither gzip nor Zstandard, make a .tar.gz or a .tar.zst")]
    Kind,
    /// It is not what it should be.
    #[error("its SHA-256 is {found}, it should be {expected}; fetch it again")]
    Checksum {
        /// What it should be.
        expected: Sha256,
        /// What it is.
        found: Sha256,
    },
    /// The file with its checksum is no such file.
    #[error("its checksum cannot be read: {0}")]
    NoChecksum(io::Error),
    /// Something in it is refused, or cannot be written.
    #[error("{name:?} in it: {error}")]
    Entry {
        /// What.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// It cannot be read, or is damaged.
    #[error("it cannot be read: {0}")]
    Broken(io::Error),
}

/// Unpacks an archive.
pub(super) fn fetch(
    path: &Path,
    expected: Option<Sha256>,
    strip: usize,
    order: Order,
) -> Result<Fetched, SourceError> {
    let wrong = |error| SourceError::Archive { path: path.to_owned(), error };
    let broken = |error| wrong(ArchiveError::Broken(error));
    let mut file = order
        .readers
        .file(path)
        .map_err(|error| SourceError::Read { path: path.to_owned(), error })?;
    let expected = match expected {
        Some(expected) => Some(expected),
        None => checksum::beside(path).map_err(|e| wrong(ArchiveError::NoChecksum(e)))?,
    };
    let check = |found: Sha256| match expected {
        Some(expected) if expected != found => {
            Err(wrong(ArchiveError::Checksum { expected, found }))
        }
        _ => Ok(()),
    };
    let stop = order.stop.clone();
    if expected.is_some() {
        // Nothing of it is looked at before.
        check(Summed::new(Watched { file: &file, stop: &stop }).finish().map_err(broken)?)?;
        file.rewind().map_err(broken)?;
    }
    let mut partial = Partial::begin(order)?;
    let mut summed =
        BufReader::with_capacity(64 << 10, Summed::new(Watched { file: &file, stop: &stop }));
    let comment = match io::BufRead::fill_buf(&mut summed).map_err(broken)? {
        [0x1f, 0x8b, ..] => unpack(MultiGzDecoder::new(&mut summed), strip, &mut partial),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::with_buffer(&mut summed)
            .map_err(ArchiveError::Broken)
            .and_then(|decoder| unpack(decoder, strip, &mut partial)),
        _ => Err(ArchiveError::Kind),
    }
    .map_err(wrong)?;
    // It may have been written to since it was checked.
    let sum = summed.into_inner().finish().map_err(broken)?;
    check(sum)?;
    let known = comment.unwrap_or_else(|| format!("sha256:{sum}"));
    let (folder, revision) = partial.finish(Revision::Else(known))?;
    Ok(Fetched { folder, revision })
}

/// Reads as long as somebody waits for it.
struct Watched<'a> {
    file: &'a File,
    stop: &'a super::order::Stop,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.file.read(buf)
    }
}

/// Unpacks what `tar` has packed, without the first components of each name. Tells the commit that
/// `git archive` has made it of, if it did.
pub(super) fn unpack(
    reader: impl Read,
    strip: usize,
    partial: &mut Partial,
) -> Result<Option<String>, ArchiveError> {
    let left = Rc::new(Cell::new(HEADER));
    let mut archive = tar::Archive::new(Bounded { inner: reader, left: left.clone() });
    let comment = entries(&mut archive, &left, &mut Unpack { partial, strip, last: None })?;
    // The checksum of whatever has compressed it stands at the end of that.
    left.set(PADDING);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ArchiveError::Broken)?;
    Ok(comment)
}

/// Unpacks every entry; gives what [`unpack`] does.
fn entries<R: Read>(
    archive: &mut tar::Archive<Bounded<R>>,
    left: &Cell<u64>,
    unpack: &mut Unpack<'_>,
) -> Result<Option<String>, ArchiveError> {
    let mut comment = None;
    let mut entries = archive.entries().map_err(ArchiveError::Broken)?;
    loop {
        left.set(HEADER);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(ArchiveError::Broken)?;
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            comment = comment.or(commit(&mut entry).map_err(ArchiveError::Broken)?);
            continue;
        }
        left.set(u64::MAX);
        unpack.entry(&mut entry).map_err(|error| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            ArchiveError::Entry { name, error }
        })?;
    }
    Ok(comment)
}

/// The commit in a global header (`git-get-tar-commit-id(1)`).
fn commit(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    let comment = text.strip_prefix(b"52 comment=").or(text.strip_prefix(b"76 comment="));
    let comment = comment.map(|text| String::from_utf8_lossy(text.trim_ascii_end()).into_owned());
    Ok(comment.filter(|comment| crate::origin::reference::is_hash(comment)))
}

/// A reader that ends with an error when more is read than there should be.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 && !buf.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there is too much of a header",
            ));
        }
        let n = self.inner.read(&mut buf[..most])?;
        if left != u64::MAX {
            self.left.set(left - n as u64);
        }
        Ok(n)
    }
}

struct Unpack<'a> {
    partial: &'a mut Partial,
    strip: usize,
    /// The folder of the last entry, as the next one mostly lies there, too.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Unpack<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let name = entry.path_bytes().into_owned();
        let Some(path) = self.path(&name)? else {
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(io::Error::other(format!(
                    "nothing of its name is left without {} of its parts ([source] strip)",
                    self.strip
                ))),
            };
        };
        // Before POSIX a folder was a file with a slash at its end.
        let folder = kind == EntryType::Directory
            || (kind == EntryType::Regular && name.ends_with(b"/") && entry.size() == 0);
        let (name, parents) = (OsStr::from_bytes(path[path.len() - 1]), &path[..path.len() - 1]);
        let mode = entry.header().mode()?;
        if folder {
            self.partial.take(0)?;
            let parent = self.folder(parents)?;
            self.partial.make_folder(parent, name, mode)?;
            return Ok(());
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let size = entry.size();
                self.partial.take(size)?;
                let changed = entry.header().mtime().unwrap_or_default().min(LATEST);
                let parent = self.folder(parents)?;
                // Of two of a name the later one counts.
                self.partial.unlink(&parent, name)?;
                let mut file = self.partial.create(&parent, name)?;
                self.copy(entry, &mut file, size)?;
                self.partial.seal(&file, mode, i64::try_from(changed).unwrap_or_default())
            }
            EntryType::Symlink => {
                self.partial.take(0)?;
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let parent = self.folder(parents)?;
                self.partial.unlink(&parent, name)?;
                self.partial.link(&parent, name, OsStr::from_bytes(&target))
            }
            EntryType::Link => {
                self.partial.take(0)?;
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.path(&target)?.ok_or(io::ErrorKind::InvalidInput)?;
                if target == path {
                    return Ok(());
                }
                let (file, folders) =
                    (OsStr::from_bytes(target[target.len() - 1]), &target[..target.len() - 1]);
                let folder = self.folder(folders)?;
                let parent = self.folder(parents)?;
                self.partial.unlink(&parent, name)?;
                self.partial.hard_link((folder, file), parent, name)
            }
            _ => {
                let why = "it is neither a file, a folder nor a link";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
        }
    }

    /// The parts of a name that are left; `None` when nothing is.
    fn path<'n>(&self, name: &'n [u8]) -> io::Result<Option<Vec<&'n [u8]>>> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if name.starts_with(b"/") {
            return refused("its name is absolute");
        }
        let parts = name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
        let parts: Vec<_> = parts.collect();
        if parts.contains(&&b".."[..]) {
            return refused("its name has \"..\"");
        }
        if name.contains(&0) {
            return refused("its name has a NUL character");
        }
        Ok(parts.get(self.strip..).filter(|parts| !parts.is_empty()).map(<[_]>::to_vec))
    }

    fn folder(&mut self, path: &[&[u8]]) -> io::Result<OwnedFd> {
        let key = path.join(&b'/');
        let last = match self.last.take() {
            Some(last) if last.0 == key => last,
            _ => {
                let names: Vec<_> = path.iter().map(|name| OsStr::from_bytes(name)).collect();
                (key, self.partial.folder(&names)?)
            }
        };
        self.last.insert(last).1.try_clone()
    }

    fn copy(&self, from: &mut impl Read, to: &mut File, size: u64) -> io::Result<()> {
        let copied = io::copy(&mut from.take(size), to)?;
        match copied == size {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests;
