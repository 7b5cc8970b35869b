//! The configuration of applications: one TOML file each, checked strictly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use shunt_api::{Address, NginxTime, ReleaseName};

/// Where the files are looked for.
pub const DEFAULT_FOLDER: &str = "/etc/shunt/apps";

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Its name, by which commands call it.
    pub name: ReleaseName,
    /// Its folder: `releases/`, `current` and `log/` are made there.
    pub root: PathBuf,
    /// The upstream in NGINX's configuration; the application's name if left out.
    pub upstream: Option<String>,
    /// Where `shunt_api` answers.
    pub nginx: Address,
    /// The file with the token of `shunt_api`, if it answers on TCP.
    pub token_file: Option<PathBuf>,
    /// How to run it.
    pub run: Run,
    /// How to see that it works.
    #[serde(default)]
    pub health: Health,
    /// How long to wait for its requests.
    #[serde(default)]
    pub drain: Drain,
    /// What to keep.
    #[serde(default)]
    pub keep: Keep,
}

/// How to run an application.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Program and arguments; relative to the release's folder.
    pub command: Vec<String>,
    /// Where releases listen; two or more, of which one is free.
    pub slots: Vec<Address>,
    /// Added to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long a release may take to end after `SIGTERM`.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub stop_timeout: Duration,
}

/// How to see that a release works.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// The path to ask for.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// The statuses that are good.
    #[serde(deserialize_with = "status_range")]
    pub status: (u16, u16),
    /// A header that must name the release.
    pub release_header: Option<String>,
    /// The time between two checks.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// How long one check may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How many good answers in a row are needed.
    pub passes: u32,
    /// How long all of it may take.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            host: "localhost".to_owned(),
            status: (200, 299),
            release_header: None,
            interval: Duration::from_millis(200),
            timeout: Duration::from_secs(2),
            passes: 2,
            deadline: Duration::from_secs(30),
        }
    }
}

/// How long to wait for what an old release has in flight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// For requests.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// For upgraded connections (WebSockets), from the same moment on.
    #[serde(deserialize_with = "duration")]
    pub upgraded_timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), upgraded_timeout: Duration::from_secs(30) }
    }
}

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Releases on disk, those in use included.
    pub releases: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { releases: 5 }
    }
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    text.parse::<NginxTime>().map(NginxTime::duration).map_err(de::Error::custom)
}

/// `200`, `"200"` or `"200-399"`.
fn status_range<'de, D: Deserializer<'de>>(d: D) -> Result<(u16, u16), D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Range {
        One(u16),
        Text(String),
    }
    let range = match Range::deserialize(d)? {
        Range::One(one) => Some((one, one)),
        Range::Text(text) => {
            let (low, high) = text.split_once('-').unwrap_or((&text, &text));
            low.trim().parse().ok().zip(high.trim().parse().ok())
        }
    };
    range
        .filter(|(low, high)| low <= high && (100..600).contains(low) && *high < 600)
        .ok_or_else(|| de::Error::custom("a status is as in 200 or \"200-299\""))
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder cannot be read.
    #[error("cannot read {path:?}: {error}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file is not what it should be; the text has line and column.
    #[error("{}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// Two applications want the same.
    #[error("{}: {what} is also used by application \"{other}\"", path.display())]
    Shared {
        /// The second file.
        path: PathBuf,
        /// What both want.
        what: String,
        /// The first application.
        other: ReleaseName,
    },
}

