//! Follows the units of a slot, as long as they are ours.

use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{StreamExt, select_all};
use tokio::sync::watch;
use zbus::zvariant::OwnedObjectPath;

use crate::log;
use crate::runner::state::State;
use crate::runner::systemd::Spec;
use crate::runner::systemd::bus::{Bus, BusError};
use crate::runner::systemd::unit::{self, Unit};

/// The pause before systemd is asked again that could not be heard.
const RETRY: Duration = Duration::from_secs(1);

/// What is remembered of a service from one look to the next.
#[derive(Debug)]
pub(super) struct Tracker {
    invocation: Vec<u8>,
    restarts: u32,
    /// How it ended, while it does not run.
    end: Option<String>,
    /// Whether it was stopped, and may be started by a connection.
    rests: bool,
}

impl Tracker {
    /// A service that runs.
    pub(super) fn new(unit: &Unit) -> Self {
        let (invocation, restarts) = (unit.invocation.clone(), unit.restarts);
        Self { invocation, restarts, end: None, rests: false }
    }

    /// A service that was stopped, or is about to be, and whose socket stays.
    pub(super) fn resting(unit: &Unit) -> Self {
        Self { rests: true, ..Self::new(unit) }
    }

    /// What a service is doing that runs.
    pub(super) fn running(&self, unit: &Unit) -> State {
        State::Running { pid: unit.pid, restarts: self.restarts }
    }

    /// What a service is doing now, and whether its socket listens; with what there is to say if a crash
    /// loop has closed that.
    pub(super) fn look(&mut self, unit: &Unit, listens: bool, closed: Option<String>) -> State {
        // What crashes when a connection has started it is told as of any other.
        let crashes = unit.active == "activating"
            && (self.end.is_some() || !matches!(&*unit.result, "success" | ""));
        if self.rests && !unit.is_up() && !crashes {
            self.end = None;
            return if listens { State::Listens } else { State::Stopped };
        }
        let is_another = !unit.invocation.is_empty() && unit.invocation != self.invocation;
        if is_another {
            self.invocation.clone_from(&unit.invocation);
        }
        // systemd counts its own restarts only, and not those that a connection causes.
        self.restarts = match is_another && self.rests {
            true => unit.restarts,
            false => unit.restarts.max(self.restarts + u32::from(is_another)),
        };
        if unit.is_up() && closed.is_none() {
            self.end = None;
            return self.running(unit);
        }
        let how = match (&*unit.active, &*unit.result, self.end.take()) {
            // What it ended by is over for systemd when it starts the service again.
            ("activating", "success", Some(how)) => how,
            ("deactivating", "success", _) => "an order to stop it".to_owned(),
            // It is up, but its socket is closed.
            _ if unit.is_up() => "no socket".to_owned(),
            _ => unit.end(),
        };
        let how = match closed {
            Some(closed) if !how.contains(&closed) => format!("{how}; {closed}"),
            _ => how,
        };
        self.end = Some(how.clone());
        State::Ended { how, restarts: self.restarts }
    }
}

