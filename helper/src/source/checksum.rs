//! The SHA-256 of a file that is read, and the one that stands beside it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256 as Hasher};

use crate::file;
use crate::origin::checksum::Sha256;

/// The most that is read of a file with checksums, in bytes.
const MAX: u64 = 64 << 10;

/// The checksum of some bytes.
pub(super) fn of(bytes: &[u8]) -> Sha256 {
    Sha256::new(Hasher::digest(bytes).into())
}

/// The checksum that stands beside an archive, in `<archive>.sha256` as `sha256sum` writes it; `None`
/// when there is no such file.
///
/// # Errors
///
/// What is wrong with the file.
pub(super) fn beside(archive: &Path) -> io::Result<Option<Sha256>> {
    let mut path = archive.as_os_str().to_owned();
    path.push(".sha256");
    let path = PathBuf::from(path);
    let text = match file::read(&path, MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    find(&text, &name).map(Some).ok_or_else(|| {
        let why = format!("{} has no SHA-256 of {name}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// The checksum of this name, or the only one there is.
fn find(text: &str, name: &str) -> Option<Sha256> {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let sum = |line: &str| line.split_whitespace().next()?.parse().ok();
    if let [line] = lines[..] {
        return sum(line);
    }
    let names = |line: &&&str| {
        // A star before the name says that the file is binary.
        let of = line.split_once(char::is_whitespace).map(|(_, of)| of.trim_start());
        let of = of.map(|of| of.strip_prefix('*').unwrap_or(of));
        of.is_some_and(|of| Path::new(of).file_name() == Path::new(name).file_name())
    };
    sum(lines.iter().find(names)?)
}

/// A reader that makes the checksum of all that is read.
pub(super) struct Summed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Summed<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::new() }
    }

    /// The checksum of all there is, what was not read yet included.
    pub(super) fn finish(mut self) -> io::Result<Sha256> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Sha256::new(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_sum_is_of_all_that_can_be_read() {
        let mut reader = Summed::new(&b"abc"[..]);
        reader.read_exact(&mut [0]).unwrap();
        let sum = reader.finish().unwrap();
        assert_eq!(sum.to_string(), ABC);
        assert_eq!(ABC.to_uppercase().parse(), Ok(sum));
    }

    #[test]
    fn the_file_beside_is_as_sha256sum_writes_it() {
        let other = "0".repeat(64);
        let sum = ABC.parse().ok();
        for text in [
            ABC.to_owned(),
            format!("{ABC}  some/other.name\n"),
            format!("{other}  b.tar.gz\n{ABC}  web.tar.gz\n"),
            format!("{other} *b.tar.gz\n{ABC} *dist/web.tar.gz\n\n"),
        ] {
            assert_eq!(find(&text, "web.tar.gz"), sum, "{text}");
        }
        for text in ["", "x  web.tar.gz", &format!("{ABC}  a\n{ABC}  b")] {
            assert_eq!(find(text, "web.tar.gz"), None, "{text}");
        }
    }
}
