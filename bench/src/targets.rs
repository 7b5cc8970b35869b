//! What Shunt is held to (section 7 of the design), beside what was measured, as a table.

use std::path::Path;

use crate::contender::Kind;
use crate::results::{Written, markdown, number};
use crate::{flip, flips, helper, instructions, scale, steady};

/// Where a figure stands: the file, and its case, line and column.
type Place = (&'static str, &'static str, &'static str, &'static str);

/// What a figure must be.
enum Limit {
    AtLeast(f64),
    AtMost(f64),
    /// It shows what the one above it would be by chance, or whatever one does.
    None,
}

/// What is measured.
enum Figure {
    /// A median.
    Median(Place),
    /// What all rounds add up to.
    Sum(Place),
    /// The highest of all releases of NGINX.
    Instructions,
    /// A median, in terms of another one of the same table.
    Share(Place, &'static str),
    /// A curve at its last point, in terms of its first.
    Growth(&'static str),
}

struct Target {
    what: &'static str,
    limit: Limit,
    figure: Figure,
}

const fn at_most(limit: f64, what: &'static str, figure: Figure) -> Target {
    Target { what, limit: Limit::AtMost(limit), figure }
}

const SHUNT: &str = Kind::Shunt.name();
const VOLATILE: &str = Kind::Volatile.name();

const TARGETS: [Target; 16] = [
    Target {
        what: "requests a second ÷ a plain upstream's",
        limit: Limit::AtLeast(0.99),
        figure: Figure::Median(("steady", steady::KEPT, SHUNT, "÷ plain")),
    },
    Target {
        what: "the same of what is the same, for comparison: another plain upstream",
        limit: Limit::None,
        figure: Figure::Median(("steady", steady::KEPT, Kind::Reload.name(), "÷ plain")),
    },
    at_most(1.01, "instructions of a request ÷ a plain upstream's", Figure::Instructions),
    at_most(
        5.0,
        "a switch without other load, p99, ms",
        Figure::Median(("flip", flip::ALONE_CASE, SHUNT, flip::P99)),
    ),
    at_most(
        0.5,
        "the same without a state file",
        Figure::Median(("flip", flip::ALONE_CASE, VOLATILE, flip::P99)),
    ),
    at_most(
        0.0,
        "answers of the old release to requests begun after the return",
        Figure::Sum(("flip", flip::UNDER_LOAD, SHUNT, flip::LATE)),
    ),
    at_most(
        1.05,
        "p99 of requests ÷ without switches, 100 switches a second, answered by the same worker",
        Figure::Median(("flips", flips::FAST, SHUNT, flips::P99)),
    ),
    at_most(
        1.05,
        "the same without a state file",
        Figure::Median(("flips", flips::FAST, VOLATILE, flips::P99)),
    ),
    Target {
        what: "the same without a switch, for comparison: something else on its core flushes a line as often",
        limit: Limit::None,
        figure: Figure::Median(("flips", flips::FAST, flips::DISK_ALONE, flips::P99)),
    },
    at_most(
        1.1,
        "a switch with 1,000 upstreams ÷ with 1",
        Figure::Growth(scale::SWITCH_UPSTREAMS[1]),
    ),
    at_most(1.1, "the same without a state file", Figure::Growth(scale::SWITCH_UPSTREAMS[0])),
    at_most(
        1.0,
        "processes after all switches that there can be ÷ before",
        Figure::Share(("flips", flips::MOST, SHUNT, flips::PROCESSES[1]), flips::PROCESSES[0]),
    ),
    at_most(
        1.05,
        "memory after them ÷ before",
        Figure::Share(("flips", flips::MOST, SHUNT, flips::MEMORY[1]), flips::MEMORY[0]),
    ),
    at_most(
        100.0,
        "a deploy beside fetch, hooks, the application and configured waits, ms",
        Figure::Median(("helper", helper::DEPLOY, helper::REST_OF_DEPLOY, "ms")),
    ),
    at_most(
        20.0,
        "memory of `shuntd` at rest with 20 applications, MB",
        Figure::Median(("helper", helper::AT_REST, helper::WHO_RESTS, "MB")),
    ),
    at_most(
        1.0,
        "its processor time, % of a core",
        Figure::Median(("helper", helper::AT_REST, helper::WHO_RESTS, helper::CORE)),
    ),
];

/// The table; what was not measured is said.
pub fn table(results: &Path) -> String {
    let mut rows = vec![["", "held to", "measured", "", "by"].map(ToOwned::to_owned)];
    for target in &TARGETS {
        let value = target.figure.read(results);
        let (limit, holds) = match target.limit {
            Limit::AtLeast(limit) => (format!("≥ {}", number(limit)), value.map(|v| v >= limit)),
            Limit::AtMost(limit) => (format!("≤ {}", number(limit)), value.map(|v| v <= limit)),
            Limit::None => (String::new(), None),
        };
        let verdict = match (value, holds) {
            (None, _) => "not measured",
            (_, None) => "",
            (_, Some(true)) => "holds",
            (_, Some(false)) => "does not hold",
        };
        rows.push([
            target.what.to_owned(),
            limit,
            value.map_or("—".to_owned(), number),
            verdict.to_owned(),
            format!("`{}`", target.figure.command()),
        ]);
    }
    let rows: Vec<Vec<&str>> =
        rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    markdown(&rows)
}

impl Figure {
    fn read(&self, results: &Path) -> Option<f64> {
        match self {
            Self::Median((name, case, who, what)) => {
                Written::read(results, name)?.median(case, who, what)
            }
            Self::Sum((name, case, who, what)) => {
                Written::read(results, name)?.sum(case, who, what)
            }
            Self::Share((name, case, who, what), of) => {
                let written = Written::read(results, name)?;
                Some(written.median(case, who, what)? / written.median(case, who, of)?)
            }
            Self::Growth(name) => Written::read(results, name)?.growth(),
            Self::Instructions => {
                let written = Written::read(results, instructions::BRIEF)?;
                written
                    .all_of(instructions::SHUNT, instructions::RATIO)
                    .into_iter()
                    .reduce(f64::max)
            }
        }
    }

    fn command(&self) -> String {
        match self {
            Self::Median((name, ..)) | Self::Sum((name, ..)) | Self::Share((name, ..), _) => {
                format!("scripts/bench {name}")
            }
            Self::Growth(_) => scale::COMMAND.to_owned(),
            Self::Instructions => instructions::BRIEF_COMMAND.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Curves, Figures, Folder};

    #[test]
    fn each_target_is_held_against_what_was_measured() {
        let results = tempfile::TempDir::new().unwrap();
        let missing = table(results.path());
        assert_eq!(missing.matches("not measured").count(), TARGETS.len(), "{missing}");
        let folder = Folder::new(results.path(), "a machine".to_owned());
        let mut steady = Figures::new("steady");
        steady.add(steady::KEPT, SHUNT, "÷ plain", 0.995);
        steady.finish(&folder);
        let mut flip = Figures::new("flip");
        for late in [0.0, 3.0] {
            flip.add(flip::UNDER_LOAD, SHUNT, flip::LATE, late);
        }
        flip.add(flip::ALONE_CASE, SHUNT, flip::P99, 4.0);
        flip.finish(&folder);
        let mut brief = Figures::new(instructions::BRIEF);
        for (case, ratio) in [("1.22", 1.004), ("1.28", 1.009)] {
            brief.add(case, instructions::SHUNT, instructions::RATIO, ratio);
            brief.add(case, "plain", instructions::RATIO, 2.0);
        }
        brief.finish(&folder);
        let mut flips = Figures::new("flips");
        for (what, value) in flips::PROCESSES.into_iter().zip([2.0, 3.0]) {
            flips.add(flips::MOST, SHUNT, what, value);
        }
        flips.finish(&folder);
        let (title, x, y) = ("A switch", "upstreams", "ms");
        let name = scale::SWITCH_UPSTREAMS[1];
        let mut curve = Curves { name, title, x, y, lines: Vec::new() };
        for (x, value) in [(1.0, 2.0), (10.0, 9.0), (1000.0, 2.5)] {
            curve.add("a switch", x, value);
        }
        curve.finish(scale::COMMAND, &folder);
        let table = table(results.path());
        let cells = |what: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.contains(what)).unwrap();
            line.split('|').skip(2).take(3).map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(cells("requests a second"), ["≥ 0.990", "0.995", "holds"]);
        assert_eq!(cells("begun after the return"), ["≤ 0", "3", "does not hold"]);
        assert_eq!(cells("a switch without other load"), ["≤ 5", "4", "holds"]);
        assert_eq!(cells("instructions"), ["≤ 1.010", "1.009", "holds"]);
        assert_eq!(cells("processes after"), ["≤ 1", "1.500", "does not hold"]);
        assert_eq!(cells("with 1,000 upstreams"), ["≤ 1.100", "1.250", "does not hold"]);
        assert_eq!(cells("a deploy"), ["≤ 100", "—", "not measured"]);
    }
}
