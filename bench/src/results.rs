//! What was measured: as a table on the screen, as CSV, and curves as SVG.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::plot;
use crate::stats::Summary;

/// Where results go, and what is said at the top of each.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder.
    path: PathBuf,
    /// What the machine is, and how busy it was.
    machine: String,
}

impl Folder {
    /// Results go into this folder, which is made when it is missing.
    ///
    /// # Panics
    ///
    /// When that cannot be.
    pub fn new(path: &Path, machine: String) -> Self {
        fs::create_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path: path.to_owned(), machine }
    }

    /// A file that begins with how it was made.
    fn write(&self, name: &str, command: &str, rows: &[Vec<String>]) {
        let path = self.path.join(name);
        let mut bytes = format!("# {command}\n# {}\n", self.machine).into_bytes();
        let mut csv = csv::Writer::from_writer(&mut bytes);
        for row in rows {
            csv.write_record(row).expect("memory takes it");
        }
        csv.flush().expect("memory takes it");
        drop(csv);
        let written = fs::File::create(&path).and_then(|mut file| file.write_all(&bytes));
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        println!("wrote {}", path.display());
    }
}

/// A figure of a table, in each round.
#[derive(Debug, Clone)]
struct Figure {
    case: String,
    who: String,
    what: String,
    rounds: Vec<f64>,
}

/// Figures: a table for each case, with a line for each of those who are compared.
#[derive(Debug)]
pub struct Figures {
    name: &'static str,
    command: String,
    figures: Vec<Figure>,
}

/// The columns of a table's CSV.
const COLUMNS: [&str; 8] = ["case", "who", "what", "median", "low", "high", "rounds", "sum"];

impl Figures {
    /// An empty table; the name is that of the command that makes it.
    pub fn new(name: &'static str) -> Self {
        Self::made_by(&format!("scripts/bench {name}"), name)
    }

    /// An empty table that a command makes.
    pub fn made_by(command: &str, name: &'static str) -> Self {
        Self { name, command: command.to_owned(), figures: Vec::new() }
    }

    /// Adds a round.
    pub fn add(&mut self, case: &str, who: &str, what: &str, value: f64) {
        let same = |f: &&mut Figure| f.case == case && f.who == who && f.what == what;
        match self.figures.iter_mut().find(same) {
            Some(figure) => figure.rounds.push(value),
            None => {
                let (case, who, what) = (case.to_owned(), who.to_owned(), what.to_owned());
                self.figures.push(Figure { case, who, what, rounds: vec![value] });
            }
        }
    }

    /// All rounds of a figure.
    pub fn rounds(&self, case: &str, who: &str, what: &str) -> Vec<f64> {
        let same = |f: &&Figure| f.case == case && f.who == who && f.what == what;
        self.figures.iter().find(same).map(|f| f.rounds.clone()).unwrap_or_default()
    }

    /// Prints the tables, and writes them as CSV.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub fn finish(&self, folder: &Folder) {
        for case in distinct(self.figures.iter().map(|f| f.case.as_str())) {
            println!("\n{case}\n\n{}", self.table(case));
        }
        let mut rows = vec![COLUMNS.map(ToOwned::to_owned).to_vec()];
        for figure in &self.figures {
            let summary = Summary::of(&figure.rounds).expect("a figure has a round");
            let values = [summary.median, summary.low, summary.high].map(|v| v.to_string());
            let labels = [&figure.case, &figure.who, &figure.what].map(Clone::clone);
            let rounds = figure.rounds.len().to_string();
            let sum = figure.rounds.iter().sum::<f64>().to_string();
            rows.push(labels.into_iter().chain(values).chain([rounds, sum]).collect());
        }
        folder.write(&format!("{}.csv", self.name), &self.command, &rows);
    }

    fn table(&self, case: &str) -> String {
        let of_case: Vec<&Figure> = self.figures.iter().filter(|f| f.case == case).collect();
        let columns = distinct(of_case.iter().map(|f| f.what.as_str()));
        let mut rows = vec![std::iter::once("").chain(columns.iter().copied()).collect::<Vec<_>>()];
        let mut cells = Vec::new();
        let all = distinct(of_case.iter().map(|f| f.who.as_str()));
        for who in &all {
            cells.push(columns.iter().map(|what| {
                let figure = of_case.iter().find(|f| f.who == *who && f.what == *what);
                figure.and_then(|f| Summary::of(&f.rounds)).map_or("—".to_owned(), show)
            }));
        }
        let cells: Vec<Vec<String>> = cells.into_iter().map(Iterator::collect).collect();
        for (who, cells) in all.iter().zip(&cells) {
            rows.push(std::iter::once(*who).chain(cells.iter().map(String::as_str)).collect());
        }
        markdown(&rows)
    }
}

