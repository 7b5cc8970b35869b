//! What was seen, as a table in Markdown.

use std::path::PathBuf;

use shunt_tests::docker::Debian;

use super::load::Outcome;
use super::rows::{End, Loss, Row};

/// A row and what was seen.
pub struct Line {
    pub row: Row,
    pub old: String,
    pub new: String,
    pub said: String,
    pub outcome: Outcome,
}

const HEAD: &str = "\
| what happens | at step | failed | what may fail | answers of the old, the new one | `shunt deploy` ends with | serves then |
| --- | --- | --- | --- | --- | --- | --- |
";

/// Where the table goes: `target/tmp`.
pub fn path(debian: Debian) -> PathBuf {
    let name = format!("faults-{debian:?}.md").to_lowercase();
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The table.
pub fn table(lines: &[Line]) -> String {
    HEAD.to_owned() + &lines.iter().map(Line::cells).collect::<String>()
}

impl Line {
    fn cells(&self) -> String {
        let Self { row, old, new, outcome, .. } = self;
        let answers = |release| outcome.releases.get(release).copied().unwrap_or_default();
        let which = match row.loss {
            Loss::None => String::new(),
            Loss::AtMost(most, which) => format!("at most {most}: {which}"),
            Loss::While(which) => format!("{which}: {:.1} s", outcome.longest_gap / 1000.0),
        };
        let said = self.said.replace(&format!("\"{new}\""), "the new one");
        let said = said.replace(&format!("\"{old}\""), "the old one");
        let (what, failed, requests) = (row.fault.name(), outcome.failures, outcome.requests);
        let at = row.at_in_words();
        let (old, new, end, serves) = (answers(old), answers(new), self.end(), self.serves());
        format!(
            "| {what} | {at} | {failed} of {requests} | {which} | {old}, {new} | {end}: {said} | {serves} |\n"
        )
    }

    fn end(&self) -> String {
        match self.row.code() {
            Some(code) if self.row.end.is_told_later() => format!("{code}, the next `shuntd`"),
            Some(code) => code.to_string(),
            None => "the next `shuntd`".to_owned(),
        }
    }

    fn serves(&self) -> &'static str {
        match self.row.end {
            End::OldStays => "the new one; the old one runs on",
            end if end.is_new() => "the new one",
            _ => "the old one",
        }
    }
}

/// The document has each row, with the same end.
#[track_caller]
pub fn hold_against(document: &str, lines: &[Line]) {
    for line in lines {
        let begin = format!("| {} | {} | ", line.row.fault.name(), line.row.at_in_words());
        let found = document.lines().find_map(|row| row.strip_prefix(&begin));
        let found = found.unwrap_or_else(|| panic!("docs/faults.md has no row \"{begin}\""));
        let cells: Vec<_> = found.trim_end_matches(" |").split(" | ").collect();
        let [failed, _, _, said, serves] = cells[..] else { panic!("{found}: not all cells") };
        let end = format!("{}: ", line.end());
        assert!(
            said.starts_with(&end) && serves == line.serves(),
            "docs/faults.md: {begin}{found}"
        );
        let nothing = matches!(line.row.loss, Loss::None);
        assert!(!nothing || failed.starts_with("0 of "), "docs/faults.md: {begin}{found}");
    }
}
