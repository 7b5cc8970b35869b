//! The command line: one small file for each command.

pub mod canary;
pub mod check;
pub mod client;
pub mod completions;
pub mod deploy;
pub mod doctor;
pub mod follow;
pub mod help;
pub mod history;
pub mod hold;
pub mod init;
pub mod logs;
pub mod man;
pub mod manual;
pub mod promote;
pub mod prune;
pub mod releases;
pub mod rollback;
pub mod show;
pub mod status;
pub mod switch;
mod table;
pub mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::wire::{self, Order};

/// Releases without downtime: deploy, roll back, watch.
#[derive(Debug, Parser)]
#[command(name = "shunt", version)]
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a new release, check it, switch to it, stop the old one.
    Deploy(deploy::Args),
    /// Go back to the release before.
    Rollback(rollback::Args),
    /// Switch to a release that runs.
    Switch(switch::Args),
    /// Enough was seen: end the canary step, or the guard, that runs, and go on.
    Promote(promote::Args),
    /// Take back the job that runs.
    Abort(promote::Args),
    /// Send a share of the requests to a release that runs.
    Canary(canary::Args),
    /// Let new requests wait.
    Hold(hold::Args),
    /// Let requests that wait go on.
    Resume(hold::ResumeArgs),
    /// Show which release serves, and what runs.
    Status(status::Args),
    /// Show the releases on disk.
    Releases(releases::Args),
    /// Show the last jobs, and how they ended.
    History(history::Args),
    /// Show a job, step by step.
    Show(show::Args),
    /// Show what a release has said, or its hooks.
    Logs(logs::Args),
    /// Remove the oldest releases that nothing needs.
    Prune(prune::Args),
    /// Ask a URL all the time and tell of every failure: the proof of a deploy.
    Watch(watch::Args),
    /// Write a configuration to begin with.
    Init(init::Args),
    /// Read the configuration as shuntd does, and tell of every mistake.
    Check(check::Args),
    /// Find what stands in the way of releases without downtime.
    Doctor(doctor::Args),
    /// Print what completes its commands in a shell.
    Completions(completions::Args),
    /// Print or write the manual pages.
    Man(man::Args),
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

/// Tells whoever looks of something that is not as it should be, beside the output.
fn warn(text: impl std::fmt::Display) {
    use std::io::Write;
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "warning: {text}");
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
        Command::Promote(args) => promote::run(&client, &args, Order::Promote, cli.json).await,
        Command::Abort(args) => promote::run(&client, &args, Order::Abort, cli.json).await,
        Command::Canary(args) => canary::run(&client, &args, cli.json).await,
        Command::Hold(args) => hold::hold(&client, &args, cli.json).await,
        Command::Resume(args) => hold::resume(&client, &args, cli.json).await,
        Command::Status(args) => status::run(&client, &args, cli.json).await,
        Command::Releases(args) => releases::run(&client, &args, cli.json).await,
        Command::History(args) => history::run(&client, &args, cli.json).await,
        Command::Show(args) => show::run(&client, &args, cli.json).await,
        Command::Logs(args) => logs::run(&client, &args, cli.json).await,
        Command::Prune(args) => prune::run(&client, &args, cli.json).await,
        Command::Init(args) => init::run(&args, cli.json),
        Command::Check(args) => check::run(&args, cli.json),
        Command::Doctor(args) => doctor::run(&client, args, cli.json).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Watch(args) => watch::run(args, cli.json).await,
    }
}
