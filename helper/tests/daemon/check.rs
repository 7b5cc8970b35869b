//! `shunt check` says what shuntd says, and `shunt init` writes what it finds good.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::world::{World, output};

#[test]
fn every_mistake_of_every_file_is_told_by_check_and_by_the_daemon() {
    let world = World::new("");
    let folder = world.path("other");
    fs::create_dir(&folder).unwrap();
    let good = fs::read_to_string(world.path("apps/web.toml")).unwrap();
    fs::write(folder.join("a.toml"), &good).unwrap();
    fs::write(folder.join("b.toml"), "name = \"b\"\nslot = 1\n[run]\nslots = 5\n").unwrap();
    fs::write(folder.join("c.toml"), good.replace("\"web\"", "\"c\"")).unwrap();
    fs::write(folder.join("d.toml"), "name = \n").unwrap();
    fs::write(folder.join("none"), "not read").unwrap();

    let checked = world.shunt(&["check", &folder.display().to_string()]);
    assert_eq!((checked.code, checked.stderr.as_str()), (2, ""), "{checked:?}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shuntd"));
    let refused = output(command.arg("--config").arg(&folder).output().unwrap());
    assert_eq!(refused.code, 2, "{refused:?}");
    let place = |file: &str| format!("{}:", folder.join(file).display());
    let lines: Vec<&str> = checked.stdout.lines().collect();
    assert!(lines[0].ends_with("a.toml: \"web\" is good"), "{lines:?}");
    for (file, line, said) in [
        ("b.toml", "2:1: slot: ", "did you mean \"slots\", which belongs into [run]?"),
        ("b.toml", "4:9: run.slots: ", "as in slots = ["),
        ("c.toml", "", "is also used by application \"web\""),
        ("d.toml", "1:8: ", ""),
    ] {
        let begin = format!("{}{line}", place(file));
        let found = lines.iter().find(|line| line.starts_with(&begin) && line.contains(said));
        let found = found.unwrap_or_else(|| panic!("{begin} {said}: {lines:#?}"));
        assert!(refused.stderr.contains(found), "{found}: {}", refused.stderr);
    }
    // Every line is one, but for the first, which is good.
    let mistakes = lines[1..].iter().all(|line| line.starts_with(&folder.display().to_string()));
    assert!(mistakes && lines.len() > 5, "{lines:#?}");

    let json = world.shunt(&["check", "--json", &folder.display().to_string()]);
    let files: Vec<Value> = json.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    assert_eq!((json.code, &files[0]["app"]), (2, &Value::from("web")));
    assert_eq!(files[0]["mistakes"], Value::Array(Vec::new()));
    assert_eq!(files[3]["mistakes"][0]["line"], 1, "{files:?}");
}

#[test]
fn one_file_can_be_checked_and_one_that_is_not_there_is_told() {
    let world = World::new("");
    let file = world.path("apps/web.toml").display().to_string();
    let checked = world.shunt(&["check", &file]);
    assert_eq!((checked.code, checked.stdout), (0, format!("{file}: \"web\" is good\n")));
    let checked = world.shunt(&["check", "/nonexistent/web.toml"]);
    assert_eq!(checked.code, 2, "{checked:?}");
    assert!(checked.stdout.starts_with("/nonexistent/web.toml:1:1: cannot be read"), "{checked:?}");
    let empty = tempfile::tempdir().unwrap();
    let checked = world.shunt(&["check", &empty.path().display().to_string()]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.stdout.starts_with("no application: "), "{checked:?}");
}

#[test]
fn init_writes_once() {
    let world = World::new("");
    let folder = world.path("new").display().to_string();
    let args = ["init", "shop", "--output", &folder, "--slots", "127.0.0.1:4001,127.0.0.1:4002"];
    let written = world.shunt(&[&args as &[&str], &["--json"]].concat());
    assert_eq!(written.code, 0, "{written:?}");
    let said: Value = serde_json::from_str(&written.stdout).unwrap();
    assert_eq!(said["files"].as_array().unwrap().len(), 2, "{said}");
    let file = world.path("new/shop.toml").display().to_string();
    assert_eq!(world.shunt(&["check", &file]).code, 0);
    fs::write(&file, "mine").unwrap();
    let again = world.shunt(&args);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.stderr.contains("is there already; --force"), "{again:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(world.shunt(&[&args as &[&str], &["--force"]].concat()).code, 0);
    assert_eq!(world.shunt(&["check", &file]).code, 0);
    for (more, said) in [
        (["--slots", "127.0.0.1:4001"], "two or more"),
        (["--root", "srv"], "absolute"),
        (["--command", " "], "needs a program"),
        (["--slots", "localhost:1,localhost:2"], "resolve it first"),
    ] {
        let args = [&["init", "blog", "--output", &folder] as &[&str], &more].concat();
        let refused = world.shunt(&args);
        assert!(refused.code == 2 && refused.stderr.contains(said), "{more:?}: {refused:?}");
    }
}
