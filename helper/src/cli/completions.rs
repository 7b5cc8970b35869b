//! `shunt completions`

use clap_complete::Shell;

use super::{Failure, help};
use crate::wire::exit;

/// The shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum For {
    /// Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    pub shell: For,
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub fn run(args: &Args) -> Result<u8, Failure> {
    let shell = match args.shell {
        For::Bash => Shell::Bash,
        For::Zsh => Shell::Zsh,
        For::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut help::command(), "shunt", &mut script);
    super::print(String::from_utf8_lossy(&script))?;
    Ok(exit::DONE)
}
