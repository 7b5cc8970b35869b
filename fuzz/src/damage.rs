//! Shared memory in which anything may stand: a bug of another module, or of this one, wrote there.
//!
//! A worker reads it at any time, so nothing that it finds may make it panic, or go round for ever.

use crate::{Plain, nothing};
use arbitrary::{Arbitrary, Unstructured};
use shunt_api::{Call, ReleaseName, ReleaseSpec, SwitchRequest, Wait};
use shunt_switch::follower::{Follower, Parking};
use shunt_switch::reconcile::{Configured, reconcile};
use shunt_switch::served::{Served, ServedUpstreams};
use shunt_switch::service::{ServedZone, Service};
use shunt_switch::table::Member;
use shunt_switch::worker::Identity;
use shunt_switch::zone::Row;
use shunt_switch::{AtomicU64, Zone};
use std::sync::atomic::Ordering;

use crate::Verdict;

/// Room for a handful of upstreams, so that damage meets what is in use.
const WORDS: usize = 1024;
const ROWS: usize = 2;
/// Words of the header: with one of them wrong there seldom is a zone at all.
const HEADER: usize = 16;

#[derive(Debug, Arbitrary)]
enum Damage {
    /// A word becomes another one.
    Word(u16, u64),
    /// A bit of a word is turned over.
    Bit(u16, u8),
    /// A word is copied to another place.
    Copy(u16, u16),
    /// A byte becomes another one.
    Byte(u16, u8),
    /// Everything from a word of the body on is what follows.
    Rest(u16, Vec<u64>),
}

/// Damages a zone, and then does with it whatever a worker and the master do.
pub fn run(input: &[u8]) -> Verdict {
    let mut input = Unstructured::new(input);
    let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    let zone = Zone::create(&words, ROWS).expect("room for an upstream");
    let configured = [configured("web", &["blue", "green"]), configured("shop", &["default"])];
    let records = reconcile(&zone, &configured, None).expect("room for two").records;
    let served: ServedUpstreams = (configured.iter().zip(records))
        .map(|(c, record)| Served {
            name: c.name.clone(),
            zone: 0,
            record: Some(record),
            backup: true,
            holdable: true,
        })
        .collect();
    // Rows of two banks, and a count that is there while the damage is done.
    let claimed = std::array::from_fn(|_| zone.claim_row(Identity::me()).expect("room for three"));
    let [first, _, row]: [Row; 3] = claimed;
    let record = served[0].record.unwrap_or_default();
    let mut follower = Follower::new(zone, row, record, "web");
    let admitted = follower.admit(&mut Plain, nothing).expect("a sound zone");

    let mut done = 0;
    while done < 64 && !input.is_empty() {
        let Ok(damage) = Damage::arbitrary(&mut input) else { break };
        damage.apply(&words);
        done += 1;
    }

    // This worker has found the zone before it was damaged, another one looks for it now.
    drop(admitted);
    look(&zone, &served, row);
    look(&zone, &served, first);
    let Ok(found) = Zone::attach(&words) else {
        zone.leave_row(row);
        return Verdict::Refused;
    };
    assert_eq!(Zone::announced_len(&words), Some(words.len()));
    // Damage may tell another zone's layout, but none that is larger than what there is.
    assert!(found.layout().words() <= words.len());
    // In what is damaged there may be no row.
    let another = found.claim_row(Identity::me()).ok();
    another.into_iter().for_each(|row| look(&found, &served, row));
    change(&found, &served, &configured);
    let _ = (found.make_room(4), found.living());
    // What came of the changes is damaged, too.
    let last = found.claim_row(Identity::me()).ok();
    last.into_iter().for_each(|row| look(&found, &served, row));
    for row in [first, row].into_iter().chain(another).chain(last) {
        found.leave_row(row);
    }
    found.retire();
    Verdict::Accepted
}

fn configured(name: &str, releases: &[&str]) -> Configured {
    let releases = releases.iter().enumerate().map(|(i, name)| {
        let address = format!("127.0.0.1:{}", i + 1).parse().expect("an address");
        let spec = ReleaseSpec::single(address);
        (ReleaseName::new(name).expect("a name"), spec.servers.iter().map(Member::from).collect())
    });
    Configured {
        name: name.to_owned(),
        fallback: true,
        preview: name == "shop",
        releases: releases.collect(),
    }
}

