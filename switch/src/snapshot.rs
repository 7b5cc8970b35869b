//! What the state file says (P5).
//!
//! The first line has all upstreams, each further one an upstream that has changed since: the last word
//! on each counts. It names releases, not indexes, columns or counts, and has the servers only of what
//! the API made: for the rest the configuration is right.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use shunt_api::{AddressError, Canary, ReleaseName, ReleaseSpec, Server, ServerSpec};

use crate::clock;
use crate::record::State;
use crate::table::{MAX_RELEASES, Member, Origin};

/// The version of the format. Version 1, which had no further lines, is still read.
const VERSION: u32 = 2;

/// The content of the file, and as JSON its first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    version: u32,
    /// One for each upstream.
    pub upstreams: Vec<Saved>,
}

/// An upstream in the file, and as JSON a further line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// The active release.
    pub active: Option<ReleaseName>,
    /// The previous release.
    pub previous: Option<ReleaseName>,
    /// The canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// When a hold ends, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<u64>,
    /// The releases that users' requests went to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ReleaseName>,
    /// The releases that the API made.
    pub releases: Vec<SavedRelease>,
}

/// A release that the API made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRelease {
    /// Its name.
    pub name: ReleaseName,
    /// Its servers.
    pub servers: Vec<Server>,
    /// When the configuration has a release of this name: the servers that it had there. As long as
    /// it still has these, the API's word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<Vec<Server>>,
}

impl Snapshot {
    /// The content for these upstreams.
    #[must_use]
    pub fn new(upstreams: Vec<Saved>) -> Self {
        Self { version: VERSION, upstreams }
    }

    /// The first line of a file, and at first its only one.
    ///
    /// # Errors
    ///
    /// None: it is plain data.
    pub fn text(&self) -> serde_json::Result<Vec<u8>> {
        line(self)
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut documents = serde_json::Deserializer::from_slice(text).into_iter::<Self>();
        let first = documents.next().ok_or("it is empty")?;
        let mut snapshot = first.map_err(|e| e.to_string())?;
        let rest = &text[documents.byte_offset()..];
        let version = snapshot.version;
        if !(1..=VERSION).contains(&version) {
            return Err(format!("it has version {version}, this is version {VERSION}"));
        }
        snapshot.check()?;
        // In version 1, nothing follows.
        if version == 1 {
            blank(rest)?
        } else {
            snapshot.take_over(rest)?
        }
        snapshot.version = VERSION;
        Ok(snapshot)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for upstream in &self.upstreams {
            let name = &upstream.name;
            if !names.insert(name.as_str()) {
                return Err(format!("upstream {name:?} is there twice"));
            }
            upstream.check()?;
        }
        Ok(())
    }

    /// Takes over what follows the first document: the rest of its line, and then a line for each
    /// change.
    fn take_over(&mut self, rest: &[u8]) -> Result<(), String> {
        let mut lines = rest.split_inclusive(|byte| *byte == b'\n');
        blank(lines.next().unwrap_or_default())?;
        let mut places: HashMap<String, usize> =
            self.upstreams.iter().enumerate().map(|(at, u)| (u.name.clone(), at)).collect();
        // What comes after the last end of a line is of a change that was cut off, and never answered.
        let is_line = |line: &&[u8]| line.ends_with(b"\n") && blank(line).is_err();
        let mut lines: Vec<&[u8]> = lines.filter(is_line).collect();
        // So is a last line with a hole: of its blocks, the disk has had the end before the rest. JSON
        // has no zeros.
        if lines.last().is_some_and(|line| line.contains(&0)) {
            lines.pop();
        }
        for (n, line) in lines.into_iter().enumerate() {
            let in_line = |why: String| format!("change {}: {why}", n + 1);
            let saved: Saved = serde_json::from_slice(line).map_err(|e| in_line(e.to_string()))?;
            saved.check().map_err(in_line)?;
            match places.get(&saved.name) {
                Some(at) => self.upstreams[*at] = saved,
                None => {
                    places.insert(saved.name.clone(), self.upstreams.len());
                    self.upstreams.push(saved);
                }
            }
        }
        Ok(())
    }
}

/// Nothing may follow a document in its line.
fn blank(rest: &[u8]) -> Result<(), String> {
    if rest.trim_ascii().is_empty() { Ok(()) } else { Err("more follows in its line".to_owned()) }
}

