//! `shunt rollback`

use shunt_api::ReleaseName;

use super::client::Client;
use super::{Failure, follow};
use crate::wire::{RollbackRequest, Started};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// The release to go back to, of those that are kept; the one that was active before if left out.
    #[arg(long)]
    pub to: Option<ReleaseName>,
    #[command(flatten)]
    follow: follow::Follow,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let body = RollbackRequest { to: args.to.clone() };
    let started: Started = client.post(&format!("/v1/apps/{}/rollback", args.app), &body).await?;
    follow::run(client, &started, args.follow, json).await
}
