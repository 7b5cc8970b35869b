//! `shunt status`

use shunt_api::ReleaseName;

use super::Failure;
use super::client::Client;
use crate::wire::{AppStatus, Apps, exit};

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
            let (requests, upgraded) = (app.in_flight.requests, app.in_flight.upgraded);
            line("in flight", format!("{requests} requests, {upgraded} upgraded"));
        }
    }
    line("previous", name(&app.previous));
    for slot in &app.slots {
        let what = match (&slot.release, slot.pid) {
            (None, _) => "free".to_owned(),
            (Some(release), Some(pid)) => {
                let restarts = match slot.restarts {
                    0 => String::new(),
                    n => format!(", started again {n} times"),
                };
                format!("\"{release}\", pid {pid}{restarts}")
            }
            (Some(release), None) => {
                format!("\"{release}\", its process ended and is started again")
            }
        };
        line("slot", format!("{}  {what}", slot.address));
    }
    if let Some(job) = &app.job {
        line("job", format!("{} ({} \"{}\") since {}", job.job, job.kind, job.release, job.since));
    }
    out
}
