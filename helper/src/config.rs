//! The configuration of applications: one TOML file each, checked strictly.

mod canary;
mod field;
mod guard;
mod health;
pub mod hooks;
mod http;
pub mod notify;
mod preview;
pub mod source;
mod warm_up;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shunt_api::{Address, ReleaseName};

use crate::runner::user::User;

pub use canary::{Canary, Step};
pub use guard::{Guard, Inconclusive};
pub use health::{Check, Health, Pace};
pub use http::{Header, Headers, Host, Http, Path as HttpPath, Pattern, Statuses};
pub use preview::Preview;
pub use warm_up::WarmUp;

/// Where the files are looked for.
pub const DEFAULT_FOLDER: &str = "/etc/shunt/apps";

/// An application.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// The file that it was read from.
    #[serde(skip)]
    pub file: PathBuf,
    /// Its name, by which commands call it.
    pub name: ReleaseName,
    /// Its folder: `releases/`, `current` and `log/` are made there.
    #[serde(deserialize_with = "field::root")]
    pub root: PathBuf,
    /// The upstream in NGINX's configuration; the application's name if left out.
    pub upstream: Option<String>,
    /// Where `shunt_api` answers.
    pub nginx: Address,
    /// How long a call of `shunt_api` may take, and for how long one that is answered with "try
    /// again" is made again.
    #[serde(default = "ten_seconds", deserialize_with = "field::some_time")]
    pub nginx_timeout: Duration,
    /// The file with the token of `shunt_api`, if it answers on TCP.
    pub token_file: Option<PathBuf>,
    /// Where releases come from.
    #[serde(default)]
    pub source: source::Source,
    /// What a deploy runs.
    #[serde(default)]
    pub hooks: hooks::Hooks,
    /// How to run it.
    pub run: Run,
    /// How to see that it works.
    #[serde(default)]
    pub health: Health,
    /// Requests to a new release before anybody else's.
    pub warm_up: Option<WarmUp>,
    /// How to see that it works behind NGINX, too.
    pub preview: Option<Preview>,
    /// How much of the requests a new release gets first; all of them at once if left out.
    pub canary: Option<Canary>,
    /// What a new release may do wrong.
    #[serde(default)]
    pub guard: Guard,
    /// How long to wait for its requests.
    #[serde(default)]
    pub drain: Drain,
    /// What to keep.
    #[serde(default)]
    pub keep: Keep,
    /// Who is told of its deploys.
    #[serde(default)]
    pub notify: Vec<notify::Notify>,
}

/// How to run an application.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Program and arguments; relative to the release's folder.
    #[serde(deserialize_with = "field::command")]
    pub command: Vec<String>,
    /// Where releases listen; two or more, of which one is free.
    #[serde(deserialize_with = "field::slots")]
    pub slots: Vec<Address>,
    /// The user to run as; that of the daemon if left out.
    #[serde(default, deserialize_with = "field::user")]
    pub user: Option<User>,
    /// Added to the environment.
    #[serde(default, deserialize_with = "field::env")]
    pub env: BTreeMap<String, String>,
    /// How long a release may take to end after `SIGTERM`.
    #[serde(default = "ten_seconds", deserialize_with = "field::duration")]
    pub stop_timeout: Duration,
}

/// How long to wait for what an old release has in flight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// For requests.
    #[serde(deserialize_with = "field::duration")]
    pub timeout: Duration,
    /// For upgraded connections (WebSockets), from the same moment on.
    #[serde(deserialize_with = "field::duration")]
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
    #[serde(deserialize_with = "field::kept")]
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

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The folder cannot be read.
    #[error("cannot read the folder of applications {}: {error}; make it, or name another one (--config)",
        path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
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
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())
    }
}

/// Sections that are read, but that no deploy does anything about yet.
const NOT_YET: [&str; 7] = ["source", "hooks", "warm_up", "preview", "canary", "guard", "notify"];

/// Refuses what would be ignored: whoever writes it relies on it.
fn works(text: &str) -> Result<(), String> {
    let table: toml::Table = toml::from_str(text).map_err(|e| e.to_string())?;
    let Some(section) = NOT_YET.into_iter().find(|name| table.contains_key(*name)) else {
        return Ok(());
    };
    let is_its = |line: &str| line.trim_start_matches(['[', ' ']).starts_with(section);
    let line = text.lines().position(is_its).map_or(0, |at| at + 1);
    Err(format!("line {line}: \"{section}\" does nothing in this version, remove it"))
}

