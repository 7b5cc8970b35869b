//! The tables of the README, and of that of the results, made of the results that were written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::contender::Kind;
use crate::results::{Written, markdown, number};
use crate::{faults, flip, flips, steady, targets, websockets};

/// Where they stand.
const BEGIN: &str = "<!-- made by scripts/bench readme -->";
const END: &str = "<!-- until here -->";

/// A line of the first.
struct Row {
    what: &'static str,
    /// The table, its case and the column.
    of: (&'static str, &'static str, &'static str),
    /// Whether rounds are added up, as one does with failures; otherwise it is the median.
    sum: bool,
}

const fn median(what: &'static str, of: (&'static str, &'static str, &'static str)) -> Row {
    Row { what, of, sum: false }
}

const fn sum(what: &'static str, of: (&'static str, &'static str, &'static str)) -> Row {
    Row { what, of, sum: true }
}

const ROWS: [Row; 21] = [
    median("requests a second ÷ a plain upstream's", ("steady", steady::KEPT, "÷ plain")),
    median("processor time of a request, µs", ("steady", steady::KEPT, "µs CPU/request")),
    median("a flip returns after, ms", ("flip", flip::UNDER_LOAD, "returns, ms")),
    median(
        "first answer of the new release after, ms",
        ("flip", flip::UNDER_LOAD, "first of the new, ms"),
    ),
    sum(
        "30 flips: answers of the old release to requests begun after the return",
        ("flip", flip::UNDER_LOAD, flip::LATE),
    ),
    sum("30 flips, 4,000 requests a second: failed", ("flip", flip::UNDER_LOAD, "failed")),
    sum(
        "200 flips, 5 a second, all the load there can be: failed",
        ("flips", flips::SLOW, "failed"),
    ),
    median(
        "one flip after the other, all the load there can be: flips a second",
        ("flips", flips::MOST, "flips/s"),
    ),
    median(
        "failed requests for each 1,000 of these flips",
        ("flips", flips::MOST, flips::FAILED_OF),
    ),
    median("processes afterwards, of 2 (Caddy: 1)", ("flips", flips::MOST, flips::PROCESSES[1])),
    median("memory before, MB", ("flips", flips::MOST, flips::MEMORY[0])),
    median("memory afterwards, MB", ("flips", flips::MOST, flips::MEMORY[1])),
    sum(
        "200 flips, 200 WebSockets open: broken ones",
        ("websockets", websockets::CASE, "broken WebSockets"),
    ),
    median("processes afterwards", ("websockets", websockets::CASE, flips::PROCESSES[1])),
    sum("the new release is dead: failed requests in 2 s", ("faults", faults::DEAD, "failed")),
    median("the longest answer then, ms", ("faults", faults::DEAD, "longest, ms")),
    sum("it dies 1 s after the flip: failed requests in 1 s", ("faults", faults::DYING, "failed")),
    median("the longest answer then, ms", ("faults", faults::DYING, "longest, ms")),
    sum(
        "`kill -9` of the worker, three times: failed requests",
        ("faults", faults::WORKER, "failed"),
    ),
    sum(
        "`kill -9` of all processes, three times: failed requests",
        ("faults", faults::ALL, "failed"),
    ),
    sum("how often the flip was forgotten then", ("faults", faults::ALL, "the flip is forgotten")),
];

