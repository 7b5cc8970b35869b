//! Changes of an upstream: from one state to the next, or a reason why not.
//!
//! Nothing here touches shared memory. A state that comes out of here is written beside the old one
//! and then published, or forgotten.

use std::rc::Rc;

use shunt_api::{Portion, ReleaseName, ReleaseSpec};

use crate::record::{State, bit};
use crate::table::{Entry, MAX_RELEASES, Member, Origin, Table};

/// Why an upstream cannot be changed in this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no release with this name.
    #[error("upstream {upstream:?} has no release \"{release}\", it has {known}")]
    NoRelease {
        /// The upstream.
        upstream: String,
        /// What was asked for.
        release: ReleaseName,
        /// The releases that there are.
        known: String,
    },
    /// The canary cannot be deleted.
    #[error("release \"{0}\" is the canary, end that first")]
    Canary(ReleaseName),
    /// The active release gets all requests as it is.
    #[error("release \"{0}\" is active, another one can be the canary")]
    CanaryIsActive(ReleaseName),
    /// The active release cannot be deleted.
    #[error("release \"{0}\" is active, switch to another one first")]
    Active(ReleaseName),
    /// A release cannot be deleted under its requests.
    #[error(
        "release \"{release}\" has {in_flight} in flight, wait for it with \
         \"?wait=drained&release={release}\""
    )]
    InFlight {
        /// The release.
        release: ReleaseName,
        /// Requests and upgraded connections.
        in_flight: u64,
    },
    /// A release of the configuration would be back after the next reload.
    #[error("release \"{0}\" is declared in NGINX's configuration, remove it there and reload")]
    Declared(ReleaseName),
    /// The route word has no more indexes.
    #[error("upstream {0:?} has {MAX_RELEASES} releases, delete one first")]
    TooMany(String),
    /// The upstream's method does not know backup servers.
    #[error("server {address}: the balancing method of upstream {upstream:?} knows no backup")]
    Backup {
        /// The upstream.
        upstream: String,
        /// The server.
        address: String,
    },
}

impl ChangeError {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NoRelease { .. } => 404,
            Self::Active(_)
            | Self::Canary(_)
            | Self::CanaryIsActive(_)
            | Self::InFlight { .. }
            | Self::Declared(_)
            | Self::TooMany(_) => 409,
            Self::Backup { .. } => 422,
        }
    }
}

/// What a new release needs from the zone.
pub trait Supply {
    /// What goes wrong when the zone has no more.
    type Error;

    /// A place where its requests are counted.
    ///
    /// # Errors
    ///
    /// When there is none left.
    fn column(&mut self) -> Result<u32, Self::Error>;

    /// A number that nothing else had.
    fn serial(&mut self) -> u64;
}

fn no_release(state: &State, release: &ReleaseName) -> ChangeError {
    let known: Vec<_> =
        state.table.releases.iter().map(|e| format!("{:?}", e.name.as_str())).collect();
    ChangeError::NoRelease {
        upstream: state.table.upstream.clone(),
        release: release.clone(),
        known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
    }
}

/// Makes a release active; `None` when it is already. A canary that becomes active is none any more.
///
/// # Errors
///
/// [`ChangeError::NoRelease`].
pub fn switch(state: &State, release: &ReleaseName) -> Result<Option<State>, ChangeError> {
    let entry = state.table.by_name(release.as_str()).ok_or_else(|| no_release(state, release))?;
    if state.route.active() == Some(entry.index) {
        return Ok(None);
    }
    let mut route = state.route.next().with_active(Some(entry.index));
    if state.route.canary().is_some_and(|(index, _)| index == entry.index) {
        route = route.with_canary(None);
    }
    let exposed = state.exposed | bit(entry.index);
    Ok(Some(State { route, previous: state.route.active(), exposed, ..state.clone() }))
}

/// Gives a release a share of the requests; `None` when it has that already.
///
/// # Errors
///
/// [`ChangeError::NoRelease`], [`ChangeError::CanaryIsActive`].
pub fn set_canary(
    state: &State,
    release: &ReleaseName,
    share: Portion,
) -> Result<Option<State>, ChangeError> {
    let entry = state.table.by_name(release.as_str()).ok_or_else(|| no_release(state, release))?;
    if state.route.active() == Some(entry.index) {
        return Err(ChangeError::CanaryIsActive(release.clone()));
    }
    let canary = Some((entry.index, share));
    if state.route.canary() == canary {
        return Ok(None);
    }
    let route = state.route.next().with_canary(canary);
    Ok(Some(State { route, exposed: state.exposed | bit(entry.index), ..state.clone() }))
}

