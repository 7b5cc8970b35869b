//! Which call a request makes: from method, path and query to a typed call.

use crate::duration::{DurationError, NginxTime};
use crate::name::{NameError, ReleaseName};

/// The HTTP methods, as far as the API tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`, and `HEAD`, which NGINX answers without the body.
    Get,
    /// `PUT`.
    Put,
    /// `POST`.
    Post,
    /// `DELETE`.
    Delete,
    /// Any other: nothing answers to it.
    Other,
}

/// The value of `Allow` where [`Method::Get`] is allowed.
const READ: &str = "GET, HEAD";

/// A call, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `GET /v1/`
    Index,
    /// `GET /v1/upstreams`
    Upstreams,
    /// `GET /v1/upstreams/{upstream}`, at once or when something has come true.
    Upstream {
        /// The upstream's name.
        upstream: String,
        /// What to wait for.
        wait: Option<Wait>,
    },
    /// `PUT /v1/upstreams/{upstream}/releases/{release}`
    PutRelease {
        /// The upstream's name.
        upstream: String,
        /// The release's name.
        release: ReleaseName,
    },
    /// `DELETE /v1/upstreams/{upstream}/releases/{release}`
    DeleteRelease {
        /// The upstream's name.
        upstream: String,
        /// The release's name.
        release: ReleaseName,
    },
    /// `POST /v1/upstreams/{upstream}/switch`
    Switch {
        /// The upstream's name.
        upstream: String,
    },
    /// `DELETE /v1/upstreams/{upstream}/previous`
    DeletePrevious {
        /// The upstream's name.
        upstream: String,
    },
    /// `PUT /v1/upstreams/{upstream}/canary`
    PutCanary {
        /// The upstream's name.
        upstream: String,
    },
    /// `DELETE /v1/upstreams/{upstream}/canary`
    DeleteCanary {
        /// The upstream's name.
        upstream: String,
    },
    /// `PUT /v1/upstreams/{upstream}/hold`
    PutHold {
        /// The upstream's name.
        upstream: String,
    },
    /// `DELETE /v1/upstreams/{upstream}/hold`
    DeleteHold {
        /// The upstream's name.
        upstream: String,
    },
}

/// What a `GET` waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The release has no requests in flight and gets no new ones.
    Drained {
        /// The release.
        release: ReleaseName,
        /// How long at most.
        timeout: NginxTime,
    },
    /// The generation is another one than this.
    Change {
        /// The generation that the caller knows.
        generation: u32,
        /// How long at most.
        timeout: NginxTime,
    },
}

/// Why a request is no call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is nothing at this path.
    #[error("nothing is at {0:?}, the API starts at \"/v1/\" and \"/v1/upstreams\"")]
    NotFound(String),
    /// The path exists, but not for this method.
    #[error("method not allowed here, use {allow}")]
    Method {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// A parameter of the query is unknown, missing, doubled or wrong.
    #[error("query parameter {name:?} {why}")]
    Query {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A percent escape in the path that is none.
    #[error("{0:?} has an invalid percent escape")]
    Escape(String),
    /// The last part of the path is not a release's name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl CallError {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound(_) => 404,
            Self::Method { .. } => 405,
            Self::Query { .. } | Self::Escape(_) | Self::Name(_) => 400,
        }
    }
}

/// How long a `GET` waits when it does not say, in seconds.
const DEFAULT_WAIT: NginxTime = NginxTime::from_secs(30);

/// How long a `GET` may wait, in seconds: whoever wants longer asks again.
const MAX_WAIT: NginxTime = NginxTime::from_secs(3600);

