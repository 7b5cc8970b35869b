//! Shows a job as it goes: one line for each step, with its time. On a terminal, a spinner shows what
//! runs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Failure;
use super::client::{Client, FollowError};
use crate::clock::Span;
use crate::wire::{Event, Outcome, Started, What, exit};

/// Whether a job is followed.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Follow {
    /// Don't wait for the job's end: print its number and leave it to shuntd.
    #[arg(long)]
    detach: bool,
}

/// Follows a job to its end and gives the exit code. Ctrl-C stops following, not the job.
///
/// # Errors
///
/// [`Failure`] when the daemon goes away.
pub async fn run(
    client: &Client,
    started: &Started,
    how: Follow,
    json: bool,
) -> Result<u8, Failure> {
    run_for(client, started, how, json, Outcome::exit_code).await
}

/// As [`run`], for somebody who wants something else of the job than that it is done: what each end of it
/// is to him, as an exit code.
///
/// # Errors
///
/// [`Failure`] when the daemon goes away.
pub async fn run_for(
    client: &Client,
    started: &Started,
    how: Follow,
    json: bool,
    code: fn(Outcome) -> u8,
) -> Result<u8, Failure> {
    if how.detach {
        let Started { job, release } = started;
        let told = format!("job {job} for \"{release}\"; `shunt show {job} --follow` follows it\n");
        super::print(if json { super::json(started) } else { told })?;
        return Ok(exit::DONE);
    }
    let (mut app, mut outcome) = (None, None);
    let mut screen = Screen::new();
    let show = |event: &Event| {
        match &event.what {
            What::Began { app: name, .. } => app = Some(name.clone()),
            What::Ended { outcome: how, .. } => outcome = Some(*how),
            _ => {}
        }
        if json { super::print(super::json(event)) } else { screen.show(event) }
    };
    let followed = tokio::select! {
        followed = client.follow(started.job, show) => followed,
        _ = tokio::signal::ctrl_c() => {
            screen.clear();
            let job = started.job;
            let said = format!(
                "job {job} for \"{}\" goes on in shuntd; `shunt show {job} --follow` follows it, \
                 `shunt abort APP` takes it back",
                started.release
            );
            // There is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "{said}");
            return Ok(exit::INTERRUPTED);
        }
    };
    let job = started.job;
    let why = match (followed, outcome) {
        (Err(FollowError::Failed(failure)), _) => return Err(failure),
        (_, Some(outcome)) => return Ok(code(outcome)),
        (Err(FollowError::Lost(why)), None) => format!(
            "shuntd is gone: {why}; if it runs after all, `shunt show {job} --follow` goes on with job {job}"
        ),
        (Ok(()), None) => format!("shuntd ended before job {job} did"),
    };
    screen.clear();
    // What the next daemon does with it is a job of its own.
    let app = app.as_ref().map_or("APP", |app| app.as_str());
    let next = "the next start of shuntd finishes a job that was cut off, or takes it back";
    let text = format!("{why}; {next}, and `shunt history {app}` tells which");
    Err(Failure::new(exit::UNREACHABLE, text))
}

/// Prints what has happened in a job.
///
/// # Errors
///
/// [`Failure`] when nobody reads it.
pub fn print(events: &[Event]) -> Result<(), Failure> {
    let mut screen = Screen::new();
    events.iter().flat_map(|event| screen.lines(event)).try_for_each(|l| super::print(l + "\n"))
}

/// A time as one reads it.
pub(super) fn milliseconds(ms: u64) -> String {
    // So much precision is enough.
    #[expect(clippy::cast_precision_loss)]
    duration(ms as f64)
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
    /// What the programs of the step have said until now.
    said: Vec<String>,
}

impl Screen {
    fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { colour: wanted && terminal, terminal, spinner: None, said: Vec::new() }
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
            self.spinner = spinner(format!("{step:<13} {note}"));
        }
        self.lines(event).into_iter().try_for_each(|line| super::print(line + "\n"))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn lines(&mut self, event: &Event) -> Vec<String> {
        match &event.what {
            What::Began { app, job, release } => {
                vec![self.paint("1", &format!("{job} {app} \"{release}\""))]
            }
            // The line is printed once it is known how the step ended.
            What::Step { .. } => {
                self.said.clear();
                Vec::new()
            }
            What::Line { text, .. } => {
                self.said.push(text.clone());
                vec![format!("      | {text}")]
            }
            What::Done { step, took, note } => {
                let took = duration(*took);
                vec![format!("  {} {step:<13} {took:>9}  {note}", self.paint("32", "ok"))]
            }
            What::Failed { step, why, lines } => {
                let mut out = vec![format!("  {} {step:<13} {why}", self.paint("31", "failed"))];
                // What was shown as it came is above.
                if !self.said.ends_with(lines) {
                    out.extend(lines.iter().map(|line| format!("      | {line}")));
                }
                out
            }
            What::Limit { step, why } => {
                vec![format!("  {} {step:<13} {why}", self.paint("33", "limit"))]
            }
            What::Warning { step, why } => {
                vec![format!("  {} {step:<13} {why}", self.paint("33", "warning"))]
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
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.2} s", ms / 1000.0),
        ms => Span(Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Step;

    #[test]
    fn what_a_hook_has_said_is_shown_once_and_what_was_not_shown_explains_its_failure() {
        let step = Step::Migrate;
        let shown = |events: Vec<What>| {
            let mut screen = Screen::new();
            let lines =
                events.into_iter().flat_map(|what| screen.lines(&Event { id: 1, at: 0, what }));
            lines.collect::<Vec<_>>()
        };
        let said = |text: &str| What::Line { step, text: text.to_owned() };
        let failed = |lines: &[&str]| What::Failed {
            step,
            why: "hook migrate".to_owned(),
            lines: lines.iter().map(ToString::to_string).collect(),
        };
        let begun = || What::Step { step, note: String::new() };
        let why = "  failed migrate       hook migrate";
        let all = shown(vec![begun(), said("one"), said("two"), failed(&["one", "two"])]);
        assert_eq!(all, ["      | one", "      | two", why]);
        let end = shown(vec![begun(), said("one"), said("two"), failed(&["two"])]);
        assert_eq!(end, all);
        let cut = shown(vec![begun(), said("one"), failed(&["three"])]);
        assert_eq!(cut, ["      | one", why, "      | three"]);
        // What the step before has said explains nothing.
        let other = shown(vec![said("two"), begun(), failed(&["two"])]);
        assert_eq!(other, ["      | two", why, "      | two"]);
        assert_eq!(shown(vec![begun(), failed(&[])]), [why]);
    }
}
