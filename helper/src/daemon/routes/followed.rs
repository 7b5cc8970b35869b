//! A job: what has happened in it, and what happens.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::extract::Path;
use super::{Answer, Refusal};
use crate::daemon::peer::Peer;
use crate::daemon::shared::Shared;
use crate::deploy::jobs::Events;
use crate::wire::{Event, JobDetails, What};

/// A job with its events; what an application has said only for those who may change something.
pub(super) async fn job(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(job): Path<u64>,
) -> Answer<Json<JobDetails>> {
    let journal = shared.jobs.journal();
    let record = journal.job(job).await.map_err(|e| Refusal::failed(&e))?;
    let record = record.ok_or_else(|| unknown(job))?;
    let events = match shared.jobs.follow(job) {
        Some(follow) => follow.borrow().list.clone().into(),
        None => journal.events(job).await.map_err(|e| Refusal::failed(&e))?,
    };
    let all = shared.rights.allow(peer).await;
    let events = events.into_iter().filter_map(|event| shown(event, all)).collect();
    Ok(Json(JobDetails { record, events }))
}

fn unknown(job: u64) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("no job {job} is remembered"))
}

/// What somebody sees of an event: what an application writes may be nobody else's business.
fn shown(mut event: Event, all: bool) -> Option<Event> {
    match &mut event.what {
        What::Line { .. } if !all => return None,
        What::Failed { lines, .. } if !all => lines.clear(),
        _ => {}
    }
    Some(event)
}

/// The events of a job as a stream (SSE), after the one that `Last-Event-ID` names.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(job): Path<u64>,
    headers: HeaderMap,
) -> Answer<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    let follow = match shared.jobs.follow(job) {
        Some(follow) => follow,
        // An older one, or of an earlier daemon: nothing more happens in it.
        None => {
            let journal = shared.jobs.journal();
            let known = journal.job(job).await.map_err(|e| Refusal::failed(&e))?;
            known.ok_or_else(|| unknown(job))?;
            let list = journal.events(job).await.map_err(|e| Refusal::failed(&e))?;
            watch::channel(Events::ended(list)).1
        }
    };
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let all = shared.rights.allow(peer).await;
    let next = move |(mut follow, seen): (watch::Receiver<Events>, u64)| {
        let shared = shared.clone();
        async move {
            let has_more = |events: &Events| events.ended || events.after(seen).next().is_some();
            tokio::select! {
                biased;
                // Where the sender is gone, all is there already.
                _ = follow.wait_for(has_more) => {}
                // The rest the next daemon has.
                () = shared.ends() => {}
            }
            let event = follow.borrow().after(seen).next().cloned()?;
            let id = event.id;
            let sse = match shown(event, all) {
                Some(event) => {
                    let text = serde_json::to_string(&event).unwrap_or_default();
                    sse::Event::default().id(id.to_string()).data(text)
                }
                None => sse::Event::default().comment(""),
            };
            Some((Ok(sse), (follow, id)))
        }
    };
    let stream = stream::unfold((follow, seen.unwrap_or(0)), next);
    Ok(Sse::new(stream).keep_alive(sse::KeepAlive::default()))
}
