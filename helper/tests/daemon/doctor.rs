//! `shunt doctor` on a whole machine that is well, and on one that is not.

use serde_json::Value;

use crate::world::{World, good};

/// Runs it; gives its exit code and what it found, as JSON.
fn doctor(world: &World, more: &[&str]) -> (i32, Vec<Value>) {
    let (apps, state) = (world.path("apps"), world.path("state"));
    let (apps, state) = (apps.display().to_string(), state.display().to_string());
    let args = ["doctor", "--json", "--config", &apps, "--state", &state, "--nginx", "false"];
    let output = world.shunt(&[&args, more].concat());
    assert_eq!(output.stderr, "", "{output:?}");
    let lines = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    (output.code, lines.collect())
}

/// Whether something was found, of this level, that says so.
#[track_caller]
fn assert_found(found: &[Value], check: &str, level: &str, saw: &str) {
    let is_it = |f: &&Value| f["check"] == check && f["level"] == level;
    let mut all = found.iter().filter(is_it).filter_map(|f| f["saw"].as_str());
    assert!(all.any(|text| text.contains(saw)), "{check} {level} {saw}: {found:#?}");
}

#[test]
fn a_machine_that_is_well() {
    let world = World::new("");
    good(&world, "v1");
    let (code, found) = doctor(&world, &["web"]);
    assert_eq!(code, 0, "{found:#?}");
    assert_found(&found, "module", "ok", "may switch");
    assert_found(&found, "module", "ok", "active is \"v1\"");
    assert_found(&found, "shuntd", "ok", "has 1 application");
    assert_found(&found, "socket", "ok", "can be connected to");
    assert_found(&found, "socket", "ok", "that it was given, descriptor 3");
    assert_found(&found, "rights", "ok", "can be written to");
    assert_found(&found, "disk", "ok", "are free");
    assert_found(&found, "programs", "ok", "sh");
    // NGINX cannot be asked for its configuration here.
    assert_found(&found, "keepalive", "warning", "is not known");
    let text = world.shunt(&["doctor", "--config", "/nonexistent"]);
    assert_eq!(text.code, 1, "{text:?}");
    assert!(text.stdout.ends_with("1 problem, 0 warnings\n"), "{text:?}");
}

#[test]
fn each_problem_is_named_with_its_cure() {
    let mut world = World::new("");
    good(&world, "v1");
    // Somebody has put a folder there, and a file that shuntd has not read.
    std::fs::remove_file(world.path("web/current")).unwrap();
    std::fs::create_dir(world.path("web/current")).unwrap();
    world.add_shop();
    std::fs::write(world.path("apps/wrong.toml"), "nam = 1").unwrap();
    world.module.end();
    let (code, found) = doctor(&world, &[]);
    assert_eq!(code, 1, "{found:#?}");
    assert_found(&found, "module", "problem", "cannot connect");
    assert_found(&found, "rights", "problem", "web/current is no link");
    assert_found(&found, "shuntd", "problem", "does not know");
    assert_found(&found, "config", "problem", "wrong.toml:1:1: ");
    for problem in found.iter().filter(|f| f["level"] == "problem") {
        assert!(problem["cure"].is_string(), "{problem}");
    }
    let (code, found) = doctor(&world, &["web", "--socket", "/nonexistent/shuntd.sock"]);
    assert_eq!(code, 1, "{found:#?}");
    assert_found(&found, "shuntd", "problem", "there is no such socket; start shuntd");
    let (code, found) = doctor(&world, &["nobody"]);
    assert_eq!(code, 1, "{found:#?}");
    assert_found(&found, "config", "problem", "\"nobody\"");
}
