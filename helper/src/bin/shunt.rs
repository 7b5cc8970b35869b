//! The command line of Shunt.

use std::process::ExitCode;

use clap::Parser;
use shunt_helper::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Cli::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("shunt: {failure}");
            ExitCode::from(failure.code)
        }
    }
}
