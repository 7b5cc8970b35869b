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
pub mod valgrind;

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

/// A TCP port that nobody listens on now.
///
/// # Panics
///
/// When the machine has no port left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
