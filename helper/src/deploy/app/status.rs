//! An application as the API shows it.

use crate::deploy::app::{App, Inner};
use crate::runner::state::State;
use crate::wire::{AppStatus, ReleaseStatus, SlotStatus};

impl App {
    /// Its slots, as the API shows them.
    pub async fn slot_statuses(&self) -> Vec<SlotStatus> {
        self.statuses_of(&*self.inner.lock().await)
    }

    fn statuses_of(&self, inner: &Inner) -> Vec<SlotStatus> {
        self.known(inner)
            .map(|slot| {
                let found = inner.running.iter().find(|(s, _, _)| s == slot);
                let state = found.map_or(State::Stopped, |(_, _, running)| running.state());
                let runs = matches!(state, State::Running { .. });
                let (listens, restarts) = (state == State::Listens, state.restarts());
                let release = found.filter(|_| state != State::Stopped).map(|(_, r, _)| r.clone());
                let pid = match state {
                    State::Running { pid, .. } => pid,
                    _ => None,
                };
                SlotStatus { address: slot.clone(), release, runs, listens, pid, restarts }
            })
            .collect()
    }

    /// As the API shows it; the job is the caller's to add.
    pub async fn status(&self) -> AppStatus {
        let (state, nginx_error) = match self.nginx.state().await {
            Ok(state) => (Some(state), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let previous = match &state {
            Some(state) => self.previous(state).await,
            None => self.last_previous().await,
        };
        let inner = self.inner.lock().await;
        let slots = self.statuses_of(&inner);
        let releases = state.iter().flat_map(|state| &state.releases).map(|known| {
            let slot = inner.running.iter().find(|(_, release, _)| *release == known.name);
            let slot = slot.map(|(slot, _, _)| slot.clone());
            ReleaseStatus { name: known.name.clone(), slot, in_flight: known.in_flight }
        });
        AppStatus {
            name: self.config.name.clone(),
            upstream: self.config.upstream().to_owned(),
            active: state.as_ref().and_then(|s| s.active.clone()),
            previous,
            generation: state.as_ref().map(|s| s.generation),
            releases: releases.collect(),
            canary: state.as_ref().and_then(|s| s.canary.clone()),
            hold: state.as_ref().and_then(|s| s.hold),
            holdable: state.as_ref().map(|s| s.holdable),
            nginx_error,
            slots,
            job: None,
        }
    }
}
