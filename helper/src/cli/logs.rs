//! `shunt logs`

use shunt_api::ReleaseName;

use super::Failure;
use super::client::Client;
use crate::wire::{Logs, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// The release; the active one if left out.
    pub release: Option<ReleaseName>,
    /// What its hooks have said, instead of what it says itself.
    #[arg(long)]
    pub hooks: bool,
    /// How many lines, from the end.
    #[arg(long, short = 'n', default_value_t = 100)]
    pub lines: u32,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let mut path = format!("/v1/apps/{}/logs?hooks={}&lines={}", args.app, args.hooks, args.lines);
    if let Some(release) = &args.release {
        path.push_str(&format!("&release={release}"));
    }
    let logs: Logs = client.get(&path).await?;
    if json {
        super::print(super::json(&logs))?;
    } else {
        logs.lines.iter().try_for_each(|line| super::print(format!("{line}\n")))?;
    }
    Ok(exit::DONE)
}
