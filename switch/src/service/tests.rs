use super::*;
use crate::carry::{Carried, count_master};
use crate::counters::Ending;
use crate::follower::Follower;
use crate::follower::testing::{Plain, nothing};
use crate::reconcile::{Configured, reconcile};
use crate::table::Member;
use crate::worker::Identity;
use crate::zone::testing::words;
use proptest::prelude::*;
use shunt_api::{Method, NginxTime, ServerSpec};
use std::time::Duration;

struct Fixture<'z> {
    zone: Zone<'z>,
    served: ServedUpstreams,
    folder: tempfile::TempDir,
}

fn served_zone<'z>(zone: Zone<'z>, state_file: Option<&'z Path>) -> ServedZone<'z> {
    ServedZone { zone, name: "shunt", size: 0, state_file }
}

impl<'z> Fixture<'z> {
    fn new(words: &'z [crate::AtomicU64]) -> Self {
        let zone = Zone::create(words, 16).unwrap();
        let servers = vec![Member::from(&ServerSpec::new("127.0.0.1:1".parse().unwrap()))];
        let name = "web".to_owned();
        let releases = vec![(ReleaseName::new("default").unwrap(), servers)];
        let (fallback, preview) = (true, true);
        let configured = [Configured { name: name.clone(), fallback, preview, releases }];
        let records = reconcile(&zone, &configured, None).unwrap().records;
        let record = Some(records[0]);
        let served = [Served { name, zone: 0, record, backup: false, holdable: true }];
        let served = served.into_iter().collect();
        Self { zone, served, folder: tempfile::tempdir().unwrap() }
    }

    fn ask(
        &self,
        method: Method,
        target: &str,
        if_match: Option<&str>,
        body: &str,
    ) -> Result<(Reply, serde_json::Value), Problem> {
        let file = self.folder.path().join("state.json");
        let zones = [served_zone(self.zone, Some(&file))];
        let service = Service { zones: &zones, upstreams: &self.served, nginx: "1.28.3" };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let call = Call::parse(method, path, query)
            .map_err(|e| Problem::new(e.status(), e.to_string()))?;
        let reply = if call.is_change() {
            service.change(&call, if_match, body.as_bytes())
        } else {
            service.read(&call, true)
        }?;
        let json = serde_json::from_slice(&reply.body).unwrap();
        Ok((reply, json))
    }

    fn put(&self, release: &str, port: u16) -> u16 {
        let body = format!(r#"{{"servers":[{{"address":"127.0.0.1:{port}"}}]}}"#);
        let target = format!("/v1/upstreams/web/releases/{release}");
        self.ask(Method::Put, &target, None, &body).unwrap().0.status
    }

    fn switch(&self, release: &str, if_match: Option<&str>) -> Result<u32, Problem> {
        let body = format!(r#"{{"release":"{release}"}}"#);
        let reply = self.ask(Method::Post, "/v1/upstreams/web/switch", if_match, &body);
        reply.map(|(reply, _)| reply.generation.unwrap())
    }

    fn state(&self) -> (Reply, serde_json::Value) {
        self.ask(Method::Get, "/v1/upstreams/web", None, "").unwrap()
    }
}

#[test]
fn a_release_is_added_switched_to_and_the_old_one_deleted() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    assert_eq!((f.put("v1", 10), f.put("v1", 10), f.put("v1", 11)), (201, 200, 200));
    assert_eq!(f.switch("v1", None).unwrap(), 4);
    assert_eq!(f.put("v2", 20), 201);
    assert_eq!(f.switch("v2", None).unwrap(), 6);
    let (_, state) = f.state();
    assert_eq!((&state["active"], &state["previous"]), (&"v2".into(), &"v1".into()));
    f.ask(Method::Delete, "/v1/upstreams/web/previous", None, "").unwrap();
    let (reply, state) = f.ask(Method::Delete, "/v1/upstreams/web/releases/v1", None, "").unwrap();
    assert_eq!((reply.generation, &state["previous"]), (Some(8), &serde_json::Value::Null));
    assert_eq!(state["releases"].as_array().unwrap().len(), 2);
    // The column is free again.
    assert_eq!(f.zone.releases_use().used, 2);
}

#[test]
fn p7_of_two_changes_based_on_one_generation_one_wins() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    assert_eq!(f.switch("v1", Some("\"2\"")).unwrap(), 3);
    let problem = f.switch("default", Some("\"2\"")).unwrap_err();
    assert_eq!(problem.status, 412);
    assert_eq!(problem.upstream.unwrap().generation, 3);
    for (if_match, status) in [("2", 400), ("", 400), ("\"a", 400), ("W/\"3\"", 412)] {
        assert_eq!(f.switch("default", Some(if_match)).unwrap_err().status, status);
    }
    assert_eq!(f.switch("default", Some("\"1\", \"3\"")).unwrap(), 4);
    assert_eq!(f.switch("v1", Some("*")).unwrap(), 5);
}