impl Call {
    /// Reads method, path (from `/v1` on, still percent-encoded) and query.
    ///
    /// # Errors
    ///
    /// Says why this is no call of the API; [`CallError::status`] has the HTTP status.
    pub fn parse(method: Method, path: &str, query: &str) -> Result<Self, CallError> {
        let not_found = || CallError::NotFound(path.to_owned());
        let rest = path.strip_prefix("/v1").ok_or_else(not_found)?;
        let parts: Vec<&str> = match rest {
            "" | "/" => Vec::new(),
            _ => rest.strip_prefix('/').ok_or_else(not_found)?.split('/').collect(),
        };
        let only = |allowed: Method, allow: &'static str, call: Call| {
            if method == allowed { Ok(call) } else { Err(CallError::Method { allow }) }
        };
        let call = match parts.as_slice() {
            [] => only(Method::Get, READ, Self::Index),
            ["upstreams"] | ["upstreams", ""] => only(Method::Get, READ, Self::Upstreams),
            ["upstreams", upstream] => {
                let upstream = decode(upstream)?;
                if method != Method::Get {
                    return Err(CallError::Method { allow: READ });
                }
                return Ok(Self::Upstream { upstream, wait: Wait::parse(query)? });
            }
            ["upstreams", upstream, "switch"] => {
                only(Method::Post, "POST", Self::Switch { upstream: decode(upstream)? })
            }
            ["upstreams", upstream, "previous"] => {
                only(Method::Delete, "DELETE", Self::DeletePrevious { upstream: decode(upstream)? })
            }
            ["upstreams", upstream, what @ ("canary" | "hold")] => {
                let upstream = decode(upstream)?;
                match (method, *what) {
                    (Method::Put, "canary") => Ok(Self::PutCanary { upstream }),
                    (Method::Delete, "canary") => Ok(Self::DeleteCanary { upstream }),
                    (Method::Put, _) => Ok(Self::PutHold { upstream }),
                    (Method::Delete, _) => Ok(Self::DeleteHold { upstream }),
                    _ => Err(CallError::Method { allow: "PUT, DELETE" }),
                }
            }
            ["upstreams", upstream, "releases", release] => {
                let upstream = decode(upstream)?;
                let release = ReleaseName::new(&decode(release)?)?;
                match method {
                    Method::Put => Ok(Self::PutRelease { upstream, release }),
                    Method::Delete => Ok(Self::DeleteRelease { upstream, release }),
                    _ => Err(CallError::Method { allow: "PUT, DELETE" }),
                }
            }
            _ => Err(not_found()),
        }?;
        match parameters(query)?.first() {
            Some((name, _)) => {
                Err(CallError::Query { name: name.clone(), why: "is not known here".to_owned() })
            }
            None => Ok(call),
        }
    }

    /// Whether the call changes something, and so needs the right to.
    #[must_use]
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::Index | Self::Upstreams | Self::Upstream { .. })
    }

    /// Whether the call has a body.
    #[must_use]
    pub fn has_body(&self) -> bool {
        matches!(
            self,
            Self::PutRelease { .. }
                | Self::Switch { .. }
                | Self::PutCanary { .. }
                | Self::PutHold { .. }
        )
    }

    /// The upstream that the call is about, if it is about one.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        match self {
            Self::Index | Self::Upstreams => None,
            Self::Upstream { upstream, .. }
            | Self::PutRelease { upstream, .. }
            | Self::DeleteRelease { upstream, .. }
            | Self::Switch { upstream }
            | Self::DeletePrevious { upstream }
            | Self::PutCanary { upstream }
            | Self::DeleteCanary { upstream }
            | Self::PutHold { upstream }
            | Self::DeleteHold { upstream } => Some(upstream),
        }
    }
}

impl Wait {
    fn parse(query: &str) -> Result<Option<Self>, CallError> {
        let (mut wait, mut release, mut generation, mut timeout) = (None, None, None, None);
        for (name, value) in parameters(query)? {
            let place = match name.as_str() {
                "wait" => &mut wait,
                "release" => &mut release,
                "generation" => &mut generation,
                "timeout" => &mut timeout,
                _ => return Err(query_error(&name, "is not known here")),
            };
            if place.replace(value).is_some() {
                return Err(query_error(&name, "is there twice"));
            }
        }
        let Some(kind) = wait else {
            let lonely = [("release", release), ("generation", generation), ("timeout", timeout)]
                .into_iter()
                .find(|(_, value)| value.is_some());
            return match lonely {
                Some((name, _)) => {
                    Err(query_error(name, "needs \"wait=drained\" or \"wait=change\""))
                }
                None => Ok(None),
            };
        };
        let timeout = match timeout {
            None => DEFAULT_WAIT,
            Some(text) => {
                let time: NginxTime = text
                    .parse()
                    .map_err(|e: DurationError| query_error("timeout", &e.to_string()))?;
                if time > MAX_WAIT {
                    return Err(query_error("timeout", "is longer than \"1h\", ask again instead"));
                }
                time
            }
        };
        match (kind.as_str(), release, generation) {
            ("drained", Some(release), None) => {
                Ok(Some(Self::Drained { release: ReleaseName::new(&release)?, timeout }))
            }
            ("drained", None, _) => Err(query_error("release", "is missing")),
            ("drained", _, Some(_)) => {
                Err(query_error("generation", "does not go with \"wait=drained\""))
            }
            ("change", None, Some(generation)) => match generation.parse() {
                Ok(generation) => Ok(Some(Self::Change { generation, timeout })),
                Err(_) => Err(query_error("generation", "is not a number below 4294967296")),
            },
            ("change", _, None) => Err(query_error("generation", "is missing")),
            ("change", Some(_), _) => {
                Err(query_error("release", "does not go with \"wait=change\""))
            }
            _ => Err(query_error("wait", "can be \"drained\" or \"change\"")),
        }
    }
}

fn query_error(name: &str, why: &str) -> CallError {
    CallError::Query { name: name.to_owned(), why: why.to_owned() }
}

/// Splits a query into decoded names and values.
fn parameters(query: &str) -> Result<Vec<(String, String)>, CallError> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(&value.replace('+', " "))?))
        })
        .collect()
}

