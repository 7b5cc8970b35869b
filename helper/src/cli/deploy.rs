//! `shunt deploy`

use std::path::PathBuf;

use shunt_api::ReleaseName;

use super::client::Client;
use super::{Failure, follow};
use crate::wire::{DeployRequest, Started, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  shunt deploy web --from ./dist --release v2\n  shunt deploy web --ref v2.1.0"
)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// The folder or archive that holds the release; what `[source]` names if left out.
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// The branch, tag or commit of `[source] git`; with runner "docker" the tag or digest of the image.
    #[arg(long = "ref", value_name = "REF", conflicts_with = "from")]
    pub reference: Option<String>,
    /// The slot that the release goes to; with runner "external" the one that it is in. One that is free
    /// if left out.
    #[arg(long)]
    pub slot: Option<String>,
    /// The release's name; if left out, the time, and with a repository the branch, tag or commit, as
    /// in 20261124T132440Z-v2.1.0. With runner "docker" it is also the image's tag, unless --ref names
    /// one.
    #[arg(long)]
    pub release: Option<ReleaseName>,
    #[command(flatten)]
    follow: follow::Follow,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let from = match &args.from {
        Some(from) => {
            let failed = |e| Failure::new(exit::USAGE, format!("{}: {e}", from.display()));
            Some(from.canonicalize().map_err(failed)?)
        }
        None => None,
    };
    let body = DeployRequest {
        from,
        reference: args.reference.clone(),
        slot: args.slot.clone(),
        release: args.release.clone(),
    };
    let started: Started = client.post(&format!("/v1/apps/{}/deploys", args.app), &body).await?;
    follow::run(client, &started, args.follow, json).await
}