/// Ends a canary; `None` when there is none.
#[must_use]
pub fn end_canary(state: &State) -> Option<State> {
    state.route.canary()?;
    Some(State { route: state.route.next().with_canary(None), ..state.clone() })
}

/// Parks new requests from now on until a time, both of [`crate::clock::since_boot`]. A hold that
/// lasts goes on.
#[must_use]
pub fn hold(state: &State, now: u64, until: u64) -> State {
    let route = state.route.next().with_hold(true);
    let held_since = state.hold(now).unwrap_or(route.generation());
    State { route, held_since, held_until: until, ..state.clone() }
}

/// Lets parked requests go; `None` when nothing is held.
#[must_use]
pub fn resume(state: &State) -> Option<State> {
    let route = state.route.next().with_hold(false);
    state.route.is_held().then(|| State { route, held_until: 0, held_since: 0, ..state.clone() })
}

/// Forgets the previous release; `None` when there is none.
#[must_use]
pub fn forget_previous(state: &State) -> Option<State> {
    state.previous?;
    Some(State { route: state.route.next(), previous: None, ..state.clone() })
}

/// Adds a release, or gives one other servers; `None` when it has these already.
///
/// With `shunt_preview`, a release that users' requests went to gets previews again when it is put
/// anew. A release that is put anew is not the one that requests may fall back to.
///
/// # Errors
///
/// [`ChangeError`] wrapped in `Ok`, or what the supply lacks.
pub fn put<S: Supply>(
    state: &State,
    release: &ReleaseName,
    spec: &ReleaseSpec,
    backup: bool,
    supply: &mut S,
) -> Result<Result<Option<State>, ChangeError>, S::Error> {
    if let Some(server) = spec.servers.iter().find(|s| s.backup && !backup) {
        return Ok(Err(ChangeError::Backup {
            upstream: state.table.upstream.clone(),
            address: server.address.to_string(),
        }));
    }
    let servers: Vec<Member> = spec.servers.iter().map(Member::from).collect();
    let known = state.table.by_name(release.as_str());
    let serves = known.is_some_and(|entry| {
        let canary = state.route.canary().map(|(index, _)| index);
        [state.route.active(), canary].contains(&Some(entry.index))
    });
    let mut next = state.clone();
    next.route = state.route.next();
    if let Some(entry) = known {
        let anew = state.table.preview && state.is_exposed(entry.index) && !serves;
        if entry.servers == servers && !anew {
            return Ok(Ok(None));
        }
        if !serves {
            next.exposed &= !bit(entry.index);
            next.previous.take_if(|index| *index == entry.index);
        }
        if entry.servers == servers {
            return Ok(Ok(Some(next)));
        }
    }
    let mut releases = state.table.releases.clone();
    match releases.iter_mut().find(|e| e.name == *release) {
        Some(entry) => {
            // Requests of the old servers are still in flight in the release of this name, so it
            // keeps its column.
            if entry.origin == Origin::Config {
                entry.origin = Origin::Override(entry.servers.clone());
            }
            entry.servers = servers;
            entry.serial = supply.serial();
        }
        None => {
            let Some(index) = state.table.free_index() else {
                return Ok(Err(ChangeError::TooMany(state.table.upstream.clone())));
            };
            next.exposed &= !bit(index);
            releases.push(Entry {
                name: release.clone(),
                index,
                column: supply.column()?,
                serial: supply.serial(),
                servers,
                origin: Origin::Api,
            });
        }
    }
    next.stamp = supply.serial();
    next.table = Rc::new(Table { releases, ..(*state.table).clone() });
    Ok(Ok(Some(next)))
}

