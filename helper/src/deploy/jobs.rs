//! Jobs: one at a time for each application, each with events that can be followed from any point. What
//! somebody does by hand takes the application for as long, too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shunt_api::ReleaseName;
use tokio::sync::watch;

use crate::deploy::journal::{Journal, JournalError};
use crate::wire::{Event, JobKind, JobRecord, JobStatus, Order, Outcome, Step, What};
use crate::{clock, log};

/// How many jobs are kept at hand; the journal has more.
const AT_HAND: usize = 100;

/// How many lines of programs are kept at hand of a job; the logs have more.
const LINES: usize = 2000;

/// All jobs of a daemon.
pub struct Jobs {
    journal: Arc<Journal>,
    inner: Arc<Mutex<Inner>>,
    ended: Arc<Mutex<Ended>>,
}

/// How many jobs have ended how, since the daemon started.
type Ended = HashMap<(ReleaseName, JobKind, Outcome), u64>;

struct Inner {
    last: u64,
    jobs: VecDeque<Arc<Job>>,
    by_hand: HashMap<ReleaseName, ByHand>,
}

/// What somebody does by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    /// What it is, and who does it.
    pub what: String,
    /// When it began, in RFC 3339.
    pub since: String,
}

/// Who has an application for himself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A job.
    Job(JobStatus),
    /// Somebody, by hand.
    ByHand(ByHand),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job(JobStatus { job, kind, release, since, step }) => {
                write!(f, "since {since} by job {job}, a {kind} of release \"{release}\"")?;
                match step {
                    Some(step) => write!(f, ", which is at the step {step}"),
                    None => Ok(()),
                }
            }
            Self::ByHand(ByHand { what, since }) => write!(f, "since {since} by {what}"),
        }
    }
}

/// An application is somebody's who does something by hand, until this is dropped.
#[must_use]
pub struct Claim {
    app: ReleaseName,
    inner: Arc<Mutex<Inner>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.inner).by_hand.remove(&self.app);
    }
}

/// A job that runs, or ran.
pub struct Job {
    /// Its number.
    pub id: u64,
    app: ReleaseName,
    kind: JobKind,
    release: ReleaseName,
    since: String,
    events: watch::Sender<Events>,
    orders: watch::Sender<Option<Order>>,
}

/// What has happened in a job until now.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// In their order; the ids count from 1. Where lines are left out, one says so.
    pub list: VecDeque<Event>,
    /// Whether more will come.
    pub ended: bool,
    /// The step that it is at.
    pub step: Option<Step>,
    /// How many have been.
    last: u64,
    /// How many lines are kept.
    lines: usize,
    /// Where the last lines were left out, and how many there.
    gap: Option<(usize, u64)>,
}

/// Why a job does not take an order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No job runs.
    #[error("no job runs for {app}")]
    NoJob {
        /// The application.
        app: ReleaseName,
    },
    /// It waits for nobody's word.
    #[error(
        "job {job} is at the step {}: only a canary step and the guard can be promoted",
        step.map_or_else(|| "none yet".to_owned(), |s| s.to_string())
    )]
    NothingToPromote {
        /// The job.
        job: u64,
        /// Where it is.
        step: Option<Step>,
    },
    /// It cannot be taken back any more.
    #[error("job {job} is at the step {step}: it is too late to abort, `shunt rollback` goes back")]
    TooLate {
        /// The job.
        job: u64,
        /// Where it is.
        step: Step,
    },
    /// It finishes, or takes back, what an earlier daemon was at.
    #[error("job {job} makes the active release run again and cannot be aborted: wait for its end")]
    Recovers {
        /// The job.
        job: u64,
    },
}

impl Events {
    /// Those that follow the one with this id.
    pub fn after(&self, id: u64) -> impl Iterator<Item = &Event> {
        self.list.range(self.list.partition_point(|event| event.id <= id)..)
    }

