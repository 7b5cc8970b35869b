//! An upstream's table of releases, as it lies in shared memory.

use serde::{Deserialize, Serialize};
use shunt_api::{NginxTime, ReleaseName, ReleaseSpec, Server, ServerSpec, Source};

/// Most releases of one upstream.
pub const MAX_RELEASES: usize = 64;

/// The releases of an upstream. Never changed in place: a change writes a new table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The upstream's name: a record tells itself whose it is.
    #[serde(rename = "u")]
    pub upstream: String,
    /// Where parked requests are counted.
    #[serde(rename = "h")]
    pub parked: u32,
    /// `shunt_fallback on`
    #[serde(rename = "f", default, skip_serializing_if = "is_false")]
    pub fallback: bool,
    /// Whether the configuration has `shunt_preview`.
    #[serde(rename = "p", default, skip_serializing_if = "is_false")]
    pub preview: bool,
    /// In the order in which they were made.
    #[serde(rename = "r")]
    pub releases: Vec<Entry>,
}

/// A release in the table. The names are short because every worker's memory and the zone hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    #[serde(rename = "n")]
    pub name: ReleaseName,
    /// Its index in the route word, free again when it is deleted.
    #[serde(rename = "i")]
    pub index: u8,
    /// Where its requests are counted.
    #[serde(rename = "c")]
    pub column: u32,
    /// Another one each time that its servers change; a worker's view of it is good for one.
    #[serde(rename = "k")]
    pub serial: u64,
    /// Its servers.
    #[serde(rename = "s")]
    pub servers: Vec<Member>,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Where a release comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// NGINX's configuration.
    #[serde(rename = "f")]
    Config,
    /// The API.
    #[serde(rename = "p")]
    Api,
    /// The API, in place of a release that the configuration has with these servers.
    #[serde(rename = "o")]
    Override(Vec<Member>),
}

impl Origin {
    /// As the API calls it.
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Self::Config => Source::Config,
            Self::Api | Self::Override(_) => Source::Api,
        }
    }
}

/// A server of a release; what is left out has NGINX's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// As it was written.
    #[serde(rename = "a")]
    pub address: String,
    /// The literals that NGINX found for a host name when it read its configuration.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub resolved: Vec<String>,
    /// Relative weight.
    #[serde(rename = "w", default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// Failures that count the server out.
    #[serde(rename = "f", default = "one", skip_serializing_if = "is_one")]
    pub max_fails: u32,
    /// In seconds.
    #[serde(rename = "t", default = "ten", skip_serializing_if = "is_ten")]
    pub fail_timeout: u32,
    /// Most connections, for each worker; 0 is no limit.
    #[serde(rename = "m", default, skip_serializing_if = "is_zero")]
    pub max_conns: u32,
    /// Used only when the others are unavailable.
    #[serde(rename = "b", default, skip_serializing_if = "is_false")]
    pub backup: bool,
    /// Not used.
    #[serde(rename = "d", default, skip_serializing_if = "is_false")]
    pub down: bool,
}

fn one() -> u32 {
    1
}

fn ten() -> u32 {
    10
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_ten(n: &u32) -> bool {
    *n == 10
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}

impl Member {
    /// The addresses to connect to: the literal, or what the name was resolved to.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let own = self.resolved.is_empty().then_some(self.address.as_str());
        own.into_iter().chain(self.resolved.iter().map(String::as_str))
    }
}

impl From<&ServerSpec> for Member {
    fn from(spec: &ServerSpec) -> Self {
        Self {
            address: spec.address.to_string(),
            resolved: Vec::new(),
            weight: spec.weight,
            max_fails: spec.max_fails,
            fail_timeout: u32::try_from(spec.fail_timeout.as_secs()).unwrap_or(u32::MAX),
            max_conns: spec.max_conns,
            backup: spec.backup,
            down: spec.down,
        }
    }
}

impl From<&Member> for Server {
    fn from(member: &Member) -> Self {
        Self {
            address: member.address.clone(),
            weight: member.weight,
            max_fails: member.max_fails,
            fail_timeout: NginxTime::from_secs(member.fail_timeout.into()),
            max_conns: member.max_conns,
            backup: member.backup,
            down: member.down,
        }
    }
}

