//! Sequences of what can happen to a zone: changes over the API, requests, reloads and restarts, on a
//! real zone in private memory. After each step everything is looked at that others rely on.

mod outcome;
mod step;

use std::collections::HashSet;

use crate::nothing;
use arbitrary::{Arbitrary, Unstructured};
use shunt_api::call::encode;
use shunt_api::{Call, InFlight, ReleaseName, Upstream, Wait};
use shunt_switch::canary::Point;
use shunt_switch::follower::{Admitted, Follower, Parking, Reason, Ticket, Wishes};
use shunt_switch::reconcile::{Configured, Workers, fits, reconcile};
use shunt_switch::record::State;
use shunt_switch::served::{Served, ServedUpstreams};
use shunt_switch::service::{ServedZone, Service};
use shunt_switch::snapshot::{Saved, Snapshot};
use shunt_switch::table::{Member, Origin};
use shunt_switch::worker::Identity;
use shunt_switch::zone::Row;
use shunt_switch::{AtomicU64, Zone};

use crate::Verdict;
use outcome::{done, refused};
use step::{Base, Change, Step, Wish};

/// Rows of a bank.
const ROWS: usize = 2;
/// The workers at first.
const WORKERS: usize = 3;
/// With a reload there are more of them, but not more than these.
const MOST_WORKERS: usize = 7;
/// More steps find nothing that these do not.
const STEPS: usize = 200;
/// The upstreams that a configuration can have.
const UPSTREAMS: [&str; 4] = ["web", "shop", "a b", "\u{e9}"];
/// The names that releases can have.
const RELEASES: [&str; 7] = ["default", "blue", "green", "v1", "v2", "v3", "a.b-c_d"];

/// Which configuration there is: for each upstream none, or one with these releases.
type Plan = [Option<u8>; UPSTREAMS.len()];

/// Takes the steps one after the other.
pub fn run(input: &[u8]) -> Verdict {
    let mut input = Unstructured::new(input);
    let Ok((plan, words)) = <(Plan, u8)>::arbitrary(&mut input) else { return Verdict::Refused };
    let mut start = Start { plan, words: 1024 + usize::from(words) * 16, saved: None };
    let mut left = STEPS;
    let mut lives = 0;
    loop {
        let words: Vec<AtomicU64> = (0..start.words).map(|_| AtomicU64::new(0)).collect();
        let Some(life) = Life::begin(&words, &start) else { break };
        lives += 1;
        match life.live(&mut input, &mut left) {
            Some(next) => start = next,
            None => break,
        }
    }
    if lives == 0 || left == STEPS { Verdict::Refused } else { Verdict::Accepted }
}

/// What NGINX is started with.
struct Start {
    plan: Plan,
    words: usize,
    saved: Option<Snapshot>,
}

/// From one start to the next.
struct Life<'z> {
    words: &'z [AtomicU64],
    zone: Zone<'z>,
    plan: Plan,
    served: ServedUpstreams,
    rows: Vec<Row>,
    /// What the workers have, and what those have that still serve an older configuration.
    followers: [Vec<Following<'z>>; 2],
    requests: Vec<Request<'z>>,
    /// The serials of the releases that were drained at the last look.
    drained: HashSet<u64>,
    /// Columns that lost their release while something was in flight there.
    stray: u64,
}

/// An upstream, and each worker that follows it.
type Following<'z> = (String, Vec<Follower<'z, ()>>);

struct Request<'z> {
    column: u32,
    upgraded: bool,
    counted: Counted<'z>,
}

