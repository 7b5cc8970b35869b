//! `shunt releases`

use shunt_api::ReleaseName;

use super::Failure;
use super::client::Client;
use super::table::table;
use crate::wire::{KeptReleases, exit};

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
    let kept: KeptReleases = client.get(&format!("/v1/apps/{}/releases", args.app)).await?;
    if json {
        super::print(super::json(&kept))?;
        return Ok(exit::DONE);
    }
    let rows = kept.releases.iter().map(|release| {
        let what = match (release.active, release.previous) {
            (true, _) => "active",
            (_, true) => "previous",
            _ => "",
        };
        let slot = release.slot.as_ref().map(ToString::to_string).unwrap_or_default();
        let revision = release.revision.clone().unwrap_or_default();
        [release.name.to_string(), release.made.clone(), what.to_owned(), slot, revision]
    });
    super::print(table(["release", "made", "", "slot", "revision"], rows))?;
    Ok(exit::DONE)
}