/// Reads all applications of a folder.
///
/// # Errors
///
/// [`ConfigError`] of the first file that is wrong.
pub fn load(folder: &Path) -> Result<Vec<App>, ConfigError> {
    let read = |error| ConfigError::Folder { path: folder.to_owned(), error };
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
        let mut app =
            App::parse(&text).map_err(|why| ConfigError::Wrong { path: path.clone(), why })?;
        works(&text).map_err(|why| ConfigError::Wrong { path: path.clone(), why })?;
        app.file.clone_from(&path);
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
    use proptest::prelude::*;

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
        assert_eq!(app.health, Health::default());
        assert_eq!((app.warm_up, app.preview, app.canary), (None, None, None));
        assert_eq!(app.guard, Guard::default());
        assert_eq!(app.run.stop_timeout, Duration::from_secs(10));
        assert_eq!(app.keep.releases, 5);
    }

    #[test]
    fn the_sample_is_good_and_its_comments_name_the_defaults() {
        // On this machine there is no such user.
        let sample = include_str!("../sample.toml").replace("\nuser ", "\n# user ");
        let app = App::parse(&sample).unwrap();
        // What is commented out, and is no prose, uncommented.
        let all: Vec<_> = sample
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains('=') && !rest.starts_with("user ") => rest,
                Some(rest) if rest.starts_with('[') => rest,
                _ => line,
            })
            .collect();
        let all = App::parse(&all.join("\n")).unwrap();
        let http = |app: &App| match &app.health.check {
            Check::Http(http) => (**http).clone(),
            other => panic!("{other:?}"),
        };
        let (header, http) = (http(&all).release_header, http(&app));
        let expected = App {
            run: Run { env: all.run.env.clone(), ..app.run.clone() },
            health: Health {
                check: Check::Http(Box::new(Http { release_header: header.clone(), ..http })),
                ..app.health
            },
            ..app
        };
        assert_eq!(all, expected);
        assert!(!all.run.env.is_empty() && header.is_some());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("name = \"web\"", "name = \"w b\"", 2, "has a character other than"),
            ("/srv/web", "srv", 3, "absolute"),
            ("unix:/run", "unix:run", 4, "absolute"),
            ("[run]", "[run]\nslot = 1", 6, "unknown field `slot`, expected one of `command`"),
            ("[run]", "[runs]", 5, "unknown field `runs`"),
            ("[\"./server\"]", "[]", 6, "needs a program"),
            (", \"127.0.0.1:3002\"", "", 7, "two slots or more"),
            ("3002", "3001", 7, "there twice"),
            ("127.0.0.1:3002", "localhost:3002", 7, "resolve it first"),
            ("[run]", "[run]\nuser = \"nobody at all\"", 6, "there is no user"),
            ("[run]", "[run]\nenv = { PORT = \"1\" }", 6, "set by shuntd itself"),
            ("[run]", "[health]\npath = \"health\"\n[run]", 6, "must start with"),
            ("[run]", "[health]\npath = \"/a b\"\n[run]", 6, "cannot be asked for"),
            ("[run]", "[health]\nstatus = \"2xx\"\n[run]", 6, "a status is as in"),
            ("[run]", "[health]\nstatus = 99\n[run]", 6, "a status is as in"),
            ("[run]", "[health]\nstatus = true\n[run]", 6, "a status is as in"),
            ("[run]", "[health]\nrelease_header = \"X Y\"\n[run]", 6, "not a header's name"),
            ("[run]", "[health]\nhost = \"a\\nb\"\n[run]", 6, "Host header"),
            ("[run]", "[health]\npasses = 0\n[run]", 6, "1 or more"),
            ("[run]", "[health]\ninterval = \"1 minute\"\n[run]", 6, "is not a time"),
            ("[run]", "[health]\ntimeout = \"0s\"\n[run]", 6, "longer than nothing"),
            ("[run]", "[health]\ntcp = true\npath = \"/\"\n[run]", 5, "\"path\" and \"tcp\""),
            ("[run]", "[warm_up]\nrequests = [\"x\"]\n[run]", 6, "must start with"),
            ("[run]", "[preview]\nurl = \"https://a\"\n[run]", 6, "only http://"),
            ("[run]", "[canary]\nsteps = []\n[run]", 6, "needs a step"),
            ("[run]", "[guard]\np99_ratio = 0.5\n[run]", 6, "1 or more"),
            ("[run]", "[keep]\nreleases = 1\n[run]", 6, "2 or more"),
        ];
        for (from, to, line, said) in cases {
            let error = App::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(said), "{to}: {error}");
            assert!(error.contains(&format!("line {line},")), "{to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(
            section in "(health|warm_up|preview|canary|guard|drain|keep)",
            key in "(path|host|headers|status|body|body_regex|tcp|grpc|command|requests|times|url|\
                    header|steps|time|min_requests|error_share|p99_ratio|connect_failures|interval)",
            value in "(\"[ -~]{0,12}\"|-?[0-9]{1,20}|[0-9]\\.[0-9]{1,9}|nan|inf|true|false|\\[\\]|\\{\\}|\
                      \\[\"[!-~]{0,6}\"\\]|\\{ a = \"[!-~]{0,6}\" \\}|\\[\\{ share = [0-9.]{1,6} \\}\\])",
        ) {
            let text = format!("{GOOD}\n[{section}]\n{key} = {value}");
            if let Err(error) = App::parse(&text) {
                prop_assert!(error.contains("line "), "{}", error);
            }
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

    #[test]
    fn what_would_be_ignored_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.toml");
        let sample = include_str!("../sample.toml").replace("\nuser ", "\n# user ");
        for section in ["[guard]\ntime = \"0s\"\n", "[hooks]\nbuild = [\"make\"]\n"] {
            std::fs::write(&file, format!("{sample}\n{section}")).unwrap();
            let line = sample.lines().count() + 2;
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}: ")), "{error}");
            assert!(error.contains("does nothing in this version"), "{error}");
        }
        std::fs::write(&file, sample).unwrap();
        assert_eq!(load(folder.path()).unwrap().len(), 1);
    }
}