/// Follows them until the order to stop that.
pub(super) async fn follow(
    spec: Spec,
    mut tracker: Tracker,
    publish: watch::Sender<State>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let lost = tokio::select! {
            biased;
            // A daemon that forgets it wants no more news, either.
            _ = stop.wait_for(|stop| *stop) => return,
            lost = listen(&spec, &mut tracker, &publish) => lost,
        };
        let why = lost.map_or_else(|| "the bus is gone".to_owned(), |error| error.to_string());
        log::warning(format_args!("{}: {why}; it is asked again", spec.name));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Follows them until systemd cannot be heard any more.
async fn listen(
    spec: &Spec,
    tracker: &mut Tracker,
    publish: &watch::Sender<State>,
) -> Option<BusError> {
    let mut follow = async || -> Result<(), BusError> {
        let mut bus = Bus::connect().await?;
        let service = bus.load(&spec.service()).await?;
        let socket = match spec.socket() {
            Some(socket) => Some(bus.load(&socket).await?),
            None => None,
        };
        let mut changes = Vec::new();
        for object in [Some(&service), socket.as_ref()].into_iter().flatten() {
            changes.push(bus.changes(object).await?);
        }
        let mut changes = select_all(changes);
        loop {
            look(&mut bus, spec, (&service, socket.as_ref()), tracker, publish).await?;
            // Whatever comes may be news, and all that has come is one look.
            let mut next = changes.next().await;
            while let Some(Ok(_)) = next {
                match changes.next().now_or_never() {
                    Some(more) => next = more,
                    None => break,
                }
            }
            match next {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            }
        }
    };
    follow().await.err()
}

async fn look(
    bus: &mut Bus,
    spec: &Spec,
    (service, socket): (&OwnedObjectPath, Option<&OwnedObjectPath>),
    tracker: &mut Tracker,
    publish: &watch::Sender<State>,
) -> Result<(), BusError> {
    let unit = Unit::read(&bus.properties(service).await?);
    let (listens, closed) = match (socket, spec.socket()) {
        (Some(object), Some(name)) => {
            let socket = Unit::read(&bus.properties(object).await?);
            let closed = unit::is_closed_by_crashes(&socket)
                .then(|| unit::closed_by_crashes(&name, &spec.service(), &socket.result));
            (socket.is_up(), closed)
        }
        _ => (false, None),
    };
    let (before, now) = (publish.borrow().clone(), tracker.look(&unit, listens, closed));
    if before != now {
        tell(spec, &before, &now);
        publish.send_replace(now);
    }
    Ok(())
}

/// What the daemon's log has of it.
fn tell(spec: &Spec, before: &State, now: &State) {
    match (before, now) {
        (_, State::Ended { how, .. }) => {
            log::error(format_args!("{}, {}, ended with {how}", spec.name, spec.service()));
        }
        (_, State::Running { pid, .. }) => {
            let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            log::notice(format_args!("{}, {}, runs again{pid}", spec.name, spec.service()));
        }
        (_, State::Stopped) => {
            let (name, service) = (&spec.name, spec.service());
            log::notice(format_args!("{name}, {service}, and its socket were stopped by somebody"));
        }
        (_, State::Listens) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, result: &str, run: u8, restarts: u32, exit: Option<i32>) -> Unit {
        Unit {
            active: active.to_owned(),
            result: result.to_owned(),
            invocation: vec![run],
            pid: (active == "active").then_some(u32::from(run)),
            restarts,
            code: i32::from(exit.is_some()),
            status: exit.unwrap_or_default(),
            ..Unit::default()
        }
    }

    fn running(pid: u32, restarts: u32) -> State {
        State::Running { pid: Some(pid), restarts }
    }

    fn ended(how: &str, restarts: u32) -> State {
        State::Ended { how: how.to_owned(), restarts }
    }

    #[test]
    fn a_service_that_systemd_starts_again_is_counted_once() {
        let mut tracker = Tracker::new(&unit("active", "success", 1, 0, None));
        assert_eq!(tracker.look(&unit("active", "success", 1, 0, None), true, None), running(1, 0));
        let how = "exit status 7, unit result \"exit-code\"";
        let failed = unit("activating", "exit-code", 1, 0, Some(7));
        assert_eq!(tracker.look(&failed, true, None), ended(how, 0));
        // Then its result is what it was before.
        let starts = unit("activating", "success", 2, 1, None);
        assert_eq!(tracker.look(&starts, true, None), ended(how, 1));
        assert_eq!(tracker.look(&unit("active", "success", 2, 1, None), true, None), running(2, 1));
        // One that was missed.
        assert_eq!(tracker.look(&unit("active", "success", 4, 3, None), true, None), running(4, 3));
    }

    #[test]
    fn a_service_that_a_connection_or_somebody_starts_again_is_counted_too() {
        let mut tracker = Tracker::new(&unit("active", "success", 1, 2, None));
        let stops = unit("deactivating", "success", 1, 2, None);
        assert_eq!(tracker.look(&stops, true, None), ended("an order to stop it", 2));
        let stopped = unit("inactive", "success", 1, 2, Some(0));
        assert_eq!(tracker.look(&stopped, true, None), ended("exit status 0", 2));
        assert_eq!(tracker.look(&unit("active", "success", 2, 0, None), true, None), running(2, 3));
    }

    #[test]
    fn a_closed_socket_is_told_once_for_each_end() {
        let mut tracker = Tracker::new(&unit("active", "success", 1, 0, None));
        let failed = unit("failed", "start-limit-hit", 1, 3, Some(7));
        let State::Ended { how: alone, .. } = tracker.look(&failed, true, None) else { panic!() };
        assert!(alone.starts_with("start-limit-hit"), "{alone}");
        let closed = || Some("the socket is closed".to_owned());
        let both = ended(&format!("{alone}; the socket is closed"), 3);
        assert_eq!(tracker.look(&failed, true, closed()), both);
        assert_eq!(tracker.look(&failed, true, closed()), both);
        let up = unit("active", "success", 2, 0, None);
        let said = tracker.look(&up, true, closed());
        assert_eq!(said, ended("no socket; the socket is closed", 4));
        assert_eq!(tracker.look(&up, true, None), running(2, 4));
    }

    #[test]
    fn one_that_was_stopped_listens_until_a_connection_starts_it() {
        let mut tracker = Tracker::resting(&unit("deactivating", "success", 1, 2, None));
        for still in ["deactivating", "inactive", "activating"] {
            let still = unit(still, "success", 1, 2, None);
            assert_eq!(tracker.look(&still, true, None), State::Listens);
        }
        // Not again: nobody has started it since it was stopped.
        assert_eq!(tracker.look(&unit("active", "success", 2, 0, None), true, None), running(2, 0));
        // It crashes, and systemd starts it; at last it does not, and its socket listens as before.
        let how = "exit status 7, unit result \"exit-code\"";
        let crashed = unit("activating", "exit-code", 2, 0, Some(7));
        assert_eq!(tracker.look(&crashed, true, None), ended(how, 0));
        let starts = unit("activating", "success", 3, 1, None);
        assert_eq!(tracker.look(&starts, true, None), ended(how, 1));
        assert_eq!(tracker.look(&unit("active", "success", 3, 1, None), true, None), running(3, 1));
        let failed = unit("failed", "exit-code", 3, 1, Some(7));
        assert_eq!(tracker.look(&failed, true, None), State::Listens);
        // Somebody has stopped the socket.
        assert_eq!(tracker.look(&failed, false, None), State::Stopped);
    }
}
