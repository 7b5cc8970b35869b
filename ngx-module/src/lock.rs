//! The lock of a zone: the mutex of its slab pool.
//!
//! The NGINX master takes this mutex back from a worker that dies with it, in its handler of
//! `SIGCHLD`. While the master itself reads a configuration that signal is blocked, so whoever waits
//! here looks itself whether the holder still lives, and never waits for ever.

use std::time::{Duration, Instant};

use nginx_sys::{
    ngx_pid_t, ngx_shm_zone_t, ngx_shmtx_force_unlock, ngx_shmtx_t, ngx_shmtx_trylock,
    ngx_shmtx_unlock,
};
use shunt_switch::worker::Identity;

/// How long to wait. A change holds the lock for as long as the disk takes to write a small file; a
/// worker that waits serves nobody meanwhile.
pub const LIMIT: Duration = Duration::from_millis(500);

/// The master has more time: nobody's request waits for it.
pub const PATIENT: Duration = Duration::from_secs(5);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_micros(200);

/// A zone that is locked; it is unlocked when this is dropped.
pub struct Lock(*mut ngx_shmtx_t);

/// Somebody else holds the lock for too long.
#[derive(Debug, thiserror::Error)]
#[error("another change is being written, try again")]
pub struct Busy;

impl Lock {
    /// Locks a zone in a worker.
    pub fn take(zone: *const ngx_shm_zone_t) -> Result<Self, Busy> {
        Self::take_within(zone, LIMIT)
    }

    /// Locks a zone in the master.
    pub fn take_patiently(zone: *const ngx_shm_zone_t) -> Result<Self, Busy> {
        Self::take_within(zone, PATIENT)
    }

    fn take_within(zone: *const ngx_shm_zone_t, limit: Duration) -> Result<Self, Busy> {
        let pool = crate::zone::slab_pool(zone).ok_or(Busy)?;
        let deadline = Instant::now() + limit;
        // SAFETY: the pool is mapped for as long as the zone, and its mutex was made with it. The
        // word behind `lock` is the holder's pid, or 0; it is read as other processes write it.
        unsafe {
            let mutex = &raw mut (*pool).mutex;
            while ngx_shmtx_trylock(mutex) == 0 {
                let holder = (*mutex).lock.read_volatile() as ngx_pid_t;
                if holder > 0 && !is_alive(holder) {
                    // Only if it is still this holder's.
                    ngx_shmtx_force_unlock(mutex, holder);
                    continue;
                }
                if Instant::now() >= deadline {
                    return Err(Busy);
                }
                std::thread::sleep(PAUSE);
            }
            Ok(Self(mutex))
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
