//! The bodies of the calls that change something.

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::duration::NginxTime;
use crate::name::ReleaseName;
use crate::portion::Portion;
use crate::state::Server;

/// The body of `POST …/switch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"release\":\"v2\"}")]
pub struct SwitchRequest {
    /// The release to make active.
    pub release: ReleaseName,
}

/// The answer to `POST …/switch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct SwitchReply {
    /// The release that is active now.
    pub release: ReleaseName,
    /// The one that was active before; the same one when there was nothing to do.
    pub from: Option<ReleaseName>,
    /// The generation after the switch.
    pub generation: u32,
}

/// The body of `PUT …/canary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"release\":\"v2\",\"share\":0.05}")]
pub struct CanaryRequest {
    /// The release that gets a share of the requests.
    pub release: ReleaseName,
    /// How large a share.
    pub share: Portion,
}

/// The body of `PUT …/hold`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"timeout\":\"30s\"}")]
pub struct HoldRequest {
    /// When the hold ends by itself, from now on.
    pub timeout: NginxTime,
}

impl HoldRequest {
    /// Whoever wants to hold for longer asks again.
    pub const MAX: NginxTime = NginxTime::from_secs(3600);

    /// Checks what the type alone cannot say.
    ///
    /// # Errors
    ///
    /// Says what the limits are.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.timeout.duration().is_zero() || self.timeout > Self::MAX {
            return Err(SpecError::Hold(self.timeout));
        }
        Ok(())
    }
}

/// The body of `PUT …/releases/{release}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(
    deny_unknown_fields,
    expecting = "an object, as in {\"servers\":[{\"address\":\"127.0.0.1:3002\"}]}"
)]
pub struct ReleaseSpec {
    /// One server or more.
    #[cfg_attr(feature = "openapi", schemars(length(min = 1, max = Self::MAX_SERVERS)))]
    pub servers: Vec<ServerSpec>,
}

/// A server in a request; what is left out is as with NGINX's `server`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "a server, as in {\"address\":\"127.0.0.1:3002\"}")]
pub struct ServerSpec {
    /// An IP literal with a port, or `unix:` and a path.
    pub address: Address,
    /// 1 to 10,000.
    #[serde(default = "one")]
    #[cfg_attr(feature = "openapi", schemars(range(min = 1, max = Self::MAX_WEIGHT)))]
    pub weight: u32,
    /// 0 never counts the server out.
    #[serde(default = "one")]
    pub max_fails: u32,
    /// Default `10s`.
    #[serde(default = "ten_seconds")]
    pub fail_timeout: NginxTime,
    /// 0 is no limit.
    #[serde(default)]
    pub max_conns: u32,
    /// Used only when the others are unavailable.
    #[serde(default)]
    pub backup: bool,
    /// Not used.
    #[serde(default)]
    pub down: bool,
}

fn one() -> u32 {
    1
}

fn ten_seconds() -> NginxTime {
    NginxTime::from_secs(10)
}

/// Why something cannot be as a request describes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No server, or only backup servers: NGINX would have nothing to balance over.
    #[error("a release needs at least one server that is not a backup")]
    NoServer,
    /// More servers than one release may have.
    #[error("a release has {0} servers, at most {max} are allowed", max = ReleaseSpec::MAX_SERVERS)]
    ManyServers(usize),
    /// A weight of 0 or beyond the limit.
    #[error("server {address}: weight is {weight}, it can be 1 to {max}", max = ServerSpec::MAX_WEIGHT)]
    Weight {
        /// The server's address.
        address: Address,
        /// What was asked for.
        weight: u32,
    },
    /// Together more than the limit.
    #[error("the weights add up to {0}, at most {max} are allowed", max = ServerSpec::MAX_WEIGHT)]
    TotalWeight(u64),
    /// The same address twice.
    #[error("server {0} is there twice, give it a weight instead")]
    Duplicate(Address),
    /// NGINX counts this one in seconds.
    #[error("server {address}: fail_timeout is {fail_timeout}, it can be whole seconds")]
    FailTimeout {
        /// The server's address.
        address: Address,
        /// What was asked for.
        fail_timeout: NginxTime,
    },
    /// No time, or too long.
    #[error("timeout is {0}, a hold can last up to {max}", max = HoldRequest::MAX)]
    Hold(NginxTime),
}

impl ReleaseSpec {
    /// Most servers of one release.
    pub const MAX_SERVERS: usize = 256;

    /// A release of one server with the default parameters.
    #[must_use]
    pub fn single(address: Address) -> Self {
        Self { servers: vec![ServerSpec::new(address)] }
    }

