//! The machine itself is what the other tests take it for.

use shunt_tests::docker::Debian;
use shunt_tests::docker::site::Site;

fn systemd_is_the_first_process_and_runs_units_in_cgroups_of_their_own(debian: Debian) {
    let site = Site::start(debian);
    // Without a failed unit; `Site::start` sees to that.
    assert_eq!(site.server.read("/proc/1/comm").trim(), "systemd");
    site.run_in_slot(3001, "v1");
    assert_eq!(site.server.property("web@3001.service", "ActiveState"), "active");
    let pid = site.server.property("web@3001.service", "MainPID");
    let groups = site.server.read(&format!("/proc/{pid}/cgroup"));
    assert!(groups.contains("web@3001.service"), "{groups}");
    assert!(site.server.journal("web@3001.service").contains("release v1 starts"));
    // What talks to systemd does so over D-Bus.
    let said = site.server.run(&[
        "busctl",
        "get-property",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "Version",
    ]);
    assert!(said.starts_with("s \"25"), "{said}");
}

fn a_slot_has_its_socket_as_long_as_its_socket_unit_is_active(debian: Debian) {
    let site = Site::start(debian);
    site.run_in_slot(3001, "v1");
    let ask = ["curl", "-sS", "--fail", "http://127.0.0.1:3001/release"];
    // Without its process the first connection starts it.
    site.server.run(&["systemctl", "stop", "web@3001.service"]);
    assert_eq!(site.server.run(&ask), "v1");
    // Killed, it is started again, and who has come meanwhile waits.
    site.server.run(&["systemctl", "kill", "--signal=KILL", "web@3001.service"]);
    assert_eq!(site.server.run(&ask), "v1");
    site.server.run(&["systemctl", "stop", "web@3001.socket"]);
    assert_eq!(site.server.try_run(&ask).code, 7, "connection refused");
}

each_debian!(
    systemd_is_the_first_process_and_runs_units_in_cgroups_of_their_own,
    a_slot_has_its_socket_as_long_as_its_socket_unit_is_active,
);