impl App {
    /// The upstream in NGINX's configuration.
    #[must_use]
    pub fn upstream(&self) -> &str {
        self.upstream.as_deref().unwrap_or(self.name.as_str())
    }

    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// Says what is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let app: Self = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        app.check()?;
        Ok(app)
    }

    /// What the types alone cannot say.
    fn check(&self) -> Result<(), String> {
        if !self.root.is_absolute() {
            return Err("root: must be an absolute path".to_owned());
        }
        if self.run.command.first().is_none_or(String::is_empty) {
            return Err("run.command: needs a program, as in [\"./server\"]".to_owned());
        }
        if self.run.slots.len() < 2 {
            return Err("run.slots: needs two slots or more, one of which is free".to_owned());
        }
        for (i, slot) in self.run.slots.iter().enumerate() {
            if self.run.slots[..i].contains(slot) {
                return Err(format!("run.slots: {slot} is there twice"));
            }
        }
        for (name, value) in &self.run.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("run.env: {name:?} cannot be set"));
            }
        }
        if !self.health.path.starts_with('/') || self.health.path.contains([' ', '\r', '\n']) {
            return Err("health.path: must start with \"/\" and have no blanks".to_owned());
        }
        if self.health.passes == 0 {
            return Err("health.passes: must be 1 or more".to_owned());
        }
        if self.keep.releases < 2 {
            return Err("keep.releases: must be 2 or more, to be able to roll back".to_owned());
        }
        Ok(())
    }
}

/// Reads all applications of a folder.
///
/// # Errors
///
/// [`ConfigError`] of the first file that is wrong.
pub fn load(folder: &Path) -> Result<Vec<App>, ConfigError> {
    let read = |error| ConfigError::Read { path: folder.to_owned(), error };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    let mut apps: Vec<App> = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ConfigError::Read { path: path.clone(), error })?;
        let app =
            App::parse(&text).map_err(|why| ConfigError::Wrong { path: path.clone(), why })?;
        for other in &apps {
            let slot = app.run.slots.iter().find(|s| other.run.slots.contains(s));
            let what = if app.name == other.name {
                Some(format!("the name \"{}\"", app.name))
            } else if app.root == other.root {
                Some(format!("the root {:?}", app.root))
            } else if app.nginx == other.nginx && app.upstream() == other.upstream() {
                Some(format!("the upstream {:?}", app.upstream()))
            } else {
                slot.map(|slot| format!("slot {slot}"))
            };
            if let Some(what) = what {
                return Err(ConfigError::Shared { path, what, other: other.name.clone() });
            }
        }
        apps.push(app);
    }
    Ok(apps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "web"
        root = "/srv/web"
        nginx = "unix:/run/shunt/nginx.sock"
        [run]
        command = ["./server"]
        slots = ["127.0.0.1:3001", "127.0.0.1:3002"]
    "#;

    #[test]
    fn what_is_left_out_has_defaults() {
        let app = App::parse(GOOD).unwrap();
        assert_eq!(app.upstream(), "web");
        assert_eq!((app.health.passes, app.health.status), (2, (200, 299)));
        assert_eq!(app.run.stop_timeout, Duration::from_secs(10));
        assert_eq!(app.keep.releases, 5);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("name = \"web\"", "name = \"w b\"", "line 2"),
            ("[run]", "[run]\nslot = 1", "unknown field `slot`"),
            ("/srv/web", "srv", "absolute"),
            (", \"127.0.0.1:3002\"", "", "two slots or more"),
            ("3002", "3001", "there twice"),
            ("127.0.0.1:3002", "localhost:3002", "resolve it first"),
            ("[\"./server\"]", "[]", "run.command"),
            ("[run]", "[health]\nstatus = \"2xx\"\n[run]", "a status is as in"),
            ("[run]", "[health]\ninterval = \"1 minute\"\n[run]", "is not a time"),
            ("[run]", "[keep]\nreleases = 1\n[run]", "keep.releases"),
        ];
        for (from, to, said) in cases {
            let error = App::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(said), "{to}: {error}");
        }
    }

    #[test]
    fn two_applications_cannot_share_a_slot() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.toml"), GOOD).unwrap();
        let other = GOOD.replace("\"web\"", "\"shop\"").replace("/srv/web", "/srv/shop");
        std::fs::write(folder.path().join("b.toml"), other).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("b.toml: slot 127.0.0.1:3001"), "{error}");
    }
}
