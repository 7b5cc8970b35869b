//! How a job ended, in one sentence.

use shunt_api::{InFlight, ReleaseName};

use crate::clock::Span;
use crate::config;
use crate::wire::{JobKind, Outcome};

/// What the sentence is about.
pub(super) struct About<'a> {
    pub(super) app: &'a config::App,
    pub(super) kind: JobKind,
    pub(super) release: &'a ReleaseName,
    pub(super) old: Option<&'a ReleaseName>,
    /// Of a recovery: what it makes of the job that was cut off.
    pub(super) recovers: Option<String>,
    /// Whether that is to be taken back.
    pub(super) takes_back: bool,
    /// The release that was stopped with something in flight, and what it had.
    pub(super) cut: Option<&'a (ReleaseName, InFlight)>,
    /// What could not be taken back.
    pub(super) left: Option<&'a Left>,
}

/// Why something is left of what a job had begun.
#[derive(Debug)]
pub(super) enum Left {
    /// NGINX, which may be sending requests there, cannot be asked: it is tried again.
    ForNow(String),
    /// It is another reason, and nobody tries it again.
    Over(String),
}

impl About<'_> {
    /// The sentence.
    pub(super) fn ended(&self, outcome: Outcome, why: Option<String>) -> String {
        let (app, release) = (&self.app.name, self.release);
        let because = why.as_deref().unwrap_or("no reason is known");
        let mut text = match outcome {
            Outcome::Done => match (&self.recovers, why.as_deref()) {
                (Some(what), None) => format!("{app}: {what}"),
                (Some(what), Some(why)) => {
                    format!("{app}: {what}, but not everything went well: {why}")
                }
                (None, None) => format!("{app} is on \"{release}\""),
                (None, Some(why)) => {
                    format!("{app} is on \"{release}\", but not everything went well: {why}")
                }
            },
            Outcome::Unreachable => {
                format!("{app}: {because}; `shunt status {app}` shows which release serves")
            }
            Outcome::Uncertain => format!(
                "{app}: {because}; nothing was stopped, so either release can serve; `shunt status \
                 {app}` shows which one does, `shunt switch {app} {release}` or the next deploy \
                 settles it"
            ),
            Outcome::Overruled => {
                format!("{app} was on \"{release}\", but {because}; nothing was stopped")
            }
            Outcome::SwitchedBack => {
                format!(
                    "{app}: \"{release}\" had requests and {}, {}: {because}",
                    self.taken(),
                    self.still()
                )
            }
            Outcome::NotSwitchedBack => format!(
                "{app}: \"{release}\" should be taken back, but the old release cannot serve: {because}; \
                 `shunt status {app}` shows what runs"
            ),
            Outcome::Failed | Outcome::Unhealthy if self.takes_back => {
                let what = self.recovers.as_deref().unwrap_or_default();
                format!(
                    "{app}: {what}: {because}; shuntd tries it again at its next start, unless another job \
                     has run by then"
                )
            }
            Outcome::Failed | Outcome::Unhealthy if self.kind == JobKind::Recover => {
                format!("{app}: \"{release}\" is active but does not run as it should: {because}")
            }
            Outcome::Hook if self.is_on_it(&why) => {
                format!("{app} is on \"{release}\", but {because}")
            }
            Outcome::Failed | Outcome::Unhealthy | Outcome::Hook => {
                format!("{app}: \"{release}\" is refused, {}: {because}", self.still())
            }
            Outcome::Aborted => {
                format!("{app}: \"{release}\" {}, {}: {because}", self.taken(), self.still())
            }
        };
        match self.left {
            Some(Left::ForNow(why)) => text.push_str(&format!(
                "; \"{release}\" is not taken back yet, and may still get requests: {why}; shuntd tries it \
                 again once NGINX answers"
            )),
            // It is said already.
            Some(Left::Over(_)) if self.takes_back => {}
            Some(Left::Over(why)) => text.push_str(&format!(
                "; not all of \"{release}\" is taken back: {why}; `shunt status {app}` shows what is left"
            )),
            None => {}
        }
        if let Some((release, cut)) = self.cut {
            text.push_str(&self.warning(release, *cut));
        }
        text
    }

    /// Whether the release is gone, or only on its way.
    fn taken(&self) -> &'static str {
        match self.left {
            None => "is taken back",
            Some(_) => "is to be taken back",
        }
    }

    /// Whether a hook failed that runs after the switch.
    fn is_on_it(&self, why: &Option<String>) -> bool {
        let after = ["hook after_switch", "hook after_deploy"];
        why.as_ref().is_some_and(|why| after.iter().any(|hook| why.starts_with(hook)))
    }

    /// What serves when nothing has changed.
    fn still(&self) -> String {
        match self.old {
            Some(old) => format!("\"{old}\" still serves"),
            None => "nothing has changed".to_owned(),
        }
    }

    /// What is said of requests that a release was stopped with.
    fn warning(&self, release: &ReleaseName, cut: InFlight) -> String {
        let drain = &self.app.drain;
        let kinds = [
            (cut.requests, "request", "timeout", drain.timeout),
            (cut.upgraded, "upgraded connection", "upgraded_timeout", drain.upgraded_timeout),
        ];
        let kinds = kinds.iter().filter(|(n, ..)| *n > 0).map(|(n, what, name, limit)| {
            format!("{} (drain {name} {})", count(*n, what), Span(*limit))
        });
        let kinds: Vec<_> = kinds.collect();
        format!("; warning: \"{release}\" was stopped with {} in flight", kinds.join(" and "))
    }
}

