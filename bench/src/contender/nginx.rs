//! What all those have in common that are NGINX.

use shunt_tests::nginx::Nginx;
use shunt_tests::process::{children, is_running};

use super::{KEPT, Setup};
use crate::machine::Cores;

/// NGINX with one worker.
#[derive(Debug)]
pub struct Proxy {
    /// It.
    pub nginx: Nginx,
    cores: Cores,
}

impl Proxy {
    /// Starts it. `main` is what stands outside of all blocks, `upstream` what stands in `http` beside the server that proxies to `web`.
    pub fn start(setup: &Setup, module: bool, main: &str, upstream: &str) -> Self {
        let http = format!("{upstream}\n{}", server(setup.keepalive));
        let setup_nginx = shunt_tests::nginx::Setup { http, workers: 1 };
        let mut nginx = Nginx::prepare(setup.build, setup_nginx);
        if !module {
            nginx.set_module(None);
        }
        nginx.set_main(&format!("{} {main}", nginx.main()));
        nginx.set_connections(20_000);
        nginx.run();
        Self { nginx, cores: setup.cores.clone() }
    }

    /// Where it serves.
    pub fn port(&self) -> u16 {
        self.nginx.port
    }

    /// The master and its workers, those of older configurations included.
    pub fn pids(&self) -> Vec<u32> {
        let master = self.nginx.master();
        std::iter::once(master).chain(children(master)).collect()
    }

    /// The worker that takes new connections.
    pub fn worker(&self) -> u32 {
        *self.nginx.workers().first().expect("it has one")
    }

    /// Starts it again if the master has ended; tells whether it had to.
    pub fn revive(&mut self) -> bool {
        let ended = !is_running(self.nginx.master());
        if ended {
            // NGINX that was killed leaves its unix sockets behind, and does not start over them.
            for name in ["api.sock", "flip.sock"] {
                let _ = std::fs::remove_file(self.nginx.path(name));
            }
            let nginx = &mut self.nginx;
            self.cores.as_proxy(|| nginx.run());
        }
        ended
    }
}

/// The directive that keeps connections to the upstream open, if they are.
pub fn keepalive(setup: &Setup) -> String {
    if setup.keepalive { format!("keepalive {KEPT};") } else { String::new() }
}

/// The server that proxies. Without `keepalive` NGINX says `Connection: close` to the upstream.
fn server(keepalive: bool) -> String {
    let connection = if keepalive { "proxy_set_header Connection \"\";" } else { "" };
    format!(
        "error_log %FOLDER%/error.log crit;
         server {{
             listen 127.0.0.1:%PORT% backlog=8192;
             proxy_http_version 1.1;
             location / {{ proxy_pass http://web; {connection} }}
             location /ws {{
                 proxy_pass http://web;
                 proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection upgrade;
                 proxy_read_timeout 1h;
             }}
         }}"
    )
}
