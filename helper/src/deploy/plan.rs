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
    /// It may have happened or not: NGINX got the order to switch and did not answer.
    Uncertain,
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
            (JobKind::Rollback | JobKind::Recover, false) => Step::Start,
            (JobKind::Rollback | JobKind::Recover, true) | (JobKind::Switch, _) => Step::Switch,
        };
        Phase::At(step, None)
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
                let started = self.kind == JobKind::Deploy || !self.runs;
                if started && self.kind != JobKind::Switch {
                    Phase::At(Step::Undo, Some(outcome))
                } else {
                    Phase::Ended(outcome)
                }
            }
            // Either release may be the active one, so both have to stay.
            (Step::Fetch | Step::Start | Step::Health | Step::Switch, Event::Uncertain) => {
                Phase::Ended(Outcome::Unreachable)
            }
            (Step::Switch, Event::Done) if self.kind == JobKind::Switch || !self.has_old => {
                at(Step::Publish)
            }
            (Step::Switch, Event::Done) => at(Step::Drain),
            (Step::Drain, _) => at(Step::Stop),
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

    const EVENTS: [Event; 4] = [
        Event::Done,
        Event::Failed(Outcome::Failed),
        Event::Failed(Outcome::Unhealthy),
        Event::Uncertain,
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
        for kind in [JobKind::Deploy, JobKind::Rollback, JobKind::Switch] {
            for (runs, has_old) in [(false, false), (false, true), (true, false), (true, true)] {
                // A release that is switched to by hand runs, and one that is deployed does not.
                if (kind == JobKind::Switch && !runs) || (kind == JobKind::Deploy && runs) {
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
            let healthy = way[..switch].contains(&(Step::Health, Event::Done));
            assert!(healthy || plan.runs, "{plan:?} {way:?}");
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
    fn what_was_started_is_undone_unless_it_may_have_traffic() {
        every_way(|plan, way, outcome| {
            let started = at(way, Step::Start).is_some();
            let switched = way.contains(&(Step::Switch, Event::Done));
            let uncertain = way.iter().any(|(step, event)| {
                *event == Event::Uncertain
                    && matches!(step, Step::Fetch | Step::Start | Step::Health | Step::Switch)
            });
            let undone = at(way, Step::Undo).is_some();
            assert_eq!(undone, started && !switched && !uncertain, "{plan:?} {way:?}");
            assert_eq!(switched, outcome == Outcome::Done, "{plan:?} {way:?} {outcome:?}");
        });
    }

    #[test]
    fn a_job_ends_with_the_reason_of_its_failure() {
        every_way(|plan, way, outcome| {
            if let Some(undo) = at(way, Step::Undo) {
                assert_eq!(way[undo - 1].1, Event::Failed(outcome), "{plan:?} {way:?}");
            }
        });
    }
}
