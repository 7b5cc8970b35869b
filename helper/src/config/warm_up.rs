//! `[warm_up]`: requests to a release that is healthy, before anybody else's.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::http::{Headers, Host, Http, Path, Statuses};
use super::{field, schema};

/// Requests that fill a release's caches. What becomes of them is reported and stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Raw")]
#[schemars(with = "Raw")]
pub struct WarmUp {
    /// One after the other.
    pub requests: Vec<Http>,
    /// How often all of them.
    pub times: u32,
    /// How long one may take.
    pub timeout: Duration,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [warm_up]")]
struct Raw {
    /// Paths, asked for one after the other.
    #[schemars(length(min = 1))]
    requests: Vec<Path>,
    /// The `Host` header.
    host: Option<Host>,
    /// Further headers.
    #[serde(default)]
    headers: Headers,
    /// How often all of them.
    #[serde(default = "one", deserialize_with = "field::passes")]
    #[schemars(range(min = 1))]
    times: u32,
    /// How long one may take.
    #[serde(default = "timeout", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    timeout: Duration,
}

fn one() -> u32 {
    1
}

fn timeout() -> Duration {
    Duration::from_secs(10)
}

impl TryFrom<Raw> for WarmUp {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        if raw.requests.is_empty() {
            return Err("\"requests\" needs a path, as in [\"/\"]");
        }
        let rest = Http {
            host: raw.host.unwrap_or(Http::default().host),
            headers: raw.headers,
            status: Statuses::no_error(),
            ..Http::default()
        };
        let requests = raw.requests.into_iter().map(|path| Http { path, ..rest.clone() });
        Ok(Self { requests: requests.collect(), times: raw.times, timeout: raw.timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_asked_with_the_same_headers() {
        let text = "requests = [\"/\", \"/a\"]\nhost = \"shop\"\ntimes = 3";
        let warm_up: WarmUp = toml::from_str(text).unwrap();
        let paths: Vec<_> = warm_up.requests.iter().map(|r| r.path.as_str()).collect();
        assert_eq!((paths, warm_up.times), (vec!["/", "/a"], 3));
        assert!(warm_up.requests.iter().all(|r| r.host.value() == "shop"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("requests = []", "needs a path"),
            ("", "missing field `requests`"),
            ("requests = [\"a\"]", "must start with"),
            ("requests = [\"/\"]\ntimes = 0", "1 or more"),
        ] {
            let error = toml::from_str::<WarmUp>(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
