//! `shunt prune`

use shunt_api::ReleaseName;

use super::Failure;
use super::client::Client;
use crate::wire::{Pruned, exit};

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
    // Folders can be large, and slow to remove.
    let pruned: Pruned = client.post_patiently(&format!("/v1/apps/{}/prune", args.app)).await?;
    let told = match pruned.removed.as_slice() {
        [] => "nothing to remove\n".to_owned(),
        some => some.iter().map(|release| format!("removed {release}\n")).collect(),
    };
    super::print(if json { super::json(&pruned) } else { told })?;
    Ok(exit::DONE)
}
