//! The daemon's API.

mod by_hand;
mod extract;
mod followed;
mod kept;
mod looks;
mod name;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use shunt_api::{Address, Problem, ReleaseName};

use extract::{Body, Path, Query};

use crate::config::{self, Runner};
use crate::daemon::call::Call;
use crate::daemon::peer::Peer;
use crate::daemon::recover::Recovery;
use crate::daemon::shared::Shared;
use crate::deploy::app::App;
use crate::deploy::engine::Job;
use crate::deploy::jobs::{Claim, Holder, OrderError};
use crate::nginx::NginxError;
use crate::source::Source;
use crate::source::reader::Reader;
use crate::source::reference::{BadReference, Reference};
use crate::wire::{
    AppStatus, Apps, DeployRequest, History, JobKind, JobStatus, Order, Outcome, RollbackRequest,
    Started, SwitchRequest,
};

/// An error answer.
struct Refusal(Problem);

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Problem::new(status.as_u16(), detail))
    }

    /// Something went wrong here.
    fn failed(error: &dyn std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    /// NGINX refuses something, or cannot be asked.
    fn nginx(error: &NginxError) -> Self {
        let status = match error.is_unreachable() || error.is_uncertain() {
            true => StatusCode::BAD_GATEWAY,
            false => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = [("content-type", shunt_api::problem::PROBLEM_JSON)];
        (status, json, serde_json::to_vec(&self.0).unwrap_or_default()).into_response()
    }
}

type Answer<T> = Result<T, Refusal>;

/// The routes: every [`Call`], which the OpenAPI document has, too.
pub fn router(shared: Arc<Shared>) -> Router {
    let all = Call::ALL.into_iter();
    let router = all.fold(Router::new(), |router, call| router.route(call.path(), handler(call)));
    router.fallback(no_path).method_not_allowed_fallback(no_method).with_state(shared)
}

fn handler(call: Call) -> MethodRouter<Arc<Shared>> {
    match call {
        Call::Page => get(looks::page),
        Call::Metrics => get(looks::metrics),
        Call::Apps => get(apps),
        Call::App => get(app),
        Call::Deploy => post(deploy),
        Call::Rollback => post(rollback),
        Call::Switch => post(switch),
        Call::Promote => post(promote),
        Call::Abort => post(abort),
        Call::PutCanary => put(by_hand::canary),
        Call::DeleteCanary => delete(by_hand::end_canary),
        Call::PutHold => put(by_hand::hold),
        Call::DeleteHold => delete(by_hand::resume),
        Call::Releases => get(kept::releases),
        Call::Logs => get(kept::logs),
        Call::Prune => post(kept::prune),
        Call::Jobs => get(history),
        Call::Job => get(followed::job),
        Call::Events => get(followed::events),
    }
}

async fn no_path() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn no_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods, see Allow")
}

/// An error unless this one may change something.
async fn may_change(shared: &Shared, peer: Peer) -> Answer<()> {
    match shared.rights.allow(peer).await {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::FORBIDDEN, shared.rights.refusal())),
    }
}

async fn find(shared: &Shared, name: &str) -> Answer<Arc<App>> {
    if let Some(app) = shared.app(name).await {
        return Ok(app);
    }
    let apps = shared.all().await;
    let known = listed(apps.iter().map(|app| &app.config.name));
    let detail = format!("no application {name:?} is configured; there is: {known}");
    Err(Refusal::new(StatusCode::NOT_FOUND, detail))
}

/// The application, if this one may do something to it now, as nobody else does; and nobody else will
/// as long as the claim is there.
async fn free(shared: &Shared, peer: Peer, name: &str, what: &str) -> Answer<(Arc<App>, Claim)> {
    may_change(shared, peer).await?;
    let app = find(shared, name).await?;
    let claim = shared.jobs.claim(&app.config.name, format!("{what} that {peer} does by hand"));
    let claim = claim.map_err(|holder| locked(&app.config.name, &holder))?;
    // As for a job: the configuration may be another one since it was looked at.
    Ok((find(shared, name).await?, claim))
}

async fn status(shared: &Shared, app: &App) -> AppStatus {
    AppStatus { job: shared.jobs.running(&app.config.name), ..app.status().await }
}

async fn apps(State(shared): State<Arc<Shared>>) -> Json<Apps> {
    let apps = shared.all().await;
    let all = apps.iter().map(|app| status(&shared, app));
    Json(Apps { apps: futures_util::future::join_all(all).await })
}

