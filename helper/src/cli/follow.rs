//! Shows a job as it goes: one line for each step, with its time.

use std::io::IsTerminal;

use super::Failure;
use super::client::Client;
use crate::wire::{Event, Outcome, Started, What, exit};

/// Follows a job to its end and gives the exit code. Ctrl-C stops following, not the job.
///
/// # Errors
///
/// [`Failure`] when the daemon goes away.
pub async fn run(client: &Client, started: &Started, json: bool) -> Result<u8, Failure> {
    let mut outcome = None;
    let style = Style::new();
    let show = |event: &Event| {
        if json {
            println!("{}", serde_json::to_string(event).unwrap_or_default());
        } else {
            for line in style.lines(event) {
                println!("{line}");
            }
        }
        if let What::Ended { outcome: how, .. } = &event.what {
            outcome = Some(*how);
        }
    };
    tokio::select! {
        result = client.follow(started.job, show) => result?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!(
                "job {} for \"{}\" goes on in shuntd; `shunt status` shows it",
                started.job, started.release
            );
            return Ok(130);
        }
    }
    let lost = || Failure::new(exit::UNREACHABLE, "shuntd ended before the job did");
    outcome.map(Outcome::exit_code).ok_or_else(lost)
}

/// Colours, if somebody looks who wants them (`NO_COLOR`).
struct Style {
    colour: bool,
}

impl Style {
    fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { colour: wanted && std::io::stdout().is_terminal() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn lines(&self, event: &Event) -> Vec<String> {
        match &event.what {
            What::Began { app, job, release } => {
                vec![self.paint("1", &format!("{job} {app} \"{release}\""))]
            }
            // The line is printed once it is known how the step ended.
            What::Step { .. } => Vec::new(),
            What::Done { step, took, note } => {
                let took = duration(*took);
                vec![format!("  {} {step:<8} {took:>9}  {note}", self.paint("32", "ok"))]
            }
            What::Failed { step, why, lines } => {
                let mut out = vec![format!("  {} {step:<8} {why}", self.paint("31", "failed"))];
                out.extend(lines.iter().map(|line| format!("      | {line}")));
                out
            }
            What::Ended { outcome, text } => {
                let code = if *outcome == Outcome::Done { "32" } else { "31" };
                vec![self.paint(code, text)]
            }
        }
    }
}

fn duration(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.2} s", ms / 1000.0) }
}
