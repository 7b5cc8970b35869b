//! What Shunt costs, measured in one run beside what NGINX costs without it.

#![forbid(unsafe_code)]

mod callgrind;
mod instructions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures what Shunt costs.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Instructions per proxied request, with the module and without it (P10).
    Instructions(instructions::Args),
}

fn main() -> ExitCode {
    match Args::parse().bench {
        Bench::Instructions(args) => instructions::run(&args),
    }
}