/// A curve of a plot.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// For each `x`, all rounds.
    pub points: Vec<(f64, Vec<f64>)>,
}

impl Line {
    /// The median at each `x`.
    pub fn medians(&self) -> Vec<(f64, f64)> {
        let median = |(x, rounds): &(f64, Vec<f64>)| Some((*x, Summary::of(rounds)?.median));
        self.points.iter().filter_map(median).collect()
    }
}

/// Some curves over the same `x`.
#[derive(Debug)]
pub struct Curves {
    /// The name of the files, without their ends.
    pub name: &'static str,
    /// What the plot shows.
    pub title: &'static str,
    /// What grows to the right.
    pub x: &'static str,
    /// What grows upwards.
    pub y: &'static str,
    /// The curves.
    pub lines: Vec<Line>,
}

impl Curves {
    /// Adds a round to a curve.
    pub fn add(&mut self, line: &str, x: f64, value: f64) {
        if !self.lines.iter().any(|l| l.name == line) {
            self.lines.push(Line { name: line.to_owned(), points: Vec::new() });
        }
        let line = self.lines.iter_mut().find(|l| l.name == line).expect("it is there now");
        match line.points.iter_mut().find(|(other, _)| *other == x) {
            Some((_, rounds)) => rounds.push(value),
            None => line.points.push((x, vec![value])),
        }
    }

