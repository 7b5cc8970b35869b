//! `shuntd` under its units, with the sample of its configuration.

use shunt_tests::docker::Debian;
use shunt_tests::docker::site::Site;
use shunt_tests::until;

/// Where `make install` has put the sample.
const SAMPLE: &str = "/usr/local/share/doc/shunt/examples/web.toml";

/// A site whose shuntd has deployed `v1`.
fn deployed(debian: Debian) -> Site {
    let site = Site::start(debian);
    let sample = site.server.read(SAMPLE);
    site.configure_app(&sample);
    deploy(&site, "v1");
    site
}

#[track_caller]
fn deploy(site: &Site, release: &str) {
    let from = site.release(release);
    let output = site.shunt(&["deploy", "web", "--release", release, "--from", &from]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering(), release);
}

fn the_first_command_starts_it_and_a_restart_is_not_noticed(debian: Debian) {
    let site = Site::start(debian);
    let state = || site.server.property("shuntd.service", "ActiveState");
    site.server.run(&["systemctl", "stop", "shuntd.service"]);
    assert_eq!(state(), "inactive");
    assert_eq!(site.server.property("shuntd.socket", "SubState"), "listening");
    assert_eq!(site.shunt(&["status"]).code, 0);
    assert_eq!(state(), "active");
    // systemd waits until it says that it is ready.
    assert_eq!(site.server.property("shuntd.service", "Type"), "notify");
    assert!(site.server.journal("shuntd.service").contains("listening on systemd's socket"));

    // Commands that come while it restarts wait for it.
    let pid = site.server.property("shuntd.service", "MainPID");
    site.server.sh("systemctl restart shuntd.service &
         for ((n = 0; n < 20; n++)); do shunt status; done
         wait $!");
    assert_ne!(site.server.property("shuntd.service", "MainPID"), pid);
    assert_eq!(site.server.property("shuntd.service", "NRestarts"), "0");
}

fn a_reload_reads_its_applications_again_and_what_runs_goes_on(debian: Debian) {
    let site = deployed(debian);
    let pids = || {
        let application = site.server.run(&["pgrep", "-x", "server"]);
        (site.server.property("shuntd.service", "MainPID"), application)
    };
    let before = pids();
    let sample = site.server.read(SAMPLE);
    let other = sample
        .replace("\"web\"", "\"shop\"")
        .replace("/srv/web", "/srv/shop")
        .replace(":300", ":400")
        .replace("user    = \"shop\"", "user    = \"web\"");
    site.server.write("/etc/shunt/apps/shop.toml", other);
    let known = || site.shunt(&["status"]).stdout.contains("shop");
    assert!(!known());
    site.server.run(&["systemctl", "reload", "shuntd.service"]);
    until("shop is known", || known().then_some(()));

    // What is wrong changes nothing, and is told.
    site.server.write("/etc/shunt/apps/shop.toml", "nonsense");
    site.server.run(&["systemctl", "reload", "shuntd.service"]);
    until("it is told", || {
        let journal = site.server.journal("shuntd.service");
        journal.contains("/etc/shunt/apps/shop.toml:1:").then_some(())
    });
    assert!(known());
    assert_eq!(pids(), before);
    assert_eq!(site.answering(), "v1");
}

fn its_watchdog_starts_it_again_when_it_hangs(debian: Debian) {
    let site = Site::start(debian);
    site.server
        .write("/etc/systemd/system/shuntd.service.d/soon.conf", "[Service]\nWatchdogSec=1\n");
    site.server.sh("systemctl daemon-reload; systemctl restart shuntd.service");
    let pid = site.server.property("shuntd.service", "MainPID");
    site.server.run(&["kill", "-STOP", &pid]);
    until("it is started again", || {
        let restarts = site.server.property("shuntd.service", "NRestarts");
        (restarts == "1").then_some(())
    });
    assert!(site.server.journal("shuntd.service").contains("Watchdog timeout"));
    assert_eq!(site.shunt(&["status"]).code, 0);
}

fn p8_a_deploy_under_load_loses_no_request_and_runs_as_the_applications_user(debian: Debian) {
    let site = deployed(debian);
    let watch = site.watch();
    site.wait_for_requests(100);
    deploy(&site, "v2");
    site.wait_for_requests(100);
    let output = site.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    site.wait_for_requests(100);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert!(verdict.releases["v1"] >= 200 && verdict.releases["v2"] >= 100, "{verdict:?}");

    // Members of the group may deploy, too, and nobody else.
    site.server.run(&["useradd", "--groups", "shunt", "alice"]);
    for (user, code) in [("alice", 0), ("nobody", 1)] {
        let as_user = ["runuser", "--user", user, "--", "shunt", "rollback", "web", "--to", "v2"];
        let output = site.server.try_run(&as_user);
        assert_eq!(output.code, code, "{user}: {output:?}");
    }

    let owners = site.server.run(&["ps", "-C", "server", "-o", "user="]);
    assert_eq!(
        owners.split_whitespace().collect::<Vec<_>>(),
        ["web"],
        "one process, its own user's"
    );
}

/// What the unit keeps from applications, and what it must not.
fn its_hardening_allows_what_applications_need(debian: Debian) {
    let site = deployed(debian);
    let folder = site.release("v2");
    // The release tries all of it before it becomes the application.
    site.server.write(
        &format!("{folder}/server"),
        "#!/bin/bash
         try() { if (eval \"$2\") >/dev/null 2>&1; then echo \"$1: yes\"; else echo \"$1: no\"; fi; }
         {
             try 'its folder' 'echo x >/srv/web/data'
             try 'temporary files' 'echo x >\"$(mktemp)\"'
             try 'programs with set-user-ID' '[ \"$(/srv/web/whoami)\" = root ]'
             try 'priority' 'nice -n 5 true'
             try 'other hosts' 'exec 3<>/dev/tcp/client/1 || [ $? = 1 ]'
             try 'parameters of the kernel' 'echo 1 >/proc/sys/kernel/panic'
             try 'control groups' 'mkdir /sys/fs/cgroup/systemd/x || mkdir /sys/fs/cgroup/x'
             try 'the log of the kernel' 'cat /dev/kmsg'
         } >/srv/web/tried
         exec /usr/local/lib/demo/server\n",
    );
    site.server.sh("install --mode=4755 /usr/bin/whoami /srv/web/whoami
         chown web /srv/web");
    let output = site.shunt(&["deploy", "web", "--release", "v2", "--from", &folder]);
    assert_eq!(output.code, 0, "{output:?}");
    let tried = site.server.read("/srv/web/tried");
    assert_eq!(
        tried.lines().collect::<Vec<_>>(),
        [
            "its folder: yes",
            "temporary files: yes",
            "programs with set-user-ID: yes",
            "priority: yes",
            "other hosts: yes",
            "parameters of the kernel: no",
            "control groups: no",
            "the log of the kernel: no",
        ]
    );
}

fn p9_applications_serve_on_when_it_is_killed_and_it_takes_them_over(debian: Debian) {
    let site = deployed(debian);
    let application = site.server.run(&["pgrep", "-x", "server"]);
    let watch = site.watch();
    site.wait_for_requests(100);
    site.server.run(&["kill", "-KILL", &site.server.property("shuntd.service", "MainPID")]);
    until("it is started again", || {
        let restarts = site.server.property("shuntd.service", "NRestarts");
        (restarts == "1").then_some(())
    });
    until("it has its application again", || {
        site.server.journal("shuntd.service").contains("\"v1\" runs again").then_some(())
    });
    // The very process that served all the time, with its socket.
    assert_eq!(site.server.run(&["pgrep", "-x", "server"]), application);
    deploy(&site, "v2");
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
}

fn p9_a_restart_of_it_leaves_applications_alone_and_a_stop_ends_them(debian: Debian) {
    let site = deployed(debian);
    let application = site.server.run(&["pgrep", "-x", "server"]);
    let watch = site.watch();
    site.wait_for_requests(100);
    for _ in 0..3 {
        site.server.run(&["systemctl", "restart", "shuntd.service"]);
        site.wait_for_requests(50);
    }
    // The very process that served all the time, and the WebSocket to it.
    assert_eq!(site.server.run(&["pgrep", "-x", "server"]), application);
    let journal = site.server.journal("shuntd.service");
    // The first time when it got its application.
    assert_eq!(journal.matches("what runs is left to the next one").count(), 1 + 3, "{journal}");
    deploy(&site, "v2");
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");

    site.server.run(&["systemctl", "stop", "shuntd.service"]);
    assert_eq!(site.server.try_run(&["pgrep", "-x", "server"]).code, 1, "it has ended");
    site.server.run(&["systemctl", "start", "shuntd.service"]);
    until("v2 runs again", || (site.answering() == "v2").then_some(()));
}

each_debian!(
    the_first_command_starts_it_and_a_restart_is_not_noticed,
    a_reload_reads_its_applications_again_and_what_runs_goes_on,
    its_watchdog_starts_it_again_when_it_hangs,
    p8_a_deploy_under_load_loses_no_request_and_runs_as_the_applications_user,
    its_hardening_allows_what_applications_need,
    p9_applications_serve_on_when_it_is_killed_and_it_takes_them_over,
    p9_a_restart_of_it_leaves_applications_alone_and_a_stop_ends_them,
);