/// Deletes a release, of which `in_flight` is in flight, and tells its column.
///
/// # Errors
///
/// [`ChangeError::NoRelease`], [`ChangeError::Active`], [`ChangeError::Canary`],
/// [`ChangeError::Declared`], [`ChangeError::InFlight`].
pub fn delete(
    state: &State,
    release: &ReleaseName,
    stamp: u64,
    in_flight: impl Fn(u32) -> u64,
) -> Result<(State, u32), ChangeError> {
    let entry = state.table.by_name(release.as_str()).ok_or_else(|| no_release(state, release))?;
    if state.route.active() == Some(entry.index) {
        return Err(ChangeError::Active(release.clone()));
    }
    if state.route.canary().is_some_and(|(index, _)| index == entry.index) {
        return Err(ChangeError::Canary(release.clone()));
    }
    if entry.origin != Origin::Api {
        return Err(ChangeError::Declared(release.clone()));
    }
    let in_flight = in_flight(entry.column);
    if in_flight != 0 {
        return Err(ChangeError::InFlight { release: release.clone(), in_flight });
    }
    let releases = state.table.releases.iter().filter(|e| e.name != *release).cloned().collect();
    let next = State {
        route: state.route.next(),
        previous: state.previous.filter(|index| *index != entry.index),
        exposed: state.exposed & !bit(entry.index),
        stamp,
        table: Rc::new(Table { releases, ..(*state.table).clone() }),
        ..state.clone()
    };
    Ok((next, entry.column))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::route::Route;
    use proptest::prelude::*;

    /// Fewer in Miri, which is slow.
    const STEPS: usize = if cfg!(miri) { 12 } else { 60 };

    struct Numbers(u64);

    impl Supply for Numbers {
        type Error = std::convert::Infallible;

        fn column(&mut self) -> Result<u32, Self::Error> {
            self.0 += 1;
            Ok(self.0 as u32)
        }

        fn serial(&mut self) -> u64 {
            self.0 += 1;
            self.0
        }
    }

    fn name(i: u8) -> ReleaseName {
        ReleaseName::new(&format!("r{i}")).unwrap()
    }

    fn spec(port: u16) -> ReleaseSpec {
        ReleaseSpec::single(format!("127.0.0.1:{port}").parse().unwrap())
    }

    fn empty() -> State {
        let table = Rc::new(Table { preview: true, ..Table::empty("web", 0) });
        let route = Route::new(1, None);
        State { route, previous: None, held_until: 0, held_since: 0, exposed: 0, stamp: 1, table }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u16),
        Delete(u8),
        Switch(u8),
        Forget,
        Canary(u8, u16),
        EndCanary,
        Hold,
        Resume,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..6, 1u16..4).prop_map(|(r, p)| Step::Put(r, p)),
            (0u8..6).prop_map(Step::Delete),
            (0u8..6).prop_map(Step::Switch),
            Just(Step::Forget),
            (0u8..6, 0..=Portion::WHOLE).prop_map(|(r, s)| Step::Canary(r, s)),
            Just(Step::EndCanary),
            Just(Step::Hold),
            Just(Step::Resume),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_changed_the_state_stays_sound(steps in prop::collection::vec(step(), 0..STEPS)) {
            let mut state = empty();
            let mut numbers = Numbers(10);
            for step in steps {
                let before = state.clone();
                let next = match &step {
                    Step::Put(r, p) => {
                        put(&state, &name(*r), &spec(*p), true, &mut numbers).unwrap().unwrap()
                    }
                    Step::Delete(r) => {
                        delete(&state, &name(*r), numbers.serial(), |_| 0).ok().map(|d| d.0)
                    }
                    Step::Switch(r) => {
                        switch(&state, &name(*r)).ok().flatten()
                    }
                    Step::Forget => forget_previous(&state),
                    Step::Canary(r, s) => {
                        let share = Portion::of_parts(*s);
                        set_canary(&state, &name(*r), share).ok().flatten()
                    }
                    Step::EndCanary => end_canary(&state),
                    Step::Hold => Some(hold(&state, 5, 77)),
                    Step::Resume => resume(&state),
                };
                let Some(next) = next else { continue };
                prop_assert_eq!(next.route.generation(), before.route.generation() + 1);
                state = next;
                let of = |index: Option<u8>| index.map(|i| state.table.by_index(i));
                prop_assert!(of(state.route.active()) != Some(None), "active release is gone");
                prop_assert!(of(state.previous) != Some(None), "previous release is gone");
                prop_assert!(state.previous.is_none() || state.previous != state.route.active());
                let canary = state.route.canary().map(|(index, _)| index);
                prop_assert!(of(canary) != Some(None), "the canary is gone");
                prop_assert!(canary.is_none() || canary != state.route.active());
                prop_assert_eq!(state.route.is_held(), state.held_until != 0);
                for index in [canary, state.route.active()].into_iter().flatten() {
                    prop_assert!(state.is_exposed(index));
                }
                if !matches!(step, Step::Hold | Step::Resume) {
                    prop_assert_eq!(state.route.is_held(), before.route.is_held());
                }
                if !matches!(step, Step::Canary(..) | Step::EndCanary | Step::Switch(_)) {
                    prop_assert_eq!(state.route.canary(), before.route.canary());
                }
                for (i, a) in state.table.releases.iter().enumerate() {
                    for b in &state.table.releases[i + 1..] {
                        prop_assert!(a.index != b.index && a.column != b.column);
                        prop_assert!(a.name != b.name && a.serial != b.serial);
                    }
                }
                if state.table != before.table {
                    prop_assert!(state.stamp != before.stamp);
                }
            }
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        let mut numbers = Numbers(10);
        let state =
            put(&empty(), &name(1), &spec(1), true, &mut numbers).unwrap().unwrap().unwrap();
        let state = switch(&state, &name(1)).unwrap().unwrap();
        assert_eq!(switch(&state, &name(1)), Ok(None));
        assert_eq!(put(&state, &name(1), &spec(1), true, &mut numbers), Ok(Ok(None)));
        let error = switch(&state, &name(2)).unwrap_err();
        assert_eq!(error.to_string(), "upstream \"web\" has no release \"r2\", it has \"r1\"");
        assert_eq!(delete(&state, &name(1), 99, |_| 0), Err(ChangeError::Active(name(1))));
        let state = put(&state, &name(2), &spec(2), true, &mut numbers).unwrap().unwrap().unwrap();
        let state = switch(&state, &name(2)).unwrap().unwrap();
        let half = Portion::of_parts(5000);
        let error = set_canary(&state, &name(2), half).unwrap_err();
        assert_eq!((error.status(), error), (409, ChangeError::CanaryIsActive(name(2))));
        let canary = set_canary(&state, &name(1), half).unwrap().unwrap();
        assert_eq!(delete(&canary, &name(1), 99, |_| 0), Err(ChangeError::Canary(name(1))));
        assert_eq!(set_canary(&canary, &name(1), half), Ok(None));
        let ended = end_canary(&canary).unwrap();
        assert_eq!((ended.route.canary(), end_canary(&ended)), (None, None));
        assert_eq!(resume(&ended), None);
        assert_eq!(
            delete(&state, &name(1), 99, |_| 3),
            Err(ChangeError::InFlight { release: name(1), in_flight: 3 })
        );
        let mut backup = spec(9);
        backup.servers.push(shunt_api::ServerSpec {
            backup: true,
            ..shunt_api::ServerSpec::new("127.0.0.1:10".parse().unwrap())
        });
        let error = put(&state, &name(3), &backup, false, &mut numbers).unwrap().unwrap_err();
        assert_eq!(error.status(), 422);
    }

    #[test]
    fn a_release_that_users_met_gets_previews_again_when_it_is_put_anew() {
        let mut numbers = Numbers(10);
        let mut state = empty();
        let put = |state: &State, r, port, numbers: &mut Numbers| {
            put(state, &name(r), &spec(port), true, numbers).unwrap().unwrap()
        };
        for r in [1, 2] {
            state = put(&state, r, 1, &mut numbers).unwrap();
            state = switch(&state, &name(r)).unwrap().unwrap();
        }
        let exposed = |state: &State| [state.is_exposed(0), state.is_exposed(1)];
        assert_eq!((exposed(&state), state.previous), ([true, true], Some(0)));
        let again = put(&state, 1, 1, &mut numbers).unwrap();
        assert_eq!((exposed(&again), again.previous), ([false, true], None));
        assert_eq!(put(&again, 1, 1, &mut numbers), None);
        // The active one stays what it is.
        assert_eq!(put(&state, 2, 1, &mut numbers), None);
        let other = put(&state, 1, 9, &mut numbers).unwrap();
        assert_eq!((exposed(&other), other.previous), ([false, true], None));
        // Without previews there is nothing to put anew.
        let table = Rc::new(Table { preview: false, ..(*state.table).clone() });
        assert_eq!(put(&State { table, ..state }, 1, 1, &mut numbers), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes long, and has nothing for Miri")]
    fn there_are_at_most_64_releases() {
        let mut numbers = Numbers(10);
        let mut state = empty();
        for i in 0..64 {
            state = put(&state, &name(i), &spec(1), true, &mut numbers).unwrap().unwrap().unwrap();
        }
        let error = put(&state, &name(64), &spec(1), true, &mut numbers).unwrap().unwrap_err();
        assert_eq!(error, ChangeError::TooMany("web".to_owned()));
    }
}
