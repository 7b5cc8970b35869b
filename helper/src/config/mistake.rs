//! What is wrong in a configuration, as a person wants to read it: where, what, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

/// Something that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file; empty if what was read is none.
    #[serde(skip_serializing_if = "is_empty")]
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// The key, as in `run.slots`; empty for what has none.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do, if `what` does not say so itself.
    pub cure: Option<String>,
}

fn is_empty(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

impl Mistake {
    /// One at this place of a text.
    #[must_use]
    pub fn at(text: &str, span: Range<usize>, key: String, what: String) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            file: PathBuf::new(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            key,
            what,
            cure: None,
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !is_empty(&self.file) {
            write!(f, "{}:", self.file.display())?;
        }
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match &self.cure {
            Some(cure) => write!(f, "; {cure}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong, a line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            let sep = if at == 0 { "" } else { "\n" };
            write!(f, "{sep}{mistake}")?;
        }
        Ok(())
    }
}
