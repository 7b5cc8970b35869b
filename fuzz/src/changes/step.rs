//! What can happen, and how a change of it is asked for.

use arbitrary::Arbitrary;
use shunt_api::{Method, Portion};

use super::release;

/// What happens next.
#[derive(Debug, Arbitrary)]
pub enum Step {
    Put {
        upstream: u8,
        release: u8,
        servers: Vec<Server>,
        base: Base,
    },
    Delete {
        upstream: u8,
        release: u8,
        base: Base,
    },
    Switch {
        upstream: u8,
        release: u8,
        base: Base,
    },
    Forget {
        upstream: u8,
        base: Base,
    },
    Canary {
        upstream: u8,
        release: u8,
        share: Share,
        base: Base,
    },
    EndCanary {
        upstream: u8,
        base: Base,
    },
    Hold {
        upstream: u8,
        base: Base,
    },
    Resume {
        upstream: u8,
        base: Base,
    },
    /// A body and a header as they come.
    Strange {
        upstream: u8,
        kind: Kind,
        header: Option<String>,
        body: Vec<u8>,
    },
    Begin {
        upstream: u8,
        worker: u8,
        old: bool,
        wish: Wish,
    },
    /// A request that was sent to this release could not connect there.
    FallBack {
        upstream: u8,
        worker: u8,
        tried: u8,
    },
    Park {
        upstream: u8,
        worker: u8,
        max: u8,
    },
    Upgrade(u8),
    End(u8),
    Reload(super::Plan),
    Restart {
        plan: Option<super::Plan>,
        larger: bool,
    },
}

/// A server of a release.
#[derive(Debug, Arbitrary)]
pub struct Server {
    port: u8,
    weight: u16,
    backup: bool,
    down: bool,
    fail_timeout: u16,
    unix: bool,
}

/// A canary's share: those at the ends above all.
#[derive(Debug, Arbitrary)]
pub enum Share {
    Nothing,
    All,
    Parts(u16),
}

/// What a request says of its release.
#[derive(Debug, Arbitrary)]
pub struct Wish {
    pub preview: Option<u8>,
    pub key: u8,
}

/// Of which call a body is.
#[derive(Debug, Arbitrary)]
pub enum Kind {
    Put,
    Switch,
    Canary,
}

/// What a change is based on.
#[derive(Debug, Arbitrary)]
pub enum Base {
    Anything,
    Now,
    Before,
}

/// A change as the API is asked for it.
pub struct Change<'s> {
    pub upstream: u8,
    pub method: Method,
    /// What follows the upstream in the path.
    pub path: String,
    pub body: Vec<u8>,
    pub base: &'s Base,
}

impl Step {
    /// The change that it is; `None` when it is none.
    pub fn change(&self) -> Option<Change<'_>> {
        let change = |upstream: &u8, method, path: &str, body: Vec<u8>, base| {
            Some(Change { upstream: *upstream, method, path: path.to_owned(), body, base })
        };
        let of_release = |r: &u8| format!("/releases/{}", release(*r));
        match self {
            Self::Put { upstream, release: r, servers, base } => {
                change(upstream, Method::Put, &of_release(r), json(servers), base)
            }
            Self::Delete { upstream, release: r, base } => {
                change(upstream, Method::Delete, &of_release(r), Vec::new(), base)
            }
            Self::Switch { upstream, release: r, base } => {
                let body = serde_json::json!({ "release": release(*r) }).to_string().into_bytes();
                change(upstream, Method::Post, "/switch", body, base)
            }
            Self::Forget { upstream, base } => {
                change(upstream, Method::Delete, "/previous", Vec::new(), base)
            }
            Self::Canary { upstream, release: r, share, base } => {
                let share = Portion::of_parts(match share {
                    Share::Nothing => 0,
                    Share::All => Portion::WHOLE,
                    Share::Parts(parts) => *parts,
                });
                let body = serde_json::json!({ "release": release(*r), "share": share });
                change(upstream, Method::Put, "/canary", body.to_string().into_bytes(), base)
            }
            Self::EndCanary { upstream, base } => {
                change(upstream, Method::Delete, "/canary", Vec::new(), base)
            }
            // One that ends while it is looked at would look like a change.
            Self::Hold { upstream, base } => {
                change(upstream, Method::Put, "/hold", br#"{"timeout":"1h"}"#.to_vec(), base)
            }
            Self::Resume { upstream, base } => {
                change(upstream, Method::Delete, "/hold", Vec::new(), base)
            }
            Self::Strange { upstream, kind, body, .. } => {
                let (method, path) = match kind {
                    Kind::Put => (Method::Put, "/releases/v1"),
                    Kind::Switch => (Method::Post, "/switch"),
                    Kind::Canary => (Method::Put, "/canary"),
                };
                change(upstream, method, path, body.clone(), &Base::Anything)
            }
            Self::Begin { .. }
            | Self::FallBack { .. }
            | Self::Park { .. }
            | Self::Upgrade(_)
            | Self::End(_)
            | Self::Reload(_)
            | Self::Restart { .. } => None,
        }
    }
}

/// A body with these servers.
fn json(servers: &[Server]) -> Vec<u8> {
    let server = |s: &Server| {
        let address = if s.unix {
            format!("unix:/run/{}.sock", s.port)
        } else {
            format!("127.0.0.1:{}", s.port)
        };
        serde_json::json!({
            "address": address,
            "weight": s.weight,
            "backup": s.backup,
            "down": s.down,
            "fail_timeout": format!("{}ms", u32::from(s.fail_timeout) * 100),
        })
    };
    let servers: Vec<_> = servers.iter().map(server).collect();
    serde_json::json!({ "servers": servers }).to_string().into_bytes()
}
