//! Runs a job: asks the plan for the next step, writes down that it is about to be made, makes it, and
//! reports what happens.

use std::time::Instant;

use shunt_api::{Address, InFlight, ReleaseName, Upstream};

use crate::clock::{self, Span};
use crate::config::notify;
use crate::config::{Runner, Strategy};
use crate::deploy::app::App;
use crate::deploy::failure::{Done, Failure};
use crate::deploy::jobs::Reporter;
use crate::deploy::journal::{Switch, Underway};
use crate::deploy::plan::{self, Event, Phase, Plan, Stages};
use crate::deploy::sentence::{About, Left};
use crate::notify::Message;
use crate::runner::leftover::Identity;
use crate::runner::state::State;
use crate::source::Source;
use crate::source::reader::Reader;
use crate::wire::{JobKind, Order, Outcome, Step, What};

/// A job on an application.
pub struct Job<'a> {
    pub(super) app: &'a App,
    pub(super) report: &'a Reporter,
    pub(super) kind: JobKind,
    pub(super) release: ReleaseName,
    /// Where a new release comes from.
    pub(super) from: Option<Source>,
    /// Who has named that, unless it is root, the daemon's user, or the configuration.
    pub(super) by: Option<Reader>,
    /// The slot that somebody wants for it.
    pub(super) wanted: Option<String>,
    /// The job that was cut off, and that this one finishes or takes back.
    pub(super) resumes: Option<Underway>,
    /// The active release when the job began.
    pub(super) old: Option<ReleaseName>,
    /// The last switch before this job.
    pub(super) before: Option<Switch>,
    /// The slot of the release.
    pub(super) slot: Option<Address>,
    /// What the release was made of.
    pub(super) revision: Option<String>,
    /// The step that it is at.
    pub(super) step: Option<Step>,
    /// Whether NGINX has been told of the release by this job.
    pub(super) announced: bool,
    /// Whether NGINX has been told to hold requests.
    pub(super) held: bool,
    /// Whether it ran when the job began.
    pub(super) proven: bool,
    /// Whether it did not, but its socket listened.
    pub(super) listens: bool,
    /// NGINX's state when the job began, and just before it switched.
    pub(super) figures: Option<(Upstream, Upstream)>,
    /// How many canary steps are done.
    pub(super) canaries: usize,
    /// Whether the old release had something in flight at the limit of its drain.
    pub(super) limit: bool,
    /// The release that was stopped with something in flight, at the limit of its drain, and what it had:
    /// the old one, or this one when it was taken back.
    pub(super) cut: Option<(ReleaseName, InFlight)>,
    /// A process of the release that an earlier daemon left and that could not be taken over.
    pub(super) leftover: Option<Identity>,
    /// Why it has failed, if it has.
    pub(super) failure: Option<String>,
    /// What could not be taken back of what it had begun.
    pub(super) left: Option<Left>,
}

impl<'a> Job<'a> {
    /// A deploy from a source, unless the release is somebody else's, into a slot that is free, or that
    /// somebody wants.
    #[must_use]
    pub fn deploy(
        app: &'a App,
        report: &'a Reporter,
        release: ReleaseName,
        (from, by): (Option<Source>, Option<Reader>),
        wanted: Option<String>,
    ) -> Self {
        Self { from, by, wanted, ..Self::new(app, report, JobKind::Deploy, release) }
    }

    /// A rollback, or a switch by hand: to a release that is there.
    #[must_use]
    pub fn back_to(
        app: &'a App,
        report: &'a Reporter,
        kind: JobKind,
        release: ReleaseName,
    ) -> Self {
        Self::new(app, report, kind, release)
    }

    /// What the daemon does at its start: makes run again what NGINX has active, or takes back the
    /// release that is not, and does what is left of the job that was cut off.
    #[must_use]
    pub fn recover(
        app: &'a App,
        report: &'a Reporter,
        release: ReleaseName,
        resumes: Option<Underway>,
    ) -> Self {
        Self { resumes, ..Self::new(app, report, JobKind::Recover, release) }
    }

    fn new(app: &'a App, report: &'a Reporter, kind: JobKind, release: ReleaseName) -> Self {
        Self {
            app,
            report,
            kind,
            release,
            from: None,
            by: None,
            wanted: None,
            resumes: None,
            old: None,
            before: None,
            slot: None,
            step: None,
            revision: None,
            announced: false,
            held: false,
            proven: false,
            listens: false,
            figures: None,
            canaries: 0,
            limit: false,
            cut: None,
            leftover: None,
            failure: None,
            left: None,
        }
    }

