//! `shunt history`

use shunt_api::ReleaseName;

use super::Failure;
use super::client::Client;
use super::table::table;
use crate::wire::{AppStatus, History, JobRecord, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// How many jobs, the latest first.
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let path = format!("/v1/apps/{}/jobs?limit={}", args.app, args.limit);
    let history: History = client.get(&path).await?;
    if json {
        super::print(super::json(&history))?;
        return Ok(exit::DONE);
    }
    let app: AppStatus = client.get(&format!("/v1/apps/{}", args.app)).await?;
    let running = app.job.map(|job| job.job);
    let rows = history.jobs.iter().map(|job| {
        let end = ended(job, running == Some(job.job));
        let took = job.took.map(super::follow::milliseconds).unwrap_or_default();
        let (release, kind) = (job.release.to_string(), job.kind.to_string());
        [job.job.to_string(), job.since.clone(), kind, release, end, took]
    });
    super::print(table(["job", "since", "kind", "release", "end", "took"], rows))?;
    Ok(exit::DONE)
}

/// How a job ended, or that it has not.
pub(super) fn ended(job: &JobRecord, runs: bool) -> String {
    match job.outcome {
        Some(outcome) => outcome.to_string(),
        None if runs => "runs".to_owned(),
        None => "cut off".to_owned(),
    }
}
