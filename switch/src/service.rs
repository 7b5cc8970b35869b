//! The API's calls on a zone: what NGINX's worker answers, without NGINX.

use std::path::Path;

use rustix::fs::Uid;
use serde::Serialize;
use shunt_api::{
    Call, CanaryRequest, HoldRequest, Index, Problem, ReleaseName, ReleaseSpec, SwitchReply,
    SwitchRequest, Upstream, Upstreams, Wait,
};

use crate::change::{self, Supply};
use crate::clock;
use crate::metrics;
use crate::precondition::{matches, parse};
use crate::record::State;
use crate::refusal::{of_change, of_full_zone, of_state_file, of_zone};
use crate::served::{Served, ServedUpstreams};
use crate::show;
use crate::snapshot::{Saved, Snapshot};
use crate::state_file::{self, StateFileError, Written};
use crate::zone::{Zone, ZoneError};

/// A zone that the API serves.
pub struct ServedZone<'z> {
    /// The zone.
    pub zone: Zone<'z>,
    /// Its name.
    pub name: &'z str,
    /// Its size in bytes, as configured.
    pub size: u64,
    /// Its state file.
    pub state_file: Option<&'z Path>,
}

/// The API of a configuration.
pub struct Service<'z> {
    /// The zones.
    pub zones: &'z [ServedZone<'z>],
    /// The switchable upstreams.
    pub upstreams: &'z ServedUpstreams,
    /// The version of NGINX.
    pub nginx: &'z str,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What an operator should know though the call was done.
    pub notice: Option<String>,
    /// The `ETag`, without its quotes.
    pub generation: Option<u32>,
    /// JSON.
    pub body: Vec<u8>,
}

fn reply(status: u16, generation: Option<u32>, body: &impl Serialize) -> Result<Reply, Problem> {
    let body = serde_json::to_vec(body).map_err(|e| Problem::new(500, e.to_string()))?;
    Ok(Reply { status, notice: None, generation, body })
}

struct FromZone<'z> {
    zone: Zone<'z>,
    upstream: usize,
    taken: Option<u32>,
}

impl Supply for FromZone<'_> {
    type Error = ZoneError;

    fn column(&mut self) -> Result<u32, ZoneError> {
        let taken = self.zone.take_column(self.upstream).or_else(|_| {
            self.zone.collect_columns();
            self.zone.take_column(self.upstream)
        });
        let column = taken?;
        self.taken = Some(column);
        Ok(column)
    }

    fn serial(&mut self) -> u64 {
        self.zone.serial()
    }
}

impl Drop for FromZone<'_> {
    fn drop(&mut self) {
        if let Some(column) = self.taken {
            self.zone.free(column);
        }
    }
}

impl ServedZone<'_> {
    /// Writes the state file for all upstreams of the zone as they are; it belongs to `owner` then.
    /// `Some` when it is there, but the system cannot say that it will be after a power loss.
    ///
    /// # Errors
    ///
    /// [`StateFileError`].
    pub fn save(&self, owner: Option<Uid>) -> Result<Option<StateFileError>, StateFileError> {
        let Some(path) = self.state_file else { return Ok(None) };
        self.zone.forget_mark();
        let written = self.write_whole(path, None, owner)?;
        self.has_written(&written);
        Ok(written.unsure)
    }

    /// Makes the state file say what an upstream is going to be. When that is published,
    /// [`Self::has_written`] lets the next change be appended.
    fn persist(&self, record: usize, next: &State) -> Result<Written, StateFileError> {
        let Some(path) = self.state_file else { return Ok(Written::default()) };
        // Taken before anything is written, so that nobody ever appends to what a killed writer has
        // left: a change that has not happened would be answered with the next one.
        let left = self.zone.take_mark();
        // Whatever stands in the way of a line, the whole file gets over it, or tells what it is.
        let mark = left.and_then(|l| state_file::append(path, &l, &Saved::of(next)).ok());
        match mark {
            Some(_) => Ok(Written { mark, unsure: None }),
            None => self.write_whole(path, Some((record, next)), None),
        }
    }

    fn write_whole(
        &self,
        path: &Path,
        next: Option<(usize, &State)>,
        owner: Option<Uid>,
    ) -> Result<Written, StateFileError> {
        let mut saved = Vec::new();
        for state in self.zone.states() {
            match (state, next) {
                (Ok((at, _)), Some((record, next))) if at == record => saved.push(Saved::of(next)),
                (Ok((_, state)), _) => saved.push(Saved::of(&state)),
                (Err(error), _) => {
                    let error = std::io::Error::other(error.to_string());
                    return Err(StateFileError::Write { path: path.to_owned(), error });
                }
            }
        }
        state_file::write(path, &Snapshot::new(saved), owner)
    }

    /// What the file says has come true.
    fn has_written(&self, written: &Written) {
        if let Some(mark) = written.mark {
            self.zone.set_mark(mark);
        }
    }
}

