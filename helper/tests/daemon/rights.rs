//! Who may change something: root, the daemon's user, and a group if it was given one.

use rustix::process::Signal;

use crate::world::{World, output, until};

const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// A daemon that was started with this group.
fn world(group: &str) -> World {
    let mut world = World::new("");
    world.end(Signal::TERM);
    world.start_with(&["--group", group]);
    world
}

/// Whether a user may change something: an order that there is no job for is refused otherwise.
#[track_caller]
fn may_change(world: &World, uid: u32) -> bool {
    let output = world.shunt_as(uid, &["abort", "web"]);
    assert_eq!(world.shunt_as(uid, &["status", "web"]).code, 0, "everybody may look");
    let is_refused = output.stderr.contains("may change something");
    assert!(is_refused || output.stderr.contains("no job runs for web"), "{output:?}");
    !is_refused
}

#[test]
fn p11_members_of_the_group_may_change_something_and_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    // The group that /etc/passwd gives to nobody. The commands themselves keep root's group.
    let world = world("nogroup");
    assert!(may_change(&world, NOBODY));
    assert!(!may_change(&world, DAEMON));
    assert!(may_change(&world, 0));
    // Who is not in the system's table of users is in no group.
    assert!(!may_change(&world, 54321));
}

#[test]
fn p11_a_group_counts_that_is_not_a_users_first_and_the_one_that_a_process_has() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    // A process has it from setpriv, whatever the table says.
    let world = world("daemon");
    let as_group = |gid: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", gid, "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_shunt")).arg("--socket").arg(world.path("shuntd.sock"));
        output(command.args(["abort", "web"]).output().unwrap()).stderr
    };
    assert!(as_group("1").contains("no job runs for web"));
    assert!(as_group("2").contains("may change something"));
    drop(world);
    // Whoever is in a group that is not his first one: not every machine has somebody.
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let uid = |user: &str| -> Option<u32> {
        let line = users.lines().find(|line| line.split(':').next() == Some(user))?;
        line.split(':').nth(2)?.parse().ok().filter(|uid| *uid != 0)
    };
    let found = groups.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        Some((fields[0], uid(fields.get(3)?.split(',').next()?)?))
    });
    let Some((group, uid)) = found else {
        eprintln!("skipped: no user here has a second group");
        return;
    };
    let world = self::world(group);
    assert!(may_change(&world, uid), "{group} {uid}");
    assert!(!may_change(&world, NOBODY));
}

#[test]
fn p11_nobody_can_take_all_connections_from_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let world = World::new("");
    let mut crowd = world.crowd_as(NOBODY);
    until("who has too many is told so", || {
        let refused = world.shunt_as(NOBODY, &["status", "web"]);
        assert_eq!(refused.code, 8, "{refused:?}");
        refused.stderr.contains("too many connections").then_some(())
    });
    assert_eq!(world.shunt_as(0, &["status", "web"]).code, 0);
    assert_eq!(world.shunt_as(DAEMON, &["status", "web"]).code, 0);
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
    until("they are given back", || {
        (world.shunt_as(NOBODY, &["status", "web"]).code == 0).then_some(())
    });
}

#[test]
fn p11_a_member_of_the_group_deploys_what_he_or_the_application_may_read_and_nothing_else() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let mut world = World::new("");
    world.edit_config("[run]", "[run]\nuser = \"nobody\"");
    world.end(Signal::TERM);
    world.start_with(&["--group", "daemon"]);
    let (secret, key) = (world.path("secret"), world.path("secret/key"));
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(&key, "root's own").unwrap();
    let mode = |path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let deploy = |uid, release: &str| {
        let from = secret.display().to_string();
        let args = ["deploy", "web", "--from", &from, "--release", release];
        world.shunt_as(uid, &args).stdout
    };
    let is_refused = |said: &str| said.contains("neither who deploys may read it");
    mode(&secret, 0o700);
    assert!(is_refused(&deploy(DAEMON, "v1")));
    mode(&secret, 0o755);
    mode(&key, 0o600);
    assert!(is_refused(&deploy(DAEMON, "v2")));
    assert!(!world.path("web/releases/v2").exists());
    // It is his own, or root says so.
    chown(&key, Some(DAEMON), None).unwrap();
    let said = deploy(DAEMON, "v3");
    assert!(said.contains("ok fetch"), "{said}");
    chown(&key, Some(0), None).unwrap();
    assert!(deploy(0, "v4").contains("ok fetch"));
}

#[test]
fn a_group_that_there_is_not_is_refused_at_the_start() {
    let mut world = World::new("");
    world.end(Signal::TERM);
    let mut command = world.shuntd("shuntd.sock");
    let output = output(command.args(["--group", "no-such-group"]).output().unwrap());
    assert_eq!(output.code, 2, "{output:?}");
    for said in ["no such group", "groupadd --system no-such-group"] {
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
    assert!(!world.path("shuntd.sock").exists());
}
