//! `shunt status`

use shunt_api::{InFlight, ReleaseName};

use super::Failure;
use super::client::Client;
use crate::clock::Span;
use crate::nginx;
use crate::wire::{AppStatus, Apps, SlotStatus, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application; all if left out.
    pub app: Option<ReleaseName>,
}

/// Runs it. NGINX that cannot be asked makes it end with 8, after what is known.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let apps = match &args.app {
        Some(app) => vec![client.get::<AppStatus>(&format!("/v1/apps/{app}")).await?],
        None => client.get::<Apps>("/v1/apps").await?.apps,
    };
    if apps.is_empty() && !json {
        super::print(
            "no application is configured: shuntd's folder has no file that ends in .toml\n",
        )?;
    }
    for app in &apps {
        super::print(if json { super::json(app) } else { show(app) })?;
    }
    let reached = apps.iter().all(|app| app.nginx_error.is_none());
    Ok(if reached { exit::DONE } else { exit::UNREACHABLE })
}

fn show(app: &AppStatus) -> String {
    let name = |release: &Option<ReleaseName>| {
        release.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    let mut out = format!("{}\n", app.name);
    let mut line = |what: &str, text: String| out.push_str(&format!("  {what:<10} {text}\n"));
    match (&app.nginx_error, app.generation) {
        (Some(error), _) => line("nginx", error.clone()),
        (None, generation) => {
            let generation = generation.map_or_else(String::new, |g| format!(" (generation {g})"));
            line("active", format!("{}{generation}", name(&app.active)));
        }
    }
    line("previous", name(&app.previous));
    if let Some(canary) = &app.canary {
        line("canary", format!("{}  gets {} of the requests", canary.release, canary.share));
    }
    if let Some(hold) = &app.hold {
        line(
            "hold",
            match app.holdable {
                Some(false) => nginx::unheld(&app.upstream),
                _ => {
                    let left = Span(hold.ends_in.duration());
                    format!("new requests wait, for {left} at most")
                }
            },
        );
    }
    for slot in &app.slots {
        let what = match &slot.release {
            None => "free".to_owned(),
            Some(release) => format!("\"{release}\"  {}", about(app, release, Some(slot))),
        };
        line("slot", format!("{}  {what}", slot.address));
    }
    // What others have told NGINX of, if it matters.
    for release in app.releases.iter().filter(|r| r.slot.is_none()) {
        if release.in_flight.total() > 0 || app.active.as_ref() == Some(&release.name) {
            let what = about(app, &release.name, None);
            line("elsewhere", format!("\"{}\"  {what}", release.name));
        }
    }
    if let Some(job) = &app.job {
        let step = job.step.map_or_else(String::new, |step| format!(", at the step {step}"));
        let (kind, release) = (job.kind, &job.release);
        line("job", format!("{} ({kind} \"{release}\") since {}{step}", job.job, job.since));
    }
    out
}

/// What a release is, has in flight, and runs as.
fn about(app: &AppStatus, release: &ReleaseName, slot: Option<&SlotStatus>) -> String {
    let mut parts = Vec::new();
    for (what, name) in [("active", &app.active), ("previous", &app.previous)] {
        if name.as_ref() == Some(release) {
            parts.push(what.to_owned());
        }
    }
    let known = app.releases.iter().find(|known| known.name == *release);
    if let Some(InFlight { requests, upgraded }) = known.map(|known| known.in_flight) {
        parts.push(format!("in flight: {requests} requests, {upgraded} upgraded"));
    }
    match slot.filter(|slot| !slot.listens).map(|slot| (slot.runs, slot.pid, slot.restarts)) {
        Some((true, Some(pid), 0)) => parts.push(format!("pid {pid}")),
        Some((true, Some(pid), n)) => parts.push(format!("pid {pid}, started again {n} times")),
        Some((true, None, _)) => parts.push("runs, not as a process of shuntd's".to_owned()),
        Some((false, ..)) => {
            parts.push("does not run: it ended, and is started again unless it is gone".to_owned())
        }
        None if slot.is_some() => {
            parts.push(
                "stopped, but its socket listens: a connection or a rollback starts it".to_owned(),
            );
        }
        None => {}
    }
    parts.join("; ")
}
