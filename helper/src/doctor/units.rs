//! The units of an application that systemd runs: whether a crash loop closes its socket.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::Finding;

const CHECK: &str = "units";

/// Looks at the units of a process, if it is an instance of a template of systemd's.
pub async fn check(systemctl: &Path, pid: u32) -> Vec<Finding> {
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    match unit_of(&cgroup) {
        Some(unit) => of_unit(systemctl, unit).await,
        None => Vec::new(),
    }
}

/// `web@3001` of a process in `web@3001.service` (`cgroups(7)`).
fn unit_of(cgroup: &str) -> Option<&str> {
    let of_line = |line: &'_ str| -> Option<(usize, usize)> {
        let name = line.rsplit('/').find_map(|part| part.strip_suffix(".service"))?;
        let start = name.as_ptr() as usize - cgroup.as_ptr() as usize;
        name.contains('@').then_some((start, start + name.len()))
    };
    let (start, end) = cgroup.lines().find_map(of_line)?;
    cgroup.get(start..end)
}

async fn of_unit(systemctl: &Path, unit: &str) -> Vec<Finding> {
    let (service, socket) = (format!("{unit}.service"), format!("{unit}.socket"));
    let (of_service, of_socket) =
        match (show(systemctl, &service).await, show(systemctl, &socket).await) {
            (Ok(service), Ok(socket)) => (service, socket),
            (Err(error), _) | (_, Err(error)) => {
                let saw = format!("{}: {error}", systemctl.display());
                return vec![Finding::warning(CHECK, saw, "is systemd there?")];
            }
        };
    let mut found = Vec::new();
    let is = |of: &BTreeMap<String, String>, name: &str| of.get(name).cloned().unwrap_or_default();
    let start = is(&of_service, "StartLimitIntervalUSec");
    if start != "0" {
        found.push(Finding::problem(
            CHECK,
            format!("{service} has StartLimitIntervalSec={start}: a crash loop closes its socket"),
            format!("write StartLimitIntervalSec=0 into [Unit] of {service}, then systemctl daemon-reload"),
        ));
    }
    if is(&of_socket, "LoadState") != "loaded" {
        found.push(Finding::warning(
            CHECK,
            format!("there is no {socket}: while {service} starts again, connections fail"),
            format!("make one, as shunt init NAME --runner systemd does, and take the socket in {service}"),
        ));
        return found;
    }
    let trigger = is(&of_socket, "TriggerLimitIntervalUSec");
    if trigger != "0" {
        found.push(Finding::problem(
            CHECK,
            format!("{socket} has TriggerLimitIntervalSec={trigger}: a crash loop closes it"),
            format!("write TriggerLimitIntervalSec=0 into [Socket] of {socket}, then systemctl daemon-reload"),
        ));
    }
    let active = is(&of_socket, "ActiveState");
    if active != "active" {
        found.push(Finding::problem(
            CHECK,
            format!("{socket} is {active}, its service runs without it"),
            format!("systemctl start {socket}; journalctl -u {socket} says why it is not"),
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, format!("{service} and {socket} outlive a crash loop")));
    }
    found
}

/// The properties of a unit.
async fn show(systemctl: &Path, unit: &str) -> Result<BTreeMap<String, String>, String> {
    let properties = "LoadState,ActiveState,StartLimitIntervalUSec,TriggerLimitIntervalUSec";
    let output = Command::new(systemctl)
        .args(["show", "--property", properties, "--", unit])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_unit_stands_in_the_control_group() {
        let of = |text| unit_of(text).map(ToOwned::to_owned);
        let nested = "0::/system.slice/system-web.slice/web@3001.service\n";
        assert_eq!(of(nested).as_deref(), Some("web@3001"));
        let inner = "12:cpu:/\n0::/system.slice/web@a.b.service/worker\n";
        assert_eq!(of(inner).as_deref(), Some("web@a.b"));
        assert_eq!(of("0::/system.slice/shuntd.service\n"), None);
        assert_eq!(of("0::/\n"), None);
    }

    /// A systemctl that says this of a service, and of a socket.
    async fn said(service: &str, socket: &str) -> Vec<Finding> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("systemctl");
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\ncase $last in *.service) printf '{service}';; \
             *) printf '{socket}';; esac\n"
        );
        std::fs::write(folder.path().join("text"), script).unwrap();
        std::fs::set_permissions(
            folder.path().join("text"),
            std::fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        // Written by another name: nobody has it open for writing when it is run.
        std::fs::rename(folder.path().join("text"), &program).unwrap();
        of_unit(&program, "web@3001").await
    }

    const LOADED: &str = "LoadState=loaded\\nActiveState=active\\n";

    #[tokio::test]
    async fn units_that_outlive_a_crash_loop() {
        let service = format!("{LOADED}StartLimitIntervalUSec=0\\n");
        let socket = format!("{LOADED}TriggerLimitIntervalUSec=0\\n");
        let found = said(&service, &socket).await;
        assert_eq!(found.iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Ok], "{found:?}");
    }

    #[tokio::test]
    async fn units_that_do_not() {
        let service = format!("{LOADED}StartLimitIntervalUSec=10s\\n");
        let socket = "LoadState=loaded\\nActiveState=failed\\nTriggerLimitIntervalUSec=2s\\n";
        let found = said(&service, socket).await;
        let saw: Vec<_> = found.iter().map(|f| (f.level, f.saw.as_str())).collect();
        assert!(saw.iter().all(|(level, _)| *level == Level::Problem), "{saw:?}");
        let expected =
            ["StartLimitIntervalSec=10s", "TriggerLimitIntervalSec=2s", "socket is failed"];
        assert_eq!(saw.len(), expected.len(), "{saw:?}");
        for ((_, saw), expected) in saw.iter().zip(expected) {
            assert!(saw.contains(expected), "{saw}");
        }
    }

    #[tokio::test]
    async fn a_service_without_a_socket() {
        let service = format!("{LOADED}StartLimitIntervalUSec=0\\n");
        let found = said(&service, "LoadState=not-found\\nActiveState=inactive\\n").await;
        assert_eq!(
            found.iter().map(|f| f.level).collect::<Vec<_>>(),
            [Level::Warning],
            "{found:?}"
        );
        let found = of_unit(Path::new("/nonexistent/systemctl"), "web@1").await;
        assert_eq!(found[0].level, Level::Warning, "{found:?}");
    }
}
