//! The runner `systemd`, with the samples of its configuration and of its units.

use shunt_tests::docker::Debian;
use shunt_tests::docker::site::Site;
use shunt_tests::helper::Output;
use shunt_tests::until;

/// Where `make install` has put the sample.
const SAMPLE: &str = "/usr/local/share/doc/shunt/examples/web-systemd.toml";

const UNITS: [&str; 2] = ["web@3001.service", "web@3002.service"];

/// The sample, whose last section is that of the health check.
fn app(site: &Site) -> String {
    let sample = site.server.read(SAMPLE);
    format!("{sample}interval = \"20ms\"\nrelease_header = \"X-Release\"\ndeadline = \"20s\"\n")
}

fn site(debian: Debian) -> Site {
    let site = Site::start(debian);
    site.configure_app(&app(&site));
    site
}

fn try_deploy(site: &Site, release: &str) -> Output {
    let from = format!("/srv/web/dist/{release}");
    site.shunt(&["deploy", "web", "--release", release, "--from", &from])
}

#[track_caller]
fn deploy(site: &Site, release: &str) {
    let _ = site.release(release);
    let output = try_deploy(site, release);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering(), release);
}

/// Deploys what is not accepted; gives what was said.
#[track_caller]
fn refused(site: &Site, release: &str) -> String {
    let output = try_deploy(site, release);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(!site.server.exists(&format!("/srv/web/releases/{release}")));
    output.stdout
}

/// Makes a release whose program is this script.
fn script(site: &Site, release: &str, script: &str) {
    let folder = site.release(release);
    let program = format!("{folder}/server");
    site.server.write(&program, format!("#!/bin/sh\n{script}\n"));
    site.server.run(&["chmod", "755", &program]);
}

/// Adds to the application's units.
fn drop_in(site: &Site, unit: &str, text: &str) {
    let path = format!("/etc/systemd/system/{unit}.d/test.conf");
    site.server.write(&path, text);
    site.server.run(&["systemctl", "daemon-reload"]);
}

#[track_caller]
fn active(site: &Site, unit: &str) -> String {
    site.server.property(unit, "ActiveState")
}

#[track_caller]
fn pid(site: &Site, unit: &str) -> String {
    site.server.property(unit, "MainPID")
}

fn p8_a_deploy_under_load_loses_no_request_and_the_units_are_the_slots(debian: Debian) {
    let site = site(debian);
    deploy(&site, "v1");
    assert_eq!([active(&site, UNITS[0]), active(&site, UNITS[1])], ["active", "inactive"]);
    // What it says is in its unit's journal.
    let logs = site.shunt(&["logs", "web"]);
    assert!(logs.code == 0 && logs.stdout.contains("release v1 starts\n"), "{logs:?}");
    let logs = site.shunt(&["logs", "web", "v0"]);
    assert!(logs.code == 2 && logs.stderr.contains("journalctl --unit 'web@*'"), "{logs:?}");
    let watch = site.watch();
    site.wait_for_requests(100);
    deploy(&site, "v2");
    assert_eq!(site.server.run(&["readlink", "/srv/web/slots/3002"]).trim(), "../releases/v2");
    assert_eq!([active(&site, UNITS[0]), active(&site, UNITS[1])], ["inactive", "active"]);
    site.wait_for_requests(100);
    let status = site.shunt(&["status"]).stdout;
    assert!(status.contains(&format!("pid {}", pid(&site, UNITS[1]))), "{status}");
    // Its socket has stayed, and the first connection starts the old release.
    assert_eq!(active(&site, "web@3001.socket"), "active");
    assert!(status.contains("\"v1\"  previous; stopped, but its socket listens"), "{status}");
    let ask = ["curl", "-sS", "--fail", "http://127.0.0.1:3001/release"];
    assert_eq!(site.server.run(&ask), "v1");
    // That is in nobody's way.
    let output = site.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering(), "v1");
    site.wait_for_requests(100);
    deploy(&site, "v3");
    site.wait_for_requests(100);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    let owners = site.server.run(&["ps", "-C", "server", "-o", "user="]);
    assert_eq!(owners.split_whitespace().collect::<Vec<_>>(), ["web"]);
    // The unit's user owns what it runs: nobody had to say that again.
    let owner = site.server.run(&["stat", "--format=%G", "/srv/web/releases/v3/server"]);
    assert_eq!(owner.trim(), "web");
}

