//! The configuration is read again at `SIGHUP`: all of it takes effect, or nothing.

use std::fs;

use rustix::process::Signal;

use crate::world::{World, good, output, until};

#[test]
fn applications_appear_change_and_go_while_releases_run_on() {
    let world = World::new("");
    good(&world, "v1");
    let v1 = world.pid_of("v1");
    world.add_shop();
    world.edit_config("/health", "/elsewhere");
    let said = world.reload();
    assert!(said.contains("configuration read again: new: shop; changed: web"), "{said}");
    assert!(world.knows_shop());
    assert_eq!(world.pid_of("v1"), v1);
    let output = world.deploy("v2", &[]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("GET /elsewhere answered 404"), "{output:?}");
    fs::remove_file(world.path("apps/shop.toml")).unwrap();
    world.edit_config("/elsewhere", "/health");
    let said = world.reload();
    assert!(said.contains("configuration read again: changed: web; gone: shop"), "{said}");
    assert!(!world.knows_shop());
    good(&world, "v2");
    let said = world.reload();
    assert!(said.contains("nothing has changed"), "{said}");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_named_with_its_line() {
    let world = World::new("");
    world.add_shop();
    world.edit_config("/health", "health");
    let said = world.reload();
    for said_so in ["not read again, nothing has changed", "apps/web.toml:11:20: ", "must start"] {
        assert!(said.contains(said_so), "{said_so}: {said}");
    }
    assert!(!world.knows_shop());
    good(&world, "v1");
}

#[test]
fn what_a_release_needs_cannot_change_while_it_runs() {
    let world = World::new("");
    good(&world, "v1");
    let status = world.status().unwrap();
    let slots = status["slots"].as_array().unwrap();
    let of = |slot: &serde_json::Value| slot["address"].as_str().unwrap().to_owned();
    let used = of(slots.iter().find(|slot| slot["release"] == "v1").unwrap());
    let free = of(slots.iter().find(|slot| slot["release"].is_null()).unwrap());
    let root = format!("{:?}", world.path("web"));
    let other = format!("{:?}", world.path("other"));
    for (from, to, said_so) in [
        (&root, &other, "web.toml: \"root\" cannot change while release \"v1\" runs"),
        (&used, &world.free_address(), "cannot change while release \"v1\" runs in it"),
        (&"name = \"web\"".to_owned(), &"name = \"shop\"".to_owned(), "web.toml: is gone, but"),
    ] {
        world.edit_config(from, to);
        let said = world.reload();
        assert!(said.contains("nothing has changed") && said.contains(said_so), "{said}");
        world.edit_config(to, from);
    }
    fs::rename(world.path("apps/web.toml"), world.path("web.toml")).unwrap();
    let said = world.reload();
    assert!(said.contains("web.toml: is gone, but release \"v1\" runs in"), "{said}");
    fs::rename(world.path("web.toml"), world.path("apps/web.toml")).unwrap();
    // The slot that nothing runs in may be another one, and is used from now on.
    let new = world.free_address();
    world.edit_config(&free, &new);
    assert!(world.reload().contains("changed: web"));
    good(&world, "v2");
    assert_eq!(world.module.state().release("v2").unwrap().servers[0].address, new);
}

#[test]
fn a_job_goes_on_with_the_configuration_that_it_began_with() {
    let world = World::new("");
    let deploy = world.begin_deploy("v1", &[("sick", "not yet\n")]);
    until("v1 is in its slot", || world.pid_of("v1"));
    world.edit_config("\"2s\"", "\"1s\"");
    world.edit_config("/health", "/elsewhere");
    assert!(world.reload().contains("changed: web"));
    world.edit_config(&format!("{:?}", world.path("web")), "\"/srv/other\"");
    let said = world.reload();
    assert!(said.contains("\"root\" cannot change while job 1 (deploy \"v1\") runs"), "{said}");
    fs::remove_file(world.path("web/releases/v1/sick")).unwrap();
    let ended = output(deploy.wait_with_output().unwrap());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(world.deploy("v2", &[]).code, 4);
}

#[test]
fn nginx_that_is_somewhere_else_is_found_after_a_reload() {
    let mut world = World::new("");
    good(&world, "v1");
    world.end(Signal::TERM);
    world.module.end();
    let elsewhere = world.path("elsewhere.sock");
    world.module.serve(&elsewhere);
    world.start();
    assert!(world.pid_of("v1").is_none(), "which release is active is not known");
    world.edit_config("nginx.sock", "elsewhere.sock");
    assert!(world.reload().contains("changed: web"));
    until("v1 runs again", || world.pid_of("v1"));
}
