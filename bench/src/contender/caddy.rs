//! Caddy, with its admin API on a unix socket. What the API has changed is there again after a restart,
//! as Debian's `caddy-api.service` has it.

use std::fs;

use serde_json::{Value, json};
use shunt_tests::free_port;
use tempfile::TempDir;

use super::supervised::Supervised;
use super::{Contender, KEPT, Releases, Setup};
use crate::http;

/// It, running.
pub struct Caddy {
    program: Supervised,
    releases: Releases,
    active: String,
    fallback: bool,
}

impl Caddy {
    /// Starts it.
    pub fn start(setup: &Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let port = free_port();
        let (active, address) = setup.releases.first();
        let keep_alive = match setup.keepalive {
            true => json!({ "enabled": true, "max_idle_conns_per_host": KEPT }),
            false => json!({ "enabled": false }),
        };
        let mut proxy = json!({
            "@id": "web",
            "handler": "reverse_proxy",
            "transport": { "protocol": "http", "keep_alive": keep_alive },
            "upstreams": [{ "dial": address }],
        });
        if setup.fallback {
            // The first that can be reached; one that could not be is not asked again for a while.
            proxy["load_balancing"] = json!({
                "selection_policy": { "policy": "first" },
                "try_duration": "1s",
                "try_interval": "1ms",
            });
            proxy["health_checks"] = json!({ "passive": { "fail_duration": "10s" } });
        }
        let server = json!({
            "listen": [format!("127.0.0.1:{port}")],
            "protocols": ["h1"],
            "automatic_https": { "disable": true },
            "routes": [{ "handle": [proxy] }],
        });
        let socket = folder.path().join("admin.sock");
        let configuration = json!({
            "admin": {
                "listen": format!("unix/{}", socket.display()),
                "origins": ["test"],
            },
            "logging": { "logs": { "default": { "level": "ERROR" } } },
            "apps": { "http": { "servers": { "web": server } } },
        });
        let file = folder.path().join("caddy.json");
        fs::write(&file, configuration.to_string()).expect("its folder");
        let command = ["caddy", "run", "--resume", "--config"].map(ToOwned::to_owned).into_iter();
        let command = command.chain([file.display().to_string()]).collect();
        let program = Supervised::start(command, folder, port, setup.cores);
        let (releases, fallback) = (setup.releases.clone(), setup.fallback);
        Self { program, releases, active: active.to_owned(), fallback }
    }

    fn upstream(&self, release: &str) -> Result<Value, String> {
        Ok(json!({ "dial": self.releases.address(release)? }))
    }
}

impl Contender for Caddy {
    fn port(&self) -> u16 {
        self.program.port
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        let mut upstreams = vec![self.upstream(release)?];
        if self.fallback {
            upstreams.push(self.upstream(&self.active)?);
        }
        let body = Value::from(upstreams).to_string();
        let socket = self.program.folder.path().join("admin.sock");
        let headers = [("Content-Type", "application/json")];
        http::change(&socket, "PATCH", "/id/web/upstreams", &headers, body.as_bytes())?;
        release.clone_into(&mut self.active);
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        self.program.pids()
    }

    fn worker(&self) -> u32 {
        self.program.pids()[0]
    }

    fn revive(&mut self) -> bool {
        self.program.revive()
    }
}
