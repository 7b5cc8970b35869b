//! The lock of a zone: the mutex of its slab pool.
//!
//! The NGINX master takes this mutex back from a worker that dies with it, in its handler of
//! `SIGCHLD`. While the master itself reads a configuration that signal is blocked, so whoever waits
//! here looks itself whether the holder still lives, and never waits for ever.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nginx_sys::{
    ngx_pid_t, ngx_shm_zone_t, ngx_shmtx_force_unlock, ngx_shmtx_t, ngx_shmtx_trylock,
    ngx_shmtx_unlock,
};
use shunt_switch::worker::Identity;

/// How long to wait. A change holds the lock for as long as the disk takes to write a small file.
pub const LIMIT: Duration = Duration::from_millis(500);

/// The master, and a worker that starts, have more time: nobody's request waits for them.
pub const PATIENT: Duration = Duration::from_secs(5);

/// How long to wait for whoever was waited for in vain just before: it hangs, as on a disk that does
/// not answer, and should not stop the workers that do not.
const AGAIN: Duration = Duration::from_millis(5);

/// The holder that this worker has waited for in vain, until the lock is had again.
static HANGING: AtomicI32 = AtomicI32::new(0);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_micros(200);

/// What is said to whoever has waited long enough.
pub const BUSY: &str = "another change is being written, try again";

/// A zone that is locked; it is unlocked when this is dropped.
pub struct Lock(*mut ngx_shmtx_t);

/// Somebody else holds the lock for too long.
#[derive(Debug, thiserror::Error)]
#[error("{BUSY}")]
pub struct Busy {
    /// Its pid; 0 when it has just let go.
    holder: ngx_pid_t,
}

impl Lock {
    /// Locks a zone for a request.
    pub fn take(zone: *const ngx_shm_zone_t) -> Result<Self, Busy> {
        let hanging = HANGING.load(Ordering::Relaxed);
        let limit = |holder| if holder != 0 && holder == hanging { AGAIN } else { LIMIT };
        let taken = Self::take_within(zone, limit);
        HANGING.store(taken.as_ref().err().map_or(0, |busy| busy.holder), Ordering::Relaxed);
        taken
    }

    /// Locks a zone where no request waits: in the master, and in a worker that starts.
    pub fn take_patiently(zone: *const ngx_shm_zone_t) -> Result<Self, Busy> {
        Self::take_within(zone, |_| PATIENT)
    }

    /// Waits for each holder as long as `limit` says.
    fn take_within(
        zone: *const ngx_shm_zone_t,
        limit: impl Fn(ngx_pid_t) -> Duration,
    ) -> Result<Self, Busy> {
        let pool = crate::zone::slab_pool(zone).ok_or(Busy { holder: 0 })?;
        let start = Instant::now();
        // SAFETY: the pool is mapped for as long as the zone, and its mutex was made with it. The
        // word behind `lock` is the holder's pid, or 0; it is read as other processes write it.
        unsafe {
            let mutex = &raw mut (*pool).mutex;
            loop {
                // Before the look: a process that was stopped after it looks once more.
                let waited = start.elapsed();
                if ngx_shmtx_trylock(mutex) != 0 {
                    return Ok(Self(mutex));
                }
                let holder = (*mutex).lock.read_volatile() as ngx_pid_t;
                if holder > 0 && !is_alive(holder) {
                    // Only if it is still this holder's.
                    ngx_shmtx_force_unlock(mutex, holder);
                    continue;
                }
                if waited >= limit(holder) {
                    return Err(Busy { holder });
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn is_alive(pid: ngx_pid_t) -> bool {
    u32::try_from(pid).is_ok_and(|pid| Identity::new(pid, 0).is_alive())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: this process holds the mutex, which is mapped for as long as the zone.
        unsafe { ngx_shmtx_unlock(self.0) };
    }
}