/// So many of something, as one reads it.
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of it beyond its names.
    #[derive(Default)]
    struct Known<'a> {
        recovers: Option<&'a str>,
        cut: Option<&'a (ReleaseName, InFlight)>,
        left: Option<&'a Left>,
    }

    fn ended(kind: JobKind, outcome: Outcome, known: &Known<'_>) -> String {
        let text = "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:/nowhere\"\n[run]\n\
                    command = [\"./server\"]\nslots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]";
        let app = config::App::parse(text).unwrap();
        let [old, release] = ["v1", "v2"].map(|name| ReleaseName::new(name).unwrap());
        let about = About {
            app: &app,
            kind,
            release: &release,
            old: Some(&old),
            recovers: known.recovers.map(str::to_owned),
            takes_back: known.recovers.is_some(),
            cut: known.cut,
            left: known.left,
        };
        about.ended(outcome, Some("it is ill".to_owned()))
    }

    #[test]
    fn only_what_is_taken_back_is_said_to_be() {
        let back = ended(JobKind::Deploy, Outcome::Aborted, &Known::default());
        assert_eq!(back, "web: \"v2\" is taken back, \"v1\" still serves: it is ill");
        let left = Left::Over("2 in flight".to_owned());
        let known = Known { left: Some(&left), ..Known::default() };
        let back = ended(JobKind::Deploy, Outcome::Aborted, &known);
        assert_eq!(
            back,
            "web: \"v2\" is to be taken back, \"v1\" still serves: it is ill; not all of \"v2\" is taken \
             back: 2 in flight; `shunt status web` shows what is left"
        );
        let later = Left::ForNow("no answer".to_owned());
        let known = Known { left: Some(&later), ..Known::default() };
        let back = ended(JobKind::Deploy, Outcome::SwitchedBack, &known);
        assert!(back.contains("had requests and is to be taken back, \"v1\" still"), "{back}");
        assert!(back.ends_with("shuntd tries it again once NGINX answers"), "{back}");
    }

    #[test]
    fn a_recovery_that_takes_nothing_back_does_not_call_the_release_active() {
        let left = Left::Over("it is ill".to_owned());
        let recovers = Some("the deploy of \"v2\" (job 3) is not taken back");
        let known = Known { recovers, left: Some(&left), cut: None };
        assert_eq!(
            ended(JobKind::Recover, Outcome::Failed, &known),
            "web: the deploy of \"v2\" (job 3) is not taken back: it is ill; shuntd tries it again at its \
             next start, unless another job has run by then"
        );
    }

    #[test]
    fn what_was_cut_off_is_that_of_the_release_that_was_stopped() {
        let cut = (ReleaseName::new("v2").unwrap(), InFlight { requests: 1, upgraded: 0 });
        let known = Known { cut: Some(&cut), ..Known::default() };
        let text = ended(JobKind::Deploy, Outcome::Unhealthy, &known);
        let warning = "; warning: \"v2\" was stopped with 1 request (drain timeout 30s) in flight";
        assert!(text.ends_with(warning), "{text}");
    }
}
