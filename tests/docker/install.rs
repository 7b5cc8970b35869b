//! `make install` and `make uninstall` on a whole machine; into a folder: `tests/e2e/install.rs`.

use std::collections::BTreeSet;

use shunt_tests::docker::Debian;
use shunt_tests::docker::container::Container;
use shunt_tests::docker::site::Site;

/// Every file of the machine but those of the running system, of journals, and of what is tested.
pub(crate) fn files(machine: &Container) -> BTreeSet<String> {
    let list = machine.sh(
        "find / -xdev \\( -path /usr/src -o -path /var/log -o -path /var/cache -o -path /tmp \\) -prune \
             -o -printf '%p %M %u %g %l\\n' | sort",
    );
    list.lines().map(ToOwned::to_owned).collect()
}

fn make(machine: &Container, target: &str) -> String {
    machine.run(&["make", "-s", "-C", "/usr/src/shunt", target])
}

fn what_is_installed_is_switched_on_and_owned_by_whom_it_should_be(debian: Debian) {
    let site = Site::start(debian);
    let server = &site.server;
    let stat = |path: &str| server.run(&["stat", "-c", "%A %U %G", path]).trim().to_owned();
    for (path, expected) in [
        ("/usr/local/bin/shunt", "-rwxr-xr-x root root"),
        ("/usr/lib/nginx/modules/ngx_http_shunt_module.so", "-rw-r--r-- root root"),
        ("/etc/shunt/apps", "drwxr-xr-x root root"),
        ("/run/shunt", "drwxr-xr-x root root"),
        ("/var/lib/shunt", "drwxr-xr-x root root"),
        ("/var/lib/nginx/shunt", "drwx------ www-data root"),
    ] {
        assert_eq!(stat(path), expected, "{path}");
    }
    let enabled = "/etc/nginx/modules-enabled/50-mod-http-shunt.conf";
    let target = server.run(&["readlink", "--canonicalize-existing", enabled]);
    assert_eq!(target.trim(), "/usr/share/nginx/modules-available/mod-http-shunt.conf");
    server.run(&["getent", "group", "shunt"]);
    server.run(&["nginx", "-t"]);
    // Units that systemd does not quite understand it warns of; a program has to be there.
    site.run_in_slot(3001, "v1");
    let units = ["shuntd.service", "shuntd.socket", "web@3001.service", "web@3001.socket"];
    let said = server.try_run(&[&["systemd-analyze", "verify"], &units[..]].concat());
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

fn uninstall_leaves_configuration_and_data_and_install_brings_the_rest_back(debian: Debian) {
    let site = Site::start(debian);
    let server = &site.server;
    site.run_in_slot(3001, "v1");
    site.put("v1", 3001);
    site.switch("v1");
    server.write("/etc/shunt/apps/web.toml.off", "mine");
    // The state file belongs to whoever has written it last: here NGINX's master, as in the end.
    server.run(&["systemctl", "restart", "nginx.service"]);
    let before = files(server);

    // First what needs it goes, as the text says.
    server.run(&["mv", "/etc/nginx/conf.d", "/etc/nginx/conf.d.off"]);
    let said = make(server, "uninstall");
    assert!(said.contains("left in place: /etc/shunt, /var/lib/shunt"), "{said}");
    server.run(&["systemctl", "restart", "nginx.service"]);
    assert_eq!(server.property("shuntd.socket", "LoadState"), "not-found");
    assert_eq!(server.try_run(&["pgrep", "-x", "shuntd"]).code, 1, "it has ended");
    let left = server.sh(
        "find / -xdev \\( -path /usr/src -o -path /var/log -o -path /etc/nginx/conf.d.off \
             -o -path '/var/lib/shunt/*' \\) -prune -o -name '*shunt*' -print -o -path '*/shunt/*' -print | sort",
    );
    let left: Vec<_> = left.lines().collect();
    let expected = [
        "/etc/shunt",
        "/etc/shunt/apps",
        "/etc/shunt/apps/web.toml.off",
        "/var/lib/nginx/shunt",
        "/var/lib/nginx/shunt/state.json",
        "/var/lib/shunt",
    ];
    // And the token of the tests.
    let left: Vec<_> = left.into_iter().filter(|path| *path != "/etc/nginx/shunt.token").collect();
    assert_eq!(left, expected);
    server.run(&["systemctl", "is-system-running"]);

    let said = make(server, "install");
    for line in [
        "  /usr/local/bin/shunt, shuntd ",
        "for NGINX ",
        "loaded by /etc/nginx/modules-enabled/50-mod-http-shunt.conf",
        "  1. systemctl restart nginx ",
        "  2. systemctl enable --now shuntd.socket shuntd.service",
        "  3. shunt init NAME ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    server.run(&["systemctl", "enable", "--quiet", "--now", "shuntd.socket", "shuntd.service"]);
    server.run(&["mv", "/etc/nginx/conf.d.off", "/etc/nginx/conf.d"]);
    server.run(&["systemctl", "restart", "nginx.service"]);
    let after = files(server);
    let added: Vec<_> = after.difference(&before).collect();
    let missing: Vec<_> = before.difference(&after).collect();
    assert_eq!((added, missing), (Vec::new(), Vec::new()));
    assert_eq!(site.answering(), "v1", "the state file was data");
    assert_eq!(site.shunt(&["status"]).code, 0);
}

fn an_upgrade_of_files_in_use_disturbs_nobody(debian: Debian) {
    let site = Site::start(debian);
    site.run_in_slot(3001, "v1");
    site.put("v1", 3001);
    site.switch("v1");
    let watch = site.watch_gets();
    site.wait_for_requests(100);
    for _ in 0..3 {
        let said = make(&site.server, "install");
        assert!(said.contains("  2. systemctl restart shuntd.service "), "{said}");
        assert!(!said.contains("shunt init"), "{said}");
        site.server.run(&["systemctl", "reload", "nginx.service"]);
        site.wait_for_requests(50);
    }
    assert_eq!(site.shunt(&["status"]).code, 0);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
}

each_debian!(
    what_is_installed_is_switched_on_and_owned_by_whom_it_should_be,
    uninstall_leaves_configuration_and_data_and_install_brings_the_rest_back,
    an_upgrade_of_files_in_use_disturbs_nobody,
);