#[test]
fn p6_what_is_refused_changes_nothing() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    let (before, state) = f.state();
    let file = std::fs::read(f.folder.path().join("state.json")).unwrap();
    let server = |s: &str| format!(r#"{{"servers":[{s}]}}"#);
    let put = "/v1/upstreams/web/releases/v2";
    let cases = [
        (Method::Put, put, "{".to_owned(), 400),
        (Method::Put, put, String::new(), 400),
        (Method::Put, put, "[]".to_owned(), 422),
        (Method::Put, put, server(""), 422),
        (Method::Put, put, server(r#"{"address":"app:80"}"#), 422),
        (Method::Put, put, server(r#"{"address":"127.0.0.1:80","x":1}"#), 422),
        (Method::Put, put, server(r#"{"address":"127.0.0.1:80","weight":-1}"#), 422),
        (
            Method::Put,
            put,
            server(r#"{"address":"127.0.0.1:80","backup":true},{"address":"127.0.0.1:81"}"#),
            422,
        ),
        (Method::Put, "/v1/upstreams/x/releases/v2", server(r#"{"address":"127.0.0.1:80"}"#), 404),
        (Method::Post, "/v1/upstreams/web/switch", r#"{"release":"v9"}"#.to_owned(), 404),
        (Method::Post, "/v1/upstreams/web/switch", r#"{"release":"a/b"}"#.to_owned(), 422),
        (Method::Post, "/v1/upstreams/x/switch", r#"{"release":"v1"}"#.to_owned(), 404),
        (Method::Delete, "/v1/upstreams/web/releases/default", String::new(), 409),
        (Method::Delete, "/v1/upstreams/web/releases/v9", String::new(), 404),
    ];
    for (method, target, body, status) in cases {
        let problem = f.ask(method, target, None, &body).unwrap_err();
        assert_eq!(problem.status, status, "{target} {body}: {problem}");
    }
    assert_eq!(f.state(), (before, state));
    assert_eq!(std::fs::read(f.folder.path().join("state.json")).unwrap(), file);
    assert_eq!(f.zone.releases_use().used, 2);
}

#[test]
fn p6_without_its_state_file_a_change_does_not_happen() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    let before = f.state();
    let columns = f.zone.releases_use();
    std::fs::remove_dir_all(f.folder.path()).unwrap();
    let problem = f.switch("v1", None).unwrap_err();
    assert_eq!(problem.status, 507);
    assert!(problem.detail.contains("state.json"), "{problem}");
    let body = r#"{"servers":[{"address":"127.0.0.1:80"}]}"#;
    assert!(f.ask(Method::Put, "/v1/upstreams/web/releases/v2", None, body).is_err());
    assert_eq!((f.state(), f.zone.releases_use()), (before, columns));
}

#[test]
fn p2_a_release_is_drained_when_it_is_not_active_and_has_nothing_in_flight() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    let zones = [served_zone(f.zone, None)];
    let service = Service { zones: &zones, upstreams: &f.served, nginx: "" };
    let drained = || {
        let query = "wait=drained&release=default";
        let call = Call::parse(Method::Get, "/v1/upstreams/web", query).unwrap();
        let Call::Upstream { wait: Some(wait), .. } = call else { unreachable!() };
        service.has_come("web", &wait, &mut None).unwrap()
    };
    let row = f.zone.claim_row(Identity::me()).unwrap();
    let mut follower = Follower::new(f.zone, row, f.served[0].record.unwrap(), "web");
    let mut admitted = follower.admit(&mut Plain, nothing).unwrap().unwrap();
    assert_eq!(admitted.to.release.name.as_str(), "default");
    assert!(!drained());
    f.switch("v1", None).unwrap();
    assert!(!drained());
    let problem = f.ask(Method::Delete, "/v1/upstreams/web/releases/default", None, "");
    assert_eq!(problem.unwrap_err().status, 409);
    admitted.upgrade();
    assert_eq!(f.state().1["releases"][0]["in_flight"]["upgraded"], 1);
    assert_eq!(f.state().1["releases"][0]["state"], "previous");
    drop(admitted);
    assert!(!drained(), "requests may still fall back to it");
    assert_eq!(f.state().1["releases"][0]["state"], "previous");
    f.ask(Method::Delete, "/v1/upstreams/web/previous", None, "").unwrap();
    assert!(drained());
    let next = follower.admit(&mut Plain, nothing).unwrap().unwrap();
    assert_eq!(next.to.release.name.as_str(), "v1");
}

#[test]
fn canary_and_hold_are_set_shown_saved_and_ended() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    let canary = "/v1/upstreams/web/canary";
    let share = r#"{"release":"v1","share":0.05}"#;
    let (reply, state) = f.ask(Method::Put, canary, None, share).unwrap();
    assert_eq!((reply.generation, &state["canary"]["share"]), (Some(3), &0.05.into()));
    assert_eq!(state["releases"][1]["state"], "canary");
    assert_eq!(f.ask(Method::Put, canary, None, share).unwrap().0.generation, Some(3));
    let problem = f.ask(Method::Delete, "/v1/upstreams/web/releases/v1", None, "").unwrap_err();
    assert_eq!(problem.status, 409, "{problem}");
    for (body, status) in [
        (r#"{"release":"default","share":0.05}"#, 409),
        (r#"{"release":"v9","share":0.05}"#, 404),
        (r#"{"release":"v1","share":1.5}"#, 422),
        (r#"{"release":"v1"}"#, 422),
    ] {
        assert_eq!(f.ask(Method::Put, canary, None, body).unwrap_err().status, status);
    }
    let hold = "/v1/upstreams/web/hold";
    for body in [r#"{"timeout":"0s"}"#, r#"{"timeout":"2h"}"#, "{}"] {
        assert_eq!(f.ask(Method::Put, hold, None, body).unwrap_err().status, 422);
    }
    let (_, state) = f.ask(Method::Put, hold, None, r#"{"timeout":"1h"}"#).unwrap();
    // All of it is still left when the clock has not ticked since.
    assert_eq!(state["holdable"], true);
    let left: NginxTime = state["hold"]["ends_in"].as_str().unwrap().parse().unwrap();
    let most = Duration::from_hours(1);
    assert!(left.duration() <= most && left.duration() > most - Duration::from_mins(1), "{state}");
    let saved = state_file::read(&f.folder.path().join("state.json")).unwrap().unwrap();
    let web = &saved.upstreams[0];
    assert_eq!(web.canary.as_ref().unwrap().release.as_str(), "v1");
    assert!(web.held_until.unwrap() > clock::since_1970());
    assert_eq!(web.exposed, [ReleaseName::new("v1").unwrap()]);
    // The canary becomes active, and is none any more.
    assert_eq!(f.switch("v1", None).unwrap(), 5);
    let (_, state) = f.ask(Method::Delete, hold, None, "").unwrap();
    assert_eq!((&state["canary"], &state["hold"]), (&().into(), &().into()));
    assert_eq!(f.ask(Method::Delete, hold, None, "").unwrap().0.generation, Some(6));
    assert_eq!(f.ask(Method::Delete, canary, None, "").unwrap().0.generation, Some(6));
}

#[test]
fn a_zone_that_takes_anothers_place_goes_on_counting() {
    let (small, large) = (words(1 << 14), words(1 << 15));
    let f = Fixture::new(&small);
    f.put("v1", 10);
    f.switch("v1", None).unwrap();
    let row = f.zone.claim_row(Identity::me()).unwrap();
    let mut follower = Follower::new(f.zone, row, f.served[0].record.unwrap(), "web");
    for _ in 0..3 {
        let mut admitted = follower.admit(&mut Plain, nothing).unwrap().unwrap();
        admitted.end(Ending { status: 200, connect_failures: 1, time: Some(7) });
    }
    let held = follower.admit(&mut Plain, nothing).unwrap().unwrap();
    let [carried] = Carried::all(&f.zone).unwrap().try_into().unwrap();
    let saved = Snapshot::new(vec![carried.saved.clone()]);
    let next = Zone::create(&large, 16).unwrap();
    let servers = vec![Member::from(&ServerSpec::new("127.0.0.1:1".parse().unwrap()))];
    let releases = vec![(ReleaseName::new("default").unwrap(), servers)];
    let (name, fallback, preview) = ("web".to_owned(), true, true);
    let configured = [Configured { name, fallback, preview, releases }];
    let record = reconcile(&next, &configured, Some(&saved)).unwrap().records[0];
    carried.hand_over(&next, record, true).unwrap();
    let show = |zone: Zone<'_>, record| {
        let shown = show::upstream(zone, record, &zone.state(record, None).unwrap(), false);
        let v1 = shown.release("v1").unwrap();
        (shown.switches, v1.requests, v1.responses, v1.response_time.clone())
    };
    let before = show(f.zone, f.served[0].record.unwrap());
    assert_eq!((before.0, before.1, before.2.successful), (1, 4, 3));
    assert_eq!(show(next, record), before);

    // What is in flight at the old worker, and what it may still get: whether it has no row in the
    // new zone yet, or one of its own.
    let in_flight = |zone: Zone<'_>, release: &str| {
        let shown = show::upstream(zone, record, &zone.state(record, None).unwrap(), false);
        shown.release(release).unwrap().in_flight.requests
    };
    assert_eq!(in_flight(next, "v1"), 2);
    assert_eq!(in_flight(next, "default"), 1, "it is the one to fall back to");
    let other = words(1 << 14);
    let other = Zone::create(&other, 16).unwrap();
    let at = reconcile(&other, &configured, Some(&saved)).unwrap().records[0];
    carried.hand_over(&other, at, false).unwrap();
    assert_eq!((in_flight(other, "v1"), other.workers()), (2, 0));
    drop(held);
}

#[test]
#[cfg_attr(miri, ignore = "Miri starts no processes")]
fn p2_with_another_master_no_release_is_drained_before_that_has_ended() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    count_master(&f.zone, Identity::of(child.id())).unwrap();
    let in_flight = || {
        let (_, state) = f.ask(Method::Get, "/v1/upstreams/web", None, "").unwrap();
        [0, 1].map(|at| state["releases"][at]["in_flight"]["requests"].as_u64())
    };
    assert_eq!(in_flight(), [Some(1), Some(1)]);
    assert_eq!(f.zone.workers(), 0, "it is no worker");
    let target = "/v1/upstreams/web/releases/v1";
    assert_eq!(f.ask(Method::Delete, target, None, "").unwrap_err().status, 409);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(in_flight(), [Some(0), Some(0)]);
    assert_eq!(f.ask(Method::Delete, target, None, "").unwrap().0.status, 200);
}

#[test]
fn an_upstream_that_has_moved_is_no_longer_changed_where_it_was() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    f.zone.give_up(f.served[0].record.unwrap());
    let target = "/v1/upstreams/web/switch";
    let refused = f.ask(Method::Post, target, None, r#"{"release":"v1"}"#).unwrap_err();
    assert_eq!(refused.status, 409);
    assert_eq!((f.zone.upstreams_use().used, f.zone.releases_use().used), (0, 0));
}

proptest! {
    /// Whatever was put and deleted before, a zone is never so full that nothing can be deleted.
    #[test]
    #[cfg_attr(miri, ignore = "takes long, and has nothing for Miri")]
    fn p6_a_full_zone_can_be_emptied(
        ops in prop::collection::vec((0..3usize, 0..8u8, 1..60usize, any::<bool>()), 0..60),
        start in 0..24usize,
    ) {
        let words = words(1 << 15);
        let zone = Zone::create(&words, 16).unwrap();
        let names = ["web", "shop", "api"];
        let configured = names.map(|name| Configured {
            name: name.to_owned(),
            fallback: false,
            preview: false,
            releases: Vec::new(),
        });
        let records = reconcile(&zone, &configured, None).unwrap().records;
        let served: ServedUpstreams = names
            .iter()
            .zip(&records)
            .map(|(name, record)| Served {
                name: (*name).to_owned(),
                zone: 0,
                record: Some(*record),
                backup: false,
                holdable: false,
            })
            .collect();
        let zones = [served_zone(zone, None)];
        let service = Service { zones: &zones, upstreams: &served, nginx: "1.28.3" };
        let ask = |upstream: usize, release: u8, servers: Option<usize>| {
            let target = format!("/v1/upstreams/{}/releases/r{release}", names[upstream]);
            let method = if servers.is_some() { Method::Put } else { Method::Delete };
            let server = |n| format!(r#"{{"address":"127.0.0.1:{}"}}"#, n + 1);
            let servers: Vec<_> = (0..servers.unwrap_or(0)).map(server).collect();
            let body = format!(r#"{{"servers":[{}]}}"#, servers.join(","));
            let call = Call::parse(method, &target, "").unwrap();
            match service.change(&call, None, body.as_bytes()) {
                Ok(reply) => reply.status,
                Err(problem) => problem.status,
            }
        };
        for (upstream, release, servers, delete) in ops {
            let status = ask(upstream, release, (!delete).then_some(servers));
            prop_assert!([200, 201, 404, 507].contains(&status), "{status}");
        }
        let all: Vec<(usize, u8)> = (0..3).flat_map(|u| (0..8).map(move |r| (u, r))).collect();
        let mut left: Vec<_> = all[start..].iter().chain(&all[..start]).copied().collect();
        while !left.is_empty() {
            let before = left.len();
            left.retain(|(upstream, release)| ask(*upstream, *release, None) == 507);
            prop_assert!(left.len() < before, "none of {left:?} can be deleted");
        }
    }
}

#[test]
fn the_page_for_prometheus_has_every_release() {
    let words = words(1 << 14);
    let f = Fixture::new(&words);
    f.put("v1", 10);
    let zones = [served_zone(f.zone, None)];
    let service = Service { zones: &zones, upstreams: &f.served, nginx: "1.28.3" };
    let page = service.metrics().unwrap();
    for line in [
        "shunt_generation{upstream=\"web\"} 2",
        "shunt_release_active{upstream=\"web\",release=\"default\"} 1",
        "shunt_requests_total{upstream=\"web\",release=\"v1\"} 0",
        "shunt_response_time_seconds_bucket{upstream=\"web\",release=\"v1\",le=\"+Inf\"} 0",
        "shunt_zone_used{zone=\"shunt\",what=\"releases\"} 2",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[test]
fn ten_thousand_changes_take_no_more_room() {
    let words = words(1 << 15);
    let mut f = Fixture::new(&words);
    f.served = f.served.iter().map(|s| Served { backup: true, ..s.clone() }).collect();
    let zones = [served_zone(f.zone, None)];
    let service = Service { zones: &zones, upstreams: &f.served, nginx: "" };
    let call = |method, target: &str, body: &str| {
        let call = Call::parse(method, target, "").unwrap();
        service.change(&call, None, body.as_bytes()).unwrap();
    };
    // Miri is slow.
    for i in 0..if cfg!(miri) { 3 } else { 2500 } {
        let release = format!("/v1/upstreams/web/releases/v{i}");
        let body = format!(r#"{{"servers":[{{"address":"127.0.0.1:{}"}}]}}"#, i + 1);
        call(Method::Put, &release, &body);
        let body = format!(r#"{{"release":"v{i}"}}"#);
        call(Method::Post, "/v1/upstreams/web/switch", &body);
        call(Method::Post, "/v1/upstreams/web/switch", r#"{"release":"default"}"#);
        call(Method::Delete, &release, "");
    }
    assert_eq!(f.zone.releases_use().used, 1);
    assert_eq!(f.zone.tables_use().used, 128);
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour, and has nothing for Miri")]
fn a_full_zone_refuses_and_says_what_to_do() {
    let words = words(1 << 15);
    let f = Fixture::new(&words);
    let room = f.zone.releases_use().capacity;
    let body = r#"{"servers":[{"address":"127.0.0.1:80"}]}"#;
    let problem = (0..room)
        .find_map(|i| {
            let target = format!("/v1/upstreams/web/releases/v{i}");
            f.ask(Method::Put, &target, None, body).err()
        })
        .expect("the zone takes more than there is room for");
    assert_eq!(problem.status, 507, "{problem}");
    assert!(problem.detail.contains("shunt_zone"), "{problem}");
    f.switch("v0", None).unwrap();
}
