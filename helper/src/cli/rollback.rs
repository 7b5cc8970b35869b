//! `shunt rollback`

use shunt_api::ReleaseName;

use super::client::Client;
use super::{Failure, follow};
use crate::wire::Started;

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let started: Started = client.post(&format!("/v1/apps/{}/rollback", args.app), &()).await?;
    follow::run(client, &started, json).await
}
