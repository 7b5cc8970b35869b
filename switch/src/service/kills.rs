//! P5: a writer is killed at any instant, the file is had in hand by somebody, everything starts
//! again: what the file says is always what was answered last, or the change that was being made.

use super::*;
use crate::mark::Mark;
use crate::reconcile::{Configured, reconcile};
use crate::table::Member;
use crate::zone::testing::words;
use proptest::prelude::*;
use shunt_api::ServerSpec;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

const NAMES: [&str; 3] = ["web", "shop", "api"];
const RELEASES: [&str; 3] = ["a", "b", "c"];

/// NGINX with three upstreams of three releases, and its state file.
struct Nginx<'z> {
    zone: Zone<'z>,
    served: ServedUpstreams,
    path: PathBuf,
}

impl<'z> Nginx<'z> {
    /// Starts from what the file says.
    fn start(words: &'z [crate::AtomicU64], path: PathBuf) -> Self {
        let zone = Zone::create(words, 16).unwrap();
        let server = vec![Member::from(&ServerSpec::new("127.0.0.1:1".parse().unwrap()))];
        let release = |name| (ReleaseName::new(name).unwrap(), server.clone());
        let configured = NAMES.map(|name| Configured {
            name: name.to_owned(),
            fallback: false,
            preview: false,
            releases: RELEASES.map(release).to_vec(),
        });
        let saved = state_file::read(&path).unwrap();
        let records = reconcile(&zone, &configured, saved.as_ref()).unwrap().records;
        let served = |(name, record): (&str, usize)| Served {
            name: name.to_owned(),
            zone: 0,
            record: Some(record),
            backup: false,
            holdable: false,
        };
        let served = NAMES.into_iter().zip(records).map(served).collect();
        let nginx = Self { zone, served, path };
        if saved.is_none() {
            assert!(nginx.served_zone().save(None).unwrap().is_none());
        }
        nginx
    }

    fn served_zone(&self) -> ServedZone<'_> {
        ServedZone { zone: self.zone, name: "shunt", size: 0, state_file: Some(&self.path) }
    }

    /// What it knows.
    fn state(&self) -> Snapshot {
        Snapshot::new(self.zone.states().map(|state| Saved::of(&state.unwrap().1)).collect())
    }

    /// What it would start from.
    fn file(&self) -> Option<Snapshot> {
        state_file::read(&self.path).unwrap()
    }

    fn record(&self, upstream: usize) -> usize {
        self.served[upstream].record.unwrap()
    }

    /// The state that a switch leads to, and all of the zone with it; `None` when it is there already.
    fn next(&self, upstream: usize, release: usize) -> Option<(State, Snapshot)> {
        let state = self.zone.state(self.record(upstream), None).unwrap();
        let release = ReleaseName::new(RELEASES[release]).unwrap();
        let next = change::switch(&state, &release).unwrap()?;
        let mut all = self.state();
        all.upstreams[upstream] = Saved::of(&next);
        Some((next, all))
    }

    fn switch(&self, upstream: usize, release: usize) {
        let zones = [self.served_zone()];
        let service = Service { zones: &zones, upstreams: &self.served, nginx: "" };
        let call = Call::Switch { upstream: NAMES[upstream].to_owned() };
        let body = format!(r#"{{"release":"{}"}}"#, RELEASES[release]);
        let reply = service.change(&call, None, body.as_bytes()).unwrap();
        assert_eq!((reply.status, reply.notice), (200, None));
    }

    /// Switches, and dies of it.
    fn switch_and_die(&self, upstream: usize, next: &State, death: Death) {
        let (zone, record) = (self.served_zone(), self.record(upstream));
        let prepared = self.zone.prepare(record, next).unwrap();
        match death {
            Death::Before => drop(self.zone.take_mark()),
            Death::Writing(cut) => {
                // To the file itself, if it can be appended to, or else beside it.
                let appends = self.zone.take_mark().is_some_and(|mark| {
                    let now = fs::metadata(&self.path).ok();
                    now.and_then(|now| Mark::of(&now, mark.base)) == Some(mark)
                });
                let (path, text) = match appends {
                    true => (self.path.clone(), Saved::of(next).line().unwrap()),
                    false => (self.path.with_extension("json.tmp"), self.state().text().unwrap()),
                };
                let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                file.write_all(&text[..cut.index(text.len())]).unwrap();
            }
            Death::Written => drop(zone.persist(record, next).unwrap()),
            Death::Published => {
                drop(zone.persist(record, next).unwrap());
                prepared.publish();
            }
        }
    }

    fn meddle(&self, how: Meddling) {
        let beside = self.path.with_extension("json.edited");
        match how {
            Meddling::Remove => drop(fs::remove_file(&self.path)),
            Meddling::Replace => {
                fs::write(&beside, "{\"version\":1,\"upstreams\":[]}").unwrap();
                fs::rename(beside, &self.path).unwrap();
            }
            Meddling::Empty => drop(fs::File::create(&self.path).unwrap()),
            Meddling::Append => {
                let mut file = OpenOptions::new().append(true).create(true).open(&self.path);
                file.as_mut().unwrap().write_all(b"\n{").unwrap();
            }
        }
    }
}

/// Where a writer is killed.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// Before it has written.
    Before,
    /// When it has written so much.
    Writing(prop::sample::Index),
    /// When all is on the disk, and nothing published.
    Written,
    /// When it is published.
    Published,
}