/// What counts in flight until it is dropped.
enum Counted<'z> {
    Sent(Admitted<'z, ()>),
    Parked(#[expect(dead_code, reason = "it is only dropped")] Ticket<'z>),
}

impl Wishes for &Wish {
    fn preview(&mut self) -> Option<ReleaseName> {
        self.preview.map(release)
    }

    fn point(&mut self, canary: &ReleaseName) -> Point {
        Point::of(&[self.key], canary.as_str())
    }
}

fn release(n: u8) -> ReleaseName {
    ReleaseName::new(RELEASES[usize::from(n) % RELEASES.len()]).expect("a name")
}

/// The configuration of a plan.
fn configuration(plan: &Plan) -> Vec<Configured> {
    let member = |port: u8, fail_timeout: u32| {
        let address = format!("127.0.0.1:{port}");
        let spec = shunt_api::ServerSpec::new(address.parse().expect("an address"));
        Member { fail_timeout, ..Member::from(&spec) }
    };
    let upstream = |(name, plan): (&str, &Option<u8>)| {
        let plan = (*plan)?;
        // The lowest bits say which of the first four releases there are, the others change them.
        // A configuration's times can be longer than those that the API takes.
        let fail_timeout = if plan & 64 == 0 { 10 } else { u32::MAX };
        let host = (plan & 128 != 0).then(|| "192.0.2.7:80".to_owned());
        let names = (0..4).filter(|n| plan & 1 << n != 0);
        let releases = names.map(|n| {
            let resolved = host.iter().cloned().collect();
            let member = Member { resolved, ..member(1 + (plan >> 4 & 3) * 4 + n, fail_timeout) };
            (release(n), vec![member])
        });
        Some(Configured {
            name: name.to_owned(),
            fallback: matches!(name, "shop" | "a b"),
            preview: matches!(name, "shop" | "\u{e9}"),
            releases: releases.collect(),
        })
    };
    UPSTREAMS.into_iter().zip(plan).filter_map(upstream).collect()
}

impl<'z> Life<'z> {
    /// Starts, if there is room.
    fn begin(words: &'z [AtomicU64], start: &Start) -> Option<Self> {
        let zone = Zone::create(words, ROWS).expect("room for an upstream");
        let rows = Vec::new();
        let plan = [None; UPSTREAMS.len()];
        let (served, followers) = (ServedUpstreams::default(), [Vec::new(), Vec::new()]);
        let (requests, drained, stray) = (Vec::new(), HashSet::new(), 0);
        let mut life =
            Self { words, zone, plan, served, rows, followers, requests, drained, stray };
        life.reload(&start.plan, start.saved.as_ref()).then_some(life)
    }

    /// Takes steps until NGINX is to be started again.
    fn live(mut self, input: &mut Unstructured<'_>, left: &mut usize) -> Option<Start> {
        self.look();
        while *left > 0 && !input.is_empty() {
            *left -= 1;
            match Step::arbitrary(input).ok()? {
                Step::Reload(plan) => {
                    self.reload(&plan, None);
                }
                Step::Restart { plan, larger } => {
                    self.look();
                    return Some(self.end(plan, larger));
                }
                Step::Begin { upstream, worker, old, wish } => {
                    self.begin_request(upstream, worker, old, &wish);
                }
                Step::FallBack { upstream, worker, tried } => {
                    self.fall_back(upstream, worker, tried);
                }
                Step::Park { upstream, worker, max } => self.park(upstream, worker, max.into()),
                Step::Upgrade(n) => {
                    if let Some(request) = pick(&mut self.requests, n)
                        && let Counted::Sent(admitted) = &mut request.counted
                    {
                        admitted.upgrade();
                        request.upgraded = true;
                    }
                }
                Step::End(n) => self.end_request(n),
                change => self.change(&change),
            }
            self.look();
        }
        // In the end all requests end, and nothing is left of them.
        while !self.requests.is_empty() {
            self.end_request(0);
        }
        self.look();
        None
    }

    fn states(&self) -> Vec<(usize, State)> {
        self.zone.states().map(|state| state.expect("a sound zone")).collect()
    }

    /// Loads a configuration, if there is room.
    fn reload(&mut self, plan: &Plan, saved: Option<&Snapshot>) -> bool {
        let configured = configuration(plan);
        let before = self.states();
        let more = match self.rows.len() {
            0 => WORKERS,
            now => usize::from(plan[0].unwrap_or(0) % 3).min(MOST_WORKERS - now),
        };
        let workers = Workers { processes: more, others: 0 };
        if let Err((error, size)) = fits(self.words, &configured, saved, workers) {
            assert!(!error.to_string().is_empty());
            assert!(size.is_none_or(|size| size > self.words.len() * 8));
            assert_eq!(self.states(), before, "trying it changes nothing");
            return false;
        }
        let outcome = reconcile(&self.zone, &configured, saved).expect("it was tried");
        self.zone.make_room(more).expect("it was tried");
        let claim = || self.zone.claim_row(Identity::me()).expect("there is room");
        self.rows.extend((0..more).map(|_| claim()));
        let after = self.states();
        for (at, state) in &before {
            let Some((_, now)) = after.iter().find(|(other, _)| other == at) else {
                panic!("record {at} is nobody's");
            };
            if now == state {
                continue;
            }
            // Whoever knows the old route must see that it is another one now.
            assert_ne!(now.route.generation(), state.route.generation());
            assert!(outcome.changed);
        }
        let named: HashSet<u32> = columns(&after).collect();
        let lost = |column: &u32| !named.contains(column) && self.in_flight(*column).total() > 0;
        self.stray += columns(&before).filter(lost).count() as u64;
        let served = configured.iter().zip(&outcome.records).enumerate().map(|(i, (c, record))| {
            let (backup, holdable) = (i % 2 == 0, i % 2 == 1);
            Served { name: c.name.clone(), zone: 0, record: Some(*record), backup, holdable }
        });
        self.served = served.collect();
        let follow = |s: &Served| {
            let record = s.record.unwrap_or(0);
            let worker = |row: &Row| Follower::new(self.zone, *row, record, &s.name);
            (s.name.clone(), self.rows.iter().map(worker).collect())
        };
        let followers = self.served.iter().map(follow).collect();
        self.followers[1] = std::mem::replace(&mut self.followers[0], followers);
        self.plan = *plan;
        // The same configuration once more changes nothing.
        let again = reconcile(&self.zone, &configured, None).expect("there is room");
        assert!(!again.changed && again.notices.is_empty(), "{again:?}");
        assert_eq!((again.records, self.states()), (outcome.records, after));
        true
    }

    /// Ends, and leaves what the next start finds.
    fn end(self, plan: Option<Plan>, larger: bool) -> Start {
        let served = |name: &str| self.served.iter().any(|s| s.name == name);
        let saved: Vec<_> = self.states().iter().map(|(_, state)| Saved::of(state)).collect();
        let text = serde_json::to_vec(&Snapshot::new(saved.clone())).expect("plain data");
        let read = Snapshot::parse(&text).unwrap_or_else(|why| panic!("{why} in {saved:?}"));
        assert_eq!(read.upstreams, saved);
        // With the same configuration everything is as it was.
        let words: Vec<AtomicU64> = (0..self.words.len()).map(|_| AtomicU64::new(0)).collect();
        let zone = Zone::create(&words, ROWS).expect("as large as the other");
        let configured = configuration(&self.plan);
        let none = Workers { processes: 0, others: 0 };
        if fits(&words, &configured, Some(&read), none).is_ok() {
            reconcile(&zone, &configured, Some(&read)).expect("it was tried");
            let again = zone.states().map(|state| Saved::of(&state.expect("a sound zone").1));
            let mut again: Vec<_> = again.collect();
            let mut before: Vec<_> = saved.into_iter().filter(|s| served(&s.name)).collect();
            for saved in again.iter_mut().chain(&mut before) {
                // A time of the calendar, kept on another clock.
                saved.held_until = saved.held_until.map(|_| 0);
            }
            again.sort_by(|a, b| a.name.cmp(&b.name));
            before.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(again, before);
        }
        let words = if larger { self.words.len() * 2 } else { self.words.len() }.min(1 << 14);
        Start { plan: plan.unwrap_or(self.plan), words, saved: Some(read) }
    }

    fn begin_request(&mut self, upstream: u8, worker: u8, old: bool, mut wish: &Wish) {
        let worker = self.worker(worker);
        let Some((name, followers)) = pick(&mut self.followers[usize::from(old)], upstream) else {
            return;
        };
        // An older configuration may have had fewer.
        let worker = worker % followers.len();
        let name = name.clone();
        // As a worker does it.
        let admitted = match followers[worker].admit_at_once() {
            Some(admitted) => Ok(Some(admitted)),
            None => followers[worker].admit(&mut wish, nothing),
        };
        let served = self.served.find(&name);
        let admitted = match admitted {
            Ok(Some(admitted)) => admitted,
            Ok(None) => {
                let active = served.map(|s| self.upstream(s).active);
                assert!(active.flatten().is_none(), "a request finds no release, but there is one");
                return;
            }
            // An old worker that meets the upstream for the first time once it is gone.
            Err(error) => {
                assert!(old, "{error}");
                return;
            }
        };
        let entry = admitted.to.release.clone();
        if let Some(served) = served {
            // A request that begins now goes where it should, whichever worker has it (P1).
            let now = self.upstream(served);
            let goes = Some(&entry.name);
            let canary = now.canary.as_ref().filter(|c| c.share.parts() > 0);
            match admitted.reason {
                Reason::Active => {
                    assert_eq!(goes, now.active.as_ref());
                    assert!(canary.is_none_or(|c| c.share.parts() < shunt_api::Portion::WHOLE));
                }
                Reason::Preview => assert_eq!(goes, wish.preview.map(release).as_ref()),
                Reason::Canary => assert_eq!(goes, canary.map(|c| &c.release)),
                Reason::Fallback => panic!("it has not tried any other"),
            }
            assert_eq!(now.generation, admitted.generation);
            assert!(admitted.is_open(), "a request is not counted");
            assert!(!self.drained.contains(&entry.serial), "P2: {:?} was drained", entry.name);
        }
        if admitted.is_open() {
            self.keep(entry.column, Counted::Sent(admitted));
        }
    }

    fn fall_back(&mut self, upstream: u8, worker: u8, tried: u8) {
        let worker = self.worker(worker);
        let Some((name, followers)) = pick(&mut self.followers[0], upstream) else { return };
        let (name, follower) = (name.clone(), &mut followers[worker]);
        let tried = release(tried);
        let table = follower.table().expect("a sound zone");
        let serials: Vec<u64> =
            table.by_name(tried.as_str()).iter().map(|entry| entry.serial).collect();
        let may = follower.has_fallback(&serials).expect("a sound zone");
        let admitted = follower.fall_back(&serials, nothing).expect("a sound zone");
        assert_eq!(may, admitted.is_some());
        let Some(admitted) = admitted else { return };
        let entry = admitted.to.release.clone();
        assert!(table.fallback && entry.name != tried && admitted.reason == Reason::Fallback);
        let served = self.served.find(&name).expect("it is configured");
        let now = self.upstream(served);
        assert!([&now.active, &now.previous].contains(&&Some(entry.name)));
        assert!(!self.drained.contains(&entry.serial), "P2");
        if admitted.is_open() {
            self.keep(entry.column, Counted::Sent(admitted));
        }
    }

    fn park(&mut self, upstream: u8, worker: u8, max: u64) {
        let worker = self.worker(worker);
        let Some((name, followers)) = pick(&mut self.followers[0], upstream) else { return };
        let (name, follower) = (name.clone(), &mut followers[worker]);
        let parking = follower.park(max).expect("a sound zone");
        let column = follower.table().expect("a sound zone").parked;
        let served = self.served.find(&name).expect("it is configured");
        let (held, parked) = (self.upstream(served).hold.is_some(), self.in_flight(column));
        match parking {
            Parking::Free => assert!(!held),
            Parking::Full => assert!(held && parked.requests >= max),
            Parking::Parked(ticket, _) => {
                assert!(held && parked.requests < max);
                self.keep(column, Counted::Parked(ticket));
            }
        }
    }

    fn worker(&self, worker: u8) -> usize {
        usize::from(worker) % self.rows.len()
    }

    fn keep(&mut self, column: u32, counted: Counted<'z>) {
        self.requests.push(Request { column, upgraded: false, counted });
    }

    fn end_request(&mut self, n: u8) {
        if self.requests.is_empty() {
            return;
        }
        drop(self.requests.swap_remove(usize::from(n) % self.requests.len()));
    }

    /// What is in flight in a column, by our own count.
    fn in_flight(&self, column: u32) -> InFlight {
        let count = |upgraded: bool| {
            let counted = |r: &&Request| r.column == column && r.upgraded == upgraded;
            self.requests.iter().filter(counted).count() as u64
        };
        InFlight { requests: count(false), upgraded: count(true) }
    }

    fn ask<T>(&self, f: impl FnOnce(&Service<'_>) -> T) -> T {
        let zones = [ServedZone { zone: self.zone, name: "shunt", size: 0, state_file: None }];
        f(&Service { zones: &zones, upstreams: &self.served, nginx: "1.28.3" })
    }

    /// An upstream as the API shows it.
    fn upstream(&self, served: &Served) -> Upstream {
        let call = Call::Upstream { upstream: served.name.clone(), wait: None };
        let reply = self.ask(|service| service.read(&call, true)).expect("it is there");
        let upstream: Upstream = serde_json::from_slice(&reply.body)
            .unwrap_or_else(|e| panic!("{e} in {}", String::from_utf8_lossy(&reply.body)));
        assert_eq!((reply.status, reply.generation), (200, Some(upstream.generation)));
        upstream
    }

    fn change(&self, step: &Step) {
        let Some(Change { upstream, method, path, body, base }) = step.change() else { return };
        // One more than there can be, which is not found.
        let name = UPSTREAMS.get(usize::from(upstream) % (UPSTREAMS.len() + 1)).unwrap_or(&"other");
        let call = Call::parse(method, &format!("/v1/upstreams/{}{path}", encode(name)), "");
        let call = call.expect("a call");
        let served = self.served.find(name);
        let before = self.states();
        let old = served.map(|s| self.upstream(s));
        let generation = old.as_ref().map_or(0, |o| o.generation);
        let header = match (step, base) {
            (Step::Strange { header, .. }, _) => header.clone(),
            (_, Base::Anything) => None,
            (_, Base::Now) => Some(format!("\"{generation}\"")),
            (_, Base::Before) => Some(format!("\"{}\"", generation.wrapping_sub(1))),
        };
        let result = self.ask(|service| service.change(&call, header.as_deref(), &body));
        let after = self.states();
        let (served, old) = match (served, old) {
            (Some(served), Some(old)) => (served, old),
            _ => {
                assert_eq!(result.map_err(|p| p.status).unwrap_err(), 404);
                assert_eq!(after, before);
                return;
            }
        };
        match result {
            Err(problem) => {
                refused(&problem, base, generation);
                assert_eq!(after, before, "{call:?} was refused with {problem}");
                if problem.status == 409 && matches!(call, Call::DeleteRelease { .. }) {
                    self.may_stay(&before, served, &call, &old);
                }
            }
            Ok(reply) => {
                assert!(!matches!(base, Base::Before), "based on what is no longer so");
                let record = served.record.expect("it has one");
                let others = |states: &[(usize, State)]| {
                    states.iter().filter(|(at, _)| *at != record).cloned().collect::<Vec<_>>()
                };
                assert_eq!(others(&after), others(&before), "{call:?} changed another upstream");
                let now = self.upstream(served);
                let steps = now.generation.wrapping_sub(generation);
                assert_eq!(steps, u32::from(after != before), "{call:?}");
                assert_eq!(reply.generation, Some(now.generation));
                done(&call, &old, &now, &reply);
                if !matches!(call, Call::Switch { .. }) {
                    let said: Upstream = serde_json::from_slice(&reply.body).expect("a state");
                    // How long a hold still lasts has changed by now.
                    let ends = now.hold.filter(|_| said.hold.is_some());
                    assert_eq!(Upstream { hold: ends, ..said }, now);
                }
            }
        }
    }

    /// A release that was not deleted must be one that cannot be.
    fn may_stay(&self, states: &[(usize, State)], served: &Served, call: &Call, now: &Upstream) {
        let Call::DeleteRelease { release, .. } = call else { return };
        let state = states.iter().find(|(at, _)| Some(*at) == served.record).map(|(_, s)| s);
        let entry = state.and_then(|s| s.table.by_name(release.as_str())).expect("it is there");
        let reason = now.active.as_ref() == Some(release)
            || now.canary.as_ref().is_some_and(|c| c.release == *release)
            || entry.origin != Origin::Api
            || self.in_flight(entry.column).total() > 0;
        assert!(reason, "\"{release}\" could be deleted");
    }

    /// What always holds.
    fn look(&mut self) {
        let states = self.states();
        let mut columns = HashSet::new();
        let mut serials = HashSet::new();
        let mut names = HashSet::new();
        for (at, state) in &states {
            let table = &state.table;
            assert!(names.insert(&table.upstream), "{:?} is there twice", table.upstream);
            let there = |index: Option<u8>| index.is_none_or(|i| table.by_index(i).is_some());
            assert!(there(state.route.active()), "the active release is gone");
            assert!(there(state.previous), "the previous release is gone");
            assert!(state.previous.is_none() || state.previous != state.route.active());
            assert_eq!(self.zone.state(*at, Some(state)).as_ref(), Ok(state));
            let (mut own, mut indexes) = (HashSet::new(), HashSet::new());
            for entry in &table.releases {
                assert!(own.insert(&entry.name) && indexes.insert(entry.index));
                assert!(columns.insert(entry.column), "a column has two releases");
                assert!(serials.insert(entry.serial), "a serial was given twice");
                assert!(!entry.servers.is_empty());
            }
        }
        for column in 0..self.zone.layout().columns as u32 {
            assert_eq!(self.zone.in_flight(column), self.in_flight(column), "column {column}");
        }
        // No place is lost.
        let (used, named) = (self.zone.releases_use().used, columns.len() as u64);
        assert!(named <= used && used <= named + self.stray, "{named} {used} {}", self.stray);
        assert_eq!(self.zone.upstreams_use().used, states.len() as u64);
        let tables = self.zone.tables_use();
        assert!(tables.used <= tables.capacity, "tables lie upon each other: {tables:?}");
        self.drained = HashSet::new();
        for served in self.served.iter() {
            let state = states.iter().find(|(at, _)| Some(*at) == served.record);
            let state = &state.expect("it has a record").1;
            assert_eq!(state.table.upstream, served.name);
            assert!(columns.insert(state.table.parked), "a column counts two things");
            let upstream = self.upstream(served);
            for release in &upstream.releases {
                let timeout = shunt_api::NginxTime::from_secs(1);
                let wait = Wait::Drained { release: release.name.clone(), timeout };
                let drained =
                    self.ask(|s| s.has_come(&served.name, &wait, &mut None)).expect("it is there");
                let entry = state.table.by_name(release.name.as_str()).expect("it is there");
                let is = |other: Option<&ReleaseName>| other == Some(&release.name);
                let gets = is(upstream.active.as_ref())
                    || is(upstream.canary.as_ref().map(|c| &c.release))
                    || (state.table.fallback && is(upstream.previous.as_ref()))
                    || (state.table.preview && !state.is_exposed(entry.index));
                assert_eq!(drained, !gets && release.in_flight.total() == 0, "{release:?}");
                if drained {
                    self.drained.insert(entry.serial);
                }
            }
        }
    }
}

fn columns(states: &[(usize, State)]) -> impl Iterator<Item = u32> {
    states.iter().flat_map(|(_, s)| s.table.releases.iter().map(|e| e.column))
}

fn pick<T>(all: &mut [T], n: u8) -> Option<&mut T> {
    let count = all.len();
    (count > 0).then(|| &mut all[usize::from(n) % count])
}
