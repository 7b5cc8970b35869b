//! The daemon's API.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use shunt_api::{Problem, ReleaseName};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::daemon::app::App;
use crate::daemon::jobs::Events;
use crate::daemon::shared::Shared;
use crate::deploy::engine::Job;
use crate::wire::{
    AppStatus, Apps, DeployRequest, JobKind, JobStatus, Started, SwitchRequest, What,
};

/// Who has connected, as the kernel says (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy)]
pub struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|cred| cred.uid()))
    }
}

/// An error answer.
struct Refusal(Problem);

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Problem::new(status.as_u16(), detail))
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

/// The routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/apps", get(apps))
        .route("/v1/apps/{app}", get(app))
        .route("/v1/apps/{app}/deploys", post(deploy))
        .route("/v1/apps/{app}/rollback", post(rollback))
        .route("/v1/apps/{app}/switch", post(switch))
        .route("/v1/jobs/{job}/events", get(events))
        .with_state(shared)
}

/// Root, and the user whom the daemon runs as.
fn may_change(peer: Peer) -> Answer<()> {
    let me = rustix::process::geteuid().as_raw();
    match peer.0 {
        Some(uid) if uid == 0 || uid == me => Ok(()),
        _ => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "only root and the user of shuntd may change something",
        )),
    }
}

async fn find(shared: &Shared, name: &str) -> Answer<Arc<App>> {
    if let Some(app) = shared.app(name).await {
        return Ok(app);
    }
    let apps = shared.all().await;
    let known: Vec<_> = apps.iter().map(|app| app.config.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let detail = format!("no application {name:?} is configured; there is: {known}");
    Err(Refusal::new(StatusCode::NOT_FOUND, detail))
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
    body: String,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(peer)?;
    let app = find(&shared, &name).await?;
    let DeployRequest { from, release } = parse(&body)?;
    if !from.is_absolute() {
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "\"from\" must be absolute"));
    }
    let release = match release {
        Some(release) => release,
        None => unused_name(&app)?,
    };
    if release.as_str().starts_with(['.', '-']) {
        let detail = format!("release \"{release}\" cannot begin with \".\" or \"-\"");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    if app.releases.of(&release).exists() {
        let detail = format!("release \"{release}\" exists already, choose another name");
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    begin(&shared, &app, JobKind::Deploy, release, Some(from)).await
}

/// The time as a name; with a number when that is taken.
fn unused_name(app: &App) -> Answer<ReleaseName> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    (0..1000)
        .map(|n| if n == 0 { time.clone() } else { format!("{time}-{n}") })
        .filter_map(|name| ReleaseName::new(&name).ok())
        .find(|name| !app.releases.of(name).exists())
        .ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "too many releases in this second"))
}

async fn rollback(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(peer)?;
    let app = find(&shared, &name).await?;
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
    if app.slot_of(&release).await.is_none() && !app.releases.of(&release).exists() {
        let detail = format!(
            "the previous release \"{release}\" is not one that shuntd can start: there is no \
             folder {}",
            app.releases.of(&release).display()
        );
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    begin(&shared, &app, JobKind::Rollback, release, None).await
}

/// The releases that run, as one reads them.
async fn running(app: &App) -> String {
    let names: Vec<_> = app.occupants().await.into_iter().map(|(_, r)| r.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

async fn switch(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    body: String,
) -> Answer<(StatusCode, Json<Started>)> {
    may_change(peer)?;
    let app = find(&shared, &name).await?;
    let SwitchRequest { release } = parse(&body)?;
    if app.slot_of(&release).await.is_none() {
        let running = running(&app).await;
        let detail = format!("release \"{release}\" does not run; running: {running}");
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    begin(&shared, &app, JobKind::Switch, release, None).await
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

async fn begin(
    shared: &Arc<Shared>,
    app: &App,
    kind: JobKind,
    release: ReleaseName,
    from: Option<std::path::PathBuf>,
) -> Answer<(StatusCode, Json<Started>)> {
    let reporter = shared.jobs.begin(&app.config.name, kind, &release).map_err(|running| {
        let JobStatus { job, release, since, .. } = running;
        let detail = format!(
            "{} is locked by job {job} for release \"{release}\" since {since}",
            app.config.name
        );
        Refusal::new(StatusCode::LOCKED, detail)
    })?;
    // From here on what it needs stays. The configuration may be another one since it was looked at.
    let app = find(shared, app.config.name.as_str()).await?;
    let started = Started { job: reporter.id(), release: release.clone() };
    // The job is the daemon's: it goes on when the client leaves.
    tokio::spawn(async move {
        let job = match from {
            Some(from) => Job::deploy(&app, release, from),
            None => Job::back_to(&app, kind, release),
        };
        job.run(&reporter).await;
    });
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// The events of a job as a stream (SSE), after the one that `Last-Event-ID` names.
async fn events(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(job): Path<u64>,
    headers: HeaderMap,
) -> Answer<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    let follow = shared.jobs.follow(job).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, format!("no job {job} is remembered"))
    })?;
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    // What an application writes may be nobody else's business.
    let all = may_change(peer).is_ok();
    let next = move |(mut follow, seen): (watch::Receiver<Events>, usize)| async move {
        let has_more = |events: &Events| events.ended || events.list.len() > seen;
        let mut event = follow.wait_for(has_more).await.ok()?.list.get(seen).cloned()?;
        if let What::Failed { lines, .. } = &mut event.what
            && !all
        {
            lines.clear();
        }
        let text = serde_json::to_string(&event).unwrap_or_default();
        let sse = sse::Event::default().id(event.id.to_string()).data(text);
        Some((Ok(sse), (follow, seen + 1)))
    };
    let stream = stream::unfold((follow, seen.unwrap_or(0)), next);
    Ok(Sse::new(stream).keep_alive(sse::KeepAlive::default()))
}