/// What keeps the table from being made.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// A command was not run.
    #[error("{0}.csv is missing in the results, or is no table; run \"scripts/bench {0}\"")]
    Missing(&'static str),
    /// The table that it made has something else in it.
    #[error("{table}.csv has no {what:?}; run \"scripts/bench {table}\" again")]
    Without {
        /// The table.
        table: &'static str,
        /// What it lacks.
        what: &'static str,
    },
    /// It is of another machine, or of other versions, than the first.
    #[error("{0}.csv was not measured together with steady.csv; run \"scripts/bench\"")]
    Mixed(&'static str),
    /// A README has no place for its table.
    #[error("{0:?} has no lines {BEGIN:?} and {END:?}")]
    NoPlace(PathBuf),
    /// A file cannot be read or written.
    #[error("{0:?}: {1}")]
    File(PathBuf, std::io::Error),
}

/// Puts the table of all into a README, and what Shunt is held to into that of the results.
///
/// # Errors
///
/// [`SummaryError`].
pub fn write(results: &Path, readme: &Path) -> Result<(), SummaryError> {
    let of_results = results.join("README.md");
    // Both or neither.
    let texts = [
        (readme, filled(readme, &table(results)?)?),
        (&of_results, filled(&of_results, &targets::table(results))?),
    ];
    for (path, text) in texts {
        fs::write(path, text).map_err(|error| SummaryError::File(path.to_owned(), error))?;
    }
    Ok(())
}

fn filled(readme: &Path, table: &str) -> Result<String, SummaryError> {
    let text = fs::read_to_string(readme);
    let text = text.map_err(|error| SummaryError::File(readme.to_owned(), error))?;
    replace(&text, table).ok_or_else(|| SummaryError::NoPlace(readme.to_owned()))
}

fn replace(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

fn table(results: &Path) -> Result<String, SummaryError> {
    let read = |name| Written::read(results, name).ok_or(SummaryError::Missing(name));
    let steady = read("steady")?;
    let mut all = steady.all();
    // Only those who flip are without one.
    let volatile = Kind::Volatile.name();
    if read("flip")?.all().contains(&volatile) {
        all.push(volatile);
    }
    let line = |first: &str, cells: Vec<String>, last: String| -> Vec<String> {
        std::iter::once(first.to_owned()).chain(cells).chain([last]).collect()
    };
    let names = all.iter().map(ToString::to_string).collect();
    let mut rows = vec![line("", names, "by".to_owned())];
    for row in &ROWS {
        let (name, case, what) = row.of;
        let written = read(name)?;
        if written.machine() != steady.machine() {
            return Err(SummaryError::Mixed(name));
        }
        let value = |who: &&str| match row.sum {
            true => written.sum(case, who, what),
            false => written.median(case, who, what),
        };
        let values: Vec<Option<f64>> = all.iter().map(value).collect();
        if values.iter().all(Option::is_none) {
            return Err(SummaryError::Without { table: name, what });
        }
        let cells = values.into_iter().map(|value| value.map_or("—".to_owned(), number));
        rows.push(line(row.what, cells.collect(), format!("`scripts/bench {name}`")));
    }
    let rows: Vec<Vec<&str>> =
        rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    Ok(format!("{}\nMeasured on: {}.\n", markdown(&rows), steady.machine()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Figures, Folder};

    #[test]
    fn the_table_has_who_was_measured_and_says_what_is_missing() {
        let folder = tempfile::TempDir::new().unwrap();
        let missing = table(folder.path()).unwrap_err().to_string();
        assert!(missing.starts_with("steady.csv is missing"), "{missing}");
        let to = Folder::new(folder.path(), "a machine".to_owned());
        for name in ["steady", "flip", "flips", "websockets", "faults"] {
            let mut figures = Figures::new(name);
            for row in ROWS.iter().filter(|row| row.of.0 == name) {
                figures.add(row.of.1, "Shunt", row.of.2, 2.0);
                figures.add(row.of.1, "Shunt", row.of.2, 4.0);
            }
            figures.finish(&to);
        }
        let table = table(folder.path()).unwrap();
        let cells = |what: &str| -> Vec<&str> {
            let line = table.lines().find(|line| line.contains(what)).unwrap();
            line.split('|').skip(2).take(2).map(str::trim).collect()
        };
        assert_eq!(cells("by"), ["Shunt", "by"]);
        assert_eq!(cells("µs"), ["3", "`scripts/bench steady`"]);
        assert_eq!(cells("5 a second, all"), ["6", "`scripts/bench flips`"]);
        assert!(table.ends_with("\nMeasured on: a machine.\n"), "{table}");
        let mut figures = Figures::new("flips");
        figures.add("a case", "Shunt", "a column", 2.0);
        figures.finish(&Folder::new(folder.path(), "another machine, 3 % busy before".to_owned()));
        let mixed = super::table(folder.path()).unwrap_err().to_string();
        assert!(mixed.starts_with("flips.csv was not measured together with"), "{mixed}");
    }

    #[test]
    fn the_table_takes_the_place_of_the_last_one() {
        let readme = format!("# A\n{BEGIN}\n\nold\n{END}\nmore\n");
        let new = replace(&readme, "new\n").unwrap();
        assert_eq!(new, format!("# A\n{BEGIN}\n\nnew\n\n{END}\nmore\n"));
        assert_eq!(replace("# A\n", "new"), None);
    }
}
