//! The daemon of Shunt.

use std::process::ExitCode;

use clap::Parser;
use shunt_helper::daemon::args::Args;
use shunt_helper::daemon::openapi;
use shunt_helper::daemon::service::{self, Options};
use shunt_helper::log;

fn main() -> ExitCode {
    let Args { config, state, socket, group, openapi } = Args::parse();
    if openapi {
        return write_document();
    }
    match service::run(&Options { config, state, socket, group }, Box::new(|_| {})) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn write_document() -> ExitCode {
    use std::io::Write;
    let written = openapi::document()
        .map_err(std::io::Error::other)
        .and_then(|document| writeln!(std::io::stdout(), "{document:#}"));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(&error);
            ExitCode::FAILURE
        }
    }
}
