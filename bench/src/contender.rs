//! Those who are compared: a proxy before the application's releases, and how it is told to go to
//! another one. Each is configured as one would who knows it well, and has one worker.

mod caddy;
mod haproxy;
mod lua;
mod nginx;
mod plain;
mod reload;
mod shunt;
mod supervised;

use std::path::Path;
use std::process::{Command, Stdio};

use shunt_tests::build::Build;

use crate::application::Application;
use crate::machine::Cores;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A plain upstream of the same NGINX, which goes to one release for ever.
    Plain,
    /// A plain upstream that is written anew, and `nginx -s reload`.
    Reload,
    /// `balancer_by_lua` and a shared dictionary.
    Lua,
    /// HAProxy and its runtime API.
    Haproxy,
    /// Caddy and its admin API.
    Caddy,
    /// Shunt.
    Shunt,
    /// Shunt without a state file.
    Volatile,
}

/// Which versions of them there are.
pub fn versions() -> String {
    let said = |program: &str, argument: &str| -> Option<String> {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(number_in(&text)?.to_owned())
    };
    let nginx = Some(("NGINX", Build::debian().version));
    let haproxy = said("haproxy", "-v").map(|version| ("HAProxy", version));
    let caddy = said("caddy", "version").map(|version| ("Caddy", version));
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let shunt = commit.ok().filter(|output| output.status.success());
    let shunt = shunt.map(|o| ("Shunt", String::from_utf8_lossy(&o.stdout).trim().to_owned()));
    let all = [shunt, nginx, haproxy, caddy].into_iter().flatten();
    all.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ")
}

/// The first word that begins with a digit, without what distributions add to a version.
fn number_in(text: &str) -> Option<&str> {
    let words = text.split_whitespace().map(|word| word.trim_start_matches('v'));
    let mut numbers = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    numbers.next()?.split(['-', '+']).next()
}

/// What a contender is started with.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// The machine's NGINX, for those who are one.
    pub build: &'a Build,
    /// The proxy has one.
    pub cores: &'a Cores,
    /// Whether connections to the application are kept open.
    pub keepalive: bool,
    /// Whether a request is tried again at the release before if the new one cannot be reached,
    /// where that can be configured.
    pub fallback: bool,
    /// Where requests can go.
    pub releases: Releases,
}

/// How many connections to the application are kept open.
const KEPT: usize = 64;

impl<'a> Setup<'a> {
    /// With these releases, connections kept open.
    pub fn new(build: &'a Build, cores: &'a Cores, releases: &[&Application]) -> Self {
        let releases =
            Releases(releases.iter().map(|r| (r.name.to_owned(), r.address())).collect());
        Self { build, cores, keepalive: true, fallback: false, releases }
    }
}

/// Names and addresses of releases. The first is active at first.
#[derive(Debug, Clone)]
pub struct Releases(pub Vec<(String, String)>);

impl Releases {
    /// The address of a release.
    fn address(&self, release: &str) -> Result<&str, String> {
        let found = self.0.iter().find(|(name, _)| name == release);
        found.map(|(_, address)| address.as_str()).ok_or_else(|| format!("no release {release}"))
    }

    /// The name and the address of the first.
    fn first(&self) -> (&str, &str) {
        let (name, address) = self.0.first().expect("there is one");
        (name, address)
    }
}

/// A proxy that runs. It ends with this.
pub trait Contender {
    /// Where it serves.
    fn port(&self) -> u16;

    /// Makes a release the one that new requests go to; returns when the tool that does it returns.
    ///
    /// # Errors
    ///
    /// What the tool says.
    fn flip(&mut self, release: &str) -> Result<(), String>;

    /// Its processes.
    fn pids(&self) -> Vec<u32>;

    /// The process that has the clients' connections.
    fn worker(&self) -> u32;

    /// Starts it again if its first process has ended, as systemd would; tells whether it had to.
    fn revive(&mut self) -> bool;
}

impl Kind {
    /// All that are compared.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Reload, Self::Lua, Self::Haproxy, Self::Caddy, Self::Shunt];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "NGINX, plain upstream",
            Self::Reload => "NGINX, reload",
            Self::Lua => "NGINX, Lua",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
            Self::Shunt => "Shunt",
            Self::Volatile => "Shunt, no state file",
        }
    }

    /// Whether it can go to another release at all.
    pub fn flips(self) -> bool {
        self != Self::Plain
    }

    /// Those of a list that are installed. The others are told of.
    pub fn installed(kinds: &[Self]) -> Vec<Self> {
        let there = |kind: &Self| match kind.missing() {
            None => true,
            Some(what) => {
                println!("left out: {}, as there is no {what}", kind.name());
                false
            }
        };
        kinds.iter().copied().filter(there).collect()
    }

    /// What it lacks on this machine.
    fn missing(self) -> Option<&'static str> {
        let runs = |program: &str, argument: &str| {
            let mut command = Command::new(program);
            let quiet = command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null());
            quiet.status().is_ok_and(|status| status.success())
        };
        let good = match self {
            Self::Haproxy => runs("haproxy", "-v"),
            Self::Caddy => runs("caddy", "version"),
            Self::Lua => lua::FILES.iter().all(|file| Path::new(file).exists()),
            Self::Plain | Self::Reload | Self::Shunt | Self::Volatile => true,
        };
        match self {
            _ if good => None,
            Self::Haproxy => Some("haproxy"),
            Self::Caddy => Some("caddy"),
            _ => Some("libnginx-mod-http-lua with lua-resty-core"),
        }
    }

    /// Starts it on the proxy's core, and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start(self, setup: &Setup) -> Box<dyn Contender> {
        setup.cores.as_proxy(|| -> Box<dyn Contender> {
            match self {
                Self::Plain => Box::new(plain::Plain::start(setup)),
                Self::Reload => Box::new(reload::Reload::start(setup)),
                Self::Lua => Box::new(lua::Lua::start(setup)),
                Self::Haproxy => Box::new(haproxy::Haproxy::start(setup)),
                Self::Caddy => Box::new(caddy::Caddy::start(setup)),
                Self::Shunt => Box::new(shunt::Shunt::start(setup, true)),
                Self::Volatile => Box::new(shunt::Shunt::start(setup, false)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found() {
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n";
        assert_eq!(number_in(haproxy), Some("2.6.12"));
        assert_eq!(number_in("v2.8.4 h1:wYf\n"), Some("2.8.4"));
        assert_eq!(number_in("2.6.2\n"), Some("2.6.2"));
        assert_eq!(number_in("unknown\n"), None);
    }
}
