//! The pure state machine of a job: after this step, with this result, which step is next?
//!
//! Until the switch, whatever goes wrong is undone and users have not noticed. After it, only the guard
//! goes back; what else goes wrong is reported, and the job goes on.

use crate::config::Strategy;
use crate::wire::{JobKind, Outcome, Step};

/// What is known when a job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What the job is.
    pub kind: JobKind,
    /// How the new release takes the old one's place.
    pub strategy: Strategy,
    /// Whether the release runs already: then nothing has to be started, and nothing to be undone.
    pub runs: bool,
    /// Whether it does not, but its socket listens: it can be switched to before it has started, as
    /// connections wait.
    pub listens: bool,
    /// Whether another release is active, which has to be drained, and can be switched back to.
    pub has_old: bool,
    /// The steps that are made only if they are configured.
    pub stages: Stages,
    /// Of a job that finishes another one, which was cut off after its switch: the step that that one
    /// was at.
    pub resumes: Option<Step>,
}

/// The steps that are made only if they are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stages {
    /// There is a hook `build`.
    pub build: bool,
    /// There is a hook `migrate`.
    pub migrate: bool,
    /// There are warm-up requests.
    pub warm_up: bool,
    /// There is a check through NGINX.
    pub preview: bool,
    /// There is a hook `before_switch`.
    pub before_switch: bool,
    /// How many canary steps there are.
    pub canary: usize,
    /// There is a hook `after_switch`.
    pub after_switch: bool,
    /// There is a guard.
    pub guard: bool,
    /// There is a hook `after_deploy`.
    pub after_deploy: bool,
    /// There is a hook `on_failure`.
    pub on_failure: bool,
    /// The old release runs on when it is drained.
    pub keeps: bool,
    /// Releases are somebody else's: there are no files of them, and nobody here stops one.
    pub foreign: bool,
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
    /// Somebody has ended it by hand.
    Aborted,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// At this place of its way; what went wrong after the switch decides how it ends.
    Forward(usize, Option<Outcome>),
    /// On its way back, and how that will end.
    Back(Step, Outcome),
    /// At its end.
    Ended(Outcome),
}

impl Plan {
    /// All steps on the way forward, in their order.
    #[must_use]
    pub fn way(self) -> Vec<Step> {
        if self.kind == JobKind::Recover {
            return self.rest();
        }
        let in_place = self.strategy == Strategy::InPlace;
        let (deploys, stages) = (self.kind == JobKind::Deploy, self.stages);
        let replaces = !self.runs && in_place && self.has_old;
        let retires = self.has_old && !in_place;
        let files = deploys && !stages.foreign;
        let stays = self.kind == JobKind::Switch;
        let hooks = matches!(self.kind, JobKind::Deploy | JobKind::Rollback);
        let at_once = self.is_at_once();
        let before = [
            (Step::Fetch, files),
            (Step::Build, files && stages.build),
            (Step::Migrate, files && stages.migrate),
            (Step::BeforeSwitch, deploys && stages.before_switch && in_place),
            (Step::Hold, replaces),
            (Step::Restart, replaces),
            (Step::Start, !self.runs && !replaces),
            (Step::Switch, at_once),
            // What runs may be ill all the same.
            (Step::Health, true),
            (Step::WarmUp, deploys && stages.warm_up),
            (Step::Preview, deploys && stages.preview && !in_place),
            (Step::BeforeSwitch, deploys && stages.before_switch && !in_place),
        ];
        let canaries = if deploys && retires { stages.canary } else { 0 };
        let after = [
            (Step::Switch, !at_once),
            (Step::Resume, replaces),
            (Step::AfterSwitch, hooks && stages.after_switch),
            (Step::Guard, deploys && stages.guard && self.has_old),
            // Whoever switches by hand may want the old release to stay.
            (Step::Drain, retires && !stays),
            (Step::Stop, self.has_old && !stays && !self.keeps()),
            (Step::Publish, !stages.foreign),
            (Step::AfterDeploy, hooks && stages.after_deploy),
            (Step::Prune, files),
        ];
        let canaries = std::iter::repeat_n(Step::Canary, canaries);
        made(&before).chain(canaries).chain(made(&after)).collect()
    }

