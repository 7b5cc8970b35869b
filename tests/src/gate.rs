//! A gate that requests wait at, so that a test decides when they go on.

use std::sync::{Condvar, Mutex, MutexGuard};

/// Whether it is closed, and how many wait.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, (bool, usize)> {
        self.state.lock().expect("nobody panics while it is locked")
    }

    /// From now on whoever comes waits.
    pub fn close(&self) {
        self.state().0 = true;
    }

    /// Lets all of them go.
    pub fn open(&self) {
        self.state().0 = false;
        self.changed.notify_all();
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().1
    }

    /// Waits here while it is closed.
    ///
    /// # Panics
    ///
    /// Never in a test that is sound.
    pub fn pass(&self) {
        let mut state = self.state();
        state.1 += 1;
        state = self.changed.wait_while(state, |state| state.0).expect("as above");
        state.1 -= 1;
    }
}