    /// Those of a job that has ended, as they are written down.
    #[must_use]
    pub fn ended(list: Vec<Event>) -> Self {
        Self { list: list.into(), ended: true, ..Self::default() }
    }

    /// The id of the next one.
    fn next(&self) -> u64 {
        self.last + 1
    }

    fn push(&mut self, event: Event) {
        self.last = event.id;
        self.lines += usize::from(matches!(event.what, What::Line { .. }));
        self.list.push_back(event);
        if self.lines > LINES {
            self.forget_line();
        }
    }

    /// Leaves out the oldest line. In its place, or of those left out just before it, stands how many that
    /// are: whoever begins to follow the job late is told.
    fn forget_line(&mut self) {
        let from = self.gap.map_or(0, |(at, _)| at + 1);
        let is_line = |event: &Event| matches!(event.what, What::Line { .. });
        let Some(found) = self.list.range(from..).position(is_line) else { return };
        self.lines -= 1;
        let (at, n) = match self.gap {
            Some((at, n)) if found == 0 => {
                if let Some(line) = self.list.remove(from) {
                    self.list[at] = line;
                }
                (at, n + 1)
            }
            _ => (from + found, 1),
        };
        self.gap = Some((at, n));
        if let What::Line { text, .. } = &mut self.list[at].what {
            let lines = if n == 1 { "1 line is" } else { &format!("{n} lines are") };
            *text = format!("[{lines} not shown any more]");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under this lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// The jobs that a journal has, and those to come.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn new(journal: Arc<Journal>) -> Result<Self, JournalError> {
        let last = journal.last_job().await?;
        let inner = Inner { last, jobs: VecDeque::new(), by_hand: HashMap::new() };
        Ok(Self { journal, inner: Arc::new(Mutex::new(inner)), ended: Arc::default() })
    }

    /// Where they are written down.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Begins a job, unless somebody has this application for himself.
    ///
    /// # Errors
    ///
    /// Who that is.
    pub fn begin(
        &self,
        app: &ReleaseName,
        kind: JobKind,
        release: &ReleaseName,
    ) -> Result<Reporter, Holder> {
        let mut inner = lock(&self.inner);
        if let Some(holder) = inner.holder(app) {
            return Err(holder);
        }
        inner.last += 1;
        let job = Arc::new(Job {
            id: inner.last,
            app: app.clone(),
            kind,
            release: release.clone(),
            since: clock::now(),
            events: watch::Sender::new(Events::default()),
            orders: watch::Sender::new(None),
        });
        self.journal.begun(&job.record());
        inner.jobs.push_back(job.clone());
        while inner.jobs.len() > AT_HAND {
            let ended = inner.jobs.iter().position(|job| job.events.borrow().ended);
            match ended {
                Some(at) => inner.jobs.remove(at),
                None => break,
            };
        }
        let (journal, ended) = (self.journal.clone(), self.ended.clone());
        Ok(Reporter { job, journal, ended, start: Instant::now() })
    }

    /// Takes an application for what somebody does by hand, unless somebody has it for himself.
    ///
    /// # Errors
    ///
    /// Who that is.
    pub fn claim(&self, app: &ReleaseName, what: String) -> Result<Claim, Holder> {
        let mut inner = lock(&self.inner);
        if let Some(holder) = inner.holder(app) {
            return Err(holder);
        }
        inner.by_hand.insert(app.clone(), ByHand { what, since: clock::now() });
        Ok(Claim { app: app.clone(), inner: self.inner.clone() })
    }

    /// Who has an application for himself.
    pub fn holder(&self, app: &ReleaseName) -> Option<Holder> {
        lock(&self.inner).holder(app)
    }

    /// The job that runs for an application.
    pub fn running(&self, app: &ReleaseName) -> Option<JobStatus> {
        lock(&self.inner).running(app).map(|job| job.status())
    }

    /// How many jobs of an application have ended how, since the daemon started.
    pub fn ended(&self, app: &ReleaseName) -> Vec<(JobKind, Outcome, u64)> {
        let ended = lock(&self.ended);
        let of_app = ended.iter().filter(|((of, _, _), _)| of == app);
        of_app.map(|((_, kind, outcome), count)| (*kind, *outcome, *count)).collect()
    }

    /// Follows a job that runs, or that ran a moment ago. All others the journal has.
    pub fn follow(&self, id: u64) -> Option<watch::Receiver<Events>> {
        let inner = lock(&self.inner);
        inner.jobs.iter().find(|job| job.id == id).map(|job| job.events.subscribe())
    }

    /// Gives the job that runs for an application an order.
    ///
    /// # Errors
    ///
    /// [`OrderError`].
    pub fn order(&self, app: &ReleaseName, order: Order) -> Result<JobStatus, OrderError> {
        let inner = lock(&self.inner);
        let job = inner.running(app).ok_or_else(|| OrderError::NoJob { app: app.clone() })?;
        let step = job.events.borrow().step;
        match (order, step) {
            (Order::Promote, Some(Step::Canary | Step::Guard)) => {}
            (Order::Promote, step) => {
                return Err(OrderError::NothingToPromote { job: job.id, step });
            }
            (Order::Abort, Some(step)) if !is_in_time(step) => {
                return Err(OrderError::TooLate { job: job.id, step });
            }
            // What NGINX sends requests to has to run, whoever wants what.
            (Order::Abort, step)
                if job.kind == JobKind::Recover
                    && !matches!(step, Some(Step::AfterSwitch | Step::Guard)) =>
            {
                return Err(OrderError::Recovers { job: job.id });
            }
            (Order::Abort, _) => {}
        }
        job.orders.send_replace(Some(order));
        Ok(job.status())
    }
}

/// Whether a job at this step can still be taken back.
fn is_in_time(step: Step) -> bool {
    match step {
        Step::Fetch
        | Step::Build
        | Step::Migrate
        | Step::Start
        | Step::Hold
        | Step::Restart
        | Step::Health
        | Step::WarmUp
        | Step::Preview
        | Step::BeforeSwitch
        | Step::Canary
        | Step::AfterSwitch
        | Step::Guard => true,
        Step::Switch
        | Step::Resume
        | Step::Drain
        | Step::Stop
        | Step::Publish
        | Step::AfterDeploy
        | Step::Prune
        | Step::SwitchBack
        | Step::Undo
        | Step::OnFailure => false,
    }
}

impl Inner {
    /// Who has an application for himself.
    fn holder(&self, app: &ReleaseName) -> Option<Holder> {
        let job = self.running(app).map(|job| Holder::Job(job.status()));
        job.or_else(|| self.by_hand.get(app).cloned().map(Holder::ByHand))
    }

