//! What end-to-end tests and the demo are made of: real NGINX with the module, the helper, backends
//! that can be held still, clients that record every answer.

#![forbid(unsafe_code)]

pub mod admin;
pub mod backend;
pub mod build;
pub mod client;
pub mod docker;
pub mod gate;
pub mod helper;
pub mod load;
pub mod metrics;
pub mod nginx;
pub mod process;
pub mod protocol;
pub mod scenario;
pub mod soak;
pub mod valgrind;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so.
///
/// # Panics
///
/// When it is not within [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ports below those that the kernel gives to whoever asks for any, servers and clients alike
/// (`ip_local_port_range` in `ip(7)`).
const PORTS: std::ops::Range<u32> = 10_240..32_768;

/// How many of them a process has before it comes to those of another one.
const OWN: u32 = 8;

/// A port that nobody has now, nor gets before it is used here: each process, which is a test, begins
/// at another one.
///
/// # Panics
///
/// When the machine has no port left.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(OWN);
    for _ in PORTS {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + next % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("one of the range");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
