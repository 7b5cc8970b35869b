//! Shunt.

use super::nginx::{Proxy, keepalive};
use super::{Contender, Setup};
use crate::http;

/// It, running.
pub struct Shunt(Proxy);

impl Shunt {
    /// Starts it, with a state file or without.
    pub fn start(setup: &Setup, state: bool) -> Self {
        let releases: String = setup
            .releases
            .0
            .iter()
            .map(|(name, address)| format!("shunt_release {name} {address};\n"))
            .collect();
        let state = if state { "state=%STATE%" } else { "" };
        let fallback = if setup.fallback { "shunt_fallback on;" } else { "" };
        let upstream = format!(
            "shunt_zone shunt:1m {state};
             upstream web {{ shunt; {releases} {fallback} {} }}
             server {{
                 listen unix:%FOLDER%/api.sock;
                 location / {{ shunt_api write=on; }}
             }}",
            keepalive(setup),
        );
        Self(Proxy::start(setup, true, "", &upstream))
    }
}

impl Contender for Shunt {
    fn port(&self) -> u16 {
        self.0.port()
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        let body = format!("{{\"release\":\"{release}\"}}");
        let socket = self.0.nginx.path("api.sock");
        http::change(&socket, "POST", "/v1/upstreams/web/switch", &[], body.as_bytes())
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