    fn running(&self, app: &ReleaseName) -> Option<&Arc<Job>> {
        self.jobs.iter().find(|job| job.app == *app && !job.events.borrow().ended)
    }
}

impl Job {
    fn status(&self) -> JobStatus {
        JobStatus {
            job: self.id,
            kind: self.kind,
            release: self.release.clone(),
            since: self.since.clone(),
            step: self.events.borrow().step,
        }
    }

    fn record(&self) -> JobRecord {
        JobRecord {
            job: self.id,
            app: self.app.clone(),
            kind: self.kind,
            release: self.release.clone(),
            since: self.since.clone(),
            took: None,
            outcome: None,
            text: None,
        }
    }
}

/// Reports what happens in a job. When it is dropped, the job has ended, however that came.
pub struct Reporter {
    job: Arc<Job>,
    journal: Arc<Journal>,
    ended: Arc<Mutex<Ended>>,
    start: Instant,
}

impl Reporter {
    /// The job's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.job.id
    }

    /// Waits for this order.
    pub async fn ordered(&self, order: Order) {
        let mut orders = self.job.orders.subscribe();
        if orders.wait_for(|given| *given == Some(order)).await.is_err() {
            // The sender is this job's own, so this is never reached.
            std::future::pending::<()>().await;
        }
        if order == Order::Promote {
            // It is for one step.
            self.job.orders.send_if_modified(|given| given.take_if(|o| *o == order).is_some());
        }
    }