#[derive(Debug, Clone, Copy)]
enum Meddling {
    Remove,
    Replace,
    Empty,
    Append,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Switch(usize, usize),
    Die(usize, usize, Death),
    Meddle(Meddling),
    /// All of NGINX is killed, or the machine is cut off, and starts again.
    Restart,
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![
        Just(Death::Before),
        any::<prop::sample::Index>().prop_map(Death::Writing),
        Just(Death::Written),
        Just(Death::Published),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let change = || (0..NAMES.len(), 0..RELEASES.len());
    let meddling = prop_oneof![
        Just(Meddling::Remove),
        Just(Meddling::Replace),
        Just(Meddling::Empty),
        Just(Meddling::Append),
    ];
    prop_oneof![
        6 => change().prop_map(|(u, r)| Step::Switch(u, r)),
        4 => (change(), death()).prop_map(|((u, r), death)| Step::Die(u, r, death)),
        1 => meddling.prop_map(Step::Meddle),
        2 => Just(Step::Restart),
    ]
}

/// In memory: it is not the disk that is looked at.
fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "takes long, and has nothing for Miri")]
    fn p5_the_file_says_what_was_answered_or_what_was_being_changed(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let folder = folder();
        let path = folder.path().join("state.json");
        let (one, two) = (words(1 << 15), words(1 << 15));
        let mut others = [&one, &two].into_iter().cycle();
        let mut nginx = Nginx::start(others.next().unwrap(), path.clone());
        // What the file says is somebody else's, until it is healed.
        let mut foreign = false;
        for step in steps {
            match step {
                Step::Switch(upstream, release) => {
                    let changes = nginx.next(upstream, release).is_some();
                    nginx.switch(upstream, release);
                    if changes {
                        foreign = false;
                        prop_assert_eq!(nginx.file(), Some(nginx.state()));
                    }
                }
                Step::Die(upstream, release, death) => {
                    let before = (!foreign).then(|| nginx.file());
                    let Some((next, all)) = nginx.next(upstream, release) else { continue };
                    nginx.switch_and_die(upstream, &next, death);
                    if matches!(death, Death::Written | Death::Published) {
                        foreign = false;
                        prop_assert_eq!(nginx.file(), Some(all));
                    } else if let Some(before) = before {
                        prop_assert_eq!(nginx.file(), before);
                    }
                }
                Step::Meddle(how) => {
                    nginx.meddle(how);
                    foreign = true;
                }
                Step::Restart if foreign => {}
                Step::Restart => {
                    let file = nginx.file();
                    nginx = Nginx::start(others.next().unwrap(), path.clone());
                    prop_assert_eq!(Some(nginx.state()), file);
                }
            }
        }
    }
}

/// A line is there, but the change has never happened: worker killed before it was published.
#[test]
fn p5_a_change_that_has_not_happened_does_not_come_back_with_the_next_one() {
    let folder = folder();
    let words = words(1 << 15);
    let nginx = Nginx::start(&words, folder.path().join("state.json"));
    let lines = || fs::read_to_string(&nginx.path).unwrap().lines().count();
    nginx.switch(0, 1);
    nginx.switch(0, 2);
    assert_eq!(lines(), 3, "two changes are appended");
    let (next, all) = nginx.next(0, 0).unwrap();
    nginx.switch_and_die(0, &next, Death::Written);
    assert_eq!((nginx.file(), lines()), (Some(all), 4));
    nginx.switch(1, 1);
    assert_eq!((nginx.file(), lines()), (Some(nginx.state()), 1), "it is written whole");
    nginx.switch(1, 2);
    assert_eq!((nginx.file(), lines()), (Some(nginx.state()), 2));
    let (next, _) = nginx.next(0, 0).unwrap();
    nginx.switch_and_die(0, &next, Death::Published);
    nginx.switch(2, 1);
    assert_eq!((nginx.file(), lines()), (Some(nginx.state()), 1));
}

/// What changes the zone besides the API makes the file out of date.
#[test]
fn p5_nothing_is_appended_after_a_reload_that_was_not_saved() {
    let folder = folder();
    let words = words(1 << 15);
    let nginx = Nginx::start(&words, folder.path().join("state.json"));
    nginx.switch(0, 1);
    nginx.zone.give_up(nginx.record(1));
    nginx.switch(0, 2);
    assert_eq!(nginx.file(), Some(nginx.state()));
    assert_eq!(nginx.file().unwrap().upstreams.len(), 2);
    nginx.switch(0, 1);
    let state = nginx.zone.state(nginx.record(2), None).unwrap();
    let next = change::switch(&state, &ReleaseName::new("b").unwrap()).unwrap().unwrap();
    nginx.zone.prepare(nginx.record(2), &next).unwrap().publish();
    nginx.switch(0, 2);
    assert_eq!(nginx.file(), Some(nginx.state()));
}

#[test]
fn one_upstream_in_disorder_does_not_keep_the_others_from_being_changed() {
    let folder = folder();
    let words = words(1 << 15);
    let nginx = Nginx::start(&words, folder.path().join("state.json"));
    let record = nginx.zone.layout().record(nginx.record(2));
    nginx.switch(0, 1);
    for word in record.skip(3) {
        nginx.zone.word(word).store(u64::MAX, crate::sync::Ordering::Relaxed);
    }
    nginx.switch(0, 2);
    let active = |at: usize| nginx.file().unwrap().upstreams[at].active.clone().unwrap();
    assert_eq!((active(0).as_str(), active(2).as_str()), ("c", "a"));
}
