//! NGINX with many upstreams, or many releases.

use shunt_tests::nginx::{Nginx, Setup};

use crate::bench::Bench;

/// `shunt_zone`, and for `%SIZE%` one that all upstreams fit into.
pub const WITHOUT: &str = "%SIZE%";
/// The same with a state file.
pub const WITH: &str = "%SIZE% state=%STATE%";

/// So many upstreams, with the releases that they have here, fit into a megabyte.
const FIT: usize = 200;

/// What there is of it.
#[derive(Debug, Clone, Copy)]
pub struct Size<'a> {
    /// So many upstreams: `u0`, `u1`, …
    pub upstreams: usize,
    /// So many releases in each: `r0`, `r1`, …
    pub releases: usize,
    /// All of them are here.
    pub address: &'a str,
    /// What follows the zone's name and the colon; `None` is plain NGINX, whose upstreams have the
    /// servers of one release.
    pub zone: Option<&'a str>,
}

impl Size<'_> {
    /// The `http` block.
    pub fn http(&self) -> String {
        let release = |n: usize| format!("shunt_release r{n} {};", self.address);
        let servers: String = match self.zone {
            Some(_) => std::iter::once("shunt;".to_owned())
                .chain((0..self.releases).map(release))
                .collect(),
            None => format!("server {};", self.address),
        };
        let upstream = |n: usize| format!("upstream u{n} {{ {servers} keepalive 32; }}\n");
        let upstreams: String = (0..self.upstreams).map(upstream).collect();
        let zone = self.zone.map(|zone| {
            let zone = zone.replace("%SIZE%", &format!("{}m", self.upstreams.div_ceil(FIT)));
            format!(
                "shunt_zone shunt:{zone};
                 server {{ listen unix:%FOLDER%/api.sock; location / {{ shunt_api write=on; }} }}"
            )
        });
        // The last one, should it matter how many are before it.
        let last = self.upstreams - 1;
        format!(
            "error_log %FOLDER%/error.log crit;
             {} {upstreams}
             server {{
                 listen 127.0.0.1:%PORT% backlog=8192 reuseport;
                 proxy_http_version 1.1;
             proxy_read_timeout 1h;
                 proxy_set_header Connection \"\";
                 location / {{ proxy_pass http://u{last}; }}
             }}",
            zone.unwrap_or_default()
        )
    }

    /// Writes its configuration.
    pub fn prepare(&self, bench: &Bench, workers: usize) -> Nginx {
        let mut nginx = Nginx::prepare(&bench.build, Setup { http: self.http(), workers });
        if self.zone.is_none() {
            nginx.set_module(None);
        }
        nginx
    }

    /// Starts it on the proxy's core.
    pub fn start(&self, bench: &Bench) -> Nginx {
        let mut nginx = self.prepare(bench, 1);
        bench.cores.as_proxy(|| nginx.run());
        nginx
    }
}
