//! The daemon as a service: its socket, its signals, its log, its configuration, its state folder.

use rustix::process::{Signal, kill_process};

use crate::world::{World, good, is_running, output, pid, until};

#[test]
fn as_a_unit_of_systemd_it_takes_the_socket_and_tells_when_it_is_ready() {
    use command_fds::{CommandFdExt, FdMapping};
    let mut world = World::new("");
    world.end(Signal::TERM);
    let (socket, notify) = (world.path("systemd.sock"), world.path("notify.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let ready = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    // A daemon that tells nothing fails the test, which would wait for ever.
    ready.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args([
            "-c",
            "LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_shuntd"),
        ])
        .arg("--config")
        .arg(world.path("apps"))
        .arg("--state")
        .arg(world.path("state"))
        .env("LISTEN_FDS", "1")
        .env("WATCHDOG_USEC", "200000")
        .env("NOTIFY_SOCKET", &notify);
    let mapping = FdMapping { parent_fd: listener.try_clone().unwrap().into(), child_fd: 3 };
    let mut daemon = command.fd_mappings(vec![mapping]).unwrap().spawn().unwrap();
    let mut told = [0; 100];
    let n = ready.recv(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told[..n]).contains("READY=1"));
    let n = ready.recv(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told[..n]).contains("WATCHDOG=1"));
    let output = world.shunt(&["status", "--socket", &socket.display().to_string()]);
    assert_eq!(output.code, 0, "{output:?}");
    kill_process(pid(daemon.id()), Signal::HUP).unwrap();
    let mut next = || loop {
        let n = ready.recv(&mut told).unwrap();
        let text = String::from_utf8_lossy(&told[..n]).into_owned();
        if !text.contains("WATCHDOG=1") {
            return text;
        }
    };
    let text = next();
    assert!(text.contains("RELOADING=1") && text.contains("MONOTONIC_USEC="), "{text}");
    let text = next();
    assert!(text.contains("READY=1") && text.contains("STATUS=1 application"), "{text}");
    kill_process(pid(daemon.id()), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(socket.exists(), "it is systemd's to remove");
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let world = World::new("");
    std::fs::create_dir(world.path("wrong")).unwrap();
    let text = "name = \"web\"\nroot = \"/srv/web\"\nroots = 1\n";
    std::fs::write(world.path("wrong/web.toml"), text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shuntd"));
    let command = command.arg("--config").arg(world.path("wrong"));
    let output = output(command.output().unwrap());
    assert_eq!(output.code, 2, "{output:?}");
    for said in ["wrong/web.toml:3:", "did you mean \"root\"?"] {
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
}

#[test]
fn a_second_daemon_on_one_state_folder_is_refused_and_told_of_the_first() {
    let world = World::new("");
    good(&world, "v1");
    let second = output(world.shuntd("second.sock").output().unwrap());
    assert_eq!(second.code, 1, "{second:?}");
    let said = format!("another shuntd (pid {}) uses the state folder", world.daemon());
    assert!(second.stderr.contains(&said), "{second:?}");
    assert!(!world.path("second.sock").exists());
    good(&world, "v2");
    // Whoever may read the file can have a lock on it, too.
    let mode = world.path("state/lock").metadata().unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
}

#[test]
fn what_is_no_socket_is_not_removed_for_one() {
    let mut world = World::new("");
    world.end(Signal::TERM);
    std::fs::write(world.path("notes.txt"), "mine").unwrap();
    let refused = output(world.shuntd("notes.txt").output().unwrap());
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("notes.txt is a regular file, and no socket"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(world.path("notes.txt")).unwrap(), "mine");
}

#[test]
fn of_daemons_that_start_at_once_on_one_state_folder_one_stays() {
    let mut world = World::new("");
    world.end(Signal::TERM);
    let begin = |n: usize| {
        let log = std::fs::File::create(world.path(&format!("{n}.log"))).unwrap();
        world.shuntd(&format!("{n}.sock")).stderr(log).spawn().unwrap()
    };
    let mut daemons: Vec<_> = (0..6).map(begin).collect();
    let mut refused = 0;
    until("all but one have ended", || {
        daemons.retain_mut(|daemon| match daemon.try_wait().unwrap() {
            Some(status) => {
                assert_eq!(status.code(), Some(1));
                refused += 1;
                false
            }
            None => true,
        });
        (refused == 5).then_some(())
    });
    let mut left = daemons.pop().unwrap();
    let listens = |n: &usize| world.path(&format!("{n}.sock")).exists();
    until("the one that is left listens", || (0..6).any(|n| listens(&n)).then_some(()));
    assert_eq!((0..6).filter(listens).count(), 1);
    kill_process(pid(left.id()), Signal::TERM).unwrap();
    assert!(left.wait().unwrap().success());
}

#[test]
fn each_death_of_an_application_is_in_the_log() {
    let world = World::new("");
    good(&world, "v1");
    let first = world.pid_of("v1").unwrap();
    kill_process(pid(first), Signal::KILL).unwrap();
    let second = until("it runs again", || world.pid_of("v1").filter(|pid| *pid != first));
    let log = world.log();
    let line =
        log.lines().find(|line| line.contains("ended after")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.starts_with("shuntd: web: \"v1\" in 127.0.0.1:"), "{line}");
    assert!(line.contains(&format!(", pid {first}, ended after ")), "{line}");
    assert!(line.ends_with(" with signal 9; restart 1 is in 100ms"), "{line}");
    assert!(log.contains(&format!(" runs again, pid {second}\n")), "{log}");
    kill_process(pid(second), Signal::KILL).unwrap();
    until("the second death is there, too", || {
        world.log().contains("signal 9; restart 2 is in 200ms").then_some(())
    });
}

#[test]
fn lines_have_priorities_in_systemds_journal_and_nowhere_else() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new("");
    let path = world.path("journal");
    let file = std::fs::File::create(&path).unwrap();
    let meta = file.metadata().unwrap();
    for (stream, begins) in [
        (format!("{}:{}", meta.dev(), meta.ino()), "<3>another shuntd"),
        // That of somebody who has redirected this output.
        ("1:1".to_owned(), "shuntd: another shuntd"),
    ] {
        let mut command = world.shuntd("second.sock");
        command.env("JOURNAL_STREAM", stream).stderr(file.try_clone().unwrap());
        assert_eq!(command.status().unwrap().code(), Some(1));
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().last().unwrap();
        assert!(line.starts_with(begins), "{text}");
    }
}

#[test]
fn a_daemon_on_a_terminal_ends_in_order_when_that_is_closed() {
    let mut world = World::new("");
    good(&world, "v1");
    world.end(Signal::TERM);
    let command = world.shuntd("shuntd.sock");
    let words = command.get_args().map(|arg| arg.to_str().unwrap());
    let line =
        format!("exec {} {}", env!("CARGO_BIN_EXE_shuntd"), words.collect::<Vec<_>>().join(" "));
    let mut terminal = std::process::Command::new("script")
        .args(["--quiet", "--command", &line, "/dev/null"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let v1 = until("v1 runs again", || world.pid_of("v1"));
    until("the daemon is idle", || world.status().filter(|status| status["job"].is_null()));
    // With the terminal there, the same signal is the order to read the configuration again.
    let children = format!("/proc/{0}/task/{0}/children", terminal.id());
    let daemon = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    world.add_shop();
    kill_process(pid(daemon), Signal::HUP).unwrap();
    until("the configuration is read again", || world.knows_shop().then_some(()));
    kill_process(pid(terminal.id()), Signal::KILL).unwrap();
    terminal.wait().unwrap();
    until("the daemon has ended", || (!is_running(daemon)).then_some(()));
    assert!(!is_running(v1), "its releases have ended before it");
    assert!(!world.path("shuntd.sock").exists());
}
