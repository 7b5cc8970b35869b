//! What a program says, in lines.

use crate::plain::plain;

/// The longest line that is passed on, in bytes; what is longer is cut.
const LONGEST: usize = 4 << 10;

/// Takes what a program says, line by line.
pub type Lines<'a> = dyn FnMut(&str) + Send + 'a;

/// Makes lines of what comes in pieces.
#[derive(Default)]
pub(super) struct Splitter {
    line: Vec<u8>,
    /// Whether the line was longer.
    cut: bool,
    /// Whether the next piece of the line is written over it.
    back: bool,
}

impl Splitter {
    pub(super) fn feed(&mut self, bytes: &[u8], lines: &mut Lines<'_>) {
        for byte in bytes {
            match byte {
                b'\n' => self.end(lines),
                b'\r' => self.back = true,
                _ => {
                    // As a terminal would have it: of a progress bar, only the last state stays.
                    if std::mem::take(&mut self.back) {
                        self.line.clear();
                        self.cut = false;
                    }
                    match self.line.len() < LONGEST {
                        true => self.line.push(*byte),
                        false => self.cut = true,
                    }
                }
            }
        }
    }

    /// Passes on what is left, if there is something.
    pub(super) fn finish(mut self, lines: &mut Lines<'_>) {
        if !self.line.is_empty() {
            self.end(lines);
        }
    }

    /// Passes on the line.
    fn end(&mut self, lines: &mut Lines<'_>) {
        let mut text = plain(&String::from_utf8_lossy(&self.line));
        if self.cut {
            text.push('…');
        }
        lines(&text);
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let mut said = Vec::new();
        let mut splitter = Splitter::default();
        for piece in pieces {
            splitter.feed(piece, &mut |line: &str| said.push(line.to_owned()));
        }
        said
    }

    #[test]
    fn lines_are_cut_and_made_readable() {
        assert_eq!(split(&[b"a", b"b\nc\r\n", b"\n"]), ["ab", "c", ""]);
        assert_eq!(split(&[b"10 %\r", b"100 %\r\n"]), ["100 %"]);
        assert_eq!(split(&[b"\xff\xc3\xa9\n"]), ["\u{fffd}é"]);
        assert_eq!(split(&[b"\x1b[1;32mok\x1b[0m\x1b]0;x\x07\tend\x1b[\n"]), ["ok]0;x\tend"]);
        let long = [b'x'; LONGEST + 1];
        assert_eq!(split(&[&long, &long, b"\nnext\n"])[1], "next");
        let cut = &split(&[&long, b"\n"])[0];
        assert_eq!((cut.chars().count(), cut.ends_with("x…")), (LONGEST + 1, true));
    }

    proptest::proptest! {
        #[test]
        fn no_byte_breaks_a_line(bytes: Vec<u8>, at: usize) {
            let ends = |said: &[String]| said.iter().all(|line| !line.contains(|c: char| c.is_control() && c != '\t'));
            let whole = split(&[&bytes, b"\n"]);
            proptest::prop_assert!(ends(&whole));
            // It does not matter how it comes in pieces.
            let (a, b) = bytes.split_at(at % (bytes.len() + 1));
            proptest::prop_assert_eq!(whole, split(&[a, b, b"\n"]));
        }
    }
}
