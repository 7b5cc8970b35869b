//! Shows a job as it goes: one line for each step, with its time. On a terminal, a spinner shows what
//! runs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
    let mut screen = Screen::new();
    let show = |event: &Event| {
        if let What::Ended { outcome: how, .. } = &event.what {
            outcome = Some(*how);
        }
        if json { super::print(super::json(event)) } else { screen.show(event) }
    };
    tokio::select! {
        result = client.follow(started.job, show) => result?,
        _ = tokio::signal::ctrl_c() => {
            screen.clear();
            let said = format!(
                "job {} for \"{}\" goes on in shuntd; `shunt status` shows it",
                started.job, started.release
            );
            // There is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "{said}");
            return Ok(exit::INTERRUPTED);
        }
    }
    let lost = || Failure::new(exit::UNREACHABLE, "shuntd ended before the job did");
    outcome.map(Outcome::exit_code).ok_or_else(lost)
}

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// Where lines go.
struct Screen {
    /// Colours, if somebody looks who wants them (`NO_COLOR`).
    colour: bool,
    /// Whether somebody looks.
    terminal: bool,
    /// What runs.
    spinner: Option<ProgressBar>,
}

impl Screen {
    fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { colour: wanted && terminal, terminal, spinner: None }
    }

    fn clear(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    fn show(&mut self, event: &Event) -> Result<(), Failure> {
        // It makes room for what is known now.
        self.clear();
        if let What::Step { step, note } = &event.what
            && self.terminal
        {
            self.spinner = spinner(format!("{step:<8} {note}"));
        }
        self.lines(event).into_iter().try_for_each(|line| super::print(line + "\n"))
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
            What::Limit { step, why } => {
                vec![format!("  {} {step:<8} {why}", self.paint("33", "limit"))]
            }
            What::Ended { outcome, text, cut } => {
                let code = match (outcome, cut) {
                    (Outcome::Done, None) => "32",
                    (Outcome::Done, Some(_)) => "33",
                    _ => "31",
                };
                vec![self.paint(code, text)]
            }
        }
    }
}

fn spinner(text: String) -> Option<ProgressBar> {
    let style = ProgressStyle::with_template("  {spinner}  {msg}  {elapsed}").ok()?;
    let target = ProgressDrawTarget::stdout();
    let spinner = ProgressBar::with_draw_target(None, target).with_style(style).with_message(text);
    spinner.enable_steady_tick(TURN);
    Some(spinner)
}

fn duration(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.2} s", ms / 1000.0) }
}