    /// Runs to the end.
    pub async fn run(mut self) -> Outcome {
        self.report.say(What::Began {
            app: self.app.config.name.clone(),
            job: self.kind,
            release: self.release.clone(),
        });
        // What is active decides what is old; without NGINX there is nothing to switch.
        let state = match self.app.nginx.state().await {
            Ok(state) => state,
            Err(error) => return self.refused(Failure::from(error)),
        };
        if let Err(failure) = self.may_be_made(&state).await {
            return self.refused(failure);
        }
        self.prepare(&state).await;
        self.tell(notify::Event::Began, "it begins");
        let plan = self.plan();
        let mut phase = self.first(plan);
        let mut switched = false;
        while let Some(step) = plan.at(phase) {
            self.step = Some(step);
            let forward = matches!(phase, Phase::Forward(..));
            // The order may have come when the step before it had just ended.
            let aborted = forward && plan::closes(step) && self.report.is_ordered(Order::Abort);
            let event = match aborted {
                true => self.failed(step, Failure::aborted()),
                false => self.attempt(step, forward && !switched).await,
            };
            switched |= step == Step::Switch && event == Event::Done;
            phase = plan.step(phase, event);
        }
        let Phase::Ended(outcome) = phase else { return self.conclude(Outcome::Done) };
        let again = matches!(self.left, Some(Left::ForNow(_)));
        if !again && !plan::keeps_intent(self.kind, outcome) {
            self.app.end().await;
        }
        self.conclude(outcome)
    }

    /// Writes down that a step is about to be made, makes it, and reports what has come of it. It is not
    /// made if it cannot be written down and `must_be_known`: once users are on the new release, what is
    /// left to do is better done than not, and so is what is taken back.
    async fn attempt(&mut self, step: Step, must_be_known: bool) -> Event {
        let start = Instant::now();
        match self.intend().await {
            Err(failure) if must_be_known => return self.failed(step, failure),
            Err(failure) => self.report.say(What::Warning { step, why: failure.why }),
            Ok(()) => {}
        }
        self.report.say(What::Step { step, note: self.about(step) });
        match self.make(step).await {
            Ok(note) => {
                let took = start.elapsed().as_secs_f64() * 1000.0;
                self.report.say(What::Done { step, took, note });
                Event::Done
            }
            Err(Failure { event: Event::Limit, why, .. }) => {
                self.limit = true;
                self.report.say(What::Limit { step, why });
                Event::Limit
            }
            Err(failure) => self.failed(step, failure),
        }
    }

    /// What a job knows before its first step.
    async fn prepare(&mut self, state: &Upstream) {
        self.app.settle(state.active.as_ref()).await;
        self.before = self.app.last_switch().await;
        self.old = match &self.resumes {
            // What the job that was cut off has left to be drained and stopped.
            Some(job) if state.active.as_ref() == Some(&self.release) => {
                job.old.clone().filter(|_| job.kind != JobKind::Switch)
            }
            Some(_) => state.active.clone(),
            None if self.kind == JobKind::Recover => None,
            None => state.active.clone().filter(|active| *active != self.release),
        };
        if let Some(job) = &self.resumes {
            self.before.clone_from(&job.before);
            // It may have come that far.
            (self.announced, self.held) = (true, job.held);
        }
        self.slot = self.app.slot_of(&self.release).await;
        let found = self.in_slot().await;
        self.proven = found.as_ref().is_some_and(|state| !state.is_at_rest());
        self.listens = found == Some(State::Listens);
        self.revision = self.app.releases.revision(&self.release);
        self.figures = Some((state.clone(), state.clone()));
    }

    /// What is in the release's slot, if it has one.
    pub(super) async fn in_slot(&self) -> Option<State> {
        let (_, state) = self.app.occupant(self.slot.as_ref()?).await?;
        Some(state)
    }

    fn plan(&self) -> Plan {
        let config = &self.app.config;
        let hooks = &config.hooks;
        // A switch by hand that was cut off has nothing left.
        let resumes = self.resumes.as_ref().filter(|job| job.kind != JobKind::Switch);
        let stages = Stages {
            build: hooks.build.is_some(),
            migrate: hooks.migrate.is_some(),
            warm_up: config.warm_up.is_some(),
            preview: config.preview.is_some(),
            before_switch: hooks.before_switch.is_some(),
            canary: config.canary.as_ref().map_or(0, |canary| canary.steps.len()),
            after_switch: hooks.after_switch.is_some(),
            // A rollback that was cut off has no guard either.
            guard: !config.guard.time.is_zero()
                && resumes.is_none_or(|job| job.kind == JobKind::Deploy),
            after_deploy: hooks.after_deploy.is_some(),
            on_failure: hooks.on_failure.is_some()
                && match self.kind {
                    JobKind::Deploy | JobKind::Rollback => true,
                    JobKind::Switch => false,
                    JobKind::Recover => resumes.is_some(),
                },
            keeps: config.keep.running,
            foreign: matches!(config.run.runner, Runner::External { .. }),
        };
        Plan {
            kind: self.kind,
            strategy: self.strategy(),
            runs: self.proven,
            listens: self.listens,
            has_old: self.old.is_some(),
            stages,
            resumes: resumes.map(|job| job.step),
        }
    }

