//! `docs/configuration.md` and `docs/schema/app.json` against the helper's code: every key with its
//! default, and no other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use shunt_helper::config::{App, schema};

use crate::examples::application;
use crate::markdown::{Block, document, root};

/// What the reference says of a key.
#[derive(Debug, Default)]
struct Entry {
    syntax: String,
    /// As it stands in the file; `None` is a dash.
    default: Option<String>,
}

/// The keys of the reference, by their headings.
fn reference() -> BTreeMap<String, Entry> {
    let document = document("docs/configuration.md");
    let (_, text) = document.text().split_once("\n## The application\n").expect("the keys");
    let mut entries = BTreeMap::new();
    for section in text.split("\n### ").skip(1) {
        let (name, text) = section.split_once('\n').expect("a heading");
        let mut entry = Entry::default();
        let quoted = |line: &str| line.split('`').nth(1).map(ToOwned::to_owned);
        for line in text.lines() {
            if let Some(syntax) = line.strip_prefix("**Syntax:** ") {
                entry.syntax = quoted(syntax).expect("its syntax");
            } else if let Some(default) = line.strip_prefix("**Default:** ") {
                assert!(default == "—" || default.ends_with('`'), "{name}: {default}");
                entry.default = quoted(default);
            }
        }
        let key = name.rsplit('.').next().expect("a key");
        assert!(entry.syntax.starts_with(&format!("{key} = ")), "{name}: {}", entry.syntax);
        let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let example = example.unwrap_or_else(|| panic!("{name} has no example"));
        let is_it = |line: &str| line.split('=').next().is_some_and(|name| name.trim() == key);
        assert!(example.lines().any(is_it), "{name} is not in its example");
        assert!(entries.insert(name.to_owned(), entry).is_none(), "{name} is there twice");
    }
    entries
}

fn committed() -> Value {
    let text = std::fs::read_to_string(root().join("docs/schema/app.json")).expect("the schema");
    serde_json::from_str(&text).expect("JSON")
}

/// The sections of the schema, the file itself as `""`.
fn sections(schema: &Value) -> BTreeMap<String, &Value> {
    let mut sections = BTreeMap::from([(String::new(), schema)]);
    for (name, property) in schema["properties"].as_object().expect("keys") {
        let section = if property["type"] == "array" { &property["items"] } else { property };
        if section.get("properties").is_some() {
            sections.insert(name.clone(), section);
        }
    }
    sections
}

/// Every key of the schema, as in `run.slots`, with its own schema.
fn keys(schema: &Value) -> BTreeMap<String, &Value> {
    let sections = sections(schema);
    let mut found = BTreeMap::new();
    for (section, schema) in &sections {
        for (key, schema) in schema["properties"].as_object().expect("keys") {
            match section.is_empty() {
                true if sections.contains_key(key) => {}
                true => drop(found.insert(key.clone(), schema)),
                false => drop(found.insert(format!("{section}.{key}"), schema)),
            }
        }
    }
    found
}

#[test]
fn the_schema_is_made_of_the_types() {
    assert_eq!(committed(), schema::document(), "it is stale: run \"make schema\"");
}

#[test]
fn every_key_is_in_the_reference_and_no_other() {
    let schema = committed();
    let keys: BTreeSet<_> = keys(&schema).into_keys().collect();
    let described: BTreeSet<_> = reference().into_keys().collect();
    assert_eq!(described, keys);
    let text = document("docs/configuration.md").text().to_owned();
    for section in sections(&schema).keys().filter(|name| !name.is_empty()) {
        assert!(text.contains(&format!("\n## {section}\n")), "{section}");
    }
}

/// The file of an application with this line in its section, and what that needs beside it.
fn file(key: &str, line: &str) -> String {
    let (section, _) = key.split_once('.').unwrap_or(("", key));
    let beside = match key {
        "source.ref" | "source.submodules" => "git = \"/srv/git/web\"\n",
        "run.socket" => "unit = \"web\"\n",
        "run.pull" | "run.port" | "run.network" | "run.volumes" | "run.docker" => {
            "image = \"web\"\n"
        }
        _ if section == "warm_up" => "requests = [\"/\"]\n",
        _ if section == "preview" => "url = \"http://127.0.0.1/\"\n",
        _ if section == "notify" => "url = \"https://hooks.example/\"\n",
        _ => "",
    };
    application(&match section {
        "" => format!("{line}\n"),
        "notify" => format!("[[notify]]\n{beside}{line}\n"),
        _ => format!("[{section}]\n{beside}{line}\n"),
    })
}

