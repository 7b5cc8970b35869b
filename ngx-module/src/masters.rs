//! Whether another NGINX master runs beside this one, as in a binary upgrade.

use std::cell::Cell;

use nginx_sys::{NGX_PROCESS_WORKER, ngx_cycle_t, ngx_log_t, ngx_uint_t};
use shunt_switch::masters::{Masters, MastersError, Turn};
use shunt_switch::worker::Identity;

use crate::lock;

/// The masters, as a configuration knows them.
#[derive(Default)]
pub struct Known {
    /// `None` when the system had none to give; this was logged.
    masters: Option<Masters>,
    /// This process's master; known once a worker has started.
    mine: Cell<Option<Identity>>,
}

impl Known {
    /// In the master, before it reads what the other one may have changed: gives the other one.
    pub fn bring_up(&mut self, cycle: &ngx_cycle_t) -> Option<Identity> {
        // SAFETY: the old cycle is still there; the first one of a process has no configuration.
        let first = unsafe { cycle.old_cycle.as_ref().is_none_or(|old| old.conf_ctx.is_null()) };
        // SAFETY: set when NGINX starts; it tells that another master has started this one.
        let started_by_another = unsafe { nginx_sys::ngx_inherited != 0 };
        let masters = if first && !started_by_another {
            Masters::create()
        } else {
            Masters::find().and_then(|known| known.map_or_else(Masters::create, Ok))
        };
        match masters {
            Ok(masters) => self.masters = Some(masters),
            Err(error) => {
                let error = MastersError::from(error);
                error!(cycle.log, "{error}; during a binary upgrade, change nothing");
            }
        }
        // One that starts on its own may go on in a child (`daemon on`): its workers write that down.
        if first && !started_by_another {
            return None;
        }
        let mine = Identity::me();
        self.enter(mine, cycle.log);
        self.masters.as_ref().and_then(|masters| masters.other(mine).ok().flatten())
    }

    /// In a worker, when it starts.
    pub fn start(&self, log: *mut ngx_log_t) {
        // SAFETY: both are set before a worker starts.
        let (process, parent) = unsafe { (nginx_sys::ngx_process, nginx_sys::ngx_parent) };
        let mine = match u32::try_from(parent) {
            Ok(parent) if process == NGX_PROCESS_WORKER as ngx_uint_t => Identity::of(parent),
            // `master_process off`
            _ => Identity::me(),
        };
        self.mine.set(Some(mine));
        self.enter(mine, log);
    }

    fn enter(&self, master: Identity, log: *mut ngx_log_t) {
        if let Some(masters) = &self.masters
            && let Err(error) = masters.enter(master, lock::PATIENT)
        {
            error!(log, "{error}");
        }
    }

    /// Lets a worker change something, unless another master runs.
    pub fn turn(&self) -> Result<Option<Turn<'_>>, MastersError> {
        match (&self.masters, self.mine.get()) {
            (Some(masters), Some(mine)) => masters.turn(mine, lock::LIMIT).map(Some),
            _ => Ok(None),
        }
    }
}
