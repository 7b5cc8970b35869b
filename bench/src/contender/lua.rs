//! NGINX with `balancer_by_lua` and a shared dictionary.

use std::fs;

use tempfile::TempDir;

use super::nginx::{Proxy, keepalive};
use super::{Contender, Releases, Setup};
use crate::http;

/// The files of Debian's packages that it needs.
pub const FILES: [&str; 3] = [
    "/usr/lib/nginx/modules/ndk_http_module.so",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so",
    "/usr/share/lua/5.1/ngx/balancer.lua",
];

const ROUTE: &str = include_str!("route.lua");

/// It, running.
pub struct Lua {
    proxy: Proxy,
    releases: Releases,
    /// Its program is here.
    _folder: TempDir,
}

impl Lua {
    /// Starts it.
    pub fn start(setup: &Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("route.lua"), ROUTE).expect("its folder");
        let balance = if setup.fallback { "balance_or_fall_back" } else { "balance" };
        let upstream = format!(
            "lua_package_path '{}/?.lua;/usr/share/lua/5.1/?.lua;;';
             lua_shared_dict routes 1m;
             init_by_lua_block {{ require('route').start('{}') }}
             upstream web {{
                 server 0.0.0.1;
                 balancer_by_lua_block {{ require('route').{balance}() }}
                 {}
             }}
             server {{
                 listen unix:%FOLDER%/flip.sock;
                 location /flip/ {{ content_by_lua_block {{ require('route').flip() }} }}
             }}",
            folder.path().display(),
            setup.releases.first().1,
            keepalive(setup),
        );
        let main = format!("load_module {}; load_module {};", FILES[0], FILES[1]);
        let proxy = Proxy::start(setup, false, &main, &upstream);
        Self { proxy, releases: setup.releases.clone(), _folder: folder }
    }
}

impl Contender for Lua {
    fn port(&self) -> u16 {
        self.proxy.port()
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        let address = self.releases.address(release)?;
        let socket = self.proxy.nginx.path("flip.sock");
        http::change(&socket, "POST", &format!("/flip/{address}"), &[], b"")
    }

    fn pids(&self) -> Vec<u32> {
        self.proxy.pids()
    }

    fn worker(&self) -> u32 {
        self.proxy.worker()
    }

    fn revive(&mut self) -> bool {
        self.proxy.revive()
    }
}
