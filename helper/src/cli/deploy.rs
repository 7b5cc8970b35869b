//! `shunt deploy`

use std::path::PathBuf;

use shunt_api::ReleaseName;

use super::client::Client;
use super::{Failure, follow};
use crate::wire::{DeployRequest, Started, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  shunt deploy web --from ./dist --release v2")]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// The folder that holds the release.
    #[arg(long)]
    pub from: PathBuf,
    /// The release's name; made of the time if left out.
    #[arg(long)]
    pub release: Option<ReleaseName>,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let from = args.from.canonicalize();
    let from =
        from.map_err(|e| Failure::new(exit::USAGE, format!("{}: {e}", args.from.display())))?;
    let body = DeployRequest { from, release: args.release.clone() };
    let started: Started = client.post(&format!("/v1/apps/{}/deploys", args.app), &body).await?;
    follow::run(client, &started, json).await
}
