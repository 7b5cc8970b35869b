//! `shunt hold` and `shunt resume`

use shunt_api::{NginxTime, ReleaseName};

use super::Failure;
use super::client::Client;
use crate::clock::Span;
use crate::nginx;
use crate::wire::{AppStatus, HoldRequest, exit};

/// What `hold` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    /// For how long at most; what `[hold]` says if left out.
    #[arg(long)]
    pub timeout: Option<NginxTime>,
}

/// What `resume` takes.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The application.
    pub app: ReleaseName,
}

/// Parks new requests.
///
/// # Errors
///
/// [`Failure`].
pub async fn hold(client: &Client, args: &Args, json: bool) -> Result<u8, Failure> {
    let body = HoldRequest { timeout: args.timeout };
    let app: AppStatus = client.put(&format!("/v1/apps/{}/hold", args.app), &body).await?;
    let told = match &app.hold {
        Some(_) if app.holdable == Some(false) => format!("{} is held\n", app.name),
        Some(hold) => format!(
            "new requests to {} wait, for {} at most; `shunt resume {}` lets them go\n",
            app.name,
            Span(hold.ends_in.duration()),
            app.name
        ),
        None => format!("the hold of {} has ended already\n", app.name),
    };
    super::print(if json { super::json(&app) } else { told })?;
    if app.holdable == Some(false) {
        super::warn(nginx::unheld(&app.upstream));
    }
    Ok(exit::DONE)
}

/// Lets parked requests go.
///
/// # Errors
///
/// [`Failure`].
pub async fn resume(client: &Client, args: &ResumeArgs, json: bool) -> Result<u8, Failure> {
    let app: AppStatus = client.delete(&format!("/v1/apps/{}/hold", args.app)).await?;
    let told = format!("requests to {} go on\n", app.name);
    super::print(if json { super::json(&app) } else { told })?;
    Ok(exit::DONE)
}
