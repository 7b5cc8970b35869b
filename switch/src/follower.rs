//! A worker's side of an upstream: which release does a new request go to?

use std::rc::Rc;

use crate::cells::Kind;
use crate::record::State;
use crate::route::Route;
use crate::table::{Entry, Table};
use crate::zone::{Row, Zone, ZoneError};

/// Follows one upstream; one in each worker.
#[derive(Debug)]
pub struct Follower {
    upstream: usize,
    name: String,
    known: Option<State>,
}

/// A request that was counted in flight.
#[derive(Debug)]
pub struct Admitted {
    /// The generation by which its release was chosen.
    pub generation: u32,
    /// The table that it was chosen from.
    pub table: Rc<Table>,
    /// Its place in that table.
    at: usize,
    /// What has to be given back when it ends.
    pub ticket: Option<Ticket>,
}

impl Admitted {
    /// The release that it goes to.
    #[must_use]
    pub fn release(&self) -> &Entry {
        &self.table.releases[self.at]
    }
}

/// One count in flight. It is given back by [`Ticket::give_back`], which takes it: exactly once.
#[derive(Debug)]
#[must_use = "a ticket that is dropped leaves a request in flight for ever"]
pub struct Ticket {
    row: Row,
    column: u32,
    kind: Kind,
}

impl Ticket {
    /// The request has become an upgraded connection.
    pub fn upgrade(&mut self, zone: &Zone<'_>) {
        if self.kind == Kind::Request
            && let Some(cell) = zone.cell(self.row, self.column)
        {
            cell.upgrade();
            self.kind = Kind::Upgraded;
        }
    }

    /// The request, or the connection, has ended.
    pub fn give_back(self, zone: &Zone<'_>) {
        if let Some(cell) = zone.cell(self.row, self.column) {
            cell.leave(self.kind);
        }
    }
}

impl Follower {
    /// Follows the upstream in this record, which must have this name.
    #[must_use]
    pub fn new(upstream: usize, name: &str) -> Self {
        Self { upstream, name: name.to_owned(), known: None }
    }

    /// Brings what is known up to date, and tells whether it is still the upstream's.
    ///
    /// A later configuration without this upstream may have given its record away. The workers that
    /// still have it go on with what they knew.
    fn follow(&mut self, zone: &Zone<'_>) -> Result<(&State, bool), ZoneError> {
        let route = Route::load(zone.route_word(self.upstream));
        let mut ours = true;
        if self.known.as_ref().is_none_or(|known| known.route != route) {
            let state = zone.state(self.upstream, self.known.as_ref())?;
            ours = state.table.upstream == self.name;
            if ours {
                self.known = Some(state);
            }
        }
        let known = self.known.as_ref().ok_or(ZoneError::Damaged(self.upstream))?;
        Ok((known, ours))
    }

    /// The releases as they are now, to tell which of a worker's views are still of use.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn table(&mut self, zone: &Zone<'_>) -> Result<Rc<Table>, ZoneError> {
        Ok(self.follow(zone)?.0.table.clone())
    }

    /// Chooses the release of a new request and counts it in flight there. `None` when no release
    /// is active.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn admit(&mut self, zone: &Zone<'_>, row: Row) -> Result<Option<Admitted>, ZoneError> {
        let upstream = self.upstream;
        let damaged = || ZoneError::Damaged(upstream);
        loop {
            let (state, ours) = self.follow(zone)?;
            let Some(active) = state.route.active() else { return Ok(None) };
            let at = state.table.releases.iter().position(|e| e.index == active);
            let at = at.ok_or_else(damaged)?;
            let column = state.table.releases[at].column;
            let cell = zone.cell(row, column).ok_or_else(damaged)?;
            // In a record that is another upstream's now there is nothing to count.
            let ticket = if !ours {
                None
            } else if cell.enter(zone.route_word(upstream), state.route) {
                Some(Ticket { row, column, kind: Kind::Request })
            } else {
                continue;
            };
            let generation = state.route.generation();
            return Ok(Some(Admitted { generation, table: state.table.clone(), at, ticket }));
        }
    }
}
