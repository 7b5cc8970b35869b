//! The pure state machine of a job: after this step, with this result, which step is next?
//!
//! Until the switch, whatever goes wrong is undone and users have not noticed. After it, nothing is
//! taken back: what goes wrong is reported, and the job goes on.

use crate::wire::{JobKind, Outcome, Step};

/// What is known when a job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What the job is.
    pub kind: JobKind,
    /// Whether the release runs already: then nothing has to be started, and nothing to be undone.
    pub runs: bool,
    /// Whether another release is active, which has to be drained.
    pub has_old: bool,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Well.
    Done,
    /// It failed, and nothing of it is left.
    Failed(Outcome),
    /// It may have happened or not, or may still happen: NGINX got the order to switch and did not
    /// answer.
    Uncertain,
    /// It was waited for up to its limit, and no longer.
    Limit,
    /// NGINX sends requests to another release than the job believes: somebody else has switched.
    Overruled,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// At a step; an undo remembers why.
    At(Step, Option<Outcome>),
    /// At its end.
    Ended(Outcome),
}

impl Plan {
    /// The first step.
    #[must_use]
    pub fn begin(self) -> Phase {
        let step = match (self.kind, self.runs) {
            (JobKind::Deploy, _) => Step::Fetch,
            (JobKind::Rollback, false) | (JobKind::Recover, _) => Step::Start,
            // What runs may be ill all the same.
            (JobKind::Rollback, true) | (JobKind::Switch, _) => Step::Health,
        };
        Phase::At(step, None)
    }

    /// Whether a process that the job has started is to be stopped when the job fails. What is
    /// started at the daemon's start is needed all the same: NGINX sends requests to it already.
    fn starts_what_nobody_needs(self) -> bool {
        match self.kind {
            JobKind::Deploy => true,
            JobKind::Rollback => !self.runs,
            JobKind::Switch | JobKind::Recover => false,
        }
    }

