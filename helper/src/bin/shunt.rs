//! The command line of Shunt.

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;
use shunt_helper::cli::{self, Cli, help};

#[tokio::main]
async fn main() -> ExitCode {
    let mut command = help::command();
    let matches = command.get_matches_mut();
    let args = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.format(&mut command).exit());
    match cli::run(args).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.text.is_empty() {
                // There is nobody else to tell.
                let _ = writeln!(std::io::stderr(), "shunt: {failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}