impl Service<'_> {
    /// Answers a call that changes nothing, as things are now.
    ///
    /// # Errors
    ///
    /// The problem to answer with.
    pub fn read(&self, call: &Call, writable: bool) -> Result<Reply, Problem> {
        match call {
            Call::Index => reply(200, None, &self.index(writable)),
            Call::Upstreams => reply(200, None, &Upstreams { upstreams: self.all()? }),
            Call::Upstream { upstream, wait } => {
                let served = self.find(upstream)?;
                let state = self.state(served)?;
                if let Some(Wait::Drained { release, .. }) = wait
                    && state.table.by_name(release.as_str()).is_none()
                {
                    let detail = format!("upstream {upstream:?} has no release \"{release}\"");
                    return Err(Problem::new(404, detail));
                }
                self.reply_state(served, 200, &state)
            }
            _ => Err(Problem::new(500, "a change is not a read")),
        }
    }

    /// The page for Prometheus.
    ///
    /// # Errors
    ///
    /// The problem to answer with.
    pub fn metrics(&self) -> Result<String, Problem> {
        let page = metrics::page(&self.index(false), &self.all()?);
        // Looked at last: another zone goes on counting from this one's figures as they were when it
        // was given up, and none that was counted later may be seen.
        if self.zones.iter().any(|served| served.zone.is_retired()) {
            return Err(Problem::new(503, ZoneError::Retired.to_string()));
        }
        Ok(page)
    }

    fn all(&self) -> Result<Vec<Upstream>, Problem> {
        self.upstreams.iter().map(|served| self.show(served, &self.state(served)?)).collect()
    }

    /// Whether what a call waits for has come true, by now or ever since it was asked. `known` is what
    /// the caller keeps from one look to the next.
    ///
    /// # Errors
    ///
    /// The problem to answer with.
    pub fn has_come(
        &self,
        upstream: &str,
        wait: &Wait,
        known: &mut Option<State>,
    ) -> Result<bool, Problem> {
        let served = self.find(upstream)?;
        let zone = self.zone(served)?;
        let state = &*known.insert(self.state_since(served, known.as_ref())?);
        Ok(match wait {
            Wait::Change { generation, .. } => state.route.generation() != *generation,
            Wait::Drained { release, .. } => match state.table.by_name(release.as_str()) {
                // Deleted meanwhile, which nobody can do while it has something in flight.
                None => true,
                Some(entry) => {
                    // In this order: see `cells`.
                    !state.admits(entry) && zone.in_flight(entry.column).total() == 0
                }
            },
        })
    }

    /// Makes a change. Under the lock of the upstream's zone.
    ///
    /// # Errors
    ///
    /// The problem to answer with; nothing has changed then.
    pub fn change(
        &self,
        call: &Call,
        if_match: Option<&str>,
        body: &[u8],
    ) -> Result<Reply, Problem> {
        match call {
            Call::Switch { upstream } => {
                let served = self.find(upstream)?;
                let request: SwitchRequest = parse(body)?;
                let state = self.matching(served, if_match)?;
                self.switch(served, &state, &request.release)
            }
            Call::PutRelease { upstream, release } => {
                let served = self.find(upstream)?;
                let spec: ReleaseSpec = parse(body)?;
                spec.check().map_err(|e| Problem::new(422, e.to_string()))?;
                let state = self.matching(served, if_match)?;
                self.put(served, &state, release, &spec)
            }
            Call::DeleteRelease { upstream, release } => {
                let served = self.find(upstream)?;
                let state = self.matching(served, if_match)?;
                let zone = self.zone(served)?;
                let in_flight = |column| zone.in_flight(column).total();
                let (next, column) = change::delete(&state, release, zone.serial(), in_flight)
                    .map_err(|e| of_change(&e))?;
                let notice = self.publish(served, &next)?;
                zone.free(column);
                Ok(Reply { notice, ..self.reply_state(served, 200, &next)? })
            }
            Call::DeletePrevious { upstream } => {
                let served = self.find(upstream)?;
                let state = self.matching(served, if_match)?;
                self.make(served, &state, change::forget_previous(&state))
            }
            Call::PutCanary { upstream } => {
                let served = self.find(upstream)?;
                let CanaryRequest { release, share } = parse(body)?;
                let state = self.matching(served, if_match)?;
                let next = change::set_canary(&state, &release, share);
                self.make(served, &state, next.map_err(|e| of_change(&e))?)
            }
            Call::DeleteCanary { upstream } => {
                let served = self.find(upstream)?;
                let state = self.matching(served, if_match)?;
                self.make(served, &state, change::end_canary(&state))
            }
            Call::PutHold { upstream } => {
                let served = self.find(upstream)?;
                let request: HoldRequest = parse(body)?;
                request.check().map_err(|e| Problem::new(422, e.to_string()))?;
                let state = self.matching(served, if_match)?;
                let time = u64::try_from(request.timeout.duration().as_millis());
                let now = clock::since_boot();
                let until = now.saturating_add(time.unwrap_or(u64::MAX));
                self.make(served, &state, Some(change::hold(&state, now, until)))
            }
            Call::DeleteHold { upstream } => {
                let served = self.find(upstream)?;
                let state = self.matching(served, if_match)?;
                self.make(served, &state, change::resume(&state))
            }
            Call::Index | Call::Upstreams | Call::Upstream { .. } => {
                Err(Problem::new(500, "a read is not a change"))
            }
        }
    }

    /// Lets a change happen, if there is one, and answers with the state.
    fn make(&self, served: &Served, state: &State, next: Option<State>) -> Result<Reply, Problem> {
        let Some(next) = next else { return self.reply_state(served, 200, state) };
        let notice = self.publish(served, &next)?;
        Ok(Reply { notice, ..self.reply_state(served, 200, &next)? })
    }

    fn switch(
        &self,
        served: &Served,
        state: &State,
        release: &ReleaseName,
    ) -> Result<Reply, Problem> {
        let from = state.route.active().and_then(|i| state.table.by_index(i));
        let from = from.map(|e| e.name.clone());
        let (zone, record) = (self.zone(served)?, self.record(served)?);
        let next = change::switch(state, release).map_err(|e| of_change(&e))?;
        let (notice, route) = match next {
            Some(next) => {
                let notice = self.publish(served, &next)?;
                zone.set_switches(record, zone.switches(record).wrapping_add(1));
                (notice, next.route)
            }
            None => (None, state.route),
        };
        let (release, generation) = (release.clone(), route.generation());
        let answer = reply(200, Some(generation), &SwitchReply { release, from, generation })?;
        Ok(Reply { notice, ..answer })
    }

    fn put(
        &self,
        served: &Served,
        state: &State,
        release: &ReleaseName,
        spec: &ReleaseSpec,
    ) -> Result<Reply, Problem> {
        let (zone, upstream) = (self.served_zone(served)?, self.record(served)?);
        let mut supply = FromZone { zone: zone.zone, upstream, taken: None };
        let next = change::put(state, release, spec, served.backup, &mut supply)
            .map_err(|e| of_full_zone(zone, served, &e, &state.table.with(release, spec)))?
            .map_err(|e| of_change(&e))?;
        let Some(next) = next else { return self.reply_state(served, 200, state) };
        let notice = self.publish(served, &next)?;
        let status = if supply.taken.take().is_some() { 201 } else { 200 };
        Ok(Reply { notice, ..self.reply_state(served, status, &next)? })
    }

    fn find(&self, upstream: &str) -> Result<&Served, Problem> {
        self.upstreams.find(upstream).ok_or_else(|| {
            let detail = format!("no upstream {upstream:?} with \"shunt\" is in the configuration");
            Problem::new(404, detail)
        })
    }

    fn record(&self, served: &Served) -> Result<usize, Problem> {
        let no_room = || format!("the zone has no room for upstream {:?}", served.name);
        served.record.ok_or_else(|| Problem::new(507, no_room()))
    }

    fn served_zone(&self, served: &Served) -> Result<&ServedZone<'_>, Problem> {
        let missing = || format!("upstream {:?} has no zone", served.name);
        self.zones.get(served.zone).ok_or_else(|| Problem::new(500, missing()))
    }

    fn zone(&self, served: &Served) -> Result<Zone<'_>, Problem> {
        Ok(self.served_zone(served)?.zone)
    }

    fn state(&self, served: &Served) -> Result<State, Problem> {
        self.state_since(served, None)
    }

    fn state_since(&self, served: &Served, known: Option<&State>) -> Result<State, Problem> {
        let (zone, record) = (self.zone(served)?, self.record(served)?);
        let state = zone.state(record, known).map_err(|e| of_zone(&e))?;
        if !zone.is_taken(record) {
            // It has moved to another zone.
            return Err(of_zone(&ZoneError::Retired));
        }
        if state.table.upstream != served.name {
            // Asked of a worker whose configuration is an older one.
            let detail = format!("upstream {:?} is no longer in the configuration", served.name);
            return Err(Problem::new(404, detail));
        }
        Ok(state)
    }

    /// The state, if it is the one that the caller bases the change on (P7).
    fn matching(&self, served: &Served, if_match: Option<&str>) -> Result<State, Problem> {
        let state = self.state(served)?;
        let Some(if_match) = if_match else { return Ok(state) };
        let generation = state.route.generation();
        if matches(if_match, generation)? {
            return Ok(state);
        }
        let detail =
            format!("upstream {:?} is at generation {generation}, not at {if_match}", served.name);
        let upstream = Some(Box::new(self.show(served, &state)?));
        Err(Problem { upstream, ..Problem::new(412, detail) })
    }

    /// Beside the old data, into the state file, and then visible: in this order.
    ///
    /// Tells what an operator should know though it was done.
    fn publish(&self, served: &Served, next: &State) -> Result<Option<String>, Problem> {
        let record = self.record(served)?;
        let zone = self.served_zone(served)?;
        let prepared = zone.zone.prepare(record, next);
        let prepared = prepared.map_err(|e| of_full_zone(zone, served, &e, &next.table))?;
        let written = zone.persist(record, next).map_err(|e| of_state_file(&e))?;
        prepared.publish();
        zone.has_written(&written);
        Ok(written
            .unsure
            .map(|error| format!("after a power loss the change may be gone: {error}")))
    }

    fn index(&self, writable: bool) -> Index {
        Index {
            module: env!("CARGO_PKG_VERSION").to_owned(),
            nginx: self.nginx.to_owned(),
            // Each worker counts in every zone.
            workers: self.zones.iter().map(|z| z.zone.workers()).max().unwrap_or(0),
            zones: self.zones.iter().map(show::zone_use).collect(),
            writable,
        }
    }

    fn reply_state(&self, served: &Served, status: u16, state: &State) -> Result<Reply, Problem> {
        reply(status, Some(state.route.generation()), &self.show(served, state)?)
    }

    fn show(&self, served: &Served, state: &State) -> Result<Upstream, Problem> {
        Ok(show::upstream(self.zone(served)?, self.record(served)?, state, served.holdable))
    }
}

#[cfg(all(test, not(loom)))]
mod kills;
#[cfg(all(test, not(loom)))]
mod tests;