impl Table {
    /// A table without releases.
    #[must_use]
    pub fn empty(upstream: &str, parked: u32) -> Self {
        let upstream = upstream.to_owned();
        Self { upstream, parked, fallback: false, preview: false, releases: Vec::new() }
    }

    /// The release with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.releases.iter().find(|e| e.name.as_str() == name)
    }

    /// The release at this index of the route word.
    #[must_use]
    pub fn by_index(&self, index: u8) -> Option<&Entry> {
        self.releases.iter().find(|e| e.index == index)
    }

    /// The columns that belong to the upstream.
    pub fn columns(&self) -> impl Iterator<Item = u32> {
        self.releases.iter().map(|entry| entry.column).chain([self.parked])
    }

    /// The table with one release more, whatever place that gets.
    pub(crate) fn with(&self, release: &ReleaseName, spec: &ReleaseSpec) -> Self {
        let mut table = self.clone();
        table.releases.retain(|entry| entry.name != *release);
        table.releases.push(Entry {
            name: release.clone(),
            index: u8::MAX,
            column: u32::MAX,
            serial: u64::MAX,
            servers: spec.servers.iter().map(Member::from).collect(),
            origin: Origin::Api,
        });
        table
    }

    /// The lowest index that no release has; `None` when there are [`MAX_RELEASES`].
    #[must_use]
    pub fn free_index(&self) -> Option<u8> {
        (0..MAX_RELEASES as u8).find(|index| self.by_index(*index).is_none())
    }

    /// As it lies in shared memory.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structures with string keys: there is nothing that JSON could not express.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what lies in shared memory; `None` when that is no table.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member() -> impl Strategy<Value = Member> {
        let literals = prop::collection::vec("[0-9.:]{1,20}", 0..3);
        let numbers = (0u32.., 0u32.., 0u32.., 0u32..);
        ("[a-z:/.0-9]{1,30}", literals, numbers, any::<(bool, bool)>()).prop_map(
            |(address, resolved, (weight, max_fails, fail_timeout, max_conns), (backup, down))| {
                let n = (weight, max_fails, fail_timeout, max_conns);
                Member {
                    address,
                    resolved,
                    weight: n.0,
                    max_fails: n.1,
                    fail_timeout: n.2,
                    max_conns: n.3,
                    backup,
                    down,
                }
            },
        )
    }

    pub fn entry() -> impl Strategy<Value = Entry> {
        let origin = prop_oneof![
            Just(Origin::Config),
            Just(Origin::Api),
            prop::collection::vec(member(), 1..3).prop_map(Origin::Override),
        ];
        let numbers = any::<(u8, u32, u64)>();
        ("[a-z0-9]{1,20}", numbers, prop::collection::vec(member(), 1..4), origin).prop_map(
            |(name, (index, column, serial), servers, origin)| Entry {
                name: ReleaseName::new(&name).unwrap(),
                index,
                column,
                serial,
                servers,
                origin,
            },
        )
    }

    proptest! {
        #[test]
        fn a_table_is_read_back_as_it_was_written(
            upstream in ".{0,40}",
            (parked, fallback, preview) in any::<(u32, bool, bool)>(),
            releases in prop::collection::vec(entry(), 0..5),
        ) {
            let table = Table { upstream, parked, fallback, preview, releases };
            prop_assert_eq!(Table::from_bytes(&table.to_bytes()), Some(table));
        }

        #[test]
        fn any_bytes_are_a_table_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Table::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_plain_release_is_short() {
        let member = Member::from(&ServerSpec::new("127.0.0.1:3000".parse().unwrap()));
        let entry = Entry {
            name: ReleaseName::new("v1").unwrap(),
            index: 0,
            column: 7,
            serial: 12,
            servers: vec![member],
            origin: Origin::Api,
        };
        let table = Table { releases: vec![entry], ..Table::empty("web", 3) };
        assert!(table.to_bytes().len() < 100, "{}", String::from_utf8_lossy(&table.to_bytes()));
    }
}