    /// The way of a job that makes run again what NGINX has active, and finishes the one that was cut
    /// off after it had switched.
    fn rest(self) -> Vec<Step> {
        let in_place = self.strategy == Strategy::InPlace;
        let left = self.resumes.map(place);
        // What had begun is done again: a hook that was cut off has perhaps done nothing.
        let is_left = |step| left.is_some_and(|left| left <= place(step));
        let all = [
            (Step::Start, true),
            (Step::Health, true),
            (Step::Switch, true),
            (Step::Resume, in_place && is_left(Step::Resume)),
            (Step::AfterSwitch, self.stages.after_switch && is_left(Step::AfterSwitch)),
            (Step::Guard, self.stages.guard && self.has_old && is_left(Step::Guard)),
            (Step::Drain, self.has_old && !in_place),
            (Step::Stop, self.has_old && !self.keeps()),
            (Step::Publish, !self.stages.foreign),
            (Step::AfterDeploy, self.stages.after_deploy && is_left(Step::AfterDeploy)),
            (Step::Prune, !self.stages.foreign && is_left(Step::Prune)),
        ];
        made(&all).collect()
    }

    /// Whether the switch comes before the release has started: it has served before, and whoever goes back
    /// to it wants to be away from the other one now, which runs on until this one is healthy.
    fn is_at_once(self) -> bool {
        let rolls_back = self.kind == JobKind::Rollback && self.strategy == Strategy::BlueGreen;
        rolls_back && self.listens && self.has_old
    }

    /// Whether users are on the release before it is known to be healthy, while the old one runs: it was
    /// switched to at once, or the job that did was cut off.
    fn can_go_back(self) -> bool {
        let cut_off = self.resumes.is_some_and(|step| place(step) < place(Step::Drain));
        self.is_at_once() || (cut_off && self.has_old && self.strategy == Strategy::BlueGreen)
    }

    /// Whether the old release runs on. In place it cannot.
    fn keeps(self) -> bool {
        (self.stages.keeps || self.stages.foreign) && self.strategy == Strategy::BlueGreen
    }

    /// The first step.
    #[must_use]
    pub fn begin(self) -> Phase {
        Phase::Forward(0, None)
    }

    /// The step that a phase is at; none at its end.
    #[must_use]
    pub fn at(self, phase: Phase) -> Option<Step> {
        match phase {
            Phase::Forward(at, _) => self.way().get(at).copied(),
            Phase::Back(step, _) => Some(step),
            Phase::Ended(_) => None,
        }
    }

    /// The phase that follows.
    #[must_use]
    pub fn step(self, phase: Phase, event: Event) -> Phase {
        match phase {
            Phase::Forward(at, but) => self.forward(at, but, event),
            Phase::Back(step, outcome) => self.back(step, outcome, event),
            Phase::Ended(_) => phase,
        }
    }

    fn forward(self, at: usize, but: Option<Outcome>, event: Event) -> Phase {
        let way = self.way();
        let Some(&step) = way.get(at) else { return self.end(but.unwrap_or(Outcome::Done)) };
        let go = |to, but: Option<Outcome>| match to < way.len() {
            true => Phase::Forward(to, but),
            false => self.end(but.unwrap_or(Outcome::Done)),
        };
        let next = |but| go(at + 1, but);
        let switched = way.iter().position(|s| *s == Step::Switch).is_some_and(|s| s < at);
        let on_it = switched || self.kind == JobKind::Recover;
        match event {
            Event::Done => next(but),
            Event::Failed(_) | Event::Uncertain | Event::Limit | Event::Aborted
                if matches!(step, Step::Start | Step::Health) && on_it && self.can_go_back() =>
            {
                Phase::Back(Step::SwitchBack, Outcome::SwitchedBack)
            }
            // Before the switch nothing was taken from anybody.
            Event::Failed(outcome) if !switched => self.fail(step, outcome),
            Event::Aborted if !switched => self.fail(step, Outcome::Aborted),
            Event::Overruled | Event::Limit if !switched => self.fail(step, Outcome::Failed),
            // Either release may be the active one, so both have to stay.
            Event::Uncertain if !switched => self.end(Outcome::Uncertain),
            // Whoever switches by hand knows what he wants, and may want the old release.
            Event::Overruled => self.end(Outcome::Overruled),
            Event::Failed(_) if step == Step::Guard => {
                Phase::Back(Step::SwitchBack, Outcome::SwitchedBack)
            }
            // Until the old release drains, or stops in place, it is there to go back to.
            Event::Aborted
                if self.has_old
                    && matches!(
                        step,
                        Step::AfterSwitch | Step::Guard | Step::Drain | Step::Stop
                    ) =>
            {
                Phase::Back(Step::SwitchBack, Outcome::SwitchedBack)
            }
            // Nobody knows what the old release has in flight, so it stays.
            Event::Failed(_) | Event::Uncertain if step == Step::Drain => {
                let after = if way.get(at + 1) == Some(&Step::Stop) { at + 2 } else { at + 1 };
                go(after, but)
            }
            Event::Failed(Outcome::Hook) => next(Some(Outcome::Hook)),
            Event::Failed(_) | Event::Uncertain | Event::Limit | Event::Aborted => next(but),
        }
    }

