//! What somebody does by hand at NGINX, unless a job runs or somebody else does something.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use shunt_api::NginxTime;

use super::extract::{Body, Path};
use super::{Answer, Refusal, free, parse, slot_of, status};
use crate::daemon::peer::Peer;
use crate::daemon::shared::Shared;
use crate::wire::{AppStatus, CanaryRequest, HoldRequest};

/// Does something to its end, also when the client leaves: nobody may come in between.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Refusal::failed(&error)))
}

/// A release that runs gets a share of the requests.
pub(super) async fn canary(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<Json<AppStatus>> {
    to_its_end(async move {
        let (app, _claim) = free(&shared, peer, &name, "a change of the canary").await?;
        let CanaryRequest { release, share } = parse(&body)?;
        let slot = slot_of(&app, &release).await?;
        let nginx = &app.nginx;
        let state = nginx.state().await.map_err(|e| Refusal::nginx(&e))?;
        let state = match state.release(release.as_str()) {
            Some(_) => state,
            None => {
                let put = nginx.put(&release, &slot, state.generation).await;
                put.map_err(|e| Refusal::nginx(&e))?
            }
        };
        let done = nginx.canary(&release, share, state.generation).await;
        done.map_err(|e| Refusal::nginx(&e))?;
        Ok(Json(status(&shared, &app).await))
    })
    .await
}

/// No release gets a share any more.
pub(super) async fn end_canary(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<Json<AppStatus>> {
    to_its_end(async move {
        let (app, _claim) = free(&shared, peer, &name, "a change of the canary").await?;
        let state = app.nginx.state().await.map_err(|e| Refusal::nginx(&e))?;
        if state.canary.is_some() {
            let ended = app.nginx.end_canary(state.generation).await;
            ended.map_err(|e| Refusal::nginx(&e))?;
        }
        Ok(Json(status(&shared, &app).await))
    })
    .await
}

/// New requests wait.
pub(super) async fn hold(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<Json<AppStatus>> {
    to_its_end(async move {
        let (app, _claim) = free(&shared, peer, &name, "a hold").await?;
        let HoldRequest { timeout } =
            if body.is_empty() { HoldRequest::default() } else { parse(&body)? };
        let timeout = timeout.unwrap_or_else(|| NginxTime::from(app.config.hold.timeout));
        app.nginx.hold(timeout).await.map_err(|e| Refusal::nginx(&e))?;
        Ok(Json(status(&shared, &app).await))
    })
    .await
}

/// Requests that wait go on.
pub(super) async fn resume(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<Json<AppStatus>> {
    to_its_end(async move {
        let (app, _claim) = free(&shared, peer, &name, "a resume").await?;
        app.nginx.resume().await.map_err(|e| Refusal::nginx(&e))?;
        Ok(Json(status(&shared, &app).await))
    })
    .await
}
