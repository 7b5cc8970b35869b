//! A plain upstream in a file of its own, which is written anew, and `nginx -s reload`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::nginx::{Proxy, keepalive};
use super::{Contender, Releases, Setup};

/// It, running.
pub struct Reload {
    proxy: Proxy,
    program: PathBuf,
    releases: Releases,
    active: String,
    keepalive: String,
    fallback: bool,
    /// The upstream's file is here.
    folder: TempDir,
}

impl Reload {
    /// Starts it.
    pub fn start(setup: &Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (active, address) = setup.releases.first();
        let keepalive = keepalive(setup);
        write(folder.path(), &upstream(address, None, &keepalive)).expect("its folder");
        let include = format!("include {};", file(folder.path()).display());
        Self {
            proxy: Proxy::start(setup, false, "", &include),
            program: setup.build.nginx.clone(),
            releases: setup.releases.clone(),
            active: active.to_owned(),
            keepalive,
            fallback: setup.fallback,
            folder,
        }
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("upstream.conf")
}

/// Whole or not at all, as one does it.
fn write(folder: &Path, text: &str) -> std::io::Result<()> {
    let new = folder.join("upstream.new");
    fs::write(&new, text)?;
    fs::rename(new, file(folder))
}

fn upstream(address: &str, before: Option<&str>, keepalive: &str) -> String {
    let backup = before.map(|address| format!("server {address} backup;")).unwrap_or_default();
    format!("upstream web {{ server {address}; {backup} {keepalive} }}\n")
}

impl Contender for Reload {
    fn port(&self) -> u16 {
        self.proxy.port()
    }

    fn flip(&mut self, release: &str) -> Result<(), String> {
        let before = if self.fallback { Some(self.releases.address(&self.active)?) } else { None };
        let text = upstream(self.releases.address(release)?, before, &self.keepalive);
        write(self.folder.path(), &text).map_err(|e| e.to_string())?;
        let nginx = &self.proxy.nginx;
        let output = Command::new(&self.program)
            .args(["-s", "reload", "-p"])
            .arg(nginx.folder())
            .arg("-c")
            .arg(nginx.path("nginx.conf"))
            .arg("-e")
            .arg(nginx.path("error.log"))
            .output()
            .map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        release.clone_into(&mut self.active);
        Ok(())
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
