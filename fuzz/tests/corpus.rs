//! Every input of the corpus, without libFuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use shunt_fuzz::{TARGETS, Verdict};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = corpus().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    inputs.sort();
    inputs
}

#[test]
fn nothing_in_the_corpus_breaks_its_target() {
    for target in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for path in inputs(target.name) {
            // What a panic needs to be traced to its input.
            eprintln!("{}", path.display());
            match (target.run)(&fs::read(&path).expect("a file")) {
                Verdict::Accepted => accepted += 1,
                Verdict::Refused => refused += 1,
            }
        }
        println!("{}: {accepted} accepted, {refused} refused", target.name);
        // A corpus in which everything is refused, or nothing, does not test both ways.
        assert!(accepted >= 3, "{}: only {accepted} inputs are accepted", target.name);
        assert!(refused >= 1, "{}: no input is refused", target.name);
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_nothing_else_has() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    let listed = |folder: &Path, suffix: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let names = entries.map(|e| e.expect("an entry").file_name().into_string());
        names.map(|n| n.expect("a name").trim_end_matches(suffix).to_owned()).collect()
    };
    assert_eq!(listed(&corpus(), ""), names);
    assert_eq!(listed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("targets"), ".rs"), names);
    let manifest = include_str!("../Cargo.toml");
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in Cargo.toml");
    }
}
