//! What systemd knows of a unit, and what that means.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_api::Address;
use zbus::zvariant::{OwnedValue, Value};

use crate::runner::systemd::bus::Properties;

/// `CLD_EXITED`: the main process has ended with an exit status (`sigaction(2)`).
const EXITED: i32 = 1;

/// A unit as it is at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, `not-found`, `bad-setting`, `masked`.
    pub load: String,
    /// `active`, `activating`, `deactivating`, `failed`, `inactive`.
    pub active: String,
    /// How exactly.
    pub sub: String,
    /// How its last run ended: `success` or what it failed by.
    pub result: String,
    /// The pid of the main process.
    pub pid: Option<u32>,
    /// How often systemd has started it again by itself.
    pub restarts: u32,
    /// The present run, or the last one; empty before the first.
    pub invocation: Vec<u8>,
    /// How its main process ended: `CLD_…`, 0 when it was never started.
    pub code: i32,
    /// With which exit status or signal.
    pub status: i32,
    /// Whether its file was changed since it was read.
    pub is_stale: bool,
}

impl Unit {
    /// Reads what systemd has answered. What is missing is as with a unit that was never started.
    #[must_use]
    pub fn read(properties: &Properties) -> Self {
        let text = |name| text(properties, name).unwrap_or_default();
        let pid = number(properties, "MainPID").and_then(|pid| u32::try_from(pid).ok());
        let small = |name| number(properties, name).and_then(|n| i32::try_from(n).ok());
        let restarts = number(properties, "NRestarts").and_then(|n| u32::try_from(n).ok());
        let stale = properties.get("NeedDaemonReload").and_then(|v| v.downcast_ref::<bool>().ok());
        Self {
            load: text("LoadState"),
            active: text("ActiveState"),
            sub: text("SubState"),
            result: text("Result"),
            pid: pid.filter(|pid| *pid > 0),
            restarts: restarts.unwrap_or_default(),
            invocation: bytes(properties, "InvocationID"),
            code: small("ExecMainCode").unwrap_or_default(),
            status: small("ExecMainStatus").unwrap_or_default(),
            is_stale: stale.unwrap_or_default(),
        }
    }

    /// Whether it works: it has started and was not told to stop.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(&*self.active, "active" | "reloading" | "refreshing")
    }

    /// Whether nothing of it runs, and nothing is about to.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(&*self.active, "inactive" | "failed")
    }

    /// Whether it took longer to stop than it may, and was killed.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.result == "timeout"
    }

    /// How it ended.
    #[must_use]
    pub fn end(&self) -> String {
        let how = match (self.code, self.status) {
            (0, _) => "no process".to_owned(),
            (EXITED, status) => match meaning(status) {
                Some(meaning) => format!("exit status {status}, which is systemd's: {meaning}"),
                None => format!("exit status {status}"),
            },
            (_, signal) => format!("signal {signal}"),
        };
        let what = match &*self.result {
            "success" | "" => return how,
            "start-limit-hit" => {
                return "start-limit-hit: it was started too often (StartLimitIntervalSec=, \
                        StartLimitBurst=)"
                    .to_owned();
            }
            "protocol" => " (it did not say READY=1, see Type= and NotifyAccess=)",
            "timeout" => " (it took longer than TimeoutStartSec= or TimeoutStopSec=)",
            "watchdog" => " (it did not say WATCHDOG=1 within WatchdogSec=)",
            "oom-kill" => " (it ran out of memory)",
            _ => "",
        };
        format!("{how}, unit result {:?}{what}", self.result)
    }

    /// Why it cannot be started at all: there is no such file, or it is wrong.
    #[must_use]
    pub fn why_not_loaded(&self, name: &str) -> Option<String> {
        let template = template(name);
        Some(match &*self.load {
            "loaded" => return None,
            "not-found" => format!(
                "there is no {template}: put it into /etc/systemd/system and run \
                 \"systemctl daemon-reload\""
            ),
            "masked" => format!("{name} is masked: run \"systemctl unmask {template}\""),
            other => format!("{name} is {other:?}: \"systemd-analyze verify {name}\" says why"),
        })
    }
}