    fn back(self, step: Step, outcome: Outcome, event: Event) -> Phase {
        match (step, event) {
            (Step::SwitchBack, Event::Done) if self.begins() || self.resumes.is_some() => {
                Phase::Back(Step::Undo, outcome)
            }
            (Step::SwitchBack, Event::Done) => self.end(outcome),
            (Step::SwitchBack, Event::Overruled) => self.end(Outcome::Overruled),
            (Step::SwitchBack, Event::Uncertain) => self.end(Outcome::Uncertain),
            (Step::SwitchBack, _) | (Step::Undo, Event::Failed(Outcome::NotSwitchedBack)) => {
                self.end(Outcome::NotSwitchedBack)
            }
            // What a killed daemon had begun is still there: the next start tries again.
            (Step::Undo, Event::Failed(why)) if outcome == Outcome::Done => self.end(why),
            (Step::OnFailure, _) => Phase::Ended(outcome),
            _ => self.end(outcome),
        }
    }

    /// After a failure before the switch.
    fn fail(self, step: Step, outcome: Outcome) -> Phase {
        // A fetch leaves nothing itself.
        match self.begins() && step != Step::Fetch {
            true => Phase::Back(Step::Undo, outcome),
            false => self.end(outcome),
        }
    }

    /// Whether the job leaves something that nobody needs if it does not come to its end. What ran
    /// before ran for somebody; what is started at the daemon's start is needed all the same, as NGINX
    /// sends requests to it already.
    fn begins(self) -> bool {
        match self.kind {
            JobKind::Deploy => true,
            JobKind::Rollback => !self.runs,
            JobKind::Switch | JobKind::Recover => false,
        }
    }

    fn end(self, outcome: Outcome) -> Phase {
        if outcome != Outcome::Done && self.stages.on_failure {
            Phase::Back(Step::OnFailure, outcome)
        } else {
            Phase::Ended(outcome)
        }
    }
}

/// Whether a step is one after which a job cannot be taken back as before: whoever wants that has to
/// be heard before it.
#[must_use]
pub fn closes(step: Step) -> bool {
    matches!(step, Step::Switch | Step::Drain | Step::Stop)
}

/// Whether what a job was about stays written down when it has ended so, to be finished or taken back
/// at the daemon's next start. The next job of the application takes its place.
#[must_use]
pub fn keeps_intent(kind: JobKind, outcome: Outcome) -> bool {
    match outcome {
        // It is settled by the next look at NGINX.
        Outcome::Uncertain => true,
        // What could not be finished now may be then.
        Outcome::Failed | Outcome::Unhealthy | Outcome::Unreachable | Outcome::NotSwitchedBack => {
            kind == JobKind::Recover
        }
        Outcome::Done
        | Outcome::Hook
        | Outcome::Aborted
        | Outcome::SwitchedBack
        | Outcome::Overruled => false,
    }
}

/// Of these steps, those that are made.
fn made(all: &[(Step, bool)]) -> impl Iterator<Item = Step> {
    all.iter().filter(|(_, is_made)| *is_made).map(|(step, _)| *step)
}

/// Where a step stands among those that follow the switch; those before it are at its beginning.
fn place(step: Step) -> usize {
    const AFTER: [Step; 9] = [
        Step::Switch,
        Step::Resume,
        Step::AfterSwitch,
        Step::Guard,
        Step::Drain,
        Step::Stop,
        Step::Publish,
        Step::AfterDeploy,
        Step::Prune,
    ];
    AFTER.iter().position(|s| *s == step).unwrap_or(0)
}

#[cfg(test)]
mod tests;
