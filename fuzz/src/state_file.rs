//! The state file, which anybody may have written to, and what a start makes of it.

use shunt_api::{ReleaseName, ServerSpec};
use shunt_switch::reconcile::{Configured, Outcome, Workers, fits, reconcile};
use shunt_switch::snapshot::{Saved, Snapshot};
use shunt_switch::table::Member;
use shunt_switch::{AtomicU64, Zone};

use crate::{Verdict, reads_the_same};

/// The releases that a configuration declares.
type Releases = Vec<(ReleaseName, Vec<Member>)>;

/// Large enough for most files, small enough to be made often.
const BYTES: usize = 1 << 16;

/// Whatever is a state file can be started from, with any configuration that has room; a reload
/// changes nothing then, and a restart gives the same again.
pub fn run(input: &[u8]) -> Verdict {
    let snapshot = match Snapshot::parse(input) {
        Ok(snapshot) => snapshot,
        Err(why) => {
            assert!(!why.is_empty());
            return Verdict::Refused;
        }
    };
    reads_the_same(&snapshot);
    changes(&snapshot);
    for configured in configurations(&snapshot) {
        start(&snapshot, &configured);
    }
    Verdict::Accepted
}

/// A line counts once it is there as a whole, and for its upstream alone.
fn changes(snapshot: &Snapshot) {
    let text = snapshot.text().expect("plain data");
    for (at, saved) in snapshot.upstreams.iter().enumerate() {
        let mut after = snapshot.clone();
        let changed = &mut after.upstreams[at];
        changed.generation = saved.generation.wrapping_add(1);
        let line = changed.line().expect("plain data");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "{changed:?}");
        let with = |line: &[u8]| Snapshot::parse(&[&text, line].concat());
        assert_eq!(with(&line).as_ref(), Ok(&after));
        for end in [0, 1, line.len() / 2, line.len() - 1] {
            assert_eq!(with(&line[..end]).as_ref(), Ok(snapshot), "{end}");
        }
        let mut hole = line.clone();
        hole[line.len() / 3..line.len() / 2].fill(0);
        assert_eq!(with(&hole).as_ref(), Ok(snapshot), "a hole");
    }
}

/// Configurations with the upstreams of the file: without releases, with one of another name, and
/// with those that the file says there were.
fn configurations(snapshot: &Snapshot) -> [Vec<Configured>; 3] {
    let server = Member::from(&ServerSpec::new("127.0.0.1:1".parse().expect("an address")));
    let other = (ReleaseName::new("default").expect("a name"), vec![server]);
    let each = |releases: &dyn Fn(&Saved) -> Releases| {
        let one = |saved: &Saved| Configured {
            name: saved.name.clone(),
            // Both, and neither.
            fallback: saved.name.len().is_multiple_of(2),
            preview: saved.name.len().is_multiple_of(2),
            releases: releases(saved),
        };
        snapshot.upstreams.iter().map(one).collect()
    };
    let declared = |saved: &Saved| {
        let known = saved.releases.iter().filter_map(|release| {
            let servers = release.configured.as_ref()?.iter().map(Member::from).collect();
            Some((release.name.clone(), servers))
        });
        known.chain([other.clone()]).collect::<Releases>()
    };
    let twice = |saved: &Saved| {
        let mut releases = Releases::new();
        // The configuration has each name once.
        for release in declared(saved) {
            if releases.iter().all(|(name, _)| *name != release.0) {
                releases.push(release);
            }
        }
        releases
    };
    [each(&|_| Vec::new()), each(&|_| vec![other.clone()]), each(&twice)]
}

fn start(snapshot: &Snapshot, configured: &[Configured]) {
    let words: Vec<AtomicU64> = (0..BYTES / 8).map(|_| AtomicU64::new(0)).collect();
    let zone = Zone::create(&words, 1).expect("the zone is large enough for an upstream");
    let Some(outcome) = bring_up(&zone, &words, configured, Some(snapshot)) else { return };
    let saved = save(&zone);
    assert_eq!(saved.upstreams.len(), configured.len());
    for (saved, configured) in saved.upstreams.iter().zip(configured) {
        assert_eq!(saved.name, configured.name);
        let known = snapshot.upstreams.iter().find(|u| u.name == saved.name).expect("it is there");
        // What the API gave a release of the configuration counts only with the same servers there.
        let mut made = known.releases.iter().filter(|r| r.configured.is_none());
        assert!(made.all(|r| saved.releases.iter().any(|s| s.name == r.name)));
        assert!(saved.previous.is_none() || saved.previous != saved.active);
    }
    assert_eq!(outcome.records.len(), configured.len());

    // What is written is read.
    let text = saved.text().expect("a state file is plain data");
    let read = Snapshot::parse(&text).unwrap_or_else(|why| panic!("{why} in {saved:?}"));
    assert_eq!(read, saved);

    let reload = bring_up(&zone, &words, configured, None).expect("there was room before");
    assert!(!reload.changed && reload.notices.is_empty(), "{reload:?}");
    assert_eq!(reload.records, outcome.records);
    assert_eq!(timeless(save(&zone)), timeless(saved.clone()));

    let words: Vec<AtomicU64> = (0..BYTES / 8).map(|_| AtomicU64::new(0)).collect();
    let zone = Zone::create(&words, 1).expect("as large as the other");
    let restart = bring_up(&zone, &words, configured, Some(&saved)).expect("there was room before");
    assert!(restart.notices.is_empty(), "{restart:?}");
    assert_eq!(timeless(save(&zone)), timeless(saved));
}

/// Without the times at which holds end: they are of the calendar, and kept on another clock.
fn timeless(mut snapshot: Snapshot) -> Snapshot {
    for saved in &mut snapshot.upstreams {
        saved.held_until = saved.held_until.map(|_| 0);
    }
    snapshot
}

/// As a start does it: tries first whether there is room.
fn bring_up(
    zone: &Zone<'_>,
    words: &[AtomicU64],
    configured: &[Configured],
    saved: Option<&Snapshot>,
) -> Option<Outcome> {
    let workers = Workers { processes: 1, others: 0 };
    if fits(words, configured, saved, workers).is_err() {
        return None;
    }
    Some(reconcile(zone, configured, saved).expect("it was tried"))
}

fn save(zone: &Zone<'_>) -> Snapshot {
    let states = zone.states().map(|state| Saved::of(&state.expect("a sound zone").1));
    Snapshot::new(states.collect())
}
