//! The command line of Shunt.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use shunt_helper::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Cli::parse()).await {
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