    /// How the release takes the old one's place; a job that was cut off is finished as it was begun.
    pub(super) fn strategy(&self) -> Strategy {
        self.resumes.as_ref().map_or(self.app.config.strategy, |job| job.strategy)
    }

    /// The kind of the job itself, or of the one that it finishes.
    pub(super) fn origin(&self) -> JobKind {
        self.resumes.as_ref().map_or(self.kind, |job| job.kind)
    }

    /// Whether the release of the job that was cut off is not the active one, and is taken back.
    fn takes_back(&self) -> bool {
        let active = self.figures.as_ref().and_then(|(began, _)| began.active.as_ref());
        self.resumes.is_some() && active != Some(&self.release)
    }

    fn first(&self, plan: Plan) -> Phase {
        match &self.resumes {
            Some(_) if self.takes_back() => Phase::Back(Step::Undo, Outcome::Done),
            Some(job) if job.step == Step::SwitchBack => {
                Phase::Back(Step::SwitchBack, Outcome::SwitchedBack)
            }
            _ => plan.begin(),
        }
    }

    /// Writes down what is about to be done.
    pub(super) async fn intend(&self) -> Result<(), Failure> {
        let Some(step) = self.step else { return Ok(()) };
        let intent = match (&self.resumes, self.kind) {
            (Some(job), _) => Underway { step, held: self.held, ..job.clone() },
            // What runs again is active already: there is nothing to decide at the next start.
            (None, JobKind::Recover) => return Ok(()),
            (None, kind) => Underway {
                kind,
                release: self.release.clone(),
                old: self.old.clone(),
                ran: self.proven,
                job: self.report.id(),
                strategy: self.strategy(),
                step,
                held: self.held,
                before: self.before.clone(),
            },
        };
        let written = self.app.intend(&intent).await;
        written.map_err(|error| Failure::new(Outcome::Failed, error))
    }

    fn failed(&mut self, step: Step, failure: Failure) -> Event {
        let Failure { event, why, lines } = failure;
        if step == Step::Undo {
            self.left = Some(match event {
                Event::Failed(Outcome::Unreachable) => Left::ForNow(why.clone()),
                _ => Left::Over(why.clone()),
            });
        }
        self.failure.get_or_insert_with(|| why.clone());
        self.report.say(What::Failed { step, why, lines });
        event
    }

    /// What was cut off comes first, and a new release must not take the name of one that NGINX has for
    /// somebody else.
    async fn may_be_made(&self, state: &Upstream) -> Result<(), Failure> {
        let unfinished = self.app.unfinished().await.filter(|_| self.kind != JobKind::Recover);
        if let Some(Underway { job, kind, release, .. }) = unfinished {
            let why = format!(
                "job {job}, a {kind} of \"{release}\", was cut off and is finished or taken back first: \
                 ask again in a moment"
            );
            return Err(Failure::new(Outcome::Failed, why));
        }
        let release = &self.release;
        let known = state.release(release.as_str()).filter(|_| self.kind == JobKind::Deploy);
        match known {
            Some(known) if known.source == shunt_api::Source::Config => {
                let why = format!(
                    "\"{release}\" is a release of NGINX's configuration, choose another name"
                );
                Err(Failure::new(Outcome::Failed, why))
            }
            Some(_) if state.active.as_ref() == Some(release) => {
                let why = format!("NGINX has an active release \"{release}\", choose another name");
                Err(Failure::new(Outcome::Failed, why))
            }
            _ => Ok(()),
        }
    }

    /// Ends before the first step.
    fn refused(mut self, failure: Failure) -> Outcome {
        let outcome = match failure.event {
            Event::Failed(outcome) => outcome,
            _ => Outcome::Failed,
        };
        self.failure = Some(failure.why);
        self.conclude(outcome)
    }

