//! What is done to NGINX and its releases, one thing after the other, at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use shunt_api::{InFlight, Upstream};
use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{is_running, signal};
use shunt_tests::until;

use crate::clients::{Desk, Tally};
use crate::timeline::{Places, Timeline};

/// So many releases at most at the same time.
const RELEASES: usize = 5;

/// Workers at first.
const WORKERS: usize = 4;

/// What was done, by its name.
pub type Counts = BTreeMap<&'static str, u64>;

/// A release whose processes run.
struct Living {
    backend: Backend,
    /// Whether users' requests were ever sent to it: only then can it be drained.
    met: bool,
}

pub struct Driver {
    pub nginx: Nginx,
    admin: Admin,
    random: Rng,
    timeline: Arc<Timeline>,
    tally: Arc<Tally>,
    living: BTreeMap<String, Living>,
    workers: usize,
    next: u64,
    pub counts: Counts,
    killers: Vec<JoinHandle<()>>,
}

fn http(first: &Backend, zone: &str) -> String {
    format!(
        r#"
    shunt_zone shunt:{zone} state=%STATE%;
    upstream web {{
        least_conn;
        shunt;
        shunt_preview $http_x_want;
        shunt_canary_key $http_x_key;
        shunt_fallback on;
        {}
        keepalive 16;
    }}
    server {{
        listen unix:%FOLDER%/api.sock;
        location / {{ shunt_api write=on; }}
        location = /metrics {{ shunt_metrics; }}
    }}
    server {{
        listen 127.0.0.1:%PORT% backlog=4096;
        shunt_hold web timeout=60s;
        add_header X-Shunt "$shunt_upstream $shunt_release $shunt_generation" always;
        add_header X-Reason $shunt_reason always;
        add_header X-Worker $pid always;
        # All that a release which dies leaves unanswered can go on to another.
        proxy_next_upstream error timeout non_idempotent;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location / {{ proxy_pass http://web; }}
        location /ws {{
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_pass http://web;
        }}
    }}
"#,
        first.lines()
    )
}

impl Driver {
    pub fn start(build: &Build, seed: u64) -> Self {
        let first = Backend::start("v0", 2);
        let setup = Setup { http: http(&first, "1m"), workers: WORKERS };
        let nginx = Nginx::start(build, setup);
        let timeline = Arc::new(Timeline::default());
        timeline.sending(Places { active: "v0".to_owned(), ..Places::default() });
        timeline.replied();
        Self {
            admin: nginx.admin(),
            nginx,
            random: Rng::with_seed(seed),
            timeline,
            tally: Arc::default(),
            living: BTreeMap::from([("v0".to_owned(), Living { backend: first, met: true })]),
            workers: WORKERS,
            next: 1,
            counts: Counts::new(),
            killers: Vec::new(),
        }
    }

    /// What clients need.
    pub fn desk(&self) -> Desk {
        Desk {
            port: self.nginx.port,
            metrics: self.admin.clone(),
            timeline: self.timeline.clone(),
            tally: self.tally.clone(),
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Does one thing.
    pub fn step(&mut self) {
        match self.random.u32(0..100) {
            0..30 => self.switch_to_any(),
            30..45 => self.deploy(),
            45..55 => self.retire(),
            55..70 => self.canary(),
            70..80 => self.hold(),
            80..86 => self.kill(),
            86..91 => self.reload(),
            91..93 => self.resize(),
            _ => self.die(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn pause(&mut self, most: u64) {
        let time = self.random.u64(0..=most);
        std::thread::sleep(Duration::from_millis(time));
    }

    /// One of the releases that run, for which something is so.
    fn any(&mut self, so: impl Fn(&str, &Living) -> bool) -> Option<String> {
        let names: Vec<&String> =
            self.living.iter().filter(|(name, l)| so(name, l)).map(|(name, _)| name).collect();
        let at = self.random.usize(0..names.len().max(1));
        names.get(at).map(|name| (*name).clone())
    }

    /// A call of the API, over and over while the worker that has it is killed. All of them may be made
    /// twice.
    fn call(&self, method: &str, rest: &str, body: &str) -> Response {
        let target = format!("/v1/upstreams/web{rest}");
        until("an answer of the API", || {
            let start = Instant::now();
            match self.admin.try_ask(method, &target, &[], body.as_bytes()) {
                // An old worker, whose zone was given up: the next one has the new one.
                Ok(r) if r.status == 409 && r.text().contains("reloaded with another zone") => None,
                Ok(response) => Some(response),
                Err(_) if self.timeline.was_killed(None, start) => None,
                Err(error) => panic!("{method} {target}: {error}"),
            }
        })
    }

    fn state(&self) -> Upstream {
        let response = self.call("GET", "", "");
        serde_json::from_slice(&response.body).expect("an upstream")
    }

    /// A call that must be answered so.
    fn must(&self, method: &str, rest: &str, body: &str, statuses: &[u16]) {
        let response = self.call(method, rest, body);
        if !statuses.contains(&response.status) {
            self.tally.fail(format!("{method} {rest}: {} {}", response.status, response.text()));
        }
    }

    /// A change after which requests go elsewhere.
    fn change(&mut self, method: &str, rest: &str, body: &str, places: Places) {
        self.timeline.sending(places.clone());
        self.must(method, rest, body, &[200]);
        self.timeline.replied();
        let state = self.state();
        let is = |name: &Option<shunt_api::ReleaseName>| name.as_ref().map(ToString::to_string);
        let now = Places {
            active: is(&state.active).unwrap_or_default(),
            previous: is(&state.previous),
            canary: state.canary.map(|c| c.release.to_string()),
        };
        if now != places {
            self.tally.fail(format!("after {method} {rest} {body} it is {now:?}"));
        }
    }

    fn switch(&mut self, release: &str) {
        let now = self.timeline.places();
        let places = Places {
            active: release.to_owned(),
            previous: Some(now.active),
            canary: now.canary.filter(|canary| canary != release),
        };
        self.met(release);
        let body = format!(r#"{{"release":"{release}"}}"#);
        self.change("POST", "/switch", &body, places);
        self.count("switches");
    }

    fn met(&mut self, release: &str) {
        if let Some(living) = self.living.get_mut(release) {
            living.met = true;
        }
    }

    fn switch_to_any(&mut self) {
        let active = self.timeline.places().active;
        if let Some(release) = self.any(|name, _| *name != *active) {
            self.switch(&release);
        }
        self.pause(30);
    }

    /// A new release, which is looked at before anybody else gets there.
    fn deploy(&mut self) {
        if self.living.len() >= RELEASES {
            return self.retire();
        }
        let name = format!("v{}", self.next);
        self.next += 1;
        let backend = Backend::start(&name, 1 + self.random.usize(0..3));
        let servers: Vec<_> =
            backend.addresses.iter().map(|a| serde_json::json!({ "address": a })).collect();
        let body = serde_json::json!({ "servers": servers }).to_string();
        self.must("PUT", &format!("/releases/{name}"), &body, &[200, 201]);
        self.living.insert(name.clone(), Living { backend, met: false });
        self.preview(&name);
        self.count("releases made");
        if self.random.bool() {
            self.switch(&name);
        }
    }

    /// A request that names a release goes there.
    fn preview(&mut self, name: &str) {
        let went = until("a preview", || {
            let start = Instant::now();
            let ask = || {
                let mut connection = Connection::tcp(self.nginx.port)?;
                connection.send("GET", "/", &[("X-Want", name), ("Connection", "close")], b"")?;
                connection.receive()
            };
            match ask() {
                Ok(response) => Some(response),
                Err(_) if self.timeline.was_killed(None, start) => None,
                Err(error) => panic!("a preview: {error}"),
            }
        });
        if (went.release(), went.header("x-reason")) != (name, Some("preview")) {
            self.tally.fail(format!("a preview of {name}: {went:?}"));
        }
        self.tally.preview.fetch_add(1, Ordering::Relaxed);
    }

    /// Drains a release and stops its processes as soon as it is said to be drained: nothing may break
    /// by that (P2).
    fn retire(&mut self) {
        let Places { active, canary, .. } = self.timeline.places();
        let old =
            self.any(|name, _| *name != *active && Some(name) != canary.as_deref() && name != "v0");
        let Some(name) = old else { return };
        self.drain(&name);
        if let Some(living) = self.living.remove(&name) {
            living.backend.die();
        }
        self.delete(&name);
        self.count("releases retired");
    }

    fn drain(&mut self, name: &str) {
        let places = self.timeline.places();
        if places.previous.as_deref() == Some(name) {
            self.change("DELETE", "/previous", "", Places { previous: None, ..places });
        }
        // One that no user has met may always be previewed, so it is never drained.
        let query = match self.living.get(name) {
            Some(Living { met: false, .. }) => String::new(),
            _ => format!("?wait=drained&release={name}&timeout=5s"),
        };
        until("it is drained", || {
            let response = self.call("GET", &query, "");
            let state: Upstream = serde_json::from_slice(&response.body).ok()?;
            (state.release(name)?.in_flight == InFlight::default()).then_some(())
        });
    }

    fn delete(&mut self, name: &str) {
        // 404 when a worker was killed that had deleted it.
        self.must("DELETE", &format!("/releases/{name}"), "", &[200, 404]);
    }

    /// A canary that grows, or that is taken back or switched to.
    fn canary(&mut self) {
        let now = self.timeline.places();
        let Some(release) = self.any(|name, _| *name != *now.active) else { return };
        self.met(&release);
        for share in [0.05, 0.5, 1.0] {
            let body = format!(r#"{{"release":"{release}","share":{share}}}"#);
            let places = Places { canary: Some(release.clone()), ..self.timeline.places() };
            self.change("PUT", "/canary", &body, places);
            self.count("canary steps");
            self.pause(20);
            if self.random.u8(0..4) == 0 {
                break;
            }
        }
        match self.random.u8(0..3) {
            0 => self.switch(&release),
            1 => {
                let places = Places { canary: None, ..self.timeline.places() };
                self.change("DELETE", "/canary", "", places);
            }
            // It goes on for a while.
            _ => {}
        }
    }

    fn hold(&mut self) {
        self.must("PUT", "/hold", r#"{"timeout":"20s"}"#, &[200]);
        self.pause(100);
        if self.random.bool() {
            self.switch_to_any();
        }
        self.must("DELETE", "/hold", "", &[200]);
        self.count("holds");
    }

    /// Kills a worker while something else goes on.
    fn kill(&mut self) {
        let workers = self.nginx.workers();
        let Some(worker) = self.random.choice(&workers).copied() else { return };
        let (delay, timeline) = (self.random.u64(0..30), self.timeline.clone());
        self.killers.retain(|killer| !killer.is_finished());
        self.killers.push(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            timeline.killing(worker);
            signal(worker, Signal::KILL);
            until("it is gone", || (!is_running(worker)).then_some(()));
            timeline.killed(worker);
        }));
        self.count("workers killed");
    }

    fn reload(&mut self) {
        let workers = self.random.usize(2..=4);
        self.load_again(workers);
        self.count("reloads");
    }

    /// A reload with a zone of another size.
    fn resize(&mut self) {
        let size = ["512k", "1m", "2m"][self.random.usize(0..3)];
        let (before, rest) = self.nginx.http().split_once("shunt_zone shunt:").expect("a zone");
        let rest = rest.split_once(' ').expect("its size").1;
        let http = format!("{before}shunt_zone shunt:{size} {rest}");
        self.nginx.set_http(&http);
        self.load_again(self.workers);
        self.count("zones resized");
    }

    fn load_again(&mut self, workers: usize) {
        // Those that are killed are replaced first, so that it is known which ones end.
        self.join_killers();
        let old = until("no worker is missing", || {
            Some(self.nginx.workers()).filter(|now| now.len() == self.workers)
        });
        self.timeline.ending(&old);
        self.workers = workers;
        self.nginx.set_workers(workers);
        self.nginx.reload();
    }

    fn join_killers(&mut self) {
        for killer in self.killers.drain(..) {
            killer.join().expect("it does not panic");
        }
    }

    /// Every process of the active release dies, or of the canary; requests go to the previous one
    /// until another one is switched to.
    fn die(&mut self) {
        let Places { active, previous, canary } = self.timeline.places();
        let back = previous.filter(|name| self.living.contains_key(name));
        let Some(back) = back.filter(|name| canary.as_ref() != Some(name)) else { return };
        if active == "v0" {
            return;
        }
        self.timeline.dying(&active);
        if let Some(living) = self.living.remove(&active) {
            living.backend.die();
        }
        self.count("releases died");
        self.pause(100);
        self.switch(&back);
        self.drain(&active);
        self.delete(&active);
    }

    /// Lets everything come to rest, and looks whether anything is left behind.
    pub fn end(&mut self) {
        self.join_killers();
        let fail = |what: String| self.tally.fail(what);
        until("nothing is in flight", || {
            let state = self.state();
            let idle = state.releases.iter().all(|r| r.in_flight == InFlight::default());
            (idle && state.parked == 0).then_some(())
        });
        let (state, index) = (self.state(), self.admin.index());
        // A worker that is killed while it makes a release may leave a place taken, until there is no
        // other.
        let (used, releases) = (index.zones[0].releases.used, state.releases.len() as u64);
        let killed = self.counts.get("workers killed").copied().unwrap_or_default();
        if !(releases..=releases + killed).contains(&used) {
            fail(format!("{releases} releases take {used} places in the zone"));
        }
        for line in self.nginx.complaints() {
            // What the soak does to NGINX and to releases.
            let own = [
                "exited on signal 9",
                // A worker that was killed while it made a change.
                "shared memory zone \"shunt\" was locked by",
                "while connecting to upstream",
                "while reading response header from upstream",
                "while reading upstream",
                "while proxying upgraded connection",
                "while sending request to upstream",
            ];
            if !own.iter().any(|own| line.contains(own)) {
                fail(line);
            }
        }
    }

    /// What clients have seen.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}
