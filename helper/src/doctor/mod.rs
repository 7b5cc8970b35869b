//! What stands in the way of releases without downtime on this machine, and what to do about it.
//!
//! Each check says what it has seen. It changes nothing: it asks, connects, and reads what the system
//! says of processes and folders.

pub mod conf;
pub mod daemon;
pub mod disk;
pub mod docker;
pub mod keepalive;
pub mod module;
pub mod rights;
pub mod sockets;
pub mod tools;
pub mod units;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use shunt_api::ReleaseName;

use crate::config::{self, App, Runner};
use crate::wire::{AppStatus, Apps};

/// What to look at, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of applications.
    pub config: PathBuf,
    /// shuntd's state folder.
    pub state: PathBuf,
    /// The application; all if there is none.
    pub app: Option<ReleaseName>,
    /// For how long a kept-open connection is looked at.
    pub keepalive: Duration,
    /// How NGINX is called, to be asked for its configuration.
    pub nginx: Vec<String>,
    /// How systemd is asked.
    pub systemctl: PathBuf,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is well.
    Ok,
    /// It may become a problem, or could not be looked at.
    Warning,
    /// A release will fail, or requests will.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The application; none for what is the machine's.
    pub app: Option<ReleaseName>,
    /// The check.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was looked at, and seen.
    pub saw: String,
    /// What to do.
    pub cure: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(check: &'static str, saw: impl Into<String>) -> Self {
        Self { app: None, check, level: Level::Ok, saw: saw.into(), cure: None }
    }

    /// Something may become a problem.
    #[must_use]
    pub fn warning(check: &'static str, saw: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { level: Level::Warning, cure: Some(cure.into()), ..Self::ok(check, saw) }
    }

    /// Something is one.
    #[must_use]
    pub fn problem(check: &'static str, saw: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { level: Level::Problem, cure: Some(cure.into()), ..Self::ok(check, saw) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, level, saw, .. } = self;
        write!(f, "{level:<8} {check:<10} {saw}")?;
        match &self.cure {
            Some(cure) => write!(f, "\n{:19} → {cure}", ""),
            None => Ok(()),
        }
    }
}

/// Looks at everything; `asked` is what shuntd says of its applications, or why it does not.
pub async fn examine(options: &Options, asked: Result<Apps, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let apps = match applications(options, &mut findings) {
        Ok(apps) => apps,
        Err(finding) => return vec![finding],
    };
    findings.push(rights::state(&options.state));
    findings.push(disk::state(&options.state));
    findings.push(daemon::check(&asked));
    for app in &apps {
        let status = asked.as_ref().ok().map(|all| all.apps.iter().find(|s| s.name == app.name));
        let mut of_app = Vec::new();
        if status == Some(None) {
            of_app.push(daemon::unknown(app));
        }
        examine_app(app, status.flatten(), options, &mut of_app).await;
        let named = |finding| Finding { app: Some(app.name.clone()), ..finding };
        findings.extend(of_app.into_iter().map(named));
    }
    findings
}

/// So many of something.
#[must_use]
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The applications that are to be looked at.
fn applications(options: &Options, findings: &mut Vec<Finding>) -> Result<Vec<App>, Finding> {
    let folder = options.config.display();
    let files = config::folder(&options.config).map_err(|error| {
        Finding::problem("config", error.to_string(), "shunt init NAME writes a first application")
    })?;
    for mistake in files.iter().filter_map(|file| file.mistakes.first()) {
        let saw = mistake.to_string();
        findings.push(Finding::problem("config", saw, "shunt check tells of every mistake"));
    }
    let apps: Vec<_> = files.into_iter().filter_map(|file| file.app).collect();
    let apps: Vec<_> = match &options.app {
        None => apps,
        Some(name) => apps.into_iter().filter(|app| app.name == *name).collect(),
    };
    match (&options.app, apps.len()) {
        (Some(name), 0) => {
            let saw = format!("no good file in {folder} is of an application \"{name}\"");
            let cure = format!("shunt check says what is there; shunt init {name} writes one");
            Err(Finding::problem("config", saw, cure))
        }
        (None, n) => {
            findings.push(Finding::ok(
                "config",
                format!("{folder} has {}", count(n, "good application")),
            ));
            Ok(apps)
        }
        (Some(name), _) => {
            findings.push(Finding::ok("config", format!("\"{name}\" in {folder} is good")));
            Ok(apps)
        }
    }
}

async fn examine_app(
    app: &App,
    status: Option<&AppStatus>,
    options: &Options,
    findings: &mut Vec<Finding>,
) {
    findings.extend(module::check(app).await);
    findings.extend(rights::check(app));
    findings.extend(tools::check(app, std::env::var_os("PATH").as_deref()));
    findings.push(disk::check(app));
    findings.extend(docker::check(app).await);
    let conf = conf::upstream(&options.nginx, app.upstream()).await;
    let slots = status.map_or(&[] as &[_], |status| &status.slots);
    let active = status.and_then(|status| status.active.as_ref());
    for slot in slots.iter().filter(|slot| slot.release.is_some()) {
        if !slot.runs {
            findings.extend(sockets::of_ended(slot, active));
            continue;
        }
        findings.push(sockets::answers(&slot.address).await);
        match slot.pid {
            Some(pid) => {
                findings.push(sockets::of_process(&slot.address, pid));
                findings.extend(units::check(&options.systemctl, pid).await);
            }
            None if matches!(app.run.runner, Runner::Docker(_)) => {}
            None => continue,
        }
        let limit = options.keepalive;
        findings.push(keepalive::check(&slot.address, app.health.host(), &conf, limit).await);
    }
}
