//! The runner `docker`: `shuntd` starts the containers of an application, checks, flips, drains and stops
//! them.

use shunt_tests::docker::compose::application;
use shunt_tests::docker::runner::Runner;
use shunt_tests::{free_port, until};

/// The guard is of no interest here.
const NO_GUARD: &str = "\n[guard]\ntime = \"0s\"\n";

/// It goes on until somebody has seen enough.
const LONG_GUARD: &str = "\n[guard]\ntime = \"10m\"\n";

fn deployed(site: &Runner, release: &str) {
    let output = site.shunt(&["deploy", "web", "--release", release]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering().as_deref(), Some(release));
}

/// The guard is under way.
fn until_guarded(site: &Runner) {
    until("the guard", || site.shunt(&["status"]).stdout.contains("guard").then_some(()));
}

/// Somebody has seen enough of what is in its guard.
fn promoted(site: &Runner, release: &str) {
    let output = site.shunt(&["promote", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    site.wait_until_idle();
    assert_eq!(
        (site.answering().as_deref(), &*site.releases()),
        (Some(release), &[release.to_owned()][..])
    );
}

/// Deploys a release and leaves it in its guard.
fn begun(site: &Runner, release: &str) {
    let output = site.shunt(&["deploy", "web", "--release", release, "--detach"]);
    assert_eq!(output.code, 0, "{output:?}");
    until_guarded(site);
}

#[test]
fn containers_are_started_flipped_and_stopped_under_load() {
    let [_v1, _v2] = ["v1", "v2"].map(|release| application(release, &[]));
    let site = Runner::up(NO_GUARD);
    deployed(&site, "v1");
    assert_eq!(site.releases(), ["v1"]);

    let watch = site.watch();
    site.wait_for_requests(50);
    deployed(&site, "v2");
    site.wait_for_requests(50);
    assert_eq!(site.releases(), ["v2"], "the old one is stopped and removed");
    // What it has said is kept all the same.
    let logs = site.shunt(&["logs", "web", "v1"]);
    assert!(logs.stdout.contains("release v1 starts\nending\n"), "{logs:?}");
    let logs = site.shunt(&["logs", "web"]);
    assert!(logs.stdout.contains("release v2 starts"), "{logs:?}");

    // Back to the image that it was made of.
    let output = site.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering().as_deref(), Some("v1"));
    site.wait_for_requests(50);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert!(verdict.releases["v1"] > 0 && verdict.releases["v2"] > 0, "{verdict:?}");
    assert_eq!(site.releases(), ["v1"]);

    // By its tag, under a name of its own.
    let output = site.shunt(&["deploy", "web", "--ref", "v2", "--release", "second"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(
        (site.answering().as_deref(), &*site.releases()),
        (Some("v2"), &["second".to_owned()][..])
    );
    let doctor = site.shunt(&["doctor", "web"]);
    for said in
        ["the Engine answers", "each deploy names the tag", "container's own address in network"]
    {
        assert!(doctor.stdout.contains(said), "{said}: {doctor:?}");
    }
}

#[test]
fn p8_a_release_whose_container_ends_at_its_start_is_refused_with_what_it_said() {
    let _v1 = application("v1", &[]);
    // It is no number of milliseconds.
    let bad = application("v2", &["slow-start"]);
    let (_, tag) = bad.split_once(':').unwrap();
    let site = Runner::up(NO_GUARD);
    deployed(&site, "v1");

    let watch = site.watch();
    site.wait_for_requests(50);
    let output = site.shunt(&["deploy", "web", "--ref", tag, "--release", "v2"]);
    assert_eq!(output.code, 4, "{output:?}");
    let said = format!("{}{}", output.stdout, output.stderr);
    for part in ["exit status 1", "release v2 starts", "ParseIntError"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let logs = site.shunt(&["logs", "web", "v2"]);
    assert!(logs.stdout.contains("ParseIntError"), "{logs:?}");
    // One that there is not.
    let output = site.shunt(&["deploy", "web", "--release", "v999"]);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(output.code != 0 && said.contains("cannot fetch image shunt-test-app:v999"), "{said}");
    assert_eq!(site.answering().as_deref(), Some("v1"));
    assert_eq!(site.releases(), ["v1"]);
    site.wait_for_requests(50);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
}

#[test]
fn p8_a_container_that_crashes_in_the_guard_is_switched_away_from() {
    let [_v1, _v2] = ["v1", "v2"].map(|release| application(release, &[]));
    let site = Runner::up(LONG_GUARD);
    begun(&site, "v1");
    promoted(&site, "v1");
    let mut job = site.job(&["deploy", "web", "--release", "v2"]);
    job.reaches("guard");
    assert_eq!(site.answering().as_deref(), Some("v2"));
    site.crash("v2");
    let ended = job.end();
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.text().contains("its process ended with exit status 137"), "{ended:?}");
    assert_eq!(site.answering().as_deref(), Some("v1"));
    assert_eq!(site.releases(), ["v1"]);
}

#[test]
fn p9_containers_serve_on_when_shuntd_is_killed_and_the_next_one_takes_them_over() {
    let [_v1, _v2, _v3] = ["v1", "v2", "v3"].map(|release| application(release, &[]));
    let site = Runner::up(LONG_GUARD);
    begun(&site, "v1");
    promoted(&site, "v1");
    let container = site.container("v1");

    // Nothing is under way.
    let watch = site.watch();
    site.wait_for_requests(50);
    site.kill_shuntd();
    site.wait_for_requests(50);
    site.start_shuntd();
    site.wait_until_idle();
    assert_eq!(site.container("v1"), container, "it is the same one");
    assert!(site.log().contains("\"v1\" in"), "{}", site.log());
    let slot = |site: &Runner| {
        let status = site.json(&["status", "web"]);
        let slots = status["slots"].as_array().cloned().unwrap_or_else(|| panic!("{status}"));
        slots.into_iter().find(|slot| slot["release"] == "v1").expect("its slot")
    };
    assert_eq!((&slot(&site)["runs"], &slot(&site)["restarts"]), (&true.into(), &0.into()));

    // In the guard: it goes on after the next start.
    begun(&site, "v2");
    site.kill_shuntd();
    site.start_shuntd();
    until_guarded(&site);
    assert_eq!(site.answering().as_deref(), Some("v2"));
    assert_eq!(site.releases(), ["v1", "v2"]);
    promoted(&site, "v2");
    site.wait_for_requests(50);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");

    // It was killed with all that it remembered; the containers are known by their labels.
    site.kill_shuntd();
    site.forget();
    site.start_shuntd();
    site.wait_until_idle();
    let status = site.json(&["status", "web"]);
    assert!(status["slots"].to_string().contains("\"v2\""), "{status}");
    begun(&site, "v3");
    promoted(&site, "v3");
}

#[test]
fn p9_a_deploy_that_shuntd_was_killed_in_is_taken_back_with_its_container() {
    let _v1 = application("v1", &[]);
    let sick = application("v2", &["sick"]);
    let (_, tag) = sick.split_once(':').unwrap();
    let site = Runner::up(&format!("deadline = \"10m\"\n{NO_GUARD}"));
    deployed(&site, "v1");
    let watch = site.watch();
    site.wait_for_requests(50);
    let args = ["deploy", "web", "--ref", tag, "--release", "v2", "--detach"];
    let output = site.shunt(&args);
    assert_eq!(output.code, 0, "{output:?}");
    until("its check", || site.shunt(&["status"]).stdout.contains("health").then_some(()));
    assert_eq!(site.releases(), ["v1", "v2"]);
    site.kill_shuntd();
    assert_eq!(site.releases(), ["v1", "v2"], "they serve on");
    site.start_shuntd();
    site.wait_until_idle();
    assert_eq!(site.releases(), ["v1"]);
    assert_eq!(site.answering().as_deref(), Some("v1"));
    site.wait_for_requests(50);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    // The name is free again.
    let _v2 = application("v2", &[]);
    deployed(&site, "v2");
}

#[test]
fn slots_of_this_machine_are_published_and_one_that_is_taken_is_named() {
    let [_v1, _v2] = ["v1", "v2"].map(|release| application(release, &[]));
    let slots = [free_port(), free_port()];
    let site = Runner::on_this_machine(slots, NO_GUARD);
    deployed(&site, "v1");
    // Somebody else listens in the other slot, and Docker is told to publish it.
    let other = std::net::TcpListener::bind(("127.0.0.1", slots[1])).unwrap();
    let output = site.shunt(&["deploy", "web", "--release", "v2"]);
    let said = format!("{}{}", output.stdout, output.stderr);
    let taken = format!("cannot start a container in slot 127.0.0.1:{}", slots[1]);
    assert!(output.code == 4 && said.contains(&taken), "{output:?}");
    assert_eq!(site.releases(), ["v1"]);
    drop(other);

    let watch = site.watch();
    site.wait_for_requests(50);
    deployed(&site, "v2");
    site.wait_for_requests(50);
    let output = site.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    site.wait_for_requests(50);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert_eq!(
        (site.answering().as_deref(), &*site.releases()),
        (Some("v1"), &["v1".to_owned()][..])
    );
    let doctor = site.shunt(&["doctor", "web"]);
    assert!(doctor.stdout.contains("it leads to port 8080 of its container"), "{doctor:?}");
}
