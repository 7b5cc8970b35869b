//! The daemon's page for Prometheus, and Prometheus' own tool.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};

use crate::world::ask::ask;
use crate::world::{World, good, output, pid, until};

fn page(world: &World) -> String {
    let answer = ask(&world.path("shuntd.sock"), "GET", "/metrics", "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    answer.body
}

/// The value of a series that has all of these labels.
fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_it = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    };
    page.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

/// Lets Prometheus' own tool look at a page.
fn check(page: &str) {
    let promtool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/promtool");
    let mut promtool = Command::new(promtool);
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let promtool = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut promtool = promtool.expect("promtool; run \"scripts/promtool\"");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = output(promtool.wait_with_output().unwrap());
    // It says nothing of a page that is good.
    assert!(output.code == 0 && output.stdout.is_empty(), "{output:?}\n{page}");
    assert!(output.stderr.is_empty(), "{output:?}\n{page}");
}

#[test]
fn the_figures_are_those_of_jobs_and_slots() {
    let mut world = World::new("");
    let first = page(&world);
    check(&first);
    let done = &[r#"app="web""#, r#"kind="deploy""#, r#"outcome="done""#][..];
    let unhealthy = &[r#"kind="deploy""#, r#"outcome="unhealthy""#][..];
    let when = "shuntd_last_successful_deploy_timestamp_seconds";
    assert_eq!(value(&first, "shuntd_jobs_total", done), Some(0.0), "{first}");
    assert_eq!(value(&first, when, &[]), None);
    assert_eq!(value(&first, "shuntd_last_job_seconds", &[]), None);
    let version = format!("shuntd_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    assert!(first.lines().any(|line| line == version), "{first}");

    good(&world, "v1");
    assert_eq!(world.deploy("v2", &[("sick", "ill\n")]).code, 4);
    let running = world.pid_of("v1").unwrap();
    kill_process(pid(running), Signal::KILL).unwrap();
    until("v1 runs again", || world.pid_of("v1").filter(|pid| *pid != running));
    let now = page(&world);
    check(&now);
    assert_eq!(value(&now, "shuntd_jobs_total", done), Some(1.0), "{now}");
    assert_eq!(value(&now, "shuntd_jobs_total", unhealthy), Some(1.0), "{now}");
    assert_eq!(value(&now, "shuntd_slot_up", &[r#"app="web""#, r#"release="v1""#]), Some(1.0));
    assert_eq!(value(&now, "shuntd_slot_restarts_total", &[r#"release="v1""#]), Some(1.0));
    assert_eq!(value(&now, "shuntd_slot_up", &[r#"release="v2""#]), None, "it is gone");
    assert_eq!(value(&now, "shuntd_job_running", &[r#"app="web""#]), Some(0.0));
    assert_eq!(value(&now, "shuntd_job_step", &[]), None);
    // It waited for its health up to the deadline.
    assert!(value(&now, "shuntd_last_job_seconds", &[r#"kind="deploy""#]).unwrap() >= 2.0, "{now}");
    let deployed = value(&now, when, &[r#"app="web""#]).unwrap();
    let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(deployed <= seconds && deployed > seconds - 60.0, "{deployed} {seconds}");

    let families = |text: &str, begin: &str, end: &[char]| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(begin)?.split(end).next());
        lines.map(ToOwned::to_owned).collect()
    };
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v3", &[]);
    let labels = [r#"kind="deploy""#, r#"release="v3""#, r#"step="drain""#];
    until("the step is shown", || value(&page(&world), "shuntd_job_step", &labels));
    assert_eq!(value(&page(&world), "shuntd_job_running", &[]), Some(1.0));
    // The document has every family, and no other, now that there is one of each.
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(document).unwrap();
    let described = families(&document, "| `shuntd_", &['`']);
    assert_eq!(described, families(&page(&world), "# TYPE shuntd_", &[' ']));
    world.module.in_flight("v1", 0, 0);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 0);
    // What is about the past outlives the daemon; what is counted begins anew.
    let before = value(&page(&world), when, &[]);
    world.end(Signal::TERM);
    world.start();
    let next = page(&world);
    assert_eq!(value(&next, when, &[]), before);
    assert_eq!(value(&next, "shuntd_jobs_total", done), Some(0.0), "{next}");
    // Also while NGINX is not there.
    world.module.end();
    assert_eq!(value(&page(&world), "shuntd_slot_up", &[r#"release="v3""#]), Some(1.0));
}
