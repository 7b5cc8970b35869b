//! HAProxy, with its runtime API on a unix socket. It runs as a master with a worker, as Debian has it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use shunt_tests::free_port;
use tempfile::TempDir;

use super::supervised::Supervised;
use super::{Contender, KEPT, Setup};

/// It, running.
pub struct Haproxy {
    program: Supervised,
    active: String,
}

impl Haproxy {
    /// Starts it. What cannot be reached is tried again; there is no other release to try it at, as
    /// one that is drained gets no request.
    pub fn start(setup: &Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let port = free_port();
        let close = if setup.keepalive { "" } else { "option http-server-close" };
        let server = |(n, (name, address)): (usize, &(String, String))| {
            let state = if n == 0 { "" } else { "disabled" };
            format!("    server {name} {address} pool-max-conn {KEPT} {state}\n")
        };
        let servers: String = setup.releases.0.iter().enumerate().map(server).collect();
        let configuration = format!(
            "global\n    nbthread 1\n    maxconn 8000\n    stats socket {}/admin.sock mode 600 level admin\n\
             defaults\n    mode http\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n    \
             timeout tunnel 1h\n    option redispatch\n    {close}\n\
             frontend http\n    bind 127.0.0.1:{port} backlog 8192\n    default_backend web\n\
             backend web\n{servers}",
            folder.path().display(),
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, configuration).expect("its folder");
        let command = ["haproxy", "-W", "-f"].map(ToOwned::to_owned).into_iter();
        let command = command.chain([file.display().to_string()]).collect();
        let program = Supervised::start(command, folder, port, setup.cores);
        Self { program, active: setup.releases.first().0.to_owned() }
    }

    /// A line to the runtime API; an answer that is not empty is a refusal.
    fn say(&self, line: &str) -> Result<(), String> {
        let socket = self.program.folder.path().join("admin.sock");
        let answer = UnixStream::connect(socket).and_then(|mut stream| {
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

impl Contender for Haproxy {
    fn port(&self) -> u16 {
        self.program.port
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        let before = std::mem::replace(&mut self.active, release.to_owned());
        if before == release {
            return self.say(&format!("set server web/{release} state ready"));
        }
        self.say(&format!(
            "set server web/{release} state ready; set server web/{before} state drain"
        ))
    }

    fn pids(&self) -> Vec<u32> {
        self.program.pids()
    }

    fn worker(&self) -> u32 {
        *self.program.pids().get(1).expect("the master has a worker")
    }

    fn revive(&mut self) -> bool {
        self.program.revive()
    }
}
