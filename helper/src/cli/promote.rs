//! `shunt promote` and `shunt abort`: a word to the job that runs.

use shunt_api::ReleaseName;

use super::client::Client;
use super::{Failure, follow};
use crate::wire::{Order, Outcome, Started, exit};

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application.
    pub app: ReleaseName,
    #[command(flatten)]
    follow: follow::Follow,
}

/// Gives the order, and follows the job to its end.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(client: &Client, args: &Args, order: Order, json: bool) -> Result<u8, Failure> {
    let (what, code): (_, fn(Outcome) -> u8) = match order {
        Order::Promote => ("promote", Outcome::exit_code),
        Order::Abort => ("abort", taken_back),
    };
    let started: Started = client.post(&format!("/v1/apps/{}/{what}", args.app), &()).await?;
    follow::run_for(client, &started, args.follow, json, code).await
}

/// The exit code of an abort: that the release is taken back is what was wanted, and that it is not, as
/// the job was at its end already, is a failure.
fn taken_back(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Aborted | Outcome::SwitchedBack => exit::DONE,
        Outcome::Done => exit::FAILED,
        outcome => outcome.exit_code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_is_done_when_the_release_is_taken_back() {
        for outcome in Outcome::ALL {
            let is_back = matches!(outcome, Outcome::Aborted | Outcome::SwitchedBack);
            assert_eq!(taken_back(outcome) == exit::DONE, is_back, "{outcome}");
        }
        assert_eq!(taken_back(Outcome::NotSwitchedBack), exit::UNCERTAIN);
    }
}
