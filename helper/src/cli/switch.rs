//! `shunt switch`

use shunt_api::ReleaseName;

use super::client::Client;
use super::{Failure, follow};
use crate::wire::{Started, SwitchRequest};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// The release, which must be running.
    pub release: ReleaseName,
    #[command(flatten)]
    follow: follow::Follow,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let body = SwitchRequest { release: args.release.clone() };
    let started: Started = client.post(&format!("/v1/apps/{}/switch", args.app), &body).await?;
    follow::run(client, &started, args.follow, json).await
}