#[test]
fn every_default_is_what_the_helper_does_without_the_key() {
    let schema = committed();
    let mut compared = 0;
    for (key, entry) in reference() {
        let in_schema = keys(&schema)[&key].get("default");
        let Some(default) = &entry.default else {
            assert_eq!(in_schema, None, "{key}");
            continue;
        };
        let written = App::parse(&file(&key, default)).unwrap_or_else(|e| panic!("{key}: {e}"));
        let left_out = App::parse(&file(&key, "")).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(written, left_out, "{key}");
        let value: toml::Table = default.parse().unwrap_or_else(|e| panic!("{key}: {e}"));
        let value = serde_json::to_value(value.values().next()).expect("JSON");
        assert_eq!(in_schema, Some(&value), "{key}");
        compared += 1;
    }
    assert!(compared >= 30, "{compared}");
}

#[test]
fn a_key_has_no_default_only_if_leaving_it_out_is_something_else() {
    // What is needed, what does nothing when it is left out, and what has another key's value then.
    for (key, entry) in reference() {
        if entry.default.is_none() {
            let (section, name) = key.split_once('.').unwrap_or(("", &key));
            let schema = committed();
            let required = sections(&schema)[section].get("required").cloned().unwrap_or_default();
            let is_needed = required.as_array().is_some_and(|all| all.iter().any(|k| k == name));
            let example = &keys(&schema)[&key]["examples"][0];
            // A table within a line cannot be written as JSON is.
            let line = format!("{name} = {example}");
            if is_needed
                || example.is_object()
                || ["run.command", "run.user", "source.sha256"].contains(&key.as_str())
            {
                continue;
            }
            let written = App::parse(&file(&key, &line)).unwrap_or_else(|e| panic!("{key}: {e}"));
            // Whoever calls the upstream as the application is has said nothing.
            assert_ne!(written, App::parse(&file(&key, "")).expect("it is good"), "{key}");
        }
    }
}

#[test]
fn the_schema_accepts_the_sample_and_every_example_of_the_documents() {
    let validator = jsonschema::validator_for(&committed()).expect("a schema");
    let sample = include_str!("../../helper/sample.toml").to_owned();
    let blocks = crate::examples::blocks("toml");
    let texts = blocks.iter().map(|block: &Block| application(&block.text)).chain([sample]);
    let mut seen = 0;
    for text in texts {
        let value: toml::Table = text.parse().expect("TOML");
        let value = serde_json::to_value(value).expect("JSON");
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{text}\n{errors:?}");
        seen += 1;
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn the_schema_refuses_what_the_helper_refuses() {
    let validator = jsonschema::validator_for(&committed()).expect("a schema");
    for (key, line) in [
        ("nam", "nam = \"x\""),
        ("root", "root = \"srv\""),
        ("nginx_timeout", "nginx_timeout = \"0s\""),
        ("nginx_timeout", "nginx_timeout = 5"),
        ("token_file", "token_file = 1"),
        ("source.max_size", "max_size = \"0\""),
        ("source.sha256", "archive = \"/a\"\nsha256 = \"12\""),
        ("hooks.build", "build = []"),
        ("hooks.build", "build = { cmd = [\"a\"] }"),
        ("run.slots", "slots = []"),
        ("run.slots", "slots = [\"localhost\", \"127.0.0.1:1\"]"),
        ("run.slots", "slots = [\"127.0.0.1:1\", \"127.0.0.1:1\"]"),
        ("run.image", "image = \"we b\""),
        ("run.pull", "pull = \"sometimes\""),
        ("run.port", "port = 0"),
        ("run.network", "network = \"a b\""),
        ("run.volumes", "volumes = [\"data\"]"),
        ("run.docker", "docker = \"docker.sock\""),
        ("health.status", "status = \"2xx\""),
        ("health.status", "status = 99"),
        ("health.path", "path = \"health\""),
        ("health.passes", "passes = 0"),
        ("health.tcp", "tcp = false"),
        ("health.release_header", "release_header = \"X Y\""),
        ("warm_up.requests", "requests = []"),
        ("preview.url", "url = \"https://a/\""),
        ("canary.steps", "steps = []"),
        ("canary.steps", "steps = [{ share = 1, time = \"1s\" }]"),
        ("guard.error_share", "error_share = 1.5"),
        ("guard.p99_ratio", "p99_ratio = 0.5"),
        ("guard.connect_failures", "connect_failures = \"on\""),
        ("guard.inconclusive", "inconclusive = \"stay\""),
        ("keep.releases", "releases = 1"),
        ("notify.events", "events = []"),
        ("notify.url", "url = \"hooks\""),
    ] {
        // Once, where the example has it already.
        let text = file(key, line);
        let name = line.split(" = ").next().expect("a key");
        let mut seen = false;
        let line_of = |text: &str| text.starts_with(&format!("{name} ="));
        let text: Vec<_> = text
            .lines()
            .rev()
            .filter(|text| !line_of(text) || !std::mem::replace(&mut seen, true))
            .collect();
        let text: String = text.iter().rev().map(|line| format!("{line}\n")).collect();
        assert!(App::parse(&text).is_err(), "{text}");
        let value: toml::Table = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let value = serde_json::to_value(value).expect("JSON");
        assert!(!validator.is_valid(&value), "{text}");
    }
}
