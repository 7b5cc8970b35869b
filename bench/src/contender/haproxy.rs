//! HAProxy, with its runtime API on a unix socket. A map says which backend requests go to, and there is a
//! backend for each release. It runs as a master with a worker, as Debian has it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use shunt_tests::{free_port, until};
use tempfile::TempDir;

use super::supervised::Supervised;
use super::{Contender, KEPT, Setup};

/// It, running.
pub struct Haproxy(Supervised);

impl Haproxy {
    /// Starts it.
    pub fn start(setup: &Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let port = free_port();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, configuration(setup, folder.path(), port)).expect("its folder");
        write_map(folder.path(), setup.releases.first().0).expect("its folder");
        let command = ["haproxy", "-W", "-f"].map(ToOwned::to_owned).into_iter();
        let command = command.chain([file.display().to_string()]).collect();
        let started = Self(Supervised::start(command, folder, port, setup.cores));
        // It serves before that.
        let socket = started.socket();
        until("its runtime API answers", || UnixStream::connect(&socket).ok());
        started
    }

    fn socket(&self) -> PathBuf {
        self.0.folder.path().join("admin.sock")
    }

    /// A line to the runtime API; an answer that is not empty is a refusal.
    fn say(&self, line: &str) -> Result<(), String> {
        let answer = UnixStream::connect(self.socket()).and_then(|mut stream| {
            stream.write_all(format!("{line}\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        match answer.map_err(|e| e.to_string())?.trim() {
            "" => Ok(()),
            said => Err(format!("{line}: {said}")),
        }
    }
}

fn map(folder: &Path) -> PathBuf {
    folder.join("active.map")
}

/// For the next start: the runtime API does not write it.
fn write_map(folder: &Path, release: &str) -> std::io::Result<()> {
    let new = folder.join("active.new");
    fs::write(&new, format!("web {release}\n"))?;
    fs::rename(new, map(folder))
}

fn configuration(setup: &Setup, folder: &Path, port: u16) -> String {
    let close = if setup.keepalive { "" } else { "option http-server-close" };
    // What cannot be reached is taken for down at once, and the request tried again elsewhere.
    let watched = "check inter 500ms fall 1 observe layer4 error-limit 1 on-error mark-down";
    let server = |(name, address): &(String, String), of: &str| match (setup.fallback, name == of) {
        (false, true) => format!("    server {name} {address} pool-max-conn {KEPT}\n"),
        (true, true) => format!("    server {name} {address} pool-max-conn {KEPT} {watched}\n"),
        (true, false) => format!("    server {name} {address} pool-max-conn {KEPT} backup\n"),
        (false, false) => String::new(),
    };
    let releases = &setup.releases.0;
    let backend = |(name, _): &(String, String)| {
        let servers: String = releases.iter().map(|release| server(release, name)).collect();
        format!("backend {name}\n{servers}")
    };
    let backends: String = releases.iter().map(backend).collect();
    format!(
        "global\n    nbthread 1\n    maxconn 8000\n    stats socket {}/admin.sock mode 600 level admin\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n    \
         timeout tunnel 1h\n    option redispatch 1\n    \
         retry-on conn-failure empty-response response-timeout 0rtt-rejected\n    {close}\n\
         frontend http\n    bind 127.0.0.1:{port} backlog 8192\n    \
         use_backend %[str(web),map({})]\n{backends}",
        folder.display(),
        map(folder).display(),
    )
}

impl Contender for Haproxy {
    fn port(&self) -> u16 {
        self.0.port
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        let folder = self.0.folder.path();
        self.say(&format!("set map {} web {release}", map(folder).display()))?;
        write_map(folder, release).map_err(|e| e.to_string())
    }

    fn pids(&self) -> Vec<u32> {
        self.0.pids()
    }

    fn worker(&self) -> u32 {
        *self.0.pids().get(1).expect("the master has a worker")
    }

    fn revive(&mut self) -> bool {
        self.0.revive()
    }
}
