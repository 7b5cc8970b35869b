//! The command line: one small file for each command.

pub mod client;
pub mod deploy;
pub mod follow;
pub mod rollback;
pub mod status;
pub mod switch;
pub mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::wire;

/// Releases without downtime: deploy, roll back, watch.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The socket of shuntd.
    #[arg(long, global = true, default_value = wire::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; with watch: a request failed
  2  usage or configuration
  4  the release did not become healthy; nothing was switched
  5  somebody else switched to another release meanwhile
  6  NGINX did not answer the order to switch: which release serves is not known, both run
  7  another job runs for this application
  8  shuntd or NGINX cannot be reached
  130  Ctrl-C; a job goes on in shuntd
  141  nobody reads the output any more; a job goes on in shuntd";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a new release, check it, switch to it, stop the old one.
    Deploy(deploy::Args),
    /// Go back to the release before.
    Rollback(rollback::Args),
    /// Switch to a release that runs.
    Switch(switch::Args),
    /// Show which release serves, and what runs.
    Status(status::Args),
    /// Ask a URL all the time and tell of every failure: the proof of a deploy.
    Watch(watch::Args),
}

/// Why a command has failed, and its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// Why.
    pub text: String,
}

impl Failure {
    /// A failure with this exit code.
    #[must_use]
    pub fn new(code: u8, text: impl std::fmt::Display) -> Self {
        Self { code, text: text.to_string() }
    }
}

/// Writes to the standard output.
///
/// # Errors
///
/// [`Failure`]; one without a text when nobody reads it any more, as with `| head`.
pub fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::new(wire::exit::UNREAD, ""),
        _ => Failure::new(
            wire::exit::FAILED,
            format!("cannot write to the standard output: {error}"),
        ),
    })
}

/// One line of JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// Runs a command and gives its exit code.
///
/// # Errors
///
/// [`Failure`], which is still to be shown.
pub async fn run(cli: Cli) -> Result<u8, Failure> {
    let client = client::Client::new(&cli.socket);
    match cli.command {
        Command::Deploy(args) => deploy::run(&client, &args, cli.json).await,
        Command::Rollback(args) => rollback::run(&client, &args, cli.json).await,
        Command::Switch(args) => switch::run(&client, &args, cli.json).await,
        Command::Status(args) => status::run(&client, &args, cli.json).await,
        Command::Watch(args) => watch::run(args, cli.json).await,
    }
}
