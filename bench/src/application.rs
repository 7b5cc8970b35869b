//! The application behind all of them: another NGINX, which answers by itself and names its release.

use rustix::process::Signal;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::signal;

/// A release of it that runs.
#[derive(Debug)]
pub struct Application {
    nginx: Nginx,
    /// Its WebSockets.
    _tunnels: Backend,
    /// The release's name.
    pub name: &'static str,
}

/// How large an answer's body is.
const BODY: usize = 512;

impl Application {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start(build: &Build, name: &'static str) -> Self {
        let tunnels = Backend::start(name, 1);
        let setup = Setup { http: http(name, &tunnels), workers: 1 };
        let mut nginx = Nginx::prepare(build, setup);
        nginx.set_module(None);
        nginx.set_connections(20_000);
        nginx.run();
        Self { nginx, _tunnels: tunnels, name }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.nginx.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.nginx.port
    }

    /// It dies, as if the kernel had killed it.
    pub fn die(&self) {
        let workers = self.nginx.workers();
        std::iter::once(self.nginx.master())
            .chain(workers)
            .for_each(|pid| signal(pid, Signal::KILL));
    }
}

/// What RFC 6455 answers to the key of its own example, which is the only one that is used here.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A minute passes between two answers to requests for `/long`: whoever asks waits for a long time.
fn http(name: &str, tunnels: &Backend) -> String {
    format!(
        "error_log %FOLDER%/error.log warn;
         keepalive_timeout 1h;
         limit_req_zone $server_name zone=long:64k rate=1r/m;
         server {{
             server_name application;
             listen 127.0.0.1:%PORT% backlog=8192;
             add_header X-Release {name};
             location / {{ return 200 \"{:.<BODY$}\"; }}
             location /long {{ limit_req zone=long burst=20000; empty_gif; }}
             location /ws {{
                 proxy_pass http://{};
                 proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection upgrade;
                 proxy_read_timeout 1h;
                 add_header Sec-WebSocket-Accept {ACCEPT} always;
             }}
         }}",
        name, tunnels.addresses[0],
    )
}
