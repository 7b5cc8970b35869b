//! `[health]`: how to see that a release works.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::http::{Header, Headers, Host, Http, Path, Pattern, Statuses};
use super::{field, schema};

/// How to see that a release works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Raw")]
#[schemars(with = "Raw")]
pub struct Health {
    /// What is done.
    pub check: Check,
    /// How often, and for how long.
    pub pace: Pace,
}

impl Health {
    /// What a request to the application says as `Host`.
    #[must_use]
    pub fn host(&self) -> http::HeaderValue {
        match &self.check {
            Check::Http(http) => http.host.value().clone(),
            _ => Http::default().host.value().clone(),
        }
    }
}

/// One way to check a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A request.
    Http(Box<Http>),
    /// A connection. It is no proof of more than that somebody listens, and with socket activation
    /// that is the runner, before the application runs.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Which service; the server as a whole if it is empty.
        service: String,
    },
    /// A program in the release's folder.
    Command(Vec<String>),
}

impl Default for Check {
    fn default() -> Self {
        Self::Http(Box::default())
    }
}

/// How often something is checked, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// The time between two checks.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// How many good ones in a row are needed.
    pub passes: u32,
    /// How long all of it may take.
    pub deadline: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: interval(), timeout: timeout(), passes: 2, deadline: deadline() }
    }
}

/// The section as it is written: all ways to check side by side.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [health]")]
struct Raw {
    /// What is asked for with `GET`.
    path: Option<Path>,
    /// The `Host` header.
    host: Option<Host>,
    /// Further headers.
    headers: Option<Headers>,
    /// The statuses that are good.
    status: Option<Statuses>,
    /// What the body must have in it.
    #[serde(default, deserialize_with = "field::some_text")]
    #[schemars(with = "Option<schema::Text>")]
    body: Option<String>,
    /// A regular expression that the body must match somewhere.
    body_regex: Option<Pattern>,
    /// A header that must name the release.
    release_header: Option<Header>,
    /// A connection is enough.
    #[serde(default, deserialize_with = "field::yes")]
    #[schemars(extend("const" = true))]
    tcp: bool,
    /// The service to ask for by gRPC's health protocol; the server as a whole if it is empty.
    grpc: Option<String>,
    /// A program in the release's folder, which must end with 0.
    #[serde(default, deserialize_with = "field::some_command")]
    #[schemars(with = "Option<schema::Command>")]
    command: Option<Vec<String>>,
    /// The time between two checks.
    #[serde(default = "interval", deserialize_with = "field::duration")]
    #[schemars(with = "schema::Time")]
    interval: Duration,
    /// How long one check may take.
    #[serde(default = "timeout", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    timeout: Duration,
    /// How many good ones in a row are needed.
    #[serde(default = "two", deserialize_with = "field::passes")]
    #[schemars(range(min = 1))]
    passes: u32,
    /// How long all of it may take.
    #[serde(default = "deadline", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    deadline: Duration,
}

fn interval() -> Duration {
    Duration::from_millis(200)
}

fn timeout() -> Duration {
    Duration::from_secs(2)
}

fn two() -> u32 {
    2
}

fn deadline() -> Duration {
    Duration::from_secs(30)
}

impl TryFrom<Raw> for Health {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let http = [
            ("path", raw.path.is_some()),
            ("host", raw.host.is_some()),
            ("headers", raw.headers.is_some()),
            ("status", raw.status.is_some()),
            ("body", raw.body.is_some()),
            ("body_regex", raw.body_regex.is_some()),
            ("release_header", raw.release_header.is_some()),
        ];
        // All that belongs to HTTP is one way.
        let http = http.into_iter().find(|(_, given)| *given);
        let others =
            [("tcp", raw.tcp), ("grpc", raw.grpc.is_some()), ("command", raw.command.is_some())];
        let mut ways = http.into_iter().chain(others).filter(|(_, given)| *given);
        if let (Some((one, _)), Some((other, _))) = (ways.next(), ways.next()) {
            return Err(format!(
                "a release is checked in one way: {one:?} and {other:?} belong to two, remove one"
            ));
        }
        let check = if raw.tcp {
            Check::Tcp
        } else if let Some(service) = raw.grpc {
            Check::Grpc { service }
        } else if let Some(command) = raw.command {
            Check::Command(command)
        } else {
            let default = Http::default();
            Check::Http(Box::new(Http {
                path: raw.path.unwrap_or(default.path),
                host: raw.host.unwrap_or(default.host),
                headers: raw.headers.unwrap_or_default(),
                status: raw.status.unwrap_or(default.status),
                body: raw.body,
                body_regex: raw.body_regex,
                release_header: raw.release_header,
            }))
        };
        let Raw { interval, timeout, passes, deadline, .. } = raw;
        Ok(Self { check, pace: Pace { interval, timeout, passes, deadline } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Health, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn without_a_word_it_is_http() {
        assert_eq!(parse("").unwrap(), Health::default());
        let Check::Http(http) = parse("status = \"200-299,304\"").unwrap().check else { panic!() };
        assert_eq!((http.path.as_str(), http.status.contain(304)), ("/", true));
    }

    #[test]
    fn there_are_four_ways_to_check() {
        for (text, check) in [
            ("tcp = true", Check::Tcp),
            ("grpc = \"\"", Check::Grpc { service: String::new() }),
            ("grpc = \"shop\"", Check::Grpc { service: "shop".to_owned() }),
            ("command = [\"./check\"]", Check::Command(vec!["./check".to_owned()])),
        ] {
            assert_eq!(parse(text).unwrap().check, check);
            let both = parse(&format!("{text}\nstatus = 200")).unwrap_err();
            assert!(both.contains("\"status\" and"), "{both}");
        }
        let both = parse("tcp = true\ncommand = [\"x\"]").unwrap_err();
        assert!(both.contains("\"tcp\" and \"command\""), "{both}");
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for (text, said) in [
            ("tcp = false", "leave it out"),
            ("body = \"\"", "needs a text"),
            ("body_regex = \"(\"", "unclosed group"),
            ("command = []", "needs a program"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