    /// Checks what the types alone cannot say.
    ///
    /// # Errors
    ///
    /// Says which server is wrong and why.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.servers.len() > Self::MAX_SERVERS {
            return Err(SpecError::ManyServers(self.servers.len()));
        }
        if self.servers.iter().all(|s| s.backup) {
            return Err(SpecError::NoServer);
        }
        let total = self.servers.iter().map(|s| u64::from(s.weight)).sum();
        if total > u64::from(ServerSpec::MAX_WEIGHT) && self.servers.len() > 1 {
            return Err(SpecError::TotalWeight(total));
        }
        let mut seen = std::collections::BTreeSet::new();
        for server in &self.servers {
            if server.weight == 0 || server.weight > ServerSpec::MAX_WEIGHT {
                return Err(SpecError::Weight {
                    address: server.address.clone(),
                    weight: server.weight,
                });
            }
            if server.fail_timeout.duration().subsec_millis() != 0 {
                return Err(SpecError::FailTimeout {
                    address: server.address.clone(),
                    fail_timeout: server.fail_timeout,
                });
            }
            if !seen.insert(&server.address) {
                return Err(SpecError::Duplicate(server.address.clone()));
            }
        }
        Ok(())
    }
}

impl ServerSpec {
    /// The largest weight, also of all servers together: `hash … consistent` makes 160 points for each
    /// unit of it, when the first request needs them.
    pub const MAX_WEIGHT: u32 = 10_000;

    /// A server with NGINX's default parameters.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            weight: one(),
            max_fails: one(),
            fail_timeout: ten_seconds(),
            max_conns: 0,
            backup: false,
            down: false,
        }
    }
}

impl From<ServerSpec> for Server {
    fn from(spec: ServerSpec) -> Self {
        Self {
            address: spec.address.to_string(),
            weight: spec.weight,
            max_fails: spec.max_fails,
            fail_timeout: spec.fail_timeout,
            max_conns: spec.max_conns,
            backup: spec.backup,
            down: spec.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ReleaseSpec, String> {
        let spec: ReleaseSpec = serde_json::from_str(json).map_err(|e| e.to_string())?;
        spec.check().map_err(|e| e.to_string())?;
        Ok(spec)
    }

    #[test]
    fn what_is_left_out_is_as_with_nginx() {
        let spec = parse(r#"{"servers":[{"address":"127.0.0.1:3000"}]}"#).unwrap();
        let server = Server::from(spec.servers[0].clone());
        assert_eq!((server.weight, server.max_fails, server.max_conns), (1, 1, 0));
        assert_eq!(server.fail_timeout.as_secs(), 10);
        assert!(!server.backup && !server.down);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("{", "EOF"),
            (r#"{"servers":[]}"#, "at least one server"),
            (r#"{"servers":[{"address":"127.0.0.1:1","backup":true}]}"#, "not a backup"),
            (r#"{"servers":[{"address":"127.0.0.1:1","weight":0}]}"#, "weight is 0"),
            (r#"{"servers":[{"address":"127.0.0.1:1","weight":10001}]}"#, "weight is 10001"),
            (
                r#"{"servers":[{"address":"127.0.0.1:1","weight":9000},{"address":"127.0.0.1:2","weight":1001}]}"#,
                "add up to 10001",
            ),
            (r#"{"servers":[{"address":"127.0.0.1:1","wieght":1}]}"#, "unknown field `wieght`"),
            (r#"{"servers":[{"address":"127.0.0.1:1","fail_timeout":"500ms"}]}"#, "whole seconds"),
            (r#"{"servers":[{"address":"app:1"}]}"#, "resolve it first"),
            (r#"{"servers":[{"address":"127.0.0.1:1"},{"address":"127.0.0.1:1"}]}"#, "twice"),
            (r#"{"servers":[{"address":"127.0.0.1:1"}],"x":1}"#, "unknown field `x`"),
        ];
        for (json, said) in cases {
            let error = parse(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }

    #[test]
    fn a_body_of_another_shape_is_not_refused_in_rusts_words() {
        fn said<T: serde::de::DeserializeOwned>(json: &str) -> String {
            serde_json::from_str::<T>(json).err().map(|e| e.to_string()).unwrap_or_default()
        }
        for json in ["5", "[]", "\"x\"", "null"] {
            for said in [
                said::<SwitchRequest>(json),
                said::<CanaryRequest>(json),
                said::<HoldRequest>(json),
                said::<ReleaseSpec>(json),
                said::<ReleaseSpec>(&format!(r#"{{"servers":[{json}]}}"#)),
            ] {
                assert!(said.contains(", as in {\""), "{json}: {said}");
                assert!(!said.contains("struct"), "{json}: {said}");
            }
        }
    }
}
