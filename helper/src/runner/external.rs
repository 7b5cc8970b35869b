//! The runner `external`: somebody else runs a release in its slot. Nothing is started and nothing is
//! stopped here; that it works, its health shows.

use std::io;
use std::time::Duration;

use shunt_api::Address;
use tokio::sync::watch;

use crate::config::Slot;
use crate::runner::state::State;

/// How long the answer to a name may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A release that somebody else runs.
#[derive(Debug)]
pub struct External {
    slot: Slot,
    /// As long as it is here it is taken to run.
    state: watch::Sender<State>,
}

impl External {
    /// The release in this slot.
    #[must_use]
    pub fn new(slot: Slot) -> Self {
        Self { slot, state: watch::Sender::new(State::Running { pid: None, restarts: 0 }) }
    }

    /// The slot as the configuration names it.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Follows it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

/// Why a slot cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Its name is not known, or nobody answers who would know it.
    #[error("cannot resolve slot {slot}: {error}")]
    Resolve {
        /// The slot.
        slot: Slot,
        /// What the system said.
        error: io::Error,
    },
}

/// Where a slot is now. Of a name with several addresses it is always the same one, and IPv4 before
/// IPv6, since NGINX is told of one.
///
/// # Errors
///
/// [`ResolveError`].
pub async fn resolve(slot: &Slot) -> Result<Address, ResolveError> {
    let (name, port) = match slot {
        Slot::Address(address) => return Ok(address.clone()),
        Slot::Host { name, port } => (name.as_str(), *port),
    };
    let found = match tokio::time::timeout(LIMIT, tokio::net::lookup_host((name, port))).await {
        Ok(found) => found.map(|found| found.min()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match found {
        Ok(Some(address)) => Ok(Address::Ip(address)),
        Ok(None) => {
            let error = io::Error::other("it has no address");
            Err(ResolveError::Resolve { slot: slot.clone(), error })
        }
        Err(error) => Err(ResolveError::Resolve { slot: slot.clone(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_becomes_an_address() {
        let of = |text: &str| text.parse::<Slot>().unwrap();
        assert_eq!(resolve(&of("localhost:3001")).await.unwrap().to_string(), "127.0.0.1:3001");
        assert_eq!(resolve(&of("unix:/a.sock")).await.unwrap().to_string(), "unix:/a.sock");
        let error = resolve(&of("no-such-host.invalid:1")).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve slot no-such-host.invalid:1: "), "{error}");
    }

    #[tokio::test]
    async fn a_release_of_somebody_else_runs_as_long_as_it_is_known() {
        let external = External::new("localhost:3001".parse().unwrap());
        let watch = external.watch();
        assert_eq!(*watch.borrow(), State::Running { pid: None, restarts: 0 });
        drop(external);
        assert_eq!(crate::runner::state::ended(watch, 0).await, "an order to stop");
    }
}
