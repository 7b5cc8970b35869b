//! `[preview]`: a check through NGINX, before any user sees the release.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::field;
use super::health::Pace;
use super::http::{Header, Headers, Host, Http, Path, Pattern, Statuses};
use crate::url::Url;

/// How to see that NGINX reaches a release, and that it works behind it. The upstream needs
/// `shunt_preview` with the header's variable, as in `shunt_preview $http_x_shunt_release;`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(deserialize_with = "url")]
    url: Url,
    #[serde(default = "header")]
    header: Header,
    host: Option<Host>,
    #[serde(default)]
    headers: Headers,
    status: Option<Statuses>,
    #[serde(default, deserialize_with = "field::some_text")]
    body: Option<String>,
    body_regex: Option<Pattern>,
    release_header: Option<Header>,
    #[serde(default = "interval", deserialize_with = "field::duration")]
    interval: Duration,
    #[serde(default = "timeout", deserialize_with = "field::some_time")]
    timeout: Duration,
    #[serde(default = "one", deserialize_with = "field::passes")]
    passes: u32,
    #[serde(default = "deadline", deserialize_with = "field::some_time")]
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
