//! The Debian packages of `make deb` on a whole machine: installed, upgraded under load, removed.

use std::collections::BTreeSet;

use shunt_tests::docker::Debian;
use shunt_tests::docker::container::Container;
use shunt_tests::docker::site::Site;
use shunt_tests::until;

use crate::install::files;

/// The packages for the machine's NGINX.
const PACKAGES: &str = "/usr/src/shunt/build/deb/shunt_*.deb \
     /usr/src/shunt/build/deb/libnginx-mod-http-shunt_*+nginx$(nginx -v 2>&1 | sed 's|.*/||')_*.deb";

/// What others than the packages make: the package manager, systemd, and NGINX for its first server.
fn is_others(file: &str) -> bool {
    ["/var/lib/dpkg", "/var/lib/systemd", "/srv/web"].iter().any(|folder| file.starts_with(folder))
        || file.starts_with("/var/lib/nginx/") && !file.starts_with("/var/lib/nginx/shunt")
}

fn install(machine: &Container) -> String {
    machine.sh(&format!("dpkg --install {PACKAGES} 2>&1"))
}

/// Gives NGINX the sample, which needs the module, or takes it away.
fn configure_nginx(machine: &Container, with_shunt: bool) {
    match with_shunt {
        true => machine.run(&["cp", "/usr/src/shunt/nginx-conf/shunt.conf", "/etc/nginx/conf.d/"]),
        false => machine.run(&["rm", "/etc/nginx/conf.d/shunt.conf"]),
    };
    machine.run(&["systemctl", "reload", "nginx.service"]);
}

fn packages_work_are_upgraded_under_load_and_leave_nothing(debian: Debian) {
    let site = Site::without_shunt(debian);
    let server = &site.server;
    let before: BTreeSet<_> = files(server);

    // Installed, it works: the module is switched on, and the helper runs.
    install(server);
    for unit in ["shuntd.socket", "shuntd.service"] {
        assert_eq!(server.property(unit, "ActiveState"), "active", "{unit}");
        assert_eq!(server.property(unit, "UnitFileState"), "enabled", "{unit}");
    }
    server.run(&["getent", "group", "shunt"]);
    configure_nginx(server, true);
    // Debian's small images leave documentation out, of packages, too.
    let sample = server.read("/usr/src/shunt/helper/sample.toml");
    site.configure_app(&sample);
    let deploy = |release: &str| {
        let from = site.release(release);
        site.shunt(&["deploy", "web", "--release", release, "--from", &from])
    };
    let output = deploy("v1");
    assert_eq!(output.code, 0, "{output:?}");

    // Upgraded: all code is new, the application is the same process, and nobody has noticed.
    let nginx = || server.read("/run/nginx.pid").trim().to_owned();
    let shuntd = || server.property("shuntd.service", "MainPID");
    let application = || server.run(&["pgrep", "-x", "server"]);
    let old = (nginx(), shuntd(), application());
    let watch = site.watch_gets();
    site.wait_for_requests(100);
    install(server);
    site.wait_for_requests(200);
    assert_ne!(nginx(), old.0, "another master, which has the new module");
    assert_ne!(shuntd(), old.1);
    assert_eq!(application(), old.2);
    assert_eq!(server.property("nginx.service", "MainPID"), nginx());
    assert_eq!(server.property("shuntd.socket", "SubState"), "running");
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    // The old master ends with the last connection that it had; then there is one to change things.
    until("the old master has ended", || {
        let master = server.try_run(&["pgrep", "-f", "nginx: master process"]);
        (master.stdout.lines().count() == 1).then_some(())
    });
    let output = deploy("v2");
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering(), "v2");

    // Removed: configuration and data stay, and another installation goes on with them.
    configure_nginx(server, false);
    let remove = |how: &str| {
        server.run(&["dpkg", how, "libnginx-mod-http-shunt", "shunt"]);
        server.run(&["nginx", "-t"]);
        assert_eq!(server.property("nginx.service", "ActiveState"), "active");
        assert_eq!(server.property("shuntd.service", "LoadState"), "not-found");
        assert_eq!(server.try_run(&["pgrep", "-x", "server|shuntd"]).code, 1, "both have ended");
    };
    remove("--remove");
    install(server);
    configure_nginx(server, true);
    until("v2 runs again", || {
        let said = site.client.try_run(&["curl", "-sS", "http://server/release"]);
        (said.stdout.trim() == "v2").then_some(())
    });

    // Purged: nothing is left but what the administrator has written.
    configure_nginx(server, false);
    remove("--purge");
    let after = files(server);
    let left: Vec<_> = after
        .difference(&before)
        .filter(|file| !is_others(file))
        .map(|file| file.split(' ').next().unwrap_or_default())
        .collect();
    assert_eq!(left, ["/etc/shunt", "/etc/shunt/apps", "/etc/shunt/apps/web.toml"]);
    let gone: Vec<_> = before.difference(&after).filter(|f| !is_others(f)).collect();
    assert_eq!(gone, Vec::<&String>::new());
}

/// A module for another NGINX is not installed, instead of stopping NGINX from starting.
fn a_module_for_another_nginx_is_refused_by_the_package_manager(debian: Debian) {
    let site = Site::without_shunt(debian);
    let said = site.server.try_run(&[
        "bash",
        "-c",
        "ls /usr/src/shunt/build/deb/libnginx-mod-http-shunt_*.deb \
             | grep -v \"+nginx$(nginx -v 2>&1 | sed 's|.*/||')_\" | xargs dpkg --install",
    ]);
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("depends on nginx-abi-"), "{said:?}");
    site.server.run(&["nginx", "-t"]);
}

each_debian!(
    packages_work_are_upgraded_under_load_and_leave_nothing,
    a_module_for_another_nginx_is_refused_by_the_package_manager,
);