impl Damage {
    fn apply(self, words: &[AtomicU64]) {
        let at = |n: u16| &words[usize::from(n) % words.len()];
        match self {
            Self::Word(n, value) => at(n).store(value, Ordering::Relaxed),
            Self::Bit(n, bit) => {
                at(n).fetch_xor(1 << (bit % 64), Ordering::Relaxed);
            }
            Self::Copy(from, to) => {
                at(to).store(at(from).load(Ordering::Relaxed), Ordering::Relaxed)
            }
            Self::Byte(n, value) => {
                let n = usize::from(n) % (words.len() * 8);
                let mut bytes = words[n / 8].load(Ordering::Relaxed).to_le_bytes();
                bytes[n % 8] = value;
                words[n / 8].store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
            Self::Rest(n, values) => {
                let from = HEADER + usize::from(n) % (words.len() - HEADER);
                for (word, value) in words[from..].iter().zip(values) {
                    word.store(value, Ordering::Relaxed);
                }
            }
        }
    }
}

fn name(text: &str) -> ReleaseName {
    ReleaseName::new(text).expect("a name")
}

/// Everything that only reads, and requests that come and go.
fn look(zone: &Zone<'_>, served: &ServedUpstreams, row: Row) {
    let zones = [ServedZone { zone: *zone, name: "shunt", size: 0, state_file: None }];
    let service = Service { zones: &zones, upstreams: served, nginx: "" };
    for upstream in 0..zone.layout().upstreams {
        let state = zone.state(upstream, None).ok();
        let _ = zone.state(upstream, state.as_ref());
        for column in state.iter().flat_map(|s| &s.table.releases).map(|e| e.column) {
            let _ = (zone.in_flight(column).total(), zone.requests(column));
        }
    }
    let _ = zone.states().count();
    service.read(&Call::Index, true).expect("how full the zone is can always be told");
    let _ = service.read(&Call::Upstreams, true);
    let timeout = shunt_api::NginxTime::from_secs(1);
    for one in served.iter() {
        let upstream = one.name.clone();
        let waits = [
            Wait::Change { generation: 1, timeout },
            Wait::Drained { release: name("blue"), timeout },
        ];
        for wait in waits {
            let _ = service.has_come(&upstream, &wait, &mut None);
            let _ = service
                .read(&Call::Upstream { upstream: upstream.clone(), wait: Some(wait) }, true);
        }
    }
    for (upstream, one) in served.iter().enumerate() {
        let mut follower = Follower::new(*zone, row, upstream, &one.name);
        let _ = (follower.hold(), follower.hold_ends_in());
        if let Ok(Parking::Parked(ticket, _)) = follower.park(1) {
            drop(ticket);
        }
        if let Ok(Some(admitted)) = follower.fall_back(&[], nothing) {
            let _ = follower.has_fallback(&[admitted.to.release.serial]);
        }
        let table = follower.table();
        if let Ok(Some(mut admitted)) = follower.admit(&mut Plain, nothing) {
            let name = admitted.to.release.name.as_str();
            assert!(table.is_ok_and(|table| table.by_name(name).is_some()));
            admitted.upgrade();
        }
    }
}

/// Every change of the API, and a reload.
fn change(zone: &Zone<'_>, served: &ServedUpstreams, configured: &[Configured]) {
    let zones = [ServedZone { zone: *zone, name: "shunt", size: 0, state_file: None }];
    let service = Service { zones: &zones, upstreams: served, nginx: "" };
    let spec = ReleaseSpec::single("127.0.0.1:9".parse().expect("an address"));
    let spec = serde_json::to_vec(&spec).expect("plain data");
    for one in served.iter() {
        let upstream = || one.name.clone();
        let body = |release: &str| {
            serde_json::to_vec(&SwitchRequest { release: name(release) }).expect("plain data")
        };
        let canary =
            |release: &str| format!(r#"{{"release":"{release}","share":0.5}}"#).into_bytes();
        let put = |release: &str| Call::PutRelease { upstream: upstream(), release: name(release) };
        let changes = [
            (put("new"), spec.clone()),
            (put("blue"), spec.clone()),
            (Call::Switch { upstream: upstream() }, body("new")),
            (Call::Switch { upstream: upstream() }, body("green")),
            (Call::PutCanary { upstream: upstream() }, canary("new")),
            (Call::PutHold { upstream: upstream() }, br#"{"timeout":"1h"}"#.to_vec()),
            (Call::DeletePrevious { upstream: upstream() }, Vec::new()),
            (Call::DeleteHold { upstream: upstream() }, Vec::new()),
            (Call::DeleteCanary { upstream: upstream() }, Vec::new()),
            (Call::DeleteRelease { upstream: upstream(), release: name("new") }, Vec::new()),
        ];
        for (call, body) in changes {
            let _ = service.change(&call, None, &body);
        }
    }
    let _ = zones[0].save(None);
    let _ = reconcile(zone, configured, None);
    let _ = reconcile(zone, &configured[..1], None);
}
