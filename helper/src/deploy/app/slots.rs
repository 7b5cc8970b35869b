//! The slots of an application: where they are, and which of them is free.

use shunt_api::{Address, Upstream};

use crate::config::{Runner, Slot};
use crate::deploy::app::{App, Inner};
use crate::log;
use crate::runner::external::{ResolveError, resolve};
use crate::runner::running::Running;

/// Why a release cannot have the slot that was named.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// It is none.
    #[error("{name:?} is no slot: there are {slots}")]
    Unknown {
        /// What was named.
        name: String,
        /// What there is.
        slots: String,
    },
    /// It is not free.
    #[error("slot {slot} is not free: {why}")]
    Taken {
        /// The slot.
        slot: Slot,
        /// By whom.
        why: String,
    },
    /// It cannot be found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

impl App {
    /// Its slots as they are configured.
    fn slots(&self) -> Vec<Slot> {
        match &self.config.run.runner {
            Runner::External { slots } => slots.clone(),
            Runner::Process { .. } | Runner::Systemd(_) | Runner::Docker(_) => {
                self.config.run.slots.iter().cloned().map(Slot::Address).collect()
            }
        }
    }

    /// Where its slots are, as far as that is known: names of somebody else's as they were last
    /// resolved.
    pub async fn addresses(&self) -> Vec<Address> {
        self.known(&*self.inner.lock().await).cloned().collect()
    }

    pub(super) fn known<'a>(&'a self, inner: &'a Inner) -> impl Iterator<Item = &'a Address> {
        let resolved = inner.resolved.iter().map(|(_, address)| address);
        self.config.run.slots.iter().chain(resolved)
    }

    /// Where a slot is now.
    async fn resolve(&self, slot: &Slot) -> Result<Address, ResolveError> {
        let address = resolve(slot).await?;
        if let Slot::Host { .. } = slot {
            let mut inner = self.inner.lock().await;
            inner.resolved.retain(|(known, _)| known != slot);
            inner.resolved.push((slot.clone(), address.clone()));
        }
        Ok(address)
    }

    /// The slot at this address as it is configured, if that has the name of a host.
    pub(super) fn host_at(inner: &Inner, address: &Address) -> Option<Slot> {
        // Two names can lead to one machine: it is the one that was just asked for.
        let found = inner.resolved.iter().rev().find(|(_, at)| at == address);
        found.map(|(slot, _)| slot.clone())
    }

    /// Where a slot is that has the name of a host, if it still is one; where it was if nobody knows that
    /// now.
    pub(super) async fn place_of(&self, host: &str, was: Address) -> Address {
        let Some(slot) = self.slots().into_iter().find(|slot| slot.to_string() == host) else {
            return was;
        };
        let mut inner = self.inner.lock().await;
        let known = inner.resolved.iter().position(|(known, _)| *known == slot);
        let address = match known {
            Some(at) => inner.resolved.remove(at).1,
            None => was,
        };
        inner.resolved.push((slot, address.clone()));
        address
    }

    /// Resolves all of them; what cannot be is told in the log.
    pub(super) async fn resolve_all(&self) {
        let slots = self.slots();
        let all = slots.iter().map(|slot| self.resolve(slot));
        for error in futures_util::future::join_all(all).await.into_iter().filter_map(Result::err) {
            log::warning(format_args!("{}: {error}", self.config.name));
        }
    }

    /// A slot that a release can be started in: nothing runs or listens there, and the active release of
    /// NGINX's, which somebody else may have started, is elsewhere. Where somebody else runs releases, it
    /// is a slot that is not the active release's.
    ///
    /// # Errors
    ///
    /// When a slot cannot be resolved.
    pub async fn free_slot(&self, state: &Upstream) -> Result<Option<Address>, ResolveError> {
        for slot in self.slots() {
            if self.why_taken(&slot, state).await?.is_none() {
                let address = self.resolve(&slot).await?;
                if !self.is_at_rest(&address).await {
                    return Ok(Some(address));
                }
            }
        }
        Ok(None)
    }

    /// The slot that somebody has named, by its address or as it is configured.
    ///
    /// # Errors
    ///
    /// [`SlotError`], also when a release runs there, or it is not free as in [`App::free_slot`].
    pub async fn named_slot(&self, name: &str, state: &Upstream) -> Result<Address, SlotError> {
        let slots = self.slots();
        let mut found = slots.iter().find(|slot| slot.to_string() == name).cloned();
        if found.is_none() {
            // It may be written in another way, as "[0::1]:80".
            let address = name.parse::<Address>().ok();
            for slot in slots.iter().filter(|_| address.is_some()) {
                if self.resolve(slot).await.ok() == address {
                    found = Some(slot.clone());
                }
            }
        }
        let slot = found.ok_or_else(|| SlotError::Unknown {
            name: name.to_owned(),
            slots: slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })?;
        match self.why_taken(&slot, state).await? {
            Some(why) => Err(SlotError::Taken { slot, why }),
            None => Ok(self.resolve(&slot).await?),
        }
    }