    /// The phase that follows.
    #[must_use]
    pub fn step(self, phase: Phase, event: Event) -> Phase {
        let Phase::At(step, why) = phase else { return phase };
        let at = |step| Phase::At(step, None);
        match (step, event) {
            (Step::Fetch, Event::Done) => at(Step::Start),
            (Step::Start, Event::Done) => at(Step::Health),
            (Step::Health, Event::Done) => at(Step::Switch),
            (Step::Fetch, Event::Failed(outcome)) => Phase::Ended(outcome),
            (Step::Start | Step::Health | Step::Switch, Event::Failed(outcome)) => {
                if self.starts_what_nobody_needs() {
                    Phase::At(Step::Undo, Some(outcome))
                } else {
                    Phase::Ended(outcome)
                }
            }
            // Before the switch nothing was taken from anybody, so it is as any failure.
            (
                Step::Fetch | Step::Start | Step::Health | Step::Switch,
                Event::Overruled | Event::Limit,
            ) => self.step(phase, Event::Failed(Outcome::Failed)),
            // Either release may be the active one, so both have to stay.
            (Step::Fetch | Step::Start | Step::Health | Step::Switch, Event::Uncertain) => {
                Phase::Ended(Outcome::Uncertain)
            }
            (Step::Switch, Event::Done) if self.kind == JobKind::Switch || !self.has_old => {
                at(Step::Publish)
            }
            (Step::Switch, Event::Done) => at(Step::Drain),
            // Whoever switches by hand knows what he wants, and may want the old release.
            (Step::Drain | Step::Stop | Step::Publish | Step::Prune, Event::Overruled) => {
                Phase::Ended(Outcome::Overruled)
            }
            (Step::Drain, Event::Done | Event::Limit) => at(Step::Stop),
            // Nobody knows what the old release has in flight, so it stays.
            (Step::Drain, Event::Failed(_) | Event::Uncertain) => at(Step::Publish),
            (Step::Stop, _) => at(Step::Publish),
            (Step::Publish, _) if self.kind == JobKind::Deploy => at(Step::Prune),
            (Step::Publish | Step::Prune, _) => Phase::Ended(Outcome::Done),
            (Step::Undo, _) => Phase::Ended(why.unwrap_or(Outcome::Failed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 6] = [
        Event::Done,
        Event::Failed(Outcome::Failed),
        Event::Failed(Outcome::Unhealthy),
        Event::Uncertain,
        Event::Limit,
        Event::Overruled,
    ];

    /// Calls `f` with every way that every job can go: its steps with their events, and its end.
    fn every_way(mut f: impl FnMut(Plan, &[(Step, Event)], Outcome)) {
        fn go(
            plan: Plan,
            phase: Phase,
            way: &mut Vec<(Step, Event)>,
            f: &mut impl FnMut(Plan, &[(Step, Event)], Outcome),
        ) {
            match phase {
                Phase::Ended(outcome) => f(plan, way, outcome),
                Phase::At(step, _) => {
                    assert!(way.len() < 12, "{plan:?} does not end: {way:?}");
                    for event in EVENTS {
                        way.push((step, event));
                        go(plan, plan.step(phase, event), way, f);
                        way.pop();
                    }
                }
            }
        }
        for kind in [JobKind::Deploy, JobKind::Rollback, JobKind::Switch, JobKind::Recover] {
            for (runs, has_old) in [(false, false), (false, true), (true, false), (true, true)] {
                // A release that is switched to by hand runs, and one that is new does not; one that
                // has to run again is the active one, of which a job may have left an old one.
                let possible = match kind {
                    JobKind::Deploy => !runs,
                    JobKind::Rollback => true,
                    JobKind::Switch => runs,
                    JobKind::Recover => !runs,
                };
                if !possible {
                    continue;
                }
                let plan = Plan { kind, runs, has_old };
                go(plan, plan.begin(), &mut Vec::new(), &mut f);
            }
        }
    }

    fn at(way: &[(Step, Event)], step: Step) -> Option<usize> {
        way.iter().position(|(s, _)| *s == step)
    }

    #[test]
    fn p8_what_is_not_healthy_is_never_switched_to() {
        every_way(|plan, way, _| {
            let Some(switch) = at(way, Step::Switch) else { return };
            assert!(way[..switch].contains(&(Step::Health, Event::Done)), "{plan:?} {way:?}");
        });
    }

    #[test]
    fn the_old_release_is_only_touched_after_the_switch() {
        every_way(|plan, way, _| {
            for step in [Step::Drain, Step::Stop, Step::Publish, Step::Prune] {
                if let Some(at) = at(way, step) {
                    assert!(way[..at].contains(&(Step::Switch, Event::Done)), "{plan:?} {way:?}");
                }
            }
        });
    }

    #[test]
    fn the_old_release_is_stopped_only_when_it_is_drained_or_its_limit_is_reached() {
        every_way(|plan, way, _| {
            let Some(stop) = at(way, Step::Stop) else { return };
            let (step, event) = way[stop - 1];
            assert_eq!(step, Step::Drain, "{plan:?} {way:?}");
            assert!(matches!(event, Event::Done | Event::Limit), "{plan:?} {way:?}");
        });
    }

    #[test]
    fn what_was_started_is_undone_unless_it_may_have_traffic() {
        every_way(|plan, way, outcome| {
            let started = at(way, Step::Start).is_some();
            let switched = way.contains(&(Step::Switch, Event::Done));
            let uncertain = way.iter().any(|(step, event)| {
                *event == Event::Uncertain
                    && matches!(step, Step::Fetch | Step::Start | Step::Health | Step::Switch)
            });
            let undone = at(way, Step::Undo).is_some();
            let needed = plan.kind == JobKind::Recover;
            assert_eq!(undone, started && !needed && !switched && !uncertain, "{plan:?} {way:?}");
            let well = matches!(outcome, Outcome::Done | Outcome::Overruled);
            assert_eq!(switched, well, "{plan:?} {way:?} {outcome:?}");
        });
    }

    #[test]
    fn p7_nothing_is_touched_any_more_once_somebody_else_has_switched() {
        every_way(|plan, way, outcome| {
            let Some(switch) = at(way, Step::Switch) else { return };
            let after = &way[switch + 1..];
            let overruled = after.iter().position(|(_, event)| *event == Event::Overruled);
            if let Some(at) = overruled.filter(|_| way[switch].1 == Event::Done) {
                assert_eq!(at + 1, after.len(), "{plan:?} {way:?}");
                assert_eq!(outcome, Outcome::Overruled);
            }
        });
    }

    #[test]
    fn a_job_ends_with_the_reason_of_its_failure() {
        every_way(|plan, way, outcome| {
            if let Some(undo) = at(way, Step::Undo) {
                let why = match way[undo - 1].1 {
                    Event::Overruled | Event::Limit => Event::Failed(Outcome::Failed),
                    event => event,
                };
                assert_eq!(why, Event::Failed(outcome), "{plan:?} {way:?}");
            }
        });
    }
}