    /// Prints them as a table, and writes them as CSV and as SVG.
    ///
    /// # Panics
    ///
    /// When a file cannot be written.
    pub fn finish(&self, command: &str, folder: &Folder) {
        println!("\n{}: {}\n\n{}", self.title, self.y, self.table());
        let head = ["line", self.x, self.y, "low", "high", "rounds"];
        let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
        for line in &self.lines {
            for (x, rounds) in &line.points {
                let summary = Summary::of(rounds).expect("a point has a round");
                let values = [*x, summary.median, summary.low, summary.high].map(|v| v.to_string());
                let rounds = rounds.len().to_string();
                rows.push(
                    std::iter::once(line.name.clone()).chain(values).chain([rounds]).collect(),
                );
            }
        }
        folder.write(&format!("{}.csv", self.name), command, &rows);
        let path = folder.path.join(format!("{}.svg", self.name));
        plot::draw(self, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        println!("wrote {}", path.display());
    }

    fn table(&self) -> String {
        let mut all: Vec<f64> = Vec::new();
        for (x, _) in self.lines.iter().flat_map(|line| &line.points) {
            if !all.contains(x) {
                all.push(*x);
            }
        }
        all.sort_by(f64::total_cmp);
        let head = std::iter::once(self.x.to_owned());
        let mut rows: Vec<Vec<String>> =
            vec![head.chain(self.lines.iter().map(|l| l.name.clone())).collect()];
        for x in all {
            let cell = |line: &Line| {
                let point = line.points.iter().find(|(other, _)| *other == x);
                point.and_then(|(_, r)| Summary::of(r)).map_or("—".to_owned(), show)
            };
            rows.push(std::iter::once(number(x)).chain(self.lines.iter().map(cell)).collect());
        }
        let rows: Vec<Vec<&str>> =
            rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        markdown(&rows)
    }
}

/// A table that was written as CSV.
#[derive(Debug)]
pub struct Written {
    /// What it was measured on, and how busy that was.
    machine: String,
    rows: Vec<csv::StringRecord>,
}

impl Written {
    /// Reads one; `None` when there is none.
    pub fn read(folder: &Path, name: &str) -> Option<Self> {
        Self::parse(&fs::read_to_string(folder.join(format!("{name}.csv"))).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        let machine = text.lines().nth(1)?.strip_prefix("# ")?.to_owned();
        Some(Self { machine, rows: reader.records().collect::<Result<_, _>>().ok()? })
    }

    /// What it was measured on, and what with: the same for all tables of a run.
    pub fn machine(&self) -> String {
        let parts = self.machine.split("; ").flat_map(|part| part.split(", "));
        parts.filter(|part| !part.ends_with("busy before")).collect::<Vec<_>>().join(", ")
    }

    /// The median of all rounds; `None` if it was not measured.
    pub fn median(&self, case: &str, who: &str, what: &str) -> Option<f64> {
        self.value(case, who, what, "median")
    }

    /// All rounds together; `None` if it was not measured.
    pub fn sum(&self, case: &str, who: &str, what: &str) -> Option<f64> {
        self.value(case, who, what, "sum")
    }

    fn value(&self, case: &str, who: &str, what: &str, column: &str) -> Option<f64> {
        let labels = [case, who, what];
        let row = self.rows.iter().find(|row| row.iter().take(3).eq(labels))?;
        row.get(COLUMNS.iter().position(|name| *name == column)?)?.parse().ok()
    }

    /// The medians of one of those who are compared, in all cases.
    pub fn all_of(&self, who: &str, what: &str) -> Vec<f64> {
        let cases = distinct(self.rows.iter().filter_map(|row| row.get(0)));
        cases.into_iter().filter_map(|case| self.median(case, who, what)).collect()
    }

    /// Of a curve: its last point in terms of the first.
    pub fn growth(&self) -> Option<f64> {
        let value = |row: &csv::StringRecord| row.get(2)?.parse::<f64>().ok();
        Some(value(self.rows.last()?)? / value(self.rows.first()?)?)
    }

    /// Those who are compared, in their order.
    pub fn all(&self) -> Vec<&str> {
        distinct(self.rows.iter().filter_map(|row| row.get(1)))
    }
}

/// A summary, with its spread where there is one.
pub fn show(summary: Summary) -> String {
    let Summary { median, low, high } = summary;
    if low == high {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(low), number(high))
}

/// A number with as many digits as one reads.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// A table in Markdown, whose columns also are columns where nobody renders it.
pub fn markdown(rows: &[Vec<&str>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let widths = rows.iter().filter_map(|row| Some(row.get(column)?.chars().count()));
        widths.max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("| {cell:<width$} "));
        }
        text.push_str("|\n");
        if n == 0 {
            widths.iter().for_each(|width| text.push_str(&format!("| {:-<width$} ", "")));
            text.push_str("|\n");
        }
    }
    text
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::new("steady");
        for round in [3.0, 1.0, 2.5] {
            figures.add("with, keepalive", "plain", "requests/s", round);
        }
        figures.add("with, keepalive", "Shunt", "requests/s", 2000.0);
        figures.add("with, keepalive", "Shunt", "failed", 0.0);
        figures
    }

    #[test]
    fn a_table_has_a_line_for_each_and_says_what_was_not_measured() {
        let expected = "\
|       | requests/s    | failed |
| ----- | ------------- | ------ |
| plain | 2.500 (1–3)   | —      |
| Shunt | 2000          | 0      |
";
        // The columns are as wide as what is in them.
        let expected = expected.replace("-------------", "-----------").replace("  |", "|");
        let table = figures().table("with, keepalive").replace("  |", "|");
        assert_eq!(table.replace(' ', ""), expected.replace(' ', ""));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::TempDir::new().expect("a folder");
        figures().finish(&Folder::new(folder.path(), "a machine".to_owned()));
        let text = fs::read_to_string(folder.path().join("steady.csv")).expect("a file");
        assert!(text.starts_with("# scripts/bench steady\n# a machine\ncase,who,what,"), "{text}");
        let written = Written::read(folder.path(), "steady").expect("a table");
        let labels = ("with, keepalive", "plain", "requests/s");
        assert_eq!(written.median(labels.0, labels.1, labels.2), Some(2.5));
        assert_eq!(written.sum(labels.0, labels.1, labels.2), Some(6.5));
        assert_eq!(written.median("with, keepalive", "plain", "failed"), None);
        assert_eq!(written.all(), ["plain", "Shunt"]);
        assert_eq!(written.machine(), "a machine");
        assert!(Written::read(folder.path(), "another").is_none());
    }

    #[test]
    fn a_curve_is_written_as_numbers_and_as_a_picture() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let (title, x, y) = ("A switch", "upstreams", "ms");
        let mut curves = Curves { name: "switch", title, x, y, lines: Vec::new() };
        for (x, value) in [(1.0, 0.5), (1000.0, 0.7), (1.0, 0.3)] {
            curves.add("state & all", x, value);
        }
        assert_eq!(curves.lines[0].medians(), [(1.0, 0.4), (1000.0, 0.7)]);
        curves.finish("scripts/bench scale", &Folder::new(folder.path(), String::new()));
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
        assert!(read("switch.csv").contains("\nstate & all,1,0.4,0.3,0.5,2\n"));
        let svg = read("switch.svg");
        assert!(svg.starts_with("<svg") && svg.contains("state &amp; all"), "{svg}");
    }

    #[test]
    fn numbers_have_the_digits_that_one_reads() {
        let cases =
            [(0.0, "0"), (25_123.4, "25123"), (12.34, "12.3"), (1.2345, "1.234"), (0.01, "0.0100")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