    /// Whether this order was given and not yet obeyed.
    #[must_use]
    pub fn is_ordered(&self, order: Order) -> bool {
        *self.job.orders.borrow() == Some(order)
    }

    /// Adds an event.
    pub fn say(&self, what: What) {
        let at = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.log(&what);
        if let What::Ended { outcome, text, .. } = &what {
            self.journal.ended(self.job.id, at, *outcome, text);
            let key = (self.job.app.clone(), self.job.kind, *outcome);
            *lock(&self.ended).entry(key).or_default() += 1;
        }
        if matches!(what, What::Step { .. }) {
            // Whoever promoted meant the step that was shown to him, not the one that begins now.
            let stale =
                |given: &mut Option<Order>| given.take_if(|o| *o == Order::Promote).is_some();
            self.job.orders.send_if_modified(stale);
        }
        self.job.events.send_modify(|events| {
            events.ended |= matches!(what, What::Ended { .. });
            if let What::Step { step, .. } = &what {
                events.step = Some(*step);
            }
            let event = Event { id: events.next(), at, what };
            if let Some(kept) = kept(&event) {
                self.journal.event(self.job.id, &kept);
            }
            events.push(event);
        });
    }

    /// What the daemon's log has of a job: that it began, and how it ended.
    fn log(&self, what: &What) {
        match what {
            What::Began { app, job, release } => {
                log::info(format_args!(
                    "{app}: {job} of \"{release}\" begins, job {}",
                    self.job.id
                ));
            }
            What::Ended { outcome: Outcome::Done, text, cut: None } => log::notice(text),
            What::Ended { outcome: Outcome::Done, text, cut: Some(_) } => log::warning(text),
            What::Ended { text, .. } => log::error(text),
            What::Step { .. }
            | What::Line { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Limit { .. }
            | What::Warning { .. } => {}
        }
    }
}

/// What of an event goes into the journal: nothing that an application or a hook has said, as that may
/// hold what is secret.
fn kept(event: &Event) -> Option<Event> {
    let what = match &event.what {
        What::Line { .. } => return None,
        What::Failed { step, why, .. } => {
            What::Failed { step: *step, why: why.clone(), lines: Vec::new() }
        }
        what => what.clone(),
    };
    Some(Event { what, ..event.clone() })
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.job.events.send_modify(|events| events.ended = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ReleaseName {
        ReleaseName::new(text).unwrap()
    }

    async fn jobs(state: &std::path::Path) -> Jobs {
        Jobs::new(Arc::new(Journal::open(state).unwrap())).await.unwrap()
    }

    fn ended() -> What {
        What::Ended { outcome: Outcome::Done, text: "it is".to_owned(), cut: None }
    }

    #[tokio::test]
    async fn p7_a_second_job_is_told_of_the_first() {
        let state = tempfile::tempdir().unwrap();
        let jobs = jobs(state.path()).await;
        let first = jobs.begin(&name("web"), JobKind::Deploy, &name("v1")).ok().unwrap();
        let locked = jobs.begin(&name("web"), JobKind::Rollback, &name("v0")).err().unwrap();
        let Holder::Job(job) = locked else { panic!("{locked}") };
        assert_eq!((job.job, job.kind), (first.id(), JobKind::Deploy));
        let locked = jobs.claim(&name("web"), "a prune".to_owned()).err().unwrap();
        assert!(locked.to_string().ends_with("by job 1, a deploy of release \"v1\""), "{locked}");
        assert!(jobs.begin(&name("shop"), JobKind::Deploy, &name("v1")).is_ok());
        drop(first);
        assert!(jobs.begin(&name("web"), JobKind::Rollback, &name("v0")).is_ok());
    }

    #[tokio::test]
    async fn p7_a_job_and_what_is_done_by_hand_are_told_of_each_other() {
        let state = tempfile::tempdir().unwrap();
        let jobs = jobs(state.path()).await;
        let claim = jobs.claim(&name("web"), "a prune by user 0".to_owned()).unwrap();
        let begin = || jobs.begin(&name("web"), JobKind::Deploy, &name("v1"));
        let other = || jobs.claim(&name("web"), "a hold by user 0".to_owned());
        for holder in [begin().err().unwrap(), other().err().unwrap()] {
            assert!(holder.to_string().ends_with(" by a prune by user 0"), "{holder}");
        }
        assert!(jobs.claim(&name("shop"), "a hold by user 0".to_owned()).is_ok());
        drop(claim);
        let job = begin().ok().unwrap();
        assert!(matches!(other(), Err(Holder::Job(_))));
        drop(job);
        assert!(other().is_ok());
    }

    #[tokio::test]
    async fn events_can_be_followed_from_the_start_after_the_end() {
        let state = tempfile::tempdir().unwrap();
        let jobs = jobs(state.path()).await;
        let reporter = jobs.begin(&name("web"), JobKind::Deploy, &name("v1")).ok().unwrap();
        let id = reporter.id();
        reporter.say(ended());
        drop(reporter);
        let events = jobs.follow(id).unwrap().borrow().clone();
        assert!(events.ended);
        assert_eq!(events.list.iter().map(|e| e.id).collect::<Vec<_>>(), [1]);
        assert!(jobs.follow(id + 1).is_none());
    }

    #[tokio::test]
    async fn the_journal_has_what_happened_but_for_what_applications_say() {
        let state = tempfile::tempdir().unwrap();
        let before = jobs(state.path()).await;
        let reporter = before.begin(&name("web"), JobKind::Deploy, &name("v1")).ok().unwrap();
        let (step, text) = (Step::Build, "PASSWORD=secret".to_owned());
        reporter.say(What::Line { step, text: text.clone() });
        reporter.say(What::Failed { step, why: "exit status 1".to_owned(), lines: vec![text] });
        reporter.say(ended());
        drop(reporter);
        drop(before);
        let file = std::fs::read(state.path().join(crate::deploy::journal::FILE)).unwrap();
        assert!(!String::from_utf8_lossy(&file).contains("secret"));
        let after = jobs(state.path()).await;
        let events = after.journal().events(1).await.unwrap();
        assert_eq!(events.iter().map(|e| e.id).collect::<Vec<_>>(), [2, 3]);
        let record = after.journal().job(1).await.unwrap().unwrap();
        assert_eq!((record.outcome, record.text.as_deref()), (Some(Outcome::Done), Some("it is")));
        let next = after.begin(&name("web"), JobKind::Deploy, &name("v2")).ok().unwrap();
        assert_eq!(next.id(), 2);
    }

    #[tokio::test]
    async fn of_what_programs_say_the_last_lines_are_kept_and_the_rest_is_counted() {
        let state = tempfile::tempdir().unwrap();
        let jobs = jobs(state.path()).await;
        let reporter = jobs.begin(&name("web"), JobKind::Deploy, &name("v1")).ok().unwrap();
        let step = |step| reporter.say(What::Step { step, note: String::new() });
        let line = |step, n: usize| reporter.say(What::Line { step, text: n.to_string() });
        let events = || jobs.follow(reporter.id()).unwrap().borrow().clone();
        let shown = |events: &Events, n: usize| {
            let show = |event: &Event| match &event.what {
                What::Step { step, .. } => (event.id, step.to_string()),
                What::Line { text, .. } => (event.id, text.clone()),
                what => panic!("{what:?}"),
            };
            events.list.iter().take(n).map(show).collect::<Vec<_>>()
        };
        step(Step::Fetch);
        (1..=10).for_each(|n| line(Step::Fetch, n));
        step(Step::Build);
        (1..=LINES).for_each(|n| line(Step::Build, n));
        let owned = |all: &[(u64, &str)]| -> Vec<(u64, String)> {
            all.iter().map(|(id, text)| (*id, (*text).to_owned())).collect()
        };
        let gap = "[10 lines are not shown any more]";
        let begin = [(1, "fetch"), (11, gap), (12, "build"), (13, "1"), (14, "2")];
        assert_eq!(shown(&events(), 5), owned(&begin));
        line(Step::Build, LINES + 1);
        let other = "[1 line is not shown any more]";
        let begin = [(1, "fetch"), (11, gap), (12, "build"), (13, other), (14, "2")];
        assert_eq!(shown(&events(), 5), owned(&begin));
        (2..=LINES).for_each(|n| line(Step::Build, LINES + n));
        let last = events();
        assert_eq!(last.list.len(), LINES + 4);
        let gone = format!("[{LINES} lines are not shown any more]");
        let begin = [(12, "build"), (12 + LINES as u64, &gone), (13 + LINES as u64, "2001")];
        assert_eq!(shown(&last, 5)[2..], owned(&begin));
        // Whoever has seen some of them goes on with what there is.
        assert_eq!(last.after(500).next().map(|event| event.id), Some(12 + LINES as u64));
        let id = last.list.back().unwrap().id;
        assert!(last.after(id).next().is_none() && last.after(id - 1).count() == 1);
        assert!(last.list.iter().zip(last.list.iter().skip(1)).all(|(a, b)| a.id < b.id));
    }

    #[tokio::test]
    async fn an_order_is_taken_only_where_it_can_be_followed() {
        let state = tempfile::tempdir().unwrap();
        let (jobs, web) = (jobs(state.path()).await, name("web"));
        assert!(matches!(jobs.order(&web, Order::Abort), Err(OrderError::NoJob { .. })));
        let reporter = jobs.begin(&web, JobKind::Deploy, &name("v1")).ok().unwrap();
        let at = |step| reporter.say(What::Step { step, note: String::new() });
        at(Step::Health);
        let error = jobs.order(&web, Order::Promote).unwrap_err();
        assert!(matches!(error, OrderError::NothingToPromote { .. }), "{error}");
        at(Step::Drain);
        let error = jobs.order(&web, Order::Abort).unwrap_err();
        assert!(matches!(error, OrderError::TooLate { .. }), "{error}");
        at(Step::Guard);
        jobs.order(&web, Order::Promote).unwrap();
        reporter.ordered(Order::Promote).await;
    }

    #[tokio::test]
    async fn an_order_that_nobody_obeyed_is_not_for_the_next_step_unless_it_ends_the_job() {
        let state = tempfile::tempdir().unwrap();
        let (jobs, web) = (jobs(state.path()).await, name("web"));
        let reporter = jobs.begin(&web, JobKind::Deploy, &name("v1")).ok().unwrap();
        let at = |step| reporter.say(What::Step { step, note: String::new() });
        at(Step::Canary);
        jobs.order(&web, Order::Promote).unwrap();
        at(Step::Guard);
        assert!(!reporter.is_ordered(Order::Promote));
        jobs.order(&web, Order::Abort).unwrap();
        at(Step::Drain);
        assert!(reporter.is_ordered(Order::Abort));
    }

    #[tokio::test]
    async fn what_makes_the_active_release_run_again_is_not_aborted() {
        let state = tempfile::tempdir().unwrap();
        let (jobs, web) = (jobs(state.path()).await, name("web"));
        let reporter = jobs.begin(&web, JobKind::Recover, &name("v1")).ok().unwrap();
        let at = |step| reporter.say(What::Step { step, note: String::new() });
        at(Step::Health);
        let error = jobs.order(&web, Order::Abort).unwrap_err();
        assert!(matches!(error, OrderError::Recovers { .. }), "{error}");
        at(Step::Guard);
        jobs.order(&web, Order::Abort).unwrap();
    }
}