    /// Why nothing can be started in a slot.
    async fn why_taken(
        &self,
        slot: &Slot,
        state: &Upstream,
    ) -> Result<Option<String>, ResolveError> {
        let address = self.resolve(slot).await?;
        let active = state.active.as_ref();
        let inner = self.inner.lock().await;
        let holder = inner.running.iter().find(|(at, release, running)| match running {
            // Two slots can be the same machine after a change of its name.
            Running::External(external) => {
                Some(release) == active && (external.slot() == slot || *at == address)
            }
            Running::Process(_) | Running::Systemd(_) | Running::Docker(_) => {
                *at == address && !running.state().is_at_rest()
            }
        });
        if let Some((_, release, _)) = holder {
            return Ok(Some(format!("\"{release}\" runs in it")));
        }
        let text = address.to_string();
        let serves = active.and_then(|active| state.release(active.as_str()));
        let serves = serves.filter(|r| r.servers.iter().any(|server| server.address == text));
        Ok(serves.map(|release| format!("NGINX's active release \"{}\" is there", release.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::deploy::app::Unwritten;
    use crate::deploy::journal::Journal;
    use crate::runner::external::External;
    use serde_json::json;
    use shunt_api::ReleaseName;
    use std::sync::Arc;

    async fn app(folder: &std::path::Path, run: &str) -> App {
        let text = format!(
            "name = \"web\"\nroot = {:?}\nnginx = \"unix:/nowhere\"\n[run]\n{run}",
            folder.join("web")
        );
        let journal = Arc::new(Journal::open(folder).unwrap());
        App::new(config::App::parse(&text).unwrap(), &journal).await.unwrap()
    }

    /// An upstream whose active release is in this place.
    fn upstream(active: &str, address: &str) -> Upstream {
        let server = json!({
            "address": address, "weight": 1, "max_fails": 1, "fail_timeout": "10s", "max_conns": 0,
            "backup": false, "down": false,
        });
        let release = json!({
            "name": active, "source": "api", "state": "active", "servers": [server],
            "in_flight": { "requests": 0, "upgraded": 0 }, "requests": 0,
            "responses": { "1xx": 0, "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0 },
            "connect_failures": 0, "fallbacks": 0,
            "response_time": { "count": 0, "sum": 0.0, "buckets": [] },
        });
        serde_json::from_value(json!({
            "name": "web", "generation": 1, "active": active, "previous": null, "canary": null,
            "hold": null, "holdable": true, "parked": 0, "parked_total": 0, "fallback": false, "switches": 0,
            "releases": [release],
        }))
        .unwrap()
    }

    fn name(text: &str) -> ReleaseName {
        ReleaseName::new(text).unwrap()
    }

    async fn free(app: &App, state: &Upstream) -> String {
        app.free_slot(state).await.unwrap().map_or("none".to_owned(), |slot| slot.to_string())
    }

    #[tokio::test]
    async fn p8_what_nginx_goes_to_is_no_free_slot_whoever_has_started_it() {
        let tmp = tempfile::tempdir().unwrap();
        let app =
            app(tmp.path(), "unit = \"web\"\nslots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]").await;
        assert_eq!(free(&app, &upstream("v0", "127.0.0.1:1")).await, "127.0.0.1:2");
        assert_eq!(free(&app, &upstream("v0", "127.0.0.1:9")).await, "127.0.0.1:1");
        let error =
            app.named_slot("127.0.0.1:1", &upstream("v0", "127.0.0.1:1")).await.unwrap_err();
        assert!(error.to_string().contains("NGINX's active release \"v0\" is there"), "{error}");
        let error =
            app.named_slot("127.0.0.1:3", &upstream("v0", "127.0.0.1:1")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"127.0.0.1:3\" is no slot: there are 127.0.0.1:1, 127.0.0.1:2"
        );
    }

    #[tokio::test]
    async fn somebody_else_s_slot_is_free_unless_it_is_the_active_release_s() {
        let tmp = tempfile::tempdir().unwrap();
        let run = "runner = \"external\"\nslots = [\"localhost:1\", \"127.0.0.1:2\"]";
        let app = app(tmp.path(), run).await;
        let none = upstream("default", "127.0.0.1:9");
        let first = app.free_slot(&none).await.unwrap().unwrap();
        assert_eq!(first.to_string(), "127.0.0.1:1");
        app.start(&first, &name("v1"), Unwritten::Refused).await.unwrap();
        // By its name, also when that is another machine now.
        let moved = upstream("v1", "127.0.0.1:7");
        assert_eq!(free(&app, &moved).await, "127.0.0.1:2");
        let error = app.named_slot("localhost:1", &moved).await.unwrap_err().to_string();
        assert_eq!(error, "slot localhost:1 is not free: \"v1\" runs in it");
        for named in ["127.0.0.1:2", "[::ffff:127.0.0.1]:2"] {
            let slot = app.named_slot(named, &moved).await.map(|slot| slot.to_string());
            assert_eq!(slot.ok(), (named == "127.0.0.1:2").then(|| named.to_owned()));
        }
        // What it puts there takes the place of what was there.
        let second = app.free_slot(&moved).await.unwrap().unwrap();
        app.start(&second, &name("v2"), Unwritten::Refused).await.unwrap();
        let state = upstream("v2", "127.0.0.1:2");
        assert_eq!(app.named_slot("localhost:1", &state).await.unwrap(), first);
        app.start(&first, &name("v3"), Unwritten::Refused).await.unwrap();
        let mut there = app.occupants().await;
        there.sort();
        assert_eq!(there, [(first.clone(), name("v3")), (second, name("v2"))]);
        // The next daemon knows them.
        let next = super::tests::app(tmp.path(), run).await;
        next.adopt().await;
        let mut found = next.occupants().await;
        found.sort();
        assert_eq!(found, there);
        let inner = next.inner.lock().await;
        let is_named = |running: &Running| matches!(running, Running::External(e) if is_host(e));
        assert_eq!(inner.running.iter().filter(|(_, _, running)| is_named(running)).count(), 1);
    }

    fn is_host(external: &External) -> bool {
        matches!(external.slot(), Slot::Host { .. })
    }
}
