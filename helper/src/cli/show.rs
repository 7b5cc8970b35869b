//! `shunt show`

use super::client::Client;
use super::history::ended;
use super::{Failure, follow};
use crate::wire::{AppStatus, JobDetails, Started, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's number, as of `shunt history`.
    pub job: u64,
    /// Go on with it until its end, if it runs.
    #[arg(long, short)]
    pub follow: bool,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let details: JobDetails = client.get(&format!("/v1/jobs/{}", args.job)).await?;
    if args.follow {
        let started = Started { job: args.job, release: details.record.release };
        return follow::run(client, &started, follow::Follow::default(), json).await;
    }
    if json {
        super::print(super::json(&details))?;
        return Ok(exit::DONE);
    }
    let record = &details.record;
    let app: AppStatus = client.get(&format!("/v1/apps/{}", record.app)).await?;
    let runs = app.job.is_some_and(|job| job.job == args.job);
    super::print(format!("job {}, since {}: {}\n", record.job, record.since, ended(record, runs)))?;
    follow::print(&details.events)?;
    Ok(exit::DONE)
}
