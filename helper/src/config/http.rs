//! A request of a check, and what a good answer to it is; for `[health]`, `[warm_up]`, `[preview]`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use regex::bytes::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// What is asked with `GET`, and what must come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The path, with the query if there is one.
    pub path: Path,
    /// The `Host` header.
    pub host: Host,
    /// Further headers.
    pub headers: Headers,
    /// The statuses that are good.
    pub status: Statuses,
    /// What the body must have in it.
    pub body: Option<String>,
    /// What the body must match somewhere.
    pub body_regex: Option<Pattern>,
    /// A header that must name the release.
    pub release_header: Option<Header>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            path: Path("/".to_owned()),
            host: Host(HeaderValue::from_static("localhost")),
            headers: Headers::default(),
            status: Statuses(vec![200..=299]),
            body: None,
            body_regex: None,
            release_header: None,
        }
    }
}

/// A path that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
#[schemars(extend("pattern" = "^/[^# ]*$"))]
pub struct Path(String);

impl TryFrom<String> for Path {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        if !path.starts_with('/') {
            return Err("must start with \"/\"");
        }
        match path.parse::<http::Uri>() {
            // The parser drops what stands after "#".
            Ok(uri) if uri.path_and_query().is_some_and(|p| p.as_str() == path) => Ok(Self(path)),
            _ => Err("cannot be asked for, encode what is no part of a path"),
        }
    }
}

impl Path {
    /// The path as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is sent as `Host`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Host(HeaderValue);

impl TryFrom<String> for Host {
    type Error = &'static str;

    fn try_from(host: String) -> Result<Self, Self::Error> {
        match HeaderValue::from_str(&host) {
            Ok(value) => Ok(Self(value)),
            Err(_) => Err("cannot be sent as a Host header"),
        }
    }
}

impl Host {
    /// The header's value.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }
}

/// The name of a header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
#[schemars(extend("pattern" = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
pub struct Header(HeaderName);

impl TryFrom<String> for Header {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(Self(name)),
            Err(_) => Err("is not a header's name, which is as in \"X-Release\""),
        }
    }
}

impl Header {
    /// A name that is known to be one; in lower case.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self(HeaderName::from_static(name))
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

/// Headers to send. Their values may be secret, and are never shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<String, String>")]
#[schemars(with = "BTreeMap<String, String>")]
pub struct Headers(HeaderMap);

/// What the client of HTTP or the check itself sends.
const OURS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

impl TryFrom<BTreeMap<String, String>> for Headers {
    type Error = String;

    fn try_from(headers: BTreeMap<String, String>) -> Result<Self, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let Header(known) = name.clone().try_into().map_err(|e| format!("{name:?} {e}"))?;
            if known == header::HOST {
                return Err("write \"host\" itself instead of a header \"Host\"".to_owned());
            }
            if OURS.contains(&known) {
                return Err(format!("{name:?} cannot be set"));
            }
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| format!("what {name:?} says cannot be sent in a header"))?;
            value.set_sensitive(true);
            if map.insert(known, value).is_some() {
                return Err(format!("{name:?} is there twice"));
            }
        }
        Ok(Self(map))
    }
}

impl Headers {
    /// All of them.
    #[must_use]
    pub fn map(&self) -> &HeaderMap {
        &self.0
    }
}

/// The statuses that are good: `200`, `"200-299"`, `"200-299,304"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// How a status is written.
const STATUS: &str = "a status is as in 200, \"200-299\" or \"200-299,304\"";

impl Statuses {
    /// All that are no error: answers with what was asked for, and redirects.
    #[must_use]
    pub fn no_error() -> Self {
        Self(vec![200..=399])
    }

    fn parse(text: &str) -> Option<Self> {
        let range = |part: &str| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low)?, number(high)?);
            (low <= high).then_some(low..=high)
        };
        text.split(',').map(range).collect::<Option<_>>().map(Self)
    }

    /// Whether this one is good.
    #[must_use]
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// A status: three digits, the first of which is 1 to 5.
fn number(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && (100..600).contains(n))
}

impl JsonSchema for Statuses {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = "[1-5][0-9]{2}";
        let range = format!(" *{one} *(- *{one} *)?");
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": format!("^{range}(,{range})*$") },
        ] })
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(u16),
            Text(String),
        }
        let text = match Written::deserialize(d) {
            Ok(Written::One(one)) => one.to_string(),
            Ok(Written::Text(text)) => text,
            Err(_) => return Err(de::Error::custom(STATUS)),
        };
        Self::parse(&text).ok_or_else(|| de::Error::custom(STATUS))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let (low, high) = (range.start(), range.end());
            let sep = if at == 0 { "" } else { "," };
            write!(f, "{sep}{low}")?;
            if low != high {
                write!(f, "-{high}")?;
            }
        }
        Ok(())
    }
}

/// A regular expression, in the syntax of the crate `regex`; it looks at bytes, so that a body need
/// not be UTF-8.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The error shows where in the expression it is.
        Regex::new(&text).map(Self).map_err(|e| e.to_string())
    }
}

impl Pattern {
    /// The expression.
    #[must_use]
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn statuses_are_written_as_they_are_read(
            ranges in prop::collection::vec((100u16..600, 0u16..500), 1..5)
        ) {
            let ranges = ranges.iter().map(|(low, more)| *low..=(*low + more).min(599)).collect();
            let statuses = Statuses(ranges);
            prop_assert_eq!(Statuses::parse(&statuses.to_string()), Some(statuses));
        }

        #[test]
        fn no_text_is_a_status_out_of_range(text in "[0-9, -]{0,12}", status in 0u16..2000) {
            let good = Statuses::parse(&text).is_some_and(|s| s.contain(status));
            prop_assert!(!good || (100..600).contains(&status));
        }
    }

    #[test]
    fn several_ranges_of_statuses_are_good() {
        let statuses = Statuses::parse("200-299, 304").unwrap();
        for (status, good) in [(199, false), (200, true), (299, true), (300, false), (304, true)] {
            assert_eq!(statuses.contain(status), good, "{status}");
        }
        for wrong in ["", "2xx", "99", "600", "299-200", "200-", "-200", "200,", "0200", "+200"] {
            assert_eq!(Statuses::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn secrets_in_headers_are_not_shown() {
        let one = |name: &str, value: &str| {
            Headers::try_from(BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        let headers = one("Authorization", "Bearer secret").unwrap();
        assert!(!format!("{headers:?}").contains("secret"), "{headers:?}");
        for (name, value, said) in [
            ("X Y", "", "not a header's name"),
            ("Host", "a", "write \"host\""),
            ("Content-Length", "1", "cannot be set"),
            ("X-A", "secret\n", "what \"X-A\" says cannot be sent"),
        ] {
            let error = one(name, value).unwrap_err();
            assert!(error.contains(said) && !error.contains("secret"), "{name}: {error}");
        }
        let twice = [("X-A", "1"), ("x-a", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert!(Headers::try_from(BTreeMap::from(twice)).unwrap_err().contains("there twice"));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for good in ["/", "/a?b=c", "/%20"] {
            assert_eq!(Path::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["", "a", "/a b", "/a#b", "*"] {
            assert!(Path::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
