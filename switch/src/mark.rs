//! How the state file was left by whoever wrote it last, kept in the zone's header.
//!
//! Only a file that is exactly so can take one more line: it says what the zone says, and nobody else
//! has had it in hand. A writer takes the mark away before it touches the file, and sets it once its
//! change is published; in between, the file may hold a change that never happens. So whoever comes
//! after a writer that was killed finds no mark, and writes the file whole.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::sync::Ordering;
use crate::zone::{Zone, header};

/// What tells that a file is still as it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    device: u64,
    inode: u64,
    /// How long it is.
    pub length: u64,
    /// How long its first line is.
    pub base: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

impl Mark {
    /// The mark of a file whose first line is so long; `None` for one that has further names, which
    /// somebody made to keep it as it is, or has none any more.
    #[must_use]
    pub fn of(file: &Metadata, base: u64) -> Option<Self> {
        // Negative before 1970: all that counts is that it is the same.
        let seconds = file.mtime().cast_unsigned();
        let modified = seconds.wrapping_mul(1_000_000_000).wrapping_add_signed(file.mtime_nsec());
        let (device, inode, length) = (file.dev(), file.ino(), file.len());
        (file.nlink() == 1).then_some(Self { device, inode, length, base, modified })
    }

    /// The same file, which has grown by so many bytes since.
    #[must_use]
    pub fn is_grown_by(&self, bytes: u64, before: &Self) -> bool {
        let length = before.length.saturating_add(bytes);
        *self == Self { length, modified: self.modified, ..*before }
    }
}

/// All under the lock.
impl Zone<'_> {
    /// How the state file was left, if it says what the zone does. From here on it counts as written
    /// to.
    pub(crate) fn take_mark(&self) -> Option<Mark> {
        let read = |at| self.word(at).load(Ordering::Relaxed);
        let mark = Mark {
            device: read(header::FILE_DEVICE),
            inode: read(header::FILE_INODE),
            length: read(header::FILE_LENGTH),
            base: read(header::FILE_BASE),
            modified: read(header::FILE_MODIFIED),
        };
        self.forget_mark();
        // No file has an empty first line.
        (mark.base != 0).then_some(mark)
    }

    /// The state file does not say what the zone does, or will not.
    pub(crate) fn forget_mark(&self) {
        self.word(header::FILE_BASE).store(0, Ordering::Release);
    }

    /// The state file says what the zone does, and was left like this.
    pub(crate) fn set_mark(&self, mark: Mark) {
        // There is none by now: whoever writes has taken it, and whoever is killed here leaves none.
        for (at, value) in [
            (header::FILE_DEVICE, mark.device),
            (header::FILE_INODE, mark.inode),
            (header::FILE_LENGTH, mark.length),
            (header::FILE_MODIFIED, mark.modified),
        ] {
            self.word(at).store(value, Ordering::Relaxed);
        }
        self.word(header::FILE_BASE).store(mark.base, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::zone::testing::words;

    #[test]
    fn a_mark_is_taken_once_and_gone_when_the_zone_changes() {
        let words = words(1 << 14);
        let zone = Zone::create(&words, 16).unwrap();
        assert_eq!(zone.take_mark(), None);
        let mark = Mark { device: 1, inode: 2, length: 30, base: 20, modified: 5 };
        zone.set_mark(mark);
        assert_eq!(zone.take_mark(), Some(mark));
        assert_eq!(zone.take_mark(), None);
        zone.set_mark(mark);
        // What the file still has is no longer in the zone.
        zone.give_up(0);
        assert_eq!(zone.take_mark(), None);
        zone.set_mark(mark);
        assert_eq!(zone.start_over().unwrap().take_mark(), None);
    }

    #[test]
    fn a_file_has_a_mark_only_under_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        std::fs::write(&path, "{}\n").unwrap();
        let mark = || Mark::of(&std::fs::metadata(&path).unwrap(), 3);
        let before = mark().unwrap();
        assert!(before.is_grown_by(0, &before) && !before.is_grown_by(1, &before));
        // Miri makes none.
        if !cfg!(miri) {
            std::fs::hard_link(&path, folder.path().join("copy.json")).unwrap();
            assert_eq!(mark(), None);
        }
    }
}
