//! `docs/metrics.md` and the alerts against the page of the running module, and Prometheus' own tool.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use shunt_tests::admin::Admin;
use shunt_tests::build::{Build, folder};
use shunt_tests::nginx::{Nginx, Setup};

use crate::markdown::{document, root};

const RULES: &str = "docs/prometheus/shunt.rules.yml";

/// A family of series: its type, and its labels.
type Family = (String, BTreeSet<String>);

/// The families that the document describes.
fn described() -> BTreeMap<String, Family> {
    let rows = document("docs/metrics.md").rows("family");
    let labels = |cell: &str| {
        let labels = cell.split(',').map(str::trim).filter(|label| !label.is_empty());
        labels.map(ToOwned::to_owned).collect()
    };
    rows.into_iter().map(|row| (row[0].clone(), (row[1].clone(), labels(&row[2])))).collect()
}

/// The families of a page.
fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a type");
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = base.filter(|base| families.contains_key(*base)).unwrap_or(name);
            let labels = rest.split(['{', ',']).filter_map(|part| part.split_once("=\""));
            let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le");
            families.get_mut(known).expect("a family").1.extend(labels);
        }
    }
    families
}

fn every_family_of_the_page_is_described_with_its_labels_and_no_other(build: &Build) {
    let http = "shunt_zone shunt:1m;
        upstream web { shunt; server 127.0.0.1:1; shunt_release b 127.0.0.1:2; }
        server { listen unix:%FOLDER%/api.sock;
            location / { shunt_api write=on; }
            location = /metrics { shunt_metrics; } }
        server { listen 127.0.0.1:%PORT%; location / { proxy_pass http://web; } }";
    let nginx = Nginx::start(build, Setup { http: http.to_owned(), workers: 1 });
    let admin: Admin = nginx.admin();
    // There is no series of the canary's share without one.
    let body = br#"{"release":"b","share":0.5}"#;
    assert_eq!(admin.ask("PUT", "/v1/upstreams/web/canary", &[], body).status, 200);
    let page = admin.ask("GET", "/metrics", &[], b"").text();
    let mut described = described();
    // Those of shuntd are held against its page by its own tests.
    described.retain(|family, _| !family.starts_with("shuntd_"));
    assert_eq!(described, families(&page));
}

/// The names of series in questions, or in the expressions of alerts.
fn used(text: &str) -> BTreeSet<String> {
    let is_prose = |line: &&str| line.starts_with('#') || line.trim().starts_with("description:");
    let lines: Vec<&str> = text.lines().filter(|line| !is_prose(line)).collect();
    let text = lines.join("\n");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_series = |word: &&str| word.starts_with("shunt_") || word.starts_with("shuntd_");
    words.filter(is_series).map(ToOwned::to_owned).collect()
}

#[test]
fn questions_and_alerts_are_about_series_that_there_are() {
    let described = described();
    let questions = document("docs/metrics.md").blocks();
    let questions = questions.iter().filter(|block| block.language() == "promql");
    let mut texts: Vec<String> = questions.map(|block| block.text.clone()).collect();
    assert!(texts.len() >= 3);
    texts.push(std::fs::read_to_string(root().join(RULES)).expect("the alerts"));
    for name in texts.iter().flat_map(|text| used(text)) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = described.contains_key(&name)
            || base.and_then(|base| described.get(base)).is_some_and(|f| f.0 == "histogram");
        assert!(known, "there is no {name}");
    }
}

#[track_caller]
fn promtool(args: &[&str]) -> String {
    let output = Command::new(folder().join("promtool")).args(args).current_dir(root()).output();
    let output = output.unwrap_or_else(|e| panic!("promtool: {e}; run \"scripts/promtool\""));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {args:?}\n{said}");
    said
}

#[test]
fn prometheus_can_read_the_questions() {
    let folder = tempfile::tempdir().expect("a folder");
    for block in document("docs/metrics.md").blocks() {
        let file = folder.path().join("rules.yml");
        let path = file.to_str().expect("a path");
        match block.language() {
            "promql" => {
                let text = block.text.replace('\n', "\n        ");
                let rule =
                    "groups:\n  - name: x\n    rules:\n    - record: x\n      expr: >\n        ";
                std::fs::write(&file, format!("{rule}{text}\n")).expect("its folder");
                assert!(promtool(&["check", "rules", path]).contains("1 rules found"));
            }
            "yaml" => {
                let rules = root().join(RULES).display().to_string();
                let text = block.text.replace("shunt.rules.yml", &rules);
                std::fs::write(&file, text).expect("its folder");
                promtool(&["check", "config", path]);
            }
            _ => {}
        }
    }
}

#[test]
fn the_alerts_go_off_when_they_should_and_not_before() {
    let alerts = std::fs::read_to_string(root().join(RULES)).expect("the alerts");
    let names: BTreeSet<&str> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let tests = include_str!("alerts.test.yml");
    let tried =
        tests.split("alertname: ").skip(1).filter_map(|rest| rest.split(['\n', ' ']).next());
    let tried: BTreeSet<&str> = tried.collect();
    assert_eq!(tried, names);
    promtool(&["check", "rules", RULES]);
    promtool(&["test", "rules", "tests/docs/alerts.test.yml"]);
}

each_nginx!(every_family_of_the_page_is_described_with_its_labels_and_no_other);