fn p8_a_rollback_switches_to_a_socket_at_once_and_connections_wait(debian: Debian) {
    let site = site(debian);
    // So that systemd knows how long it takes.
    drop_in(&site, "web@.service", "[Service]\nType=notify\n");
    for release in ["v1", "v2"] {
        let folder = site.release(release);
        site.server.write(&format!("{folder}/slow-start"), "1500");
        let output = try_deploy(&site, release);
        assert_eq!(output.code, 0, "{output:?}");
    }
    let watch = site.watch();
    site.wait_for_requests(100);
    let mut times = Vec::new();
    let mut roll_back = |release: &str, slot: usize| {
        let before = pid(&site, UNITS[1 - slot]);
        assert_eq!(active(&site, UNITS[slot]), "inactive");
        let output = std::thread::scope(|scope| {
            let rollback = scope.spawn(|| site.shunt(&["--json", "rollback", "web"]));
            until("users are on it while it starts", || {
                let is_on = site.state("web").active.expect("one").as_str() == release;
                (is_on && active(&site, UNITS[slot]) == "activating").then_some(())
            });
            assert_eq!(pid(&site, UNITS[1 - slot]), before, "it is there to go back to");
            rollback.join().expect("no panic")
        });
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(site.answering(), release);
        assert_eq!(active(&site, UNITS[1 - slot]), "inactive");
        site.wait_for_requests(100);
        let (switched, healthy) = (output.done("switch"), output.done("health"));
        assert!(switched < healthy && healthy >= 1500, "{output:?}");
        times.push(switched);
        switched < 100
    };
    // A machine that has other things to do may be slow, but hardly each time.
    roll_back("v1", 0);
    let fast = (0..3).any(|_| {
        let there = roll_back("v2", 1);
        roll_back("v1", 0) || there
    });
    println!("switched after {times:?} ms");
    assert!(fast, "{times:?}");
    // One that does not come up any more is taken back: it fails only whom it has met.
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    site.server.sh("printf '#!/bin/sh\\necho no database\\nexit 7\\n' >/srv/web/releases/v2/new
         chmod 755 /srv/web/releases/v2/new
         mv /srv/web/releases/v2/new /srv/web/releases/v2/server");
    let before = pid(&site, UNITS[0]);
    let output = site.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 5, "{output:?}");
    for said in ["exit status 7", "| no database", "ok switch-back", "\"v1\" still serves"] {
        assert!(output.stdout.contains(said), "{said}: {}", output.stdout);
    }
    assert_eq!((site.answering(), pid(&site, UNITS[0])), ("v1".to_owned(), before));
    assert_eq!(active(&site, "web@3002.socket"), "inactive", "nothing starts it any more");
    // The next deploy has its slot, and the one after it that of what listens.
    deploy(&site, "v3");
    assert_eq!(active(&site, "web@3001.socket"), "active");
    deploy(&site, "v4");
    assert_eq!(site.server.run(&["readlink", "/srv/web/slots/3001"]).trim(), "../releases/v4");
    // Without the key nothing listens.
    let app = site.server.read("/etc/shunt/apps/web.toml");
    site.configure_app(&app.replace("[keep]\n", "[keep]\nsocket = false\n"));
    // shuntd has begun with a job, which looks after what runs.
    site.wait_until_idle();
    deploy(&site, "v5");
    assert_eq!(active(&site, "web@3001.socket"), "inactive");
}

