//! What `GET /metrics` says, in Prometheus' text format.
//!
//! All of it is put together anew for each page, so nothing is left of a slot or a release that is gone.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use shunt_api::ReleaseName;

use crate::deploy::journal::Latest;
use crate::wire::{JobKind, JobStatus, Outcome, SlotStatus};

pub use prometheus_text::CONTENT_TYPE;

/// What a page says of an application.
#[derive(Debug)]
pub struct AppFigures {
    /// The application.
    pub app: ReleaseName,
    /// Its slots.
    pub slots: Vec<SlotStatus>,
    /// The job that runs.
    pub job: Option<JobStatus>,
    /// What the journal has.
    pub latest: Latest,
    /// How many jobs have ended so, since the daemon started.
    pub ended: Vec<(JobKind, Outcome, u64)>,
}

/// Labels, in their order.
type Labels = Vec<(&'static str, String)>;

type Gauges = Family<Labels, Gauge>;
type Seconds = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// The page.
///
/// # Errors
///
/// None that a text gives.
pub fn page(apps: &[AppFigures]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("shuntd");
    let (info, running, step, up) =
        (Gauges::default(), Gauges::default(), Gauges::default(), Gauges::default());
    let (last, deploy) = (Seconds::default(), Seconds::default());
    let (jobs, restarts) = (Counters::default(), Counters::default());
    registry.register("info", "1, the label is the version", info.clone());
    registry.register("jobs", "Jobs that have ended, since shuntd started", jobs.clone());
    registry.register("job_running", "1 while a job runs", running.clone());
    registry.register("job_step", "1, the labels are the job that runs and its step", step.clone());
    registry.register("last_job_seconds", "How long the last job took", last.clone());
    registry.register(
        "last_successful_deploy_timestamp_seconds",
        "When the last deploy ended that was done",
        deploy.clone(),
    );
    registry.register("slot_up", "1 while the release in the slot runs", up.clone());
    registry.register(
        "slot_restarts",
        "How often the release in the slot was started again",
        restarts.clone(),
    );

    let version = env!("CARGO_PKG_VERSION").to_owned();
    info.get_or_create(&vec![("version", version)]).set(1);
    for AppFigures { app, slots, job, latest, ended } in apps {
        let labels = |more: &[(&'static str, &dyn fmt::Display)]| -> Labels {
            let app = ("app", app.to_string());
            let more = more.iter().map(|(name, value)| (*name, value.to_string()));
            std::iter::once(app).chain(more).collect()
        };
        // Also those that there were none of: the first job that fails has to be an increase.
        for (kind, outcome) in
            JobKind::ALL.into_iter().flat_map(|kind| Outcome::ALL.map(|outcome| (kind, outcome)))
        {
            let count = ended.iter().find(|(k, o, _)| (*k, *o) == (kind, outcome));
            jobs.get_or_create(&labels(&[("kind", &kind), ("outcome", &outcome.name())]))
                .inc_by(count.map_or(0, |(_, _, count)| *count));
        }
        running.get_or_create(&labels(&[])).set(job.is_some().into());
        if let Some(JobStatus { kind, release, step: Some(at), .. }) = job {
            step.get_or_create(&labels(&[("kind", kind), ("release", release), ("step", at)]))
                .set(1);
        }
        if let Some((kind, took)) = latest.ended {
            let took = Duration::from_millis(took).as_secs_f64();
            last.get_or_create(&labels(&[("kind", &kind)])).set(took);
        }
        if let Some(end) = latest.successful_deploy.as_ref().and_then(|(since, took)| {
            let since: Timestamp = since.parse().ok()?;
            since.checked_add(Duration::from_millis(*took)).ok()
        }) {
            let seconds = Duration::try_from(end.duration_since(Timestamp::UNIX_EPOCH));
            deploy.get_or_create(&labels(&[])).set(seconds.unwrap_or_default().as_secs_f64());
        }
        for slot in slots {
            // What was stopped is not down.
            let Some(release) = slot.release.as_ref().filter(|_| !slot.listens) else { continue };
            let labels = labels(&[("slot", &slot.address), ("release", release)]);
            up.get_or_create(&labels).set(slot.runs.into());
            restarts.get_or_create(&labels).inc_by(slot.restarts.into());
        }
    }
    let mut page = String::new();
    prometheus_text::encode(&mut page, &registry)?;
    Ok(page)
}