/// JSON has no line ends but those between its parts, and these are left out.
fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

impl Saved {
    /// A line of a file that says this of the upstream.
    ///
    /// # Errors
    ///
    /// None: it is plain data.
    pub fn line(&self) -> serde_json::Result<Vec<u8>> {
        line(self)
    }

    /// A file may hold only what the API would have let in.
    fn check(&self) -> Result<(), String> {
        self.check_releases().map_err(|why| format!("upstream {:?}: {why}", self.name))
    }

    fn check_releases(&self) -> Result<(), String> {
        if self.releases.len() > MAX_RELEASES {
            return Err(format!("more than {MAX_RELEASES} releases"));
        }
        let mut names = HashSet::new();
        for SavedRelease { name, servers, configured } in &self.releases {
            if !names.insert(name) {
                return Err(format!("release \"{name}\" is there twice"));
            }
            let spec = |server: &Server| {
                let address = server.address.parse().map_err(|e: AddressError| e.to_string())?;
                Ok::<_, String>(ServerSpec {
                    weight: server.weight,
                    backup: server.backup,
                    ..ServerSpec::new(address)
                })
            };
            let servers = servers.iter().map(spec).collect::<Result<_, _>>()?;
            ReleaseSpec { servers }.check().map_err(|e| format!("release \"{name}\": {e}"))?;
            if configured.iter().flatten().any(|server| server.weight == 0) {
                return Err(format!("release \"{name}\" has a weight of 0"));
            }
        }
        Ok(())
    }

