//! `shunt canary`

use shunt_api::{Portion, ReleaseName};

use super::Failure;
use super::client::Client;
use crate::wire::{AppStatus, CanaryRequest, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// The release that gets the share; it must be running.
    #[arg(required_unless_present = "end")]
    pub release: Option<ReleaseName>,
    /// Its share of the requests, 0 to 1.
    #[arg(required_unless_present = "end")]
    pub share: Option<Portion>,
    /// No release gets a share any more.
    #[arg(long, conflicts_with_all = ["release", "share"])]
    pub end: bool,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let path = format!("/v1/apps/{}/canary", args.app);
    let app: AppStatus = match (&args.release, args.share) {
        (Some(release), Some(share)) => {
            client.put(&path, &CanaryRequest { release: release.clone(), share }).await?
        }
        _ => client.delete(&path).await?,
    };
    let told = match &app.canary {
        Some(canary) => format!("\"{}\" gets {} of the requests\n", canary.release, canary.share),
        None => format!("no release of {} gets a share\n", app.name),
    };
    super::print(if json { super::json(&app) } else { told })?;
    Ok(exit::DONE)
}