fn p9_what_listened_does_so_when_shuntd_is_killed(debian: Debian) {
    let site = site(debian);
    ["v1", "v2"].iter().for_each(|release| deploy(&site, release));
    let listens = || {
        let status = site.shunt(&["status"]).stdout;
        status.contains("\"v1\"  previous; stopped, but its socket listens").then_some(())
    };
    until("v1 listens", listens);
    site.server.run(&["kill", "-KILL", &pid(&site, "shuntd.service")]);
    until("v1 listens again", listens);
    assert_eq!([active(&site, UNITS[0]), active(&site, "web@3001.socket")], ["inactive", "active"]);
    until("no job runs", || (!site.shunt(&["status"]).stdout.contains(" job ")).then_some(()));
    let output = site.shunt(&["--json", "rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.done("switch") <= output.done("health"), "{output:?}");
    assert_eq!(site.answering(), "v1");
}

fn p8_a_release_that_exits_at_start_is_refused_with_its_status_and_its_journal(debian: Debian) {
    let site = site(debian);
    deploy(&site, "v1");
    let watch = site.watch();
    script(&site, "v2", "echo the database is not there\nexit 7");
    // A program of which systemd has seen the start, one that has told nobody, and one that had to.
    for kind in ["simple", "exec", "notify"] {
        drop_in(&site, "web@.service", &format!("[Service]\nType={kind}\n"));
        let said = refused(&site, "v2");
        assert!(said.contains("exit status 7, unit result \"exit-code\""), "{kind}: {said}");
        assert!(said.contains("| the database is not there"), "{kind}: {said}");
        assert!(said.contains("| web@3002.service: Main process exited"), "{kind}: {said}");
        assert_eq!(active(&site, "web@3002.socket"), "inactive", "{kind}");
        assert!(matches!(&*active(&site, UNITS[1]), "inactive" | "failed"), "{kind}");
        assert_eq!(site.answering(), "v1");
    }
    // Nothing of an earlier release is said of the next one.
    script(&site, "v3", "echo another reason\nexit 8");
    let said = refused(&site, "v3");
    assert!(said.contains("| another reason") && !said.contains("database"), "{said}");
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
}

fn a_service_is_ready_when_its_type_says_so(debian: Debian) {
    let site = site(debian);
    for (release, kind) in [("v1", "simple"), ("v2", "exec"), ("v3", "notify")] {
        drop_in(&site, "web@.service", &format!("[Service]\nType={kind}\nTimeoutStartSec=3\n"));
        deploy(&site, release);
        let unit = UNITS.into_iter().find(|unit| active(&site, unit) == "active").unwrap();
        assert_eq!(site.server.property(unit, "Type"), kind);
    }
    // One that never says that it is ready.
    script(&site, "v4", "exec sleep 600");
    let said = refused(&site, "v4");
    assert!(said.contains("unit result \"timeout\""), "{said}");
    // One that systemd cannot run.
    let folder = site.release("v5");
    site.server.run(&["chmod", "644", &format!("{folder}/server")]);
    let said = refused(&site, "v5");
    assert!(said.contains("exit status 203, which is systemd's: its ExecStart="), "{said}");
    assert_eq!(site.answering(), "v3");
}

fn what_cannot_run_in_a_slot_says_what_to_do(debian: Debian) {
    let site = site(debian);
    let _ = site.release("v1");
    let app = app(&site);
    for (app, said) in [
        (app.replace("unit        = \"web\"", "unit = \"shop\""), "there is no shop@.service"),
        (app.replace("127.0.0.1:300", "127.0.0.2:300"), "web@3001.socket listens on"),
    ] {
        site.configure_app(&app);
        let output = try_deploy(&site, "v1");
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains(said), "{}", output.stdout);
    }
    // A release that somebody else runs in a slot is left alone as long as NGINX goes there.
    site.configure_app(&app);
    site.run_in_slot(3001, "v0");
    site.put("v0", 3001);
    site.switch("v0");
    let before = pid(&site, UNITS[0]);
    let watch = site.watch();
    site.wait_for_requests(100);
    deploy(&site, "v1");
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert_eq!(active(&site, UNITS[1]), "active");
    assert_eq!(pid(&site, UNITS[0]), before);
}

fn p8_an_application_without_socket_activation_gets_its_port(debian: Debian) {
    let site = Site::start(debian);
    site.server.write(
        "/etc/systemd/system/plain@.service",
        "[Service]
         User=web
         Type=notify
         WorkingDirectory=/srv/web/slots/%i
         ExecStart=/srv/web/slots/%i/server
         Environment=PORT=%i
         Restart=on-failure\n",
    );
    site.server.run(&["systemctl", "daemon-reload"]);
    let app = app(&site).replace("[run]\n", "[run]\nsocket = false\n");
    site.configure_app(&app.replace("unit        = \"web\"", "unit = \"plain\""));
    deploy(&site, "v1");
    let watch = site.watch();
    site.wait_for_requests(100);
    deploy(&site, "v2");
    site.wait_for_requests(100);
    let output = site.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    site.wait_for_requests(100);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert_eq!(active(&site, "plain@3001.service"), "active");
    assert_eq!(active(&site, "web@3001.socket"), "inactive");
}

fn a_crash_loop_that_closes_the_socket_is_named(debian: Debian) {
    let site = site(debian);
    drop_in(
        &site,
        "web@.service",
        "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n[Service]\nRestartSec=1ms\n",
    );
    deploy(&site, "v1");
    let journal = || site.server.journal("shuntd.service");
    // What may come is said before.
    assert!(journal().contains("web@.service has StartLimitIntervalSec=3600s"), "{}", journal());
    // From now on it crashes whenever it starts.
    site.server.sh("printf '#!/bin/sh\\nexit 9\\n' >/srv/web/releases/v1/new
         chmod 755 /srv/web/releases/v1/new
         mv /srv/web/releases/v1/new /srv/web/releases/v1/server");
    site.server.run(&["systemctl", "kill", "--signal=KILL", UNITS[0]]);
    until("the socket is closed", || {
        // Whoever connects wants the service, which also is a start.
        let _ = site.server.try_run(&["curl", "-sS", "-m", "1", "http://127.0.0.1:3001/"]);
        (active(&site, "web@3001.socket") == "failed").then_some(())
    });
    until("it is named", || journal().contains("made systemd close the socket").then_some(()));
    let journal = journal();
    let said = journal.lines().find(|line| line.contains("made systemd close")).unwrap();
    for part in [
        "web: \"v1\" in 127.0.0.1:3001, web@3001.service, ended with",
        "web@3001.socket: service-start-limit-hit",
        "StartLimitIntervalSec=0 in [Unit] of web@.service",
        "TriggerLimitIntervalSec=0 in [Socket] of web@.socket",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // It is in no later deploy's way, in either slot.
    deploy(&site, "v2");
    deploy(&site, "v3");
    assert_eq!([active(&site, UNITS[0]), active(&site, "web@3001.socket")], ["active", "active"]);
}

fn p9_units_serve_on_when_shuntd_is_killed_or_stopped_and_it_takes_them_over(debian: Debian) {
    let site = site(debian);
    deploy(&site, "v1");
    let before = pid(&site, UNITS[0]);
    let watch = site.watch();
    site.wait_for_requests(100);
    site.server.run(&["kill", "-KILL", &pid(&site, "shuntd.service")]);
    until("it has its application again", || {
        site.server.journal("shuntd.service").contains("\"v1\" runs again").then_some(())
    });
    assert_eq!(pid(&site, UNITS[0]), before);
    deploy(&site, "v2");
    assert_eq!(active(&site, UNITS[0]), "inactive", "it was known as the old one");

    // In order: nothing but shuntd stops.
    let before = pid(&site, UNITS[1]);
    site.server.run(&["systemctl", "stop", "shuntd.service", "shuntd.socket"]);
    site.wait_for_requests(200);
    assert_eq!(pid(&site, UNITS[1]), before);
    site.server.run(&["systemctl", "start", "shuntd.socket", "shuntd.service"]);
    until("it has its application again", || {
        site.server.journal("shuntd.service").contains("\"v2\" runs again").then_some(())
    });
    assert_eq!(pid(&site, UNITS[1]), before);
    site.wait_for_requests(100);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    // It is followed from now on.
    site.server.run(&["systemctl", "kill", "--signal=KILL", UNITS[1]]);
    until("its end is told", || {
        site.server.journal("shuntd.service").contains("ended with signal 9").then_some(())
    });
    until("it runs again", || {
        let status = site.shunt(&["status"]).stdout;
        let now = pid(&site, UNITS[1]);
        (now != before && status.contains(&format!("pid {now}"))).then_some(())
    });
    deploy(&site, "v3");
}

fn p9_a_deploy_that_is_cut_off_is_taken_back_with_its_units(debian: Debian) {
    let site = site(debian);
    deploy(&site, "v1");
    let before = pid(&site, UNITS[0]);
    let folder = site.release("v2");
    site.server.write(&format!("{folder}/sick"), "not yet");
    let mut command =
        site.server.spawn(&["shunt", "deploy", "web", "--release", "v2", "--from", &folder]);
    until("it is started", || (active(&site, UNITS[1]) == "active").then_some(()));
    site.server.run(&["kill", "-KILL", &pid(&site, "shuntd.service")]);
    command.wait().expect("it ends");
    until("it is taken back", || {
        let journal = site.server.journal("shuntd.service");
        (journal.contains("the deploy of \"v2\"") && journal.contains("is taken back"))
            .then_some(())
    });
    assert_eq!([active(&site, UNITS[1]), active(&site, "web@3002.socket")], ["inactive"; 2]);
    assert_eq!((site.answering(), pid(&site, UNITS[0])), ("v1".to_owned(), before));
    site.wait_until_idle();
    deploy(&site, "v3");
}

fn a_unit_is_followed_although_the_bus_or_systemd_starts_again(debian: Debian) {
    let site = site(debian);
    deploy(&site, "v1");
    let journal = || site.server.journal("shuntd.service");
    for (n, order) in [
        "systemctl daemon-reload",
        "systemctl daemon-reexec",
        "kill -KILL \"$(systemctl show --value --property=MainPID dbus.service)\"",
    ]
    .into_iter()
    .enumerate()
    {
        site.server.sh(order);
        // The bus is started by whoever needs it.
        until("systemd can be asked", || {
            (site.server.try_run(&["systemctl", "is-active", UNITS[0]]).code == 0).then_some(())
        });
        let before = pid(&site, UNITS[0]);
        site.server.run(&["kill", "-KILL", &before]);
        until(order, || (journal().matches("runs again, pid").count() == n + 1).then_some(()));
    }
    deploy(&site, "v2");
}

each_debian!(
    p8_a_deploy_under_load_loses_no_request_and_the_units_are_the_slots,
    p8_a_rollback_switches_to_a_socket_at_once_and_connections_wait,
    p9_what_listened_does_so_when_shuntd_is_killed,
    p8_a_release_that_exits_at_start_is_refused_with_its_status_and_its_journal,
    a_service_is_ready_when_its_type_says_so,
    what_cannot_run_in_a_slot_says_what_to_do,
    p8_an_application_without_socket_activation_gets_its_port,
    a_crash_loop_that_closes_the_socket_is_named,
    p9_units_serve_on_when_shuntd_is_killed_or_stopped_and_it_takes_them_over,
    p9_a_deploy_that_is_cut_off_is_taken_back_with_its_units,
    a_unit_is_followed_although_the_bus_or_systemd_starts_again,
);