async fn app(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Answer<Json<AppStatus>> {
    let app = find(&shared, &name).await?;
    Ok(Json(status(&shared, &app).await))
}

async fn deploy(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(&shared, peer).await?;
    let app = find(&shared, &name).await?;
    let DeployRequest { from, reference, slot, release } = parse(&body)?;
    let by = if from.is_some() { shared.rights.reader(peer).await } else { None };
    let from = match app.config.run.runner {
        Runner::External { .. } if from.is_some() || reference.is_some() => {
            let detail = "with runner \"external\" releases come from somebody else: leave out \
                          \"from\" and \"ref\"";
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        Runner::External { .. } => None,
        Runner::Docker(_) if from.is_some() => {
            let detail = "with runner \"docker\" a release is an image: leave out \"from\", \"ref\" is \
                          its tag or digest";
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        Runner::Docker(ref docker) => Some(image(docker, reference, release.as_ref())?),
        Runner::Process { .. } | Runner::Systemd(_) => Some(source(&app, from, reference)?),
    };
    let release = match release {
        Some(release) => release,
        None => name::unused(&app, from.as_ref())?,
    };
    if release.as_str().starts_with(['.', '-']) {
        let detail = format!("release \"{release}\" cannot begin with \".\" or \"-\"");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    if app.releases.of(&release).exists() {
        let detail = format!("release \"{release}\" exists already, choose another name");
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    begin(&shared, &app, Work::Deploy { from, by, slot }, release).await
}

/// Where a release comes from: what was asked for, or what `[source]` names.
fn source(app: &App, from: Option<PathBuf>, reference: Option<String>) -> Answer<Source> {
    let refuse = |why: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why);
    let source = match from {
        Some(from) if !from.is_absolute() => {
            return Err(refuse("\"from\" must be absolute".to_owned()));
        }
        Some(from) => Source::at(from),
        None => app.config.source.origin.clone().ok_or_else(|| {
            let file = app.config.file.display();
            refuse(format!(
                "say where the release comes from (--from), or write [source] in {file}"
            ))
        })?,
    };
    let Some(reference) = reference else { return Ok(source) };
    let reference: Reference =
        reference.parse().map_err(|e: BadReference| refuse(e.to_string()))?;
    let refusal =
        || refuse(format!("{source} has no branches, tags or commits: leave \"ref\" out"));
    source.clone().with_reference(reference).ok_or_else(refusal)
}

/// The image of a release: at what was asked for, or else at the release's name, unless the
/// configuration has chosen.
fn image(
    docker: &config::Docker,
    reference: Option<String>,
    release: Option<&ReleaseName>,
) -> Answer<Source> {
    let named = release.filter(|_| !docker.image.is_chosen()).map(ToString::to_string);
    let image = match reference.or(named) {
        Some(reference) => docker
            .image
            .at(&reference)
            .map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?,
        None => docker.image.clone().or_latest(),
    };
    Ok(Source::Image(image))
}

async fn rollback(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(&shared, peer).await?;
    let app = find(&shared, &name).await?;
    unlocked(&shared, &app)?;
    let RollbackRequest { to } = if body.is_empty() { Default::default() } else { parse(&body)? };
    if let Some(release) = to {
        return back_to(&shared, &app, release).await;
    }
    let (active, previous) = match app.nginx.state().await {
        Ok(state) => {
            // A switch whose end was not known may have come true.
            app.settle(state.active.as_ref()).await;
            let previous = app.previous(&state).await;
            (state.active, previous)
        }
        Err(error) => match app.last_previous().await {
            // The job will tell.
            Some(release) => (None, Some(release)),
            None => return Err(Refusal::new(StatusCode::BAD_GATEWAY, error.to_string())),
        },
    };
    let Some(release) = previous else {
        let active = active.map_or_else(|| "none".to_owned(), |active| format!("\"{active}\""));
        let detail = format!(
            "{name} has nothing to go back to: active is {active}, and which release was active \
             before is not known; running: {}; `shunt switch` goes to one of these",
            running(&app).await
        );
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    };
    let ours = !matches!(app.config.run.runner, Runner::External { .. });
    if ours && !app.runs(&release).await && !app.releases.of(&release).exists() {
        let detail = format!(
            "the previous release \"{release}\" is not one that shuntd can start: there is no \
             folder {}",
            app.releases.of(&release).display()
        );
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    begin(&shared, &app, Work::Back(JobKind::Rollback), release).await
}

/// A rollback to a release that is kept.
async fn back_to(
    shared: &Arc<Shared>,
    app: &App,
    release: ReleaseName,
) -> Answer<(StatusCode, Json<Started>)> {
    let kept = app.releases.all().map_err(|e| Refusal::failed(&e))?;
    let ours = !matches!(app.config.run.runner, Runner::External { .. });
    if ours && !kept.iter().any(|(_, name)| *name == release) {
        let names = listed(kept.iter().map(|(_, name)| name));
        let detail = format!("release \"{release}\" is not kept; there is: {names}");
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    begin(shared, app, Work::Back(JobKind::Rollback), release).await
}

/// The releases that run, as one reads them.
async fn running(app: &App) -> String {
    listed(app.running().await.iter().map(|(_, release)| release))
}

/// Names as one reads them.
fn listed<'a>(names: impl Iterator<Item = &'a ReleaseName>) -> String {
    let names: Vec<_> = names.map(ReleaseName::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The slot that a release runs in, as it must.
async fn slot_of(app: &App, release: &ReleaseName) -> Answer<Address> {
    let known = app.slot_of(release).await;
    if let Some(slot) = &known
        && !app.is_at_rest(slot).await
    {
        return Ok(slot.clone());
    }
    let (name, running) = (&app.config.name, running(app).await);
    let mut detail = format!("release \"{release}\" does not run; running: {running}");
    if known.is_some() {
        detail += &format!("; `shunt rollback {name} --to {release}` starts it");
    }
    Err(Refusal::new(StatusCode::CONFLICT, detail))
}

async fn switch(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(&shared, peer).await?;
    let app = find(&shared, &name).await?;
    unlocked(&shared, &app)?;
    let SwitchRequest { release } = parse(&body)?;
    slot_of(&app, &release).await?;
    begin(&shared, &app, Work::Back(JobKind::Switch), release).await
}

fn parse<T: serde::de::DeserializeOwned>(body: &str) -> Answer<T> {
    serde_json::from_str(body).map_err(|error| {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        Refusal::new(status, format!("in the request body: {error}"))
    })
}

/// What a job is to do.
enum Work {
    /// A new release, and where it comes from, who has said that and has his own rights only, and where
    /// it goes to, if somebody says so.
    Deploy { from: Option<Source>, by: Option<Reader>, slot: Option<String> },
    /// To one that is there.
    Back(JobKind),
}

async fn begin(
    shared: &Arc<Shared>,
    app: &App,
    work: Work,
    release: ReleaseName,
) -> Answer<(StatusCode, Json<Started>)> {
    let name = &app.config.name;
    let kind = match &work {
        Work::Deploy { .. } => JobKind::Deploy,
        Work::Back(kind) => *kind,
    };
    let reporter =
        shared.jobs.begin(name, kind, &release).map_err(|holder| locked(name, &holder))?;
    // From here on what it needs stays. The configuration may be another one since it was looked at.
    let app = find(shared, app.config.name.as_str()).await?;
    let started = Started { job: reporter.id(), release: release.clone() };
    let all = shared.clone();
    // The job is the daemon's: it goes on when the client leaves.
    shared.work(async move {
        let job = match work {
            Work::Deploy { from, by, slot } => {
                Job::deploy(&app, &reporter, release, (from, by), slot)
            }
            Work::Back(kind) => Job::back_to(&app, &reporter, kind, release),
        };
        let outcome = job.run().await;
        let id = reporter.id();
        let left = if outcome == Outcome::Uncertain { None } else { app.left_by(id).await };
        drop(reporter);
        if let Some(left) = left {
            Recovery::of_left(&app, id, left, &all).await;
        }
    });
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// An error if somebody has it for himself: what can be seen of it may be half done.
fn unlocked(shared: &Shared, app: &App) -> Answer<()> {
    let name = &app.config.name;
    shared.jobs.holder(name).map_or(Ok(()), |holder| Err(locked(name, &holder)))
}

/// Somebody has it for himself.
fn locked(app: &ReleaseName, holder: &Holder) -> Refusal {
    Refusal::new(StatusCode::LOCKED, format!("{app} is locked {holder}"))
}

async fn promote(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<Started>)> {
    order(&shared, peer, &name, Order::Promote).await
}

async fn abort(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<Started>)> {
    order(&shared, peer, &name, Order::Abort).await
}

/// Gives the job that runs an order; it can be followed from there on.
async fn order(
    shared: &Shared,
    peer: Peer,
    name: &str,
    order: Order,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(shared, peer).await?;
    let app = find(shared, name).await?;
    let refused = |error: OrderError| Refusal::new(StatusCode::CONFLICT, error.to_string());
    let JobStatus { job, release, .. } =
        shared.jobs.order(&app.config.name, order).map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(Started { job, release })))
}

/// How many jobs are shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    #[serde(default = "twenty")]
    limit: u32,
}

fn twenty() -> u32 {
    20
}

async fn history(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(Limit { limit }): Query<Limit>,
) -> Answer<Json<History>> {
    let app = find(&shared, &name).await?;
    let jobs = shared.jobs.journal().history(&app.config.name, limit).await;
    Ok(Json(History { jobs: jobs.map_err(|e| Refusal::failed(&e))? }))
}
