//! Names of releases.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a release: 1 to 64 of `A-Z a-z 0-9 . _ -`, but neither `.` nor `..`.
///
/// Such a name can stand unescaped in a URL, in a file name, in a header and in a log line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(
    feature = "openapi",
    derive(schemars::JsonSchema),
    schemars(extend(
        "pattern" = "^[A-Za-z0-9._-]+$",
        "maxLength" = Self::MAX,
        "not" = { "type": "string", "enum": [".", ".."] }
    ))
)]
pub struct ReleaseName(String);

/// Why a text is not the name of a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a release name is empty, give it 1 to 64 characters")]
    Empty,
    /// The text has more than 64 characters.
    #[error("a release name has {0} bytes, at most 64 are allowed")]
    Long(usize),
    /// The text has a character outside of the allowed ones.
    #[error("release name {0:?} has a character other than \"A-Z a-z 0-9 . _ -\"")]
    Character(String),
    /// `.` and `..` mean something else in a path.
    #[error("{0:?} cannot name a release, it is a relative path")]
    Dots(String),
}

impl ReleaseName {
    /// The longest name, in bytes.
    pub const MAX: usize = 64;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the text when it is not a release name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX {
            return Err(NameError::Long(name.len()));
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(NameError::Character(name.to_owned()));
        }
        if name == "." || name == ".." {
            return Err(NameError::Dots(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReleaseName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl TryFrom<String> for ReleaseName {
    type Error = NameError;

    fn try_from(s: String) -> Result<Self, NameError> {
        Self::new(&s)
    }
}

impl From<ReleaseName> for String {
    fn from(name: ReleaseName) -> String {
        name.0
    }
}

impl Borrow<str> for ReleaseName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_fits_a_url_and_a_file_name() {
        for good in ["v1", "2026-11-23_1", "a.b", "A", &"x".repeat(64)] {
            assert_eq!(ReleaseName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(ReleaseName::new(""), Err(NameError::Empty));
        assert_eq!(ReleaseName::new(&"x".repeat(65)), Err(NameError::Long(65)));
        for bad in ["a/b", "a b", "é", "a\n", "a%"] {
            assert_eq!(ReleaseName::new(bad), Err(NameError::Character(bad.to_owned())));
        }
        for dots in [".", ".."] {
            assert_eq!(ReleaseName::new(dots), Err(NameError::Dots(dots.to_owned())));
        }
    }
}
