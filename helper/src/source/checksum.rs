//! SHA-256 of a file that is read, and the checksum that it should have.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256 as Hasher};

use crate::file;

/// The most that is read of a file with checksums, in bytes.
const MAX: u64 = 64 << 10;

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// That of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Hasher::digest(bytes).into())
    }
}

/// A text is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a SHA-256, which has 64 hexadecimal digits")]
pub struct NoSha256;

impl FromStr for Sha256 {
    type Err = NoSha256;

    fn from_str(text: &str) -> Result<Self, NoSha256> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NoSha256);
        }
        let mut sum = [0; 32];
        for (byte, i) in sum.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| NoSha256)?;
        }
        Ok(Self(sum))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
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
        Ok(Sha256(self.hasher.finalize().into()))
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
    fn what_is_not_a_sum_is_refused() {
        for bad in
            ["", "ab", &ABC[1..], &format!("{ABC}0"), &ABC.replace('b', "g"), &"é".repeat(32)]
        {
            assert_eq!(bad.parse::<Sha256>(), Err(NoSha256), "{bad}");
        }
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