    /// What to save of an upstream.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let name = |index: Option<u8>| {
            index.and_then(|i| state.table.by_index(i)).map(|entry| entry.name.clone())
        };
        let servers = |members: &[Member]| members.iter().map(Server::from).collect();
        let releases = state.table.releases.iter().filter_map(|entry| {
            let configured = match &entry.origin {
                Origin::Config => return None,
                Origin::Api => None,
                Origin::Override(members) => Some(servers(members)),
            };
            let (name, servers) = (entry.name.clone(), servers(&entry.servers));
            Some(SavedRelease { name, servers, configured })
        });
        Self {
            name: state.table.upstream.clone(),
            generation: state.route.generation(),
            active: name(state.route.active()),
            previous: name(state.previous),
            canary: state
                .route
                .canary()
                .and_then(|(index, share)| Some(Canary { release: name(Some(index))?, share })),
            held_until: state.route.is_held().then(|| {
                let left = state.held_until.saturating_sub(clock::since_boot());
                clock::since_1970().saturating_add(left)
            }),
            exposed: state
                .table
                .releases
                .iter()
                .filter(|e| state.is_exposed(e.index) && state.route.active() != Some(e.index))
                .map(|e| e.name.clone())
                .collect(),
            releases: releases.collect(),
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use super::*;

    /// A file with one upstream, as version 1 had it.
    pub const VERSION_1: &[u8] = br#"{"version":1,"upstreams":[{"name":"web","generation":7,
        "active":"v2","previous":"default","releases":[{"name":"v2","servers":[{"address":
        "127.0.0.1:3002","weight":1,"max_fails":1,"fail_timeout":"10s","max_conns":0,"backup":false,
        "down":false}]}]}]}"#;

    pub fn sample() -> Snapshot {
        Snapshot::parse(VERSION_1).unwrap()
    }

    /// The upstream of [`sample`], or another one, at a later generation.
    pub fn changed(name: &str, generation: u32) -> Saved {
        Saved { name: name.to_owned(), generation, ..sample().upstreams.remove(0) }
    }

    /// What the file has for these, in this order.
    pub fn snapshot(upstreams: &[Saved]) -> Snapshot {
        Snapshot::new(upstreams.to_vec())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::testing::{VERSION_1, changed, sample, snapshot};
    use super::*;
    use proptest::prelude::*;

    fn text(lines: &[Saved]) -> Vec<u8> {
        let lines = lines.iter().map(|saved| saved.line().unwrap());
        [sample().text().unwrap()].into_iter().chain(lines).collect::<Vec<_>>().concat()
    }

    #[test]
    fn p5_the_last_word_on_each_upstream_counts() {
        let (web, shop) = (changed("web", 8), changed("shop", 1));
        assert_eq!(Snapshot::parse(&text(&[])), Ok(sample()));
        let blank = [text(&[]).as_slice(), b"\n \n"].concat();
        assert_eq!(Snapshot::parse(&blank), Ok(sample()), "an editor's");
        let one = std::slice::from_ref(&web);
        assert_eq!(Snapshot::parse(&text(one)), Ok(snapshot(one)));
        let lines =
            [shop.clone(), changed("web", 9), changed("shop", 2), web.clone(), shop.clone()];
        assert_eq!(Snapshot::parse(&text(&lines)), Ok(snapshot(&[web, shop])));
    }

    #[test]
    fn p5_every_cut_of_the_first_line_is_damage_and_of_another_one_the_state_before() {
        let lines = [changed("web", 8), changed("shop", 1), changed("web", 9)];
        let states = [
            snapshot(&[changed("web", 7)]),
            snapshot(&[changed("web", 8)]),
            snapshot(&[changed("web", 8), changed("shop", 1)]),
            snapshot(&[changed("web", 9), changed("shop", 1)]),
        ];
        let whole = text(&lines);
        let base = text(&[]).len();
        // Miri is slow.
        for end in (0..=whole.len()).step_by(if cfg!(miri) { 53 } else { 1 }) {
            let parsed = Snapshot::parse(&whole[..end]);
            // The end of the first line says nothing that its last brace does not.
            if end < base - 1 {
                assert!(parsed.is_err(), "{end}");
            } else {
                let complete = whole[..end].iter().filter(|b| **b == b'\n').count();
                assert_eq!(parsed, Ok(states[complete.saturating_sub(1)].clone()), "{end}");
            }
        }
    }

    #[test]
    fn p5_a_last_line_with_a_hole_has_not_been_written() {
        let lines = [changed("web", 8), changed("shop", 1)];
        let before = snapshot(&lines);
        let mut hole = changed("web", 9).line().unwrap();
        let middle = hole.len() / 3..hole.len() / 2;
        hole[middle].fill(0);
        let torn = [text(&lines), hole].concat();
        assert_eq!(Snapshot::parse(&torn), Ok(before));
        // What was written after it was written to a file that had none.
        let later = [torn, changed("web", 10).line().unwrap()].concat();
        assert!(Snapshot::parse(&later).unwrap_err().starts_with("change 3: "));
    }

    #[test]
    fn a_file_of_version_1_is_read_and_has_no_further_lines() {
        assert_eq!(sample(), snapshot(&[changed("web", 7)]));
        let with = |end: &[u8]| Snapshot::parse(&[VERSION_1, end].concat());
        assert_eq!(with(b"\n"), Ok(sample()));
        assert!(with(&changed("web", 8).line().unwrap()).is_err());
        assert!(with(&[b"\n", changed("web", 8).line().unwrap().as_slice()].concat()).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let mistakes = [
            ("\"weight\":1", "\"weight\":0", "weight is 0"),
            ("\"backup\":false", "\"backup\":true", "not a backup"),
            ("127.0.0.1:3002", "app:3002", "resolve it first"),
            ("\"active\"", "\"acctive\"", "acctive"),
            ("}]}", "}]}x", ""),
            ("}", "\0", ""),
        ];
        let good = String::from_utf8(text(&[])).unwrap();
        let (line, later) = (changed("web", 8).line().unwrap(), changed("web", 9).line().unwrap());
        let line = String::from_utf8(line).unwrap();
        for (from, to, said) in mistakes {
            let error = Snapshot::parse(good.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(said), "{error}");
            let bad = line.replace(from, to);
            let error =
                Snapshot::parse(&[text(&[]), bad.into(), later.clone()].concat()).unwrap_err();
            assert!(error.contains(said) && error.starts_with("change 1: "), "{error}");
        }
        for (text, said) in [
            (good.replace("\"version\":2", "\"version\":3"), "version 3"),
            (good.replace("\"version\":2", "\"version\":0"), "version 0"),
            (format!("{}{line}", good.trim_end()), "more follows in its line"),
            (format!("{good}{good}"), "change 1: "),
            (String::new(), "it is empty"),
            (" \n".to_owned(), "it is empty"),
        ] {
            let error = Snapshot::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let twice = snapshot(&[changed("web", 1), changed("web", 1)]).text().unwrap();
        assert_eq!(Snapshot::parse(&twice).unwrap_err(), "upstream \"web\" is there twice");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_snapshot_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Snapshot::parse(&bytes);
            let _ = Snapshot::parse(&[text(&[]), bytes].concat());
        }
    }
}