    fn conclude(self, outcome: Outcome) -> Outcome {
        let recovers = (self.kind == JobKind::Recover).then(|| self.recovered(outcome));
        let about = About {
            app: &self.app.config,
            kind: self.kind,
            release: &self.release,
            old: self.old.as_ref(),
            recovers,
            takes_back: self.takes_back(),
            cut: self.cut.as_ref(),
            left: self.left.as_ref(),
        };
        let text = about.ended(outcome, self.failure.clone());
        let event = match outcome {
            Outcome::Done => notify::Event::Done,
            Outcome::SwitchedBack => notify::Event::SwitchedBack,
            _ => notify::Event::Failed,
        };
        self.tell(event, &text);
        let cut = self.cut.map(|(_, cut)| cut);
        self.report.say(What::Ended { outcome, text, cut });
        outcome
    }

    /// What a recovery has done, or could not do.
    fn recovered(&self, outcome: Outcome) -> String {
        let release = &self.release;
        let Some(job) = &self.resumes else { return format!("\"{release}\" runs again") };
        let Underway { kind, job: number, step, .. } = job;
        let what =
            format!("the {kind} of \"{release}\" (job {number}), cut off at the step {step},");
        match (self.takes_back(), outcome) {
            (true, Outcome::Done) if self.left.is_none() => format!("{what} is taken back"),
            (true, _) => format!("{what} is not taken back"),
            (false, _) => format!("{what} is finished"),
        }
    }

    /// Tells the webhooks.
    fn tell(&self, event: notify::Event, text: &str) {
        self.app.notifier.tell(Message {
            event,
            app: self.app.config.name.clone(),
            job: self.report.id(),
            kind: self.kind,
            release: self.release.clone(),
            revision: self.revision.clone(),
            previous: self.old.clone(),
            text: text.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            at: clock::now(),
        });
    }

    fn about(&self, step: Step) -> String {
        let slot = self.slot.as_ref().map(ToString::to_string).unwrap_or_default();
        let old = self.old.as_ref().map(ToString::to_string).unwrap_or_default();
        match step {
            Step::Fetch => self.from.as_ref().map(ToString::to_string).unwrap_or_default(),
            Step::Start => self.release.to_string(),
            Step::Restart | Step::Switch if !old.is_empty() => {
                format!("{old} -> {}", self.release)
            }
            Step::Restart | Step::Switch => self.release.to_string(),
            Step::SwitchBack => format!("{} -> {old}", self.release),
            Step::Health | Step::WarmUp | Step::Undo => slot,
            Step::Drain | Step::Stop => old,
            Step::Publish => "current".to_owned(),
            Step::Canary => match self.canary_step() {
                Some(step) => format!("{} for {}", step.share, Span(step.time)),
                None => String::new(),
            },
            Step::Guard => format!("for {}", Span(self.app.config.guard.time)),
            Step::Build
            | Step::Migrate
            | Step::Preview
            | Step::BeforeSwitch
            | Step::Hold
            | Step::Resume
            | Step::AfterSwitch
            | Step::AfterDeploy
            | Step::Prune
            | Step::OnFailure => String::new(),
        }
    }

    /// Makes a step; somebody may end it meanwhile, where that leaves nothing behind. Those that order
    /// something of NGINX see to it themselves: an order that is cut off may come true later.
    async fn make(&mut self, step: Step) -> Done {
        let report = self.report;
        match step {
            Step::Fetch
            | Step::Build
            | Step::Migrate
            | Step::Health
            | Step::WarmUp
            | Step::BeforeSwitch
            | Step::AfterSwitch => unless_aborted(report, self.work(step)).await,
            _ => self.work(step).await,
        }
    }

    async fn work(&mut self, step: Step) -> Done {
        match step {
            Step::Fetch => self.fetch().await,
            Step::Build
            | Step::Migrate
            | Step::BeforeSwitch
            | Step::AfterSwitch
            | Step::AfterDeploy
            | Step::OnFailure => self.hook(step).await,
            Step::Start => self.start().await,
            Step::Hold => self.hold().await,
            Step::Restart => self.restart().await,
            Step::Health => self.health().await,
            Step::WarmUp => self.warm_up().await,
            Step::Preview => self.preview().await,
            Step::Canary => self.canary().await,
            Step::Switch => self.switch().await,
            Step::Resume => self.resume().await,
            Step::Guard => self.guard().await,
            Step::Drain => self.drain().await,
            Step::Stop => self.stop().await,
            Step::Publish => self.publish().await,
            Step::Prune => self.prune().await,
            Step::SwitchBack => self.switch_back().await,
            Step::Undo => self.undo().await,
        }
    }
}

/// Does something until somebody wants the job taken back.
pub(super) async fn unless_aborted<T>(
    report: &Reporter,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = report.ordered(Order::Abort) => Err(Failure::aborted()),
        done = work => done,
    }
}
