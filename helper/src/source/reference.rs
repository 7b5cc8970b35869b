//! What is asked for in a git repository: a branch, a tag, a commit.

use std::fmt;
use std::str::FromStr;

/// A branch, a tag, a full name (`refs/…`), a commit's hash, or `HEAD`, which is what the other side
/// has as its default.
///
/// It is no expression: nothing of it can be an option of git, another object than a commit's, or a
/// walk from one to another (`gitrevisions(7)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

/// How much of a commit's hash is said.
const SHORT: usize = 7;

/// The longest part of a release's name that is made of a reference.
pub(super) const LABEL: usize = 40;

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a branch, tag or commit: it {why}")]
pub struct BadReference {
    text: String,
    why: &'static str,
}

/// What a reference can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A commit's full hash, in small letters.
    Commit(&'a str),
    /// Something that has to be asked for by its full name: `HEAD` or `refs/…`.
    Full(&'a str),
    /// The name of a branch or a tag, or else the beginning of a commit's hash.
    Name(&'a str),
}

impl Reference {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It as a part of a release's name: a branch or a tag, or a commit's hash as one says it; none for
    /// `HEAD`, which says nothing.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let name = match self.kind() {
            Kind::Commit(hash) => return Some(hash.chars().take(SHORT).collect()),
            Kind::Full("HEAD") => return None,
            Kind::Full(name) => name.strip_prefix("refs/").unwrap_or(name),
            Kind::Name(name) => name,
        };
        let name =
            ["heads/", "tags/"].iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name);
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        Some(name.chars().map(|c| if good(c) { c } else { '-' }).take(LABEL).collect())
    }

    /// What it is. A full hash is always the commit: whoever can make a branch must not be able to
    /// give it a commit's name.
    pub(super) fn kind(&self) -> Kind<'_> {
        let text = self.as_str();
        match text {
            _ if is_hash(text) => Kind::Commit(text),
            "HEAD" => Kind::Full(text),
            _ if text.starts_with("refs/") => Kind::Full(text),
            _ => Kind::Name(text),
        }
    }
}

/// Whether a text is a full hash: SHA-1 or SHA-256.
pub(super) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Default for Reference {
    fn default() -> Self {
        Self("HEAD".to_owned())
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    /// By the rules of `git-check-ref-format(1)`, and nothing that begins as an option does.
    fn from_str(text: &str) -> Result<Self, BadReference> {
        let wrong = |why| BadReference { text: text.to_owned(), why };
        if is_hash(text) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
        let why = if text.is_empty() {
            "is empty"
        } else if text.len() > 250 {
            "has more than 250 bytes"
        } else if text.starts_with('-') {
            "cannot begin with \"-\""
        } else if text.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
            "has a blank, a control character or one of \"~ ^ : ? * [ \\\""
        } else if text.contains("..") || text.contains("@{") || text == "@" {
            "has \"..\" or \"@{\", or is \"@\""
        } else if text.ends_with('.') {
            "ends with a dot"
        } else if text.split('/').any(part) {
            "has a part that is empty, begins with a dot or ends with \".lock\""
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(wrong(why))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn branches_tags_and_commits_are_told_apart() {
        let sha = "0123456789ABCDEF0123456789abcdef01234567";
        let lower = sha.to_ascii_lowercase();
        for (text, kind) in [
            ("main", Kind::Name("main")),
            ("feature/a-b_c.d", Kind::Name("feature/a-b_c.d")),
            ("v1.2.3", Kind::Name("v1.2.3")),
            ("zürich", Kind::Name("zürich")),
            ("0123456", Kind::Name("0123456")),
            ("HEAD", Kind::Full("HEAD")),
            ("refs/pull/7/head", Kind::Full("refs/pull/7/head")),
            (sha, Kind::Commit(&lower)),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().kind(), kind);
        }
    }

    #[test]
    fn what_git_could_take_for_something_else_is_refused() {
        for bad in [
            "",
            "-x",
            "--upload-pack=id",
            "main..dev",
            "main~1",
            "main^{tree}",
            "HEAD@{1}",
            "@",
            ":/fix",
            "main:secret",
            "a b",
            "a\nb",
            "a\0b",
            "refs/heads/*",
            "[a]",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            "a/.b",
            "a.lock/b",
            "a.",
            &"x".repeat(251),
        ] {
            let error = bad.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains("is not a branch, tag or commit: it "), "{error}");
        }
    }

    proptest! {
        /// What git itself has to say: `check-ref-format` is strict where it matters.
        #[test]
        fn what_is_accepted_is_a_name_to_git(text in "[-a@./{}~^: \\\\\\[*?é\u{1}]{1,8}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let name = format!("refs/heads/{reference}");
                let mut check = std::process::Command::new("git");
                check.args(["check-ref-format", &name]);
                prop_assert!(check.status().unwrap().success(), "{name:?}");
                prop_assert!(!text.starts_with('-'));
            }
        }
    }
}
