//! `[preview]`: a check through NGINX, before any user sees the release.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::health::Pace;
use super::http::{Header, Headers, Host, Http, Path, Pattern, Statuses};
use super::{field, schema};
use crate::url::Url;

/// How to see that NGINX reaches a release, and that it works behind it. The upstream needs
/// `shunt_preview` with the header's variable, as in `shunt_preview $http_x_shunt_release;`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Raw")]
#[schemars(with = "Raw")]
pub struct Preview {
    /// Where NGINX answers.
    pub url: Url,
    /// The header that tells NGINX the release's name.
    pub header: Header,
    /// What is asked, and what must come.
    pub http: Http,
    /// How often, and for how long.
    pub pace: Pace,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [preview]")]
struct Raw {
    /// Where NGINX answers, and what is asked for.
    #[serde(deserialize_with = "url")]
    #[schemars(with = "schema::HttpUrl")]
    url: Url,
    /// The header that tells NGINX the release's name.
    #[serde(default = "header")]
    header: Header,
    /// The `Host` header; that of the URL if left out.
    host: Option<Host>,
    /// Further headers.
    #[serde(default)]
    headers: Headers,
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
    /// The time between two checks.
    #[serde(default = "interval", deserialize_with = "field::duration")]
    #[schemars(with = "schema::Time")]
    interval: Duration,
    /// How long one check may take.
    #[serde(default = "timeout", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    timeout: Duration,
    /// How many good ones in a row are needed.
    #[serde(default = "one", deserialize_with = "field::passes")]
    #[schemars(range(min = 1))]
    passes: u32,
    /// How long all of it may take.
    #[serde(default = "deadline", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    deadline: Duration,
}

fn url<'de, D: Deserializer<'de>>(d: D) -> Result<Url, D::Error> {
    Url::parse(&String::deserialize(d)?).map_err(de::Error::custom)
}

fn header() -> Header {
    Header::from_static("x-shunt-release")
}

fn interval() -> Duration {
    Duration::from_millis(200)
}

fn timeout() -> Duration {
    Duration::from_secs(2)
}

fn one() -> u32 {
    1
}

fn deadline() -> Duration {
    Duration::from_secs(10)
}

impl TryFrom<Raw> for Preview {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        if raw.headers.map().contains_key(raw.header.name()) {
            let name = raw.header.name();
            return Err(format!("\"headers\" has {name:?}, which names the release"));
        }
        let host = match raw.host {
            Some(host) => host,
            None => Host::try_from(raw.url.host.clone())?,
        };
        let http = Http {
            path: Path::try_from(raw.url.path.clone())?,
            host,
            headers: raw.headers,
            status: raw.status.unwrap_or(Http::default().status),
            body: raw.body,
            body_regex: raw.body_regex,
            release_header: raw.release_header,
        };
        let Raw { interval, timeout, passes, deadline, .. } = raw;
        let pace = Pace { interval, timeout, passes, deadline };
        Ok(Self { url: raw.url, header: raw.header, http, pace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_whom_to_ask_and_for_what() {
        let preview: Preview = toml::from_str("url = \"http://127.0.0.1:81/a?b\"").unwrap();
        assert_eq!(preview.http.path.as_str(), "/a?b");
        assert_eq!(preview.http.host.value(), "127.0.0.1:81");
        assert_eq!(preview.header.name(), "x-shunt-release");
        let text = "url = \"http://127.0.0.1\"\nhost = \"shop.example\"";
        let preview: Preview = toml::from_str(text).unwrap();
        assert_eq!((preview.http.path.as_str(), preview.pace.passes), ("/", 1));
        assert_eq!(preview.http.host.value(), "shop.example");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("", "missing field `url`"),
            ("url = \"https://127.0.0.1/\"", "only http://"),
            ("url = \"http://a\"\nheader = \"X Y\"", "not a header's name"),
            ("url = \"http://a\"\nheaders = { X-Shunt-Release = \"v1\" }", "names the release"),
            ("url = \"http://a\"\npath = \"/\"", "unknown field `path`"),
        ] {
            let error = toml::from_str::<Preview>(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
