//! A plain upstream of the same NGINX, without the module: what the others are measured against.

use super::nginx::{Proxy, keepalive};
use super::{Contender, Setup};

/// It, running.
pub struct Plain(Proxy);

impl Plain {
    /// Starts it.
    pub fn start(setup: &Setup) -> Self {
        let upstream =
            format!("upstream web {{ server {}; {} }}", setup.releases.first().1, keepalive(setup));
        Self(Proxy::start(setup, false, "", &upstream))
    }
}

impl Contender for Plain {
    fn port(&self) -> u16 {
        self.0.port()
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        Err(format!("a plain upstream cannot go to {release}"))
    }

    fn pids(&self) -> Vec<u32> {
        self.0.pids()
    }

    fn worker(&self) -> u32 {
        self.0.worker()
    }

    fn revive(&mut self) -> bool {
        self.0.revive()
    }
}
