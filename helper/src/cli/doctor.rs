//! `shunt doctor`

use std::path::PathBuf;

use shunt_api::{NginxTime, ReleaseName};

use super::Failure;
use super::client::Client;
use crate::config;
use crate::daemon::args::DEFAULT_STATE;
use crate::doctor::{self, Finding, Level, Options};
use crate::wire::{Apps, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application; all if left out.
    pub app: Option<ReleaseName>,
    /// The folder with one TOML file for each application.
    #[arg(long, default_value = config::DEFAULT_FOLDER)]
    pub config: PathBuf,
    /// The folder where shuntd remembers what runs.
    #[arg(long, default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// How long to watch a connection that the application should keep open.
    #[arg(long, default_value = "6s")]
    pub keepalive: NginxTime,
    /// How NGINX is called, to be asked for its configuration.
    #[arg(long, default_value = "nginx")]
    pub nginx: String,
}

/// Runs it. A problem makes it end with 1.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: Args, json: bool) -> Result<u8, Failure> {
    let options = Options {
        config: args.config,
        state: args.state,
        app: args.app,
        keepalive: args.keepalive.duration(),
        nginx: args.nginx.split_whitespace().map(ToOwned::to_owned).collect(),
        systemctl: "systemctl".into(),
    };
    let asked = client.get::<Apps>("/v1/apps").await.map_err(|failure| failure.text);
    let findings = doctor::examine(&options, asked).await;
    let mut app = &None;
    for finding in &findings {
        if json {
            super::print(super::json(finding))?;
            continue;
        }
        if finding.app != *app {
            app = &finding.app;
            super::print(app.as_ref().map_or(String::new(), |app| format!("{app}\n")))?;
        }
        super::print(format!("{finding}\n"))?;
    }
    let count = |level| findings.iter().filter(|f: &&Finding| f.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    if !json {
        super::print(format!(
            "{}, {}\n",
            doctor::count(problems, "problem"),
            doctor::count(warnings, "warning")
        ))?;
    }
    Ok(if problems == 0 { exit::DONE } else { exit::FAILED })
}
