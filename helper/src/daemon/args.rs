//! The command line of `shuntd`.

use std::path::PathBuf;

use clap::Parser;

use crate::{config, wire};

/// Where the daemon remembers what runs.
pub const DEFAULT_STATE: &str = "/var/lib/shunt";

/// Deploys releases: starts them, checks them, lets NGINX switch to them, drains and stops the old.
#[derive(Debug, Parser)]
#[command(name = "shuntd", version, after_help = signals())]
pub struct Args {
    /// The folder with one TOML file for each application.
    #[arg(long, default_value = config::DEFAULT_FOLDER)]
    pub config: PathBuf,
    /// The folder where the daemon remembers what runs.
    #[arg(long, default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// The unix socket to listen on, unless systemd passes one.
    #[arg(long, default_value = wire::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// A group whose members may change something, besides root and the user of shuntd: as good as being
    /// the user whom releases run as, root if that is nobody else.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Writes the OpenAPI document of the API to the standard output, and does nothing else.
    #[arg(long, hide = true)]
    pub openapi: bool,
}

/// What the daemon does when it gets a signal.
pub const SIGNALS: [(&str, &str); 2] = [
    (
        "HUP",
        "read the folder of applications again; what runs goes on. When the terminal that shuntd was \
         started on is closed, it is the order to end",
    ),
    (
        "TERM, INT",
        "end: jobs are cut off; applications of the runner \"process\" are stopped, and start again with \
         shuntd; those of other runners serve on",
    ),
];

fn signals() -> String {
    let lines = SIGNALS.iter().map(|(name, what)| format!("\n  {name:<10} {what}"));
    format!("Signals:{}", lines.collect::<String>())
}