/// Undoes percent-encoding (RFC 3986, section 2.1); the result must be UTF-8 without NUL.
fn decode(text: &str) -> Result<String, CallError> {
    let wrong = || CallError::Escape(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| (d as char).to_digit(16)).ok_or_else(wrong);
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    if bytes.contains(&0) {
        return Err(wrong());
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Encodes one part of a path or one value of a query (RFC 3986: all but the unreserved).
#[must_use]
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(b as char);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(s: &str) -> ReleaseName {
        ReleaseName::new(s).unwrap()
    }

    #[test]
    fn every_call_has_one_method_and_path() {
        let web = || "web".to_owned();
        let cases = [
            (Method::Get, "/v1", Call::Index),
            (Method::Get, "/v1/", Call::Index),
            (Method::Get, "/v1/upstreams", Call::Upstreams),
            (Method::Get, "/v1/upstreams/web", Call::Upstream { upstream: web(), wait: None }),
            (
                Method::Put,
                "/v1/upstreams/web/releases/v1",
                Call::PutRelease { upstream: web(), release: name("v1") },
            ),
            (
                Method::Delete,
                "/v1/upstreams/web/releases/v1",
                Call::DeleteRelease { upstream: web(), release: name("v1") },
            ),
            (Method::Post, "/v1/upstreams/web/switch", Call::Switch { upstream: web() }),
            (
                Method::Delete,
                "/v1/upstreams/web/previous",
                Call::DeletePrevious { upstream: web() },
            ),
            (Method::Put, "/v1/upstreams/web/canary", Call::PutCanary { upstream: web() }),
            (Method::Delete, "/v1/upstreams/web/canary", Call::DeleteCanary { upstream: web() }),
            (Method::Put, "/v1/upstreams/web/hold", Call::PutHold { upstream: web() }),
            (Method::Delete, "/v1/upstreams/web/hold", Call::DeleteHold { upstream: web() }),
        ];
        for (method, path, call) in cases {
            assert_eq!(Call::parse(method, path, ""), Ok(call), "{path}");
        }
        let odd = Call::parse(Method::Post, "/v1/upstreams/a%2Fb/switch", "");
        assert_eq!(odd, Ok(Call::Switch { upstream: "a/b".to_owned() }));
    }

    #[test]
    fn what_is_no_call_gets_the_right_status() {
        let cases = [
            (Method::Get, "/", "", 404),
            (Method::Get, "/v2/", "", 404),
            (Method::Get, "/v1x", "", 404),
            (Method::Get, "/v1/upstreams/web/x", "", 404),
            (Method::Get, "/v1/upstreams/web/releases", "", 404),
            (Method::Post, "/v1/", "", 405),
            (Method::Get, "/v1/upstreams/web/switch", "", 405),
            (Method::Delete, "/v1/upstreams/web", "", 405),
            (Method::Get, "/v1/upstreams/web/canary", "", 405),
            (Method::Post, "/v1/upstreams/web/hold", "", 405),
            (Method::Other, "/v1/", "", 405),
            (Method::Other, "/v1/upstreams/web/releases/a", "", 405),
            (Method::Other, "/v1/x", "", 404),
            (Method::Put, "/v1/upstreams/web/releases/a%20b", "", 400),
            (Method::Put, "/v1/upstreams/web/releases/%zz", "", 400),
            (Method::Put, "/v1/upstreams/%ff/releases/a", "", 400),
            (Method::Get, "/v1/", "x=1", 400),
            (Method::Get, "/v1/upstreams/web", "x=1", 400),
            (Method::Get, "/v1/upstreams/web", "timeout=1s", 400),
            (Method::Get, "/v1/upstreams/web", "wait=x", 400),
            (Method::Get, "/v1/upstreams/web", "wait=drained", 400),
            (Method::Get, "/v1/upstreams/web", "wait=drained&release=a&release=b", 400),
            (Method::Get, "/v1/upstreams/web", "wait=drained&release=a&timeout=2h", 400),
            (Method::Get, "/v1/upstreams/web", "wait=change&generation=-1", 400),
            (Method::Get, "/v1/upstreams/web", "wait=change&generation=1&release=a", 400),
        ];
        for (method, path, query, status) in cases {
            let error = Call::parse(method, path, query).unwrap_err();
            assert_eq!(error.status(), status, "{path}?{query}: {error}");
        }
    }

    #[test]
    fn a_get_can_wait() {
        let wait = |query| match Call::parse(Method::Get, "/v1/upstreams/web", query) {
            Ok(Call::Upstream { wait, .. }) => wait,
            other => panic!("{query}: {other:?}"),
        };
        assert_eq!(
            wait("wait=drained&release=v1&timeout=1m+30s"),
            Some(Wait::Drained { release: name("v1"), timeout: NginxTime::from_secs(90) })
        );
        assert_eq!(
            wait("wait=change&generation=7"),
            Some(Wait::Change { generation: 7, timeout: NginxTime::from_secs(30) })
        );
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        for text in ["web", "a/b c%", "ü?&=+"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
    }
}
