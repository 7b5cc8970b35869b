//! What somebody does by hand at NGINX, unless a job runs or somebody else does something.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use shunt_api::NginxTime;

use super::extract::{Body, Path};
use super::{Answer, Refusal, free, parse, slot_of, status};
use crate::daemon::peer::Peer;
use crate::daemon::shared::Shared;
use crate::deploy::app::App;
use crate::wire::{AppStatus, CanaryRequest, HoldRequest};

/// Does something to its end, also when the client leaves, and nobody may come in between; answers with
/// how things are then.
async fn by_hand<F>(
    shared: Arc<Shared>,
    peer: Peer,
    name: String,
    what: &'static str,
    work: impl FnOnce(Arc<App>) -> F + Send + 'static,
) -> Answer<Json<AppStatus>>
where
    F: Future<Output = Answer<()>> + Send,
{
    let all = async move {
        let (app, _claim) = free(&shared, peer, &name, what).await?;
        work(app.clone()).await?;
        Ok(Json(status(&shared, &app).await))
    };
    tokio::spawn(all).await.unwrap_or_else(|error| Err(Refusal::failed(&error)))
}

/// A release that runs gets a share of the requests.
pub(super) async fn canary(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Answer<Json<AppStatus>> {
    by_hand(shared, peer, name, "a change of the canary", |app| async move {
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
        Ok(())
    })
    .await
}

/// No release gets a share any more.
pub(super) async fn end_canary(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<Json<AppStatus>> {
    by_hand(shared, peer, name, "a change of the canary", |app| async move {
        let state = app.nginx.state().await.map_err(|e| Refusal::nginx(&e))?;
        if state.canary.is_some() {
            let ended = app.nginx.end_canary(state.generation).await;
            ended.map_err(|e| Refusal::nginx(&e))?;
        }
        Ok(())
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
    by_hand(shared, peer, name, "a hold", |app| async move {
        let HoldRequest { timeout } =
            if body.is_empty() { HoldRequest::default() } else { parse(&body)? };
        let timeout = timeout.unwrap_or_else(|| NginxTime::from(app.config.hold.timeout));
        app.nginx.hold(timeout).await.map_err(|e| Refusal::nginx(&e))?;
        Ok(())
    })
    .await
}

/// Requests that wait go on.
pub(super) async fn resume(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<Json<AppStatus>> {
    by_hand(shared, peer, name, "a resume", |app| async move {
        app.nginx.resume().await.map_err(|e| Refusal::nginx(&e))?;
        Ok(())
    })
    .await
}
