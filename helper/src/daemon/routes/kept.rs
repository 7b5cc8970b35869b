//! The releases on disk.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use shunt_api::{Address, ReleaseName};

use super::extract::{Path, Query};
use super::{Answer, Refusal, find, free, may_change};
use crate::clock;
use crate::config::Runner;
use crate::daemon::peer::Peer;
use crate::daemon::shared::Shared;
use crate::deploy::app::App;
use crate::file::blocking;
use crate::hook;
use crate::runner::log;
use crate::wire::{KeptRelease, KeptReleases, Logs, Pruned, SlotStatus};

/// All that are kept, and what each is.
pub(super) async fn releases(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Answer<Json<KeptReleases>> {
    let app = find(&shared, &name).await?;
    let status = app.status().await;
    let kept = app.releases.clone();
    let all = blocking(move || {
        let all = kept.all()?.into_iter();
        Ok(all.map(|(made, name)| (made, kept.revision(&name), name)).collect::<Vec<_>>())
    });
    let all = all.await.map_err(|e| Refusal::failed(&e))?;
    let releases = all.into_iter().map(|(made, revision, name)| {
        let runs_in = |slot: &&SlotStatus| slot.release.as_ref() == Some(&name) && !slot.listens;
        let slot = status.slots.iter().find(runs_in);
        KeptRelease {
            made: Timestamp::try_from(made).map(clock::text).unwrap_or_default(),
            revision,
            active: status.active.as_ref() == Some(&name),
            previous: status.previous.as_ref() == Some(&name),
            slot: slot.map(|slot| slot.address.clone()),
            name,
        }
    });
    Ok(Json(KeptReleases { releases: releases.collect() }))
}

/// Which log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Of this release; of the active one if left out.
    release: Option<ReleaseName>,
    /// Of its hooks.
    #[serde(default)]
    hooks: bool,
    /// So many lines.
    #[serde(default = "hundred")]
    lines: u32,
}

fn hundred() -> u32 {
    100
}

/// What a release has said, or its hooks; only for those who may change something.
pub(super) async fn logs(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    Query(Which { release, hooks, lines }): Query<Which>,
) -> Answer<Json<Logs>> {
    may_change(&shared, peer).await?;
    let app = find(&shared, &name).await?;
    let release = match release {
        Some(release) => release,
        None => {
            let state = app.nginx.state().await.map_err(|e| Refusal::nginx(&e))?;
            let none =
                || Refusal::new(StatusCode::CONFLICT, format!("{name} has no active release"));
            state.active.ok_or_else(none)?
        }
    };
    if !hooks && let Runner::Systemd(units) = &app.config.run.runner {
        // systemd has it, of each slot.
        let Some(slot) = app.slot_of(&release).await else {
            let unit = &units.unit;
            let detail = format!(
                "\"{release}\" runs in no slot: what it said is in the journal of the one that it ran in, \
                 journalctl --unit '{unit}@*'"
            );
            return Err(Refusal::new(StatusCode::NOT_FOUND, detail));
        };
        let lines = said(&app, &slot, lines).await;
        return Ok(Json(Logs { release, lines }));
    }
    // Of a container that was removed its file has the end.
    if !hooks
        && let Runner::Docker(_) = &app.config.run.runner
        && let Some(slot) = app.slot_of(&release).await
    {
        let lines = said(&app, &slot, lines).await;
        return Ok(Json(Logs { release, lines }));
    }
    let path = match hooks {
        true => hook::log(&app.config.root, &release),
        false => app.releases.log(&release),
    };
    match blocking(move || log::last_lines_of(&path, lines as usize)).await {
        Ok(lines) => Ok(Json(Logs { release, lines })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let detail = format!("nothing is kept of what \"{release}\" has said");
            Err(Refusal::new(StatusCode::NOT_FOUND, detail))
        }
        Err(error) => Err(Refusal::failed(&error)),
    }
}

/// The last lines of what is in a slot.
async fn said(app: &App, slot: &Address, lines: u32) -> Vec<String> {
    match app.watch(slot).await {
        Some((_, tail)) => tail.last_lines(lines as usize).await,
        None => Vec::new(),
    }
}

/// Removes the oldest, as a deploy does at its end.
pub(super) async fn prune(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Answer<Json<Pruned>> {
    let (app, claim) = free(&shared, peer, &name, "a prune").await?;
    // Without NGINX nobody knows which release is active.
    let state = app.nginx.state().await.map_err(|e| Refusal::nginx(&e))?;
    let mut in_use = app.in_use(state.active.as_ref()).await;
    in_use.extend(state.previous);
    in_use.extend(state.releases.into_iter().map(|release| release.name));
    let (releases, keep) = (app.releases.clone(), app.config.keep.releases);
    let removed = blocking(move || {
        // It goes on when the client leaves, and nobody may come in between.
        let _claim = claim;
        releases.prune(keep, &in_use)
    });
    let removed = removed.await.map_err(|e| Refusal::failed(&e))?;
    Ok(Json(Pruned { removed }))
}