/// The file of an instance: `web@.service` of `web@3001.service`.
#[must_use]
pub fn template(unit: &str) -> String {
    match (unit.split_once('@'), unit.rsplit_once('.')) {
        (Some((stem, _)), Some((_, kind))) => format!("{stem}@.{kind}"),
        _ => unit.to_owned(),
    }
}

/// What systemd says by an exit status when it could not even run the program (`systemd.exec(5)`).
fn meaning(status: i32) -> Option<&'static str> {
    Some(match status {
        200 => "its WorkingDirectory= cannot be entered",
        203 => "its ExecStart= cannot be run",
        216 => "its Group= is not known",
        217 => "its User= is not known",
        226 => "its file system cannot be set up, see ReadWritePaths= and the like",
        201..=245 => "see \"systemd-analyze exit-status\"",
        _ => return None,
    })
}

/// Whether a crash loop has made systemd close a socket.
#[must_use]
pub fn is_closed_by_crashes(socket: &Unit) -> bool {
    socket.active == "failed"
        && matches!(&*socket.result, "trigger-limit-hit" | "service-start-limit-hit")
}

/// What that means, and what helps.
#[must_use]
pub fn closed_by_crashes(socket: &str, service: &str, result: &str) -> String {
    format!(
        "its crash loop made systemd close the socket ({socket}: {result}), so connections are \
         refused: set StartLimitIntervalSec=0 in [Unit] of {} and TriggerLimitIntervalSec=0 in \
         [Socket] of {}",
        template(service),
        template(socket)
    )
}

/// Which limits of a unit would let a crash loop close its socket.
#[must_use]
pub fn limit(unit: &str, properties: &Properties) -> Option<String> {
    let (name, section, field) = if unit.ends_with(".socket") {
        ("TriggerLimitIntervalUSec", "Socket", "TriggerLimitIntervalSec")
    } else {
        ("StartLimitIntervalUSec", "Unit", "StartLimitIntervalSec")
    };
    let burst = if section == "Socket" { "TriggerLimitBurst" } else { "StartLimitBurst" };
    let limit = number(properties, name).and_then(|n| u64::try_from(n).ok())?;
    if limit == 0 || limit == u64::MAX || number(properties, burst) == Some(0) {
        return None;
    }
    let limit = Duration::from_micros(limit);
    Some(format!(
        "{} has {field}={limit:?}: a crash loop will make systemd close the socket; set {field}=0 in \
         [{section}]",
        template(unit)
    ))
}

/// Where a socket unit listens.
#[must_use]
pub fn listens(properties: &Properties) -> Vec<String> {
    let Some(Value::Array(all)) = properties.get("Listen").map(|value| &**value) else {
        return Vec::new();
    };
    let address = |entry: &Value<'_>| match entry {
        Value::Structure(entry) => match entry.fields() {
            [Value::Str(kind), Value::Str(address)] if *kind == "Stream" => {
                Some(address.to_string())
            }
            _ => None,
        },
        _ => None,
    };
    all.iter().filter_map(address).collect()
}

/// Whether who connects to a slot reaches what listens there.
#[must_use]
pub fn reaches(slot: &Address, listens: &str) -> bool {
    match slot {
        Address::Unix(path) => path.to_str() == Some(listens),
        Address::Ip(slot) => match listens.parse::<SocketAddr>() {
            Ok(found) => {
                found.port() == slot.port()
                    && (found.ip() == slot.ip() || found.ip().is_unspecified())
            }
            Err(_) => false,
        },
    }
}

