//! The state that the API shows.

use serde::{Deserialize, Serialize};

use crate::duration::NginxTime;
use crate::name::ReleaseName;
use crate::portion::Portion;

/// The answer to `GET /v1/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Index {
    /// Version of the module.
    pub module: String,
    /// Version of NGINX.
    pub nginx: String,
    /// Worker processes that serve traffic now, those of an older configuration included.
    pub workers: usize,
    /// How full each zone is.
    pub zones: Vec<ZoneUse>,
    /// Whether the caller may change something here.
    pub writable: bool,
}

/// How full the shared memory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ZoneUse {
    /// The zone's name in the configuration.
    pub name: String,
    /// Its size, in bytes.
    pub size: u64,
    /// Upstreams in it, and how many fit.
    pub upstreams: Share,
    /// Releases in it, and how many fit.
    pub releases: Share,
    /// Bytes that the tables of releases take, and how many there are for them.
    pub tables: Share,
}

/// So many used of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Share {
    /// In use.
    pub used: u64,
    /// There are at all.
    pub capacity: u64,
}

/// The answer to `GET /v1/upstreams`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Upstreams {
    /// Every switchable upstream of the configuration, in its order.
    pub upstreams: Vec<Upstream>,
}

/// One switchable upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: String,
    /// Raised by one with every change; also the `ETag`.
    pub generation: u32,
    /// The release that new requests go to; none if there is nothing to send them to.
    pub active: Option<ReleaseName>,
    /// The release that was active before the last switch.
    pub previous: Option<ReleaseName>,
    /// The release that gets a share of the requests.
    pub canary: Option<Canary>,
    /// Whether new requests are parked.
    pub hold: Option<Hold>,
    /// Whether a `shunt_hold` of NGINX's configuration names it: without one a hold parks nothing.
    pub holdable: bool,
    /// Requests that are parked now, in all workers.
    pub parked: u64,
    /// Requests that were ever parked.
    pub parked_total: u64,
    /// Whether requests that the active release cannot be connected to for go to the previous one
    /// (`shunt_fallback on`).
    pub fallback: bool,
    /// How many times another release was made active since NGINX started.
    pub switches: u64,
    /// All releases, in the order in which they were made.
    pub releases: Vec<Release>,
}

impl Upstream {
    /// The release with this name.
    #[must_use]
    pub fn release(&self, name: &str) -> Option<&Release> {
        self.releases.iter().find(|r| r.name.as_str() == name)
    }
}

/// A release that gets a share of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Canary {
    /// The release.
    pub release: ReleaseName,
    /// How large the share is.
    pub share: Portion,
}

/// New requests are parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Hold {
    /// After so long the hold ends by itself.
    pub ends_in: NginxTime,
}

/// One release of an upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Release {
    /// Its name.
    pub name: ReleaseName,
    /// Who made it.
    pub source: Source,
    /// What it is doing.
    pub state: ReleaseState,
    /// The servers that run it.
    pub servers: Vec<Server>,
    /// Requests that were given to it and have not ended.
    pub in_flight: InFlight,
    /// Requests that were given to it since it was made.
    pub requests: u64,
    /// What it answered.
    pub responses: Responses,
    /// Attempts to connect to one of its servers that failed.
    pub connect_failures: u64,
    /// Requests that went on to another release because it could not be connected to.
    pub fallbacks: u64,
    /// How long its responses took, upgraded connections left out.
    pub response_time: ResponseTime,
}

/// Responses by the first digit of their status; `502` and `504` also stand for a release that did
/// not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Responses {
    /// `101 Switching Protocols`.
    #[serde(rename = "1xx")]
    pub informational: u64,
    /// `2xx`.
    #[serde(rename = "2xx")]
    pub successful: u64,
    /// `3xx`.
    #[serde(rename = "3xx")]
    pub redirection: u64,
    /// `4xx`.
    #[serde(rename = "4xx")]
    pub client_error: u64,
    /// `5xx`.
    #[serde(rename = "5xx")]
    pub server_error: u64,
}

/// A histogram, as Prometheus has it: each bucket counts those before it, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ResponseTime {
    /// All responses.
    pub count: u64,
    /// Their times together, in seconds.
    pub sum: f64,
    /// Buckets, the shortest time first. Longer responses than the last one's are only in `count`.
    pub buckets: Vec<Bucket>,
}

/// So many responses took no longer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Bucket {
    /// The longest time, in seconds.
    pub le: f64,
    /// How many.
    pub count: u64,
}

/// Who made a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `server` or `shunt_release` in NGINX's configuration.
    Config,
    /// `PUT …/releases/…`; outlives reload and restart.
    Api,
}

/// What a release is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ReleaseState {
    /// New requests go to it.
    Active,
    /// A share of the new requests goes to it.
    Canary,
    /// Requests that the active release cannot be connected to for go to it.
    Previous,
    /// It gets no new requests and has some in flight.
    Draining,
    /// It gets no new requests and has none in flight: it can be stopped.
    Idle,
}

/// What is in flight.
///
/// What runs where it cannot be counted is taken to be in flight until it ends: in workers of an
/// older configuration that had another zone, and, while the binary is upgraded, in those of the
/// older NGINX, which stand for one request at each release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct InFlight {
    /// Requests.
    pub requests: u64,
    /// Upgraded connections: WebSocket and other `101 Switching Protocols`.
    pub upgraded: u64,
}

impl InFlight {
    /// Both kinds together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.requests + self.upgraded
    }
}

impl std::ops::Add for InFlight {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, upgraded: self.upgraded + other.upgraded }
    }
}

/// One server of a release, with the parameters of NGINX's `server` directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Server {
    /// As it was written: an IP literal, a `unix:` path, or (only in NGINX's configuration) a name.
    pub address: String,
    /// Its part of the requests relative to the other servers.
    pub weight: u32,
    /// Failures within `fail_timeout` that make it unavailable; 0 never does.
    pub max_fails: u32,
    /// The time in which failures are counted, and for which the server is then left alone.
    pub fail_timeout: NginxTime,
    /// Most connections at the same time, for each worker; 0 is no limit.
    pub max_conns: u32,
    /// Used only when the others are unavailable.
    pub backup: bool,
    /// Not used.
    pub down: bool,
}
