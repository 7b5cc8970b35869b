//! The configuration of applications: one TOML file each, checked strictly.

pub mod canary;
mod field;
mod guard;
mod health;
pub mod hooks;
mod http;
mod mistake;
pub mod notify;
mod parse;
mod preview;
mod read;
pub mod run;
pub mod schema;
pub mod source;
mod strategy;
mod warm_up;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use shunt_api::{Address, ReleaseName};

pub use canary::Canary;
pub use guard::{Guard, Inconclusive};
pub use health::{Check, Health, Pace};
pub use http::{Header, Headers, Host, Http, Path as HttpPath, Pattern, Statuses};
pub use mistake::{Mistake, Mistakes};
pub use preview::Preview;
pub use read::{File, folder, load};
pub use run::{Docker, Pull, Run, Runner, Slot, Units};
pub use strategy::{Hold, Strategy};
pub use warm_up::WarmUp;

/// Where the files are looked for.
pub const DEFAULT_FOLDER: &str = "/etc/shunt/apps";

/// An application.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// The file that it was read from.
    #[serde(skip)]
    pub file: PathBuf,
    /// Its name, by which commands call it.
    pub name: ReleaseName,
    /// Its folder: `releases/`, `current` and `log/` are made there.
    #[serde(deserialize_with = "field::root")]
    #[schemars(with = "schema::AbsolutePath")]
    pub root: PathBuf,
    /// The upstream in NGINX's configuration; the application's name if left out.
    pub upstream: Option<String>,
    /// Where `shunt_api` answers.
    pub nginx: Address,
    /// How long a call of `shunt_api` may take, and for how long one that is answered with "try
    /// again" is made again.
    #[serde(default = "ten_seconds", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    pub nginx_timeout: Duration,
    /// The file with the token of `shunt_api`, if it answers on TCP.
    pub token_file: Option<PathBuf>,
    /// How a new release takes the old one's place.
    #[serde(default)]
    pub strategy: Strategy,
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
    /// How long requests may wait while a release is restarted in place.
    #[serde(default)]
    pub hold: Hold,
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

/// How long to wait for what an old release has in flight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a section, as in [drain]")]
pub struct Drain {
    /// For requests.
    #[serde(deserialize_with = "field::duration")]
    #[schemars(with = "schema::Time")]
    pub timeout: Duration,
    /// For upgraded connections (WebSockets), from the same moment on.
    #[serde(deserialize_with = "field::duration")]
    #[schemars(with = "schema::Time")]
    pub upgraded_timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), upgraded_timeout: Duration::from_secs(30) }
    }
}

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a section, as in [keep]")]
pub struct Keep {
    /// Releases on disk, those in use included.
    #[serde(deserialize_with = "field::kept")]
    #[schemars(range(min = 2))]
    pub releases: usize,
    /// Whether the old release runs on in its slot once it is drained, until the slot is needed: a
    /// rollback then takes milliseconds.
    pub running: bool,
    /// Whether the socket of an old release that has stopped listens on until its slot is needed: a
    /// rollback then switches at once, and connections wait until it has started.
    pub socket: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self { releases: 5, running: false, socket: true }
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
    /// Files are not what they should be.
    #[error(transparent)]
    Wrong(#[from] Mistakes),
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
    /// All that is wrong, as far as it can be told, each with its line.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        parse::parse(text)
    }
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
        let Runner::Process { stop_timeout, .. } = app.run.runner else { panic!("{:?}", app.run) };
        assert_eq!(stop_timeout, Duration::from_secs(10));
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
            canary: all.canary.clone(),
            ..app
        };
        assert_eq!(all, expected);
        assert!(!all.run.env.is_empty() && header.is_some() && all.canary.is_some());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("name = \"web\"", "name = \"w b\"", 2, "has a character other than"),
            ("/srv/web", "srv", 3, "absolute"),
            ("unix:/run", "unix:run", 4, "absolute"),
            ("[run]", "[run]\nslot = 1", 6, "did you mean \"slots\"?"),
            ("[run]", "[runs]", 5, "did you mean \"run\"?"),
            ("[\"./server\"]", "[]", 6, "needs a program"),
            ("slots = [\"127.0.0.1:3001\", \"127.0.0.1:3002\"]", "slots = []", 7, "needs a slot"),
            ("3002", "3001", 7, "there twice"),
            ("127.0.0.1:3002", "localhost:3002", 5, "resolve it first"),
            ("command = [\"./server\"]", "unit = \"web@.service\"", 6, "write \"web\""),
            ("[run]", "[run]\nunit = \"web\"", 5, "\"command\" is said in the unit"),
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
            let text = error.to_string();
            assert!(text.contains(said), "{to}: {text}");
            assert_eq!(error.0.iter().map(|m| m.line).collect::<Vec<_>>(), [line], "{to}: {text}");
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
                let last = text.lines().count();
                let good = |m: &Mistake| m.line > 0 && m.line <= last && m.column > 0;
                prop_assert!(!error.0.is_empty() && error.0.iter().all(good), "{}", error);
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
        assert!(error.contains("b.toml:7:9: run.slots: slot 127.0.0.1:3001"), "{error}");
    }

    #[test]
    fn what_does_not_fit_together_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.toml");
        let sample = include_str!("../sample.toml").replace("\nuser ", "\n# user ");
        let slots = "[\"127.0.0.1:3001\", \"127.0.0.1:3002\"]";
        let at = |text: &str, key: &str| {
            text.lines().position(|line| line.trim_start_matches('[').starts_with(key)).unwrap() + 1
        };
        let canary = "[canary]\nsteps = [{ share = 0.1, time = \"1m\" }]\n";
        let preview = "[preview]\nurl = \"http://127.0.0.1/\"\n";
        for (strategy, slots_now, more, key, said) in [
            ("blue-green", "[\"127.0.0.1:3001\"]", "", "slots", "needs two slots"),
            ("in-place", slots, "", "slots", "has one slot"),
            ("in-place", "[\"127.0.0.1:3001\"]", canary, "canary", "runs beside the old"),
            ("in-place", "[\"127.0.0.1:3001\"]", preview, "preview", "runs beside the old"),
        ] {
            let text =
                format!("strategy = {strategy:?}\n{}\n{more}", sample.replace(slots, slots_now));
            std::fs::write(&file, &text).unwrap();
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("web.toml:{}:", at(&text, key))), "{error}");
            assert!(error.contains(said), "{error}");
        }
        std::fs::write(&file, sample).unwrap();
        load(folder.path()).unwrap();
    }
}