/// The user that a service runs as, by name or number; `None` when it is root.
///
/// # Errors
///
/// When it is only made up while the service runs.
pub fn user(unit: &str, properties: &Properties) -> Result<Option<String>, String> {
    let is_dynamic =
        properties.get("DynamicUser").and_then(|value| value.downcast_ref::<bool>().ok());
    if is_dynamic == Some(true) {
        return Err(format!(
            "{} has DynamicUser=yes: nobody could own the releases, give it a User=",
            template(unit)
        ));
    }
    Ok(text(properties, "User").filter(|name| !name.is_empty()))
}

fn text(properties: &Properties, name: &str) -> Option<String> {
    properties.get(name)?.downcast_ref::<String>().ok()
}

fn number(properties: &Properties, name: &str) -> Option<i128> {
    match &**properties.get(name)? {
        Value::U32(n) => Some((*n).into()),
        Value::I32(n) => Some((*n).into()),
        Value::U64(n) => Some((*n).into()),
        _ => None,
    }
}

fn bytes(properties: &Properties, name: &str) -> Vec<u8> {
    let value: Option<&OwnedValue> = properties.get(name);
    let value = value.and_then(|value| value.try_clone().ok());
    value.and_then(|value| Vec::<u8>::try_from(value).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties<const N: usize>(all: [(&str, Value<'_>); N]) -> Properties {
        let owned =
            |(name, value): (&str, Value<'_>)| (name.to_owned(), value.try_to_owned().unwrap());
        all.into_iter().map(owned).collect()
    }

    fn ended(result: &str, code: i32, status: i32) -> String {
        Unit { result: result.to_owned(), code, status, ..Unit::default() }.end()
    }

    #[test]
    fn a_unit_is_read_from_its_properties() {
        let unit = Unit::read(&properties([
            ("LoadState", "loaded".into()),
            ("ActiveState", "active".into()),
            ("SubState", "running".into()),
            ("Result", "success".into()),
            ("MainPID", 7_u32.into()),
            ("NRestarts", 2_u32.into()),
            ("InvocationID", vec![1_u8, 2].into()),
            ("ExecMainCode", 1_i32.into()),
            ("ExecMainStatus", 3_i32.into()),
            ("NeedDaemonReload", true.into()),
        ]));
        assert_eq!(
            (unit.pid, unit.restarts, unit.invocation.as_slice()),
            (Some(7), 2, &[1, 2][..])
        );
        assert_eq!((unit.code, unit.status, unit.is_stale), (1, 3, true));
        assert!(unit.is_up() && !unit.is_down() && unit.why_not_loaded("web@1.service").is_none());
        // Whatever it is not, it is no reason to fail.
        let strange = properties([("MainPID", "x".into()), ("InvocationID", 1_u32.into())]);
        assert_eq!(Unit::read(&strange), Unit::default());
        let none = properties([("MainPID", 0_u32.into())]);
        assert_eq!(Unit::read(&none).pid, None);
    }

    #[test]
    fn an_end_is_told_with_status_and_result() {
        assert_eq!(ended("success", 1, 0), "exit status 0");
        assert_eq!(ended("success", 2, 15), "signal 15");
        assert_eq!(ended("exit-code", 1, 7), "exit status 7, unit result \"exit-code\"");
        assert_eq!(ended("core-dump", 3, 6), "signal 6, unit result \"core-dump\"");
        for (result, status, said) in [
            ("exit-code", 203, "systemd's: its ExecStart= cannot be run"),
            ("exit-code", 200, "its WorkingDirectory= cannot be entered"),
            ("exit-code", 210, "systemd-analyze exit-status"),
            ("protocol", 0, "READY=1"),
            ("timeout", 0, "TimeoutStartSec="),
            ("start-limit-hit", 0, "StartLimitIntervalSec="),
        ] {
            let how = ended(result, 1, status);
            assert!(how.contains(said) && how.contains(result), "{how}");
        }
    }

    #[test]
    fn a_unit_that_cannot_be_started_says_what_to_do() {
        for (load, said) in [
            ("not-found", "there is no web@.service"),
            ("masked", "systemctl unmask web@.service"),
            ("bad-setting", "systemd-analyze verify web@3001.service"),
        ] {
            let unit = Unit { load: load.to_owned(), ..Unit::default() };
            let why = unit.why_not_loaded("web@3001.service").unwrap();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn a_socket_that_a_crash_loop_closed_is_told_from_one_that_failed_otherwise() {
        let socket = |active: &str, result: &str| Unit {
            active: active.to_owned(),
            result: result.to_owned(),
            ..Unit::default()
        };
        for result in ["trigger-limit-hit", "service-start-limit-hit"] {
            assert!(is_closed_by_crashes(&socket("failed", result)));
            let said = closed_by_crashes("web@1.socket", "web@1.service", result);
            let cures =
                ["StartLimitIntervalSec=0 in [Unit] of web@.service", "TriggerLimitIntervalSec=0"];
            assert!(
                cures.iter().all(|cure| said.contains(cure)) && said.contains(result),
                "{said}"
            );
        }
        assert!(!is_closed_by_crashes(&socket("failed", "resources")));
        assert!(!is_closed_by_crashes(&socket("active", "success")));
    }

    #[test]
    fn limits_that_would_close_a_socket_are_seen_before() {
        let service = |limit: u64, burst: u32| {
            let all = [("StartLimitIntervalUSec", limit.into()), ("StartLimitBurst", burst.into())];
            super::limit("web@1.service", &properties(all))
        };
        let said = service(10_000_000, 5).unwrap();
        assert!(said.starts_with("web@.service has StartLimitIntervalSec=10s"), "{said}");
        assert!(said.ends_with("set StartLimitIntervalSec=0 in [Unit]"), "{said}");
        assert_eq!([service(0, 5), service(u64::MAX, 5), service(1, 0)], [None, None, None]);
        let all = [("TriggerLimitIntervalUSec", 2_000_000_u64.into())];
        let said = super::limit("web@1.socket", &properties(all)).unwrap();
        assert!(said.contains("TriggerLimitIntervalSec=0 in [Socket]"), "{said}");
    }

    #[test]
    fn a_socket_has_to_listen_where_its_slot_is() {
        let all = vec![("Stream", "127.0.0.1:3001"), ("Datagram", "127.0.0.1:3001")];
        assert_eq!(listens(&properties([("Listen", all.into())])), ["127.0.0.1:3001"]);
        assert_eq!(listens(&properties([("Listen", 1_u32.into())])), Vec::<String>::new());
        for (slot, listens, good) in [
            ("127.0.0.1:3001", "127.0.0.1:3001", true),
            ("127.0.0.1:3001", "0.0.0.0:3001", true),
            ("127.0.0.1:3001", "[::]:3001", true),
            ("127.0.0.1:3001", "127.0.0.2:3001", false),
            ("127.0.0.1:3001", "127.0.0.1:3002", false),
            ("127.0.0.1:3001", "/run/web.sock", false),
            ("unix:/run/web.sock", "/run/web.sock", true),
            ("unix:/run/web.sock", "/run/shop.sock", false),
        ] {
            assert_eq!(reaches(&slot.parse().unwrap(), listens), good, "{slot} {listens}");
        }
    }

    #[test]
    fn the_user_is_the_unit_s() {
        let of = |name: &str| properties([("User", name.into()), ("DynamicUser", false.into())]);
        assert_eq!(user("web@1.service", &of("web")), Ok(Some("web".to_owned())));
        assert_eq!(user("web@1.service", &of("")), Ok(None));
        let dynamic = properties([("User", "web".into()), ("DynamicUser", true.into())]);
        let error = user("web@1.service", &dynamic).unwrap_err();
        assert!(error.contains("web@.service has DynamicUser=yes"), "{error}");
    }
}
