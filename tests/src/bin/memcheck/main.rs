//! Real NGINX with the module under valgrind: switches, releases that come and go, waits for drains,
//! previews, canaries, fallbacks, holds, metrics, upgraded connections, bad input, reloads, killed
//! workers. Ends with what valgrind counted, and fails on one error, one lost block, or memory that
//! grows.

#![forbid(unsafe_code)]

mod conf;
mod report;
mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::Signal;
use shunt_tests::admin::{Admin, problem};
use shunt_tests::backend::Backend;
use shunt_tests::build::{self, Build};
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{children, is_running, signal};
use shunt_tests::valgrind::{self, Growth};
use shunt_tests::{free_port, until};

use report::Report;

/// Each of them switches there and back.
const ROUNDS: usize = 100;
/// Each of them goes every other way that there is.
const WAYS: usize = 40;
/// So many of them before that.
const WARM: usize = 10;
const WORKERS: usize = 2;
/// No worker has more requests at once than this: it keeps room for as many as it ever had.
const AT_ONCE: usize = 16;
/// One for each kind of balancing, and one with TLS, whose sessions a view keeps.
const UPSTREAMS: [&str; 6] = ["web", "plain", "hash", "random", "ip", "tls"];
/// Growth of all blocks, NGINX's cached connections included, that is no leak: one in each switch
/// would be many more.
const SLACK: i64 = ROUNDS as i64 / 2;

fn main() -> ExitCode {
    // They stay there, for whoever wants to know more.
    let logs = build::folder().join("memcheck/log");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).expect("a folder for the logs");
    let mut driver = Driver::start(&logs);
    driver.crowd();
    let switching = driver.grown("switching", |driver| (0..ROUNDS).for_each(|i| driver.round(i)));
    // The first ones let each worker make what it keeps, such as its line of parked requests.
    (0..WARM).for_each(|i| driver.way(i));
    let ways = driver.grown("ways", |driver| (WARM..WARM + WAYS).for_each(|i| driver.way(i)));
    let reloading = driver.reload();
    driver.kill_workers();
    let report = driver.end();
    report.print(&logs, &[switching, ways, reloading].concat())
}

struct Driver {
    nginx: Nginx,
    admin: Admin,
    folder: std::path::PathBuf,
    a: Backend,
    b: Backend,
    others: Backend,
    /// The server that answers with TLS, which is NGINX, too.
    tls: String,
    switches: usize,
    /// Processes that were killed, which have no summary.
    killed: BTreeSet<u32>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    requests: usize,
    drains: usize,
    cancelled: usize,
    upgraded: usize,
    refused: usize,
    reloads: usize,
    fallbacks: usize,
    parked: usize,
}

/// What a stage has left behind in a process.
#[derive(Clone)]
struct Grown {
    stage: &'static str,
    pid: u32,
    growth: Growth,
}

impl Driver {
    fn start(folder: &Path) -> Self {
        let (a, b) = (Backend::start("a", 2), Backend::start("b", 1));
        let build = Build::memcheck(valgrind::command(folder));
        let tls = format!("127.0.0.1:{}", free_port());
        let setup = Setup { http: String::new(), workers: WORKERS };
        let mut nginx = Nginx::prepare(&build, setup);
        conf::certificate(nginx.folder());
        nginx.set_http(&conf::http(&a, &b, &tls, ""));
        // What a test of the configuration makes, it has to clean up as well.
        assert!(nginx.test().0, "{}", nginx.test().1);
        let good = nginx.http().to_owned();
        for wrong in
            ["upstream x { shunt zone=shunt; }", "upstream x { shunt; shunt_release a ::::; }"]
        {
            nginx.set_http(&format!("{good}\n{wrong}"));
            assert!(!nginx.test().0, "it is refused: {wrong}");
        }
        nginx.set_http(&good);
        nginx.run();
        let (admin, others) = (nginx.admin(), Backend::unix("v", 2, nginx.folder()));
        Self {
            nginx,
            admin,
            folder: folder.to_owned(),
            a,
            b,
            others,
            tls,
            switches: 0,
            killed: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    fn switch(&mut self, upstream: &str, release: &str) {
        let generation = self.admin.state(upstream).generation;
        let reply = self.admin.switch(upstream, release, Some(generation)).expect("a switch");
        assert_eq!(reply.release.as_str(), release);
        self.switches += 1;
    }

    /// Asks over a new connection; gives the worker that answered.
    fn ask(&mut self, method: &str, path: &str, body: &[u8], release: &str) -> u32 {
        self.counts.requests += 1;
        let response = self.nginx.connect().ask(method, path, body).expect("an answer");
        assert_eq!(response.status, 200, "{path}: {response:?}");
        let chosen = response.header("x-shunt").and_then(|s| s.split(' ').nth(1));
        assert_eq!(chosen, Some(release), "{path}: {response:?}");
        response.header("x-worker").and_then(|w| w.parse().ok()).expect("a worker's pid")
    }

    /// Lets every worker serve both releases of every upstream, so that each has all it ever makes.
    fn serve_everything(&mut self) {
        let workers: BTreeSet<u32> = self.nginx.workers().into_iter().collect();
        for upstream in UPSTREAMS.into_iter().chain(["ways"]) {
            for release in ["b", "a"] {
                self.switch(upstream, release);
                let mut served = BTreeSet::new();
                until("every worker has served", || {
                    served.insert(self.ask("GET", &format!("/{upstream}"), b"", release));
                    (served == workers).then_some(())
                });
            }
        }
    }

    /// Lets every worker have as many requests at once as it ever has.
    fn crowd(&mut self) {
        let workers = self.nginx.workers();
        // Which worker gets a connection is the kernel's choice.
        let all = 2 * WORKERS * AT_ONCE;
        until("every worker has had many requests at once", || {
            self.a.hold();
            let mut waiting: Vec<_> = (0..all).map(|_| self.nginx.connect()).collect();
            for connection in &mut waiting {
                connection.send("GET", "/held/web", &[], b"").expect("a request");
            }
            until("all of them are held", || (self.a.held() == all).then_some(()));
            self.a.let_go();
            let served: Vec<u32> = waiting
                .iter_mut()
                .map(|connection| connection.receive().expect("an answer"))
                .map(|response| response.header("x-worker").expect("one").parse().expect("a pid"))
                .collect();
            self.counts.requests += all;
            let has_many = |pid: &u32| served.iter().filter(|one| *one == pid).count() >= AT_ONCE;
            workers.iter().all(has_many).then_some(())
        });
    }

    /// How much the workers have grown by something that begins and ends with the same state.
    fn grown(&mut self, stage: &'static str, f: impl FnOnce(&mut Self)) -> Vec<Grown> {
        let workers = self.nginx.workers();
        // What the stage before has left behind until the next request goes now.
        self.serve_everything();
        for pid in &workers {
            let _ = valgrind::growth(&self.folder, *pid);
        }
        f(self);
        self.serve_everything();
        assert_eq!(self.nginx.workers(), workers, "no worker has ended");
        self.compare(stage, &workers)
    }

    fn compare(&self, stage: &'static str, pids: &[u32]) -> Vec<Grown> {
        let grown =
            |pid: &u32| Grown { stage, pid: *pid, growth: valgrind::growth(&self.folder, *pid) };
        pids.iter().map(grown).collect()
    }

    /// A release that is made, switched to, replaced under a request, drained and deleted.
    fn round(&mut self, i: usize) {
        let upstream = UPSTREAMS[i % UPSTREAMS.len()];
        let (path, release) = (format!("/{upstream}"), format!("v{i}"));
        let servers = match upstream {
            "tls" => vec![self.tls.clone()],
            _ => self.others.addresses.clone(),
        };
        assert_eq!(self.admin.put(upstream, &release, &servers).status, 201);
        // Requests that are in flight at the release that is switched away from.
        let held = upstream != "tls";
        let mut slow = Vec::new();
        if held {
            self.a.hold();
            for target in [format!("/held{path}"), format!("/ws{path}")] {
                let mut connection = self.nginx.connect();
                let upgrade = target.starts_with("/ws");
                let headers: &[_] = if upgrade { &[("Upgrade", "x")] } else { &[] };
                connection.send("GET", &target, headers, b"").expect("a request");
                if upgrade {
                    assert_eq!(connection.receive().expect("an answer").status, 101);
                    self.counts.upgraded += 1;
                }
                slow.push(connection);
            }
            until("both are in flight", || {
                (self.admin.in_flight(upstream, "a").total() == 2).then_some(())
            });
        }

        self.switch(upstream, &release);
        self.ask("GET", &path, b"", &release);
        self.ask("POST", &path, &vec![b'x'; 100_000], &release);
        self.refuse(upstream, i);
        self.cancel(upstream, &release);

        // It is drained once its requests have ended, and not before.
        let mut wait = self.wait(upstream, "a", "30s");
        if held {
            let early = self.wait(upstream, "a", "50ms").receive().expect("the state as it is");
            assert_eq!(early.status, 200);
            self.a.let_go();
            assert_eq!(slow[0].receive().expect("an answer").status, 200);
            slow[1].raw(b"through the tunnel").expect("a tunnel");
            assert_eq!(slow[1].read(18).expect("an echo"), b"through the tunnel");
            slow.clear();
        }
        assert_eq!(wait.receive().expect("an answer").status, 200);
        assert_eq!(self.admin.in_flight(upstream, "a").total(), 0);
        self.counts.drains += 1;

        if i.is_multiple_of(3) && held {
            // Other servers under the same name: the view of the old ones ends.
            let servers = &self.others.addresses[..1];
            assert_eq!(self.admin.put(upstream, &release, servers).status, 200);
            self.ask("GET", &path, b"", &release);
        }
        if i.is_multiple_of(2) {
            self.redirect(upstream);
        }
        self.switch(upstream, "a");
        self.ask("GET", &path, b"", "a");
        assert_eq!(self.wait(upstream, &release, "30s").receive().expect("an answer").status, 200);
        let base = format!("/v1/upstreams/{upstream}");
        if i.is_multiple_of(2) {
            let response = self.admin.ask("DELETE", &format!("{base}/previous"), &[], b"");
            assert_eq!(response.status, 200);
        }
        let target = format!("{base}/releases/{release}");
        assert_eq!(self.admin.ask("DELETE", &target, &[], b"").status, 200);
        let _ = self.admin.index();
    }

    /// A request that goes to two upstreams, one after the other.
    fn redirect(&mut self, upstream: &str) {
        let path = format!("/missing/{upstream}");
        let response = self.nginx.connect().ask("GET", &path, b"").expect("an answer");
        assert_eq!(response.status, 404, "{response:?}");
        self.counts.requests += 1;
    }

    fn wait(&self, upstream: &str, release: &str, timeout: &str) -> Connection {
        let query = format!("wait=drained&release={release}&timeout={timeout}");
        self.get(&format!("/v1/upstreams/{upstream}?{query}"))
    }

    fn get(&self, target: &str) -> Connection {
        let mut connection = Connection::unix(&self.nginx.path("api.sock")).expect("the API");
        connection.send("GET", target, &[], b"").expect("a request");
        connection
    }

    /// Waits whose client leaves.
    fn cancel(&mut self, upstream: &str, release: &str) {
        let generation = self.admin.state(upstream).generation;
        let change = format!("/v1/upstreams/{upstream}?wait=change&generation={generation}");
        let waits = [self.wait(upstream, release, "30s"), self.get(&change)];
        // The answer to a later request tells that the waits have begun, or soon will.
        let _ = self.admin.state(upstream);
        self.counts.cancelled += waits.len();
        drop(waits);
    }

    /// What the API refuses; three of them in each round.
    fn refuse(&mut self, upstream: &str, i: usize) {
        let base = format!("/v1/upstreams/{upstream}");
        let (put, switch) = (format!("{base}/releases/x"), format!("{base}/switch"));
        let (long, megabyte) = ("x".repeat(65), "x".repeat(1 << 20));
        let many = r#"{"address":"127.0.0.1:80"},"#.repeat(500);
        let cases = [
            ("PUT", put.clone(), "", "{".to_owned(), 400),
            ("PUT", put.clone(), "", "[".repeat(10_000), 422),
            ("PUT", put.clone(), "", r#"{"servers":[{"address":"app:80"}]}"#.to_owned(), 422),
            ("PUT", put.clone(), "", r#"{"servers":[]}"#.to_owned(), 422),
            (
                "PUT",
                put.clone(),
                "",
                format!("{{\"servers\":[{}]}}", many.trim_end_matches(',')),
                422,
            ),
            (
                "PUT",
                put.clone(),
                "\"1\"",
                r#"{"servers":[{"address":"127.0.0.1:80"}]}"#.to_owned(),
                412,
            ),
            ("PUT", put, "", megabyte, 413),
            ("PUT", format!("{base}/releases/{long}"), "", "{}".to_owned(), 400),
            ("PUT", format!("{base}/releases/a%2Fb"), "", "{}".to_owned(), 400),
            ("POST", switch.clone(), "", r#"{"release":"none"}"#.to_owned(), 404),
            ("POST", switch.clone(), "7", r#"{"release":"a"}"#.to_owned(), 400),
            ("POST", switch, "\"1\"", r#"{"release":"a"}"#.to_owned(), 412),
            (
                "POST",
                "/v1/upstreams/none/switch".to_owned(),
                "",
                r#"{"release":"a"}"#.to_owned(),
                404,
            ),
            ("DELETE", format!("{base}/releases/a"), "", String::new(), 409),
            ("DELETE", format!("{base}/releases/none"), "", String::new(), 404),
            ("GET", format!("{base}?wait=forever"), "", String::new(), 400),
            ("GET", format!("{base}?wait=drained&release=none"), "", String::new(), 404),
            ("GET", format!("{base}?wait=drained&release=%00"), "", String::new(), 400),
            ("GET", format!("/v1/{}", "y".repeat(4000)), "", String::new(), 404),
            ("PATCH", base, "", String::new(), 405),
        ];
        for (method, target, if_match, body, status) in
            cases.iter().cycle().skip(i * 3 % cases.len()).take(3)
        {
            let header = [("If-Match", *if_match)];
            let headers: &[_] = if if_match.is_empty() { &[] } else { &header };
            let response = self.admin.ask(method, target, headers, body.as_bytes());
            assert_eq!(response.status, *status, "{method} {target}: {}", response.text());
            assert_eq!(problem(&response).status, *status);
            self.counts.refused += 1;
        }
    }

    /// Reloads: under requests that the old workers still have, with more and with fewer upstreams,
    /// and with a configuration that is refused.
    fn reload(&mut self) -> Vec<Grown> {
        let master = self.nginx.master();
        let first = self.nginx.http().to_owned();
        let more = conf::http(
            &self.a,
            &self.b,
            &self.tls,
            "upstream more { shunt zone=shunt; server 127.0.0.1:1; }",
        );
        let step = |driver: &mut Self| {
            driver.a.hold();
            let mut slow = driver.nginx.connect();
            slow.send("GET", "/held/web", &[], b"").expect("a request");
            let mut tunnel = driver.nginx.connect();
            tunnel.send("GET", "/ws/web", &[("Upgrade", "x")], b"").expect("a request");
            assert_eq!(tunnel.receive().expect("an answer").status, 101);
            until("both are in flight", || {
                (driver.admin.in_flight("web", "a").total() == 2).then_some(())
            });
            let old = driver.nginx.workers();
            for http in [&more, &first] {
                driver.nginx.set_http(http);
                driver.nginx.reload();
                driver.counts.reloads += 1;
                driver.switch("web", "b");
                driver.ask("GET", "/web", b"", "b");
                // The old workers' requests are still counted.
                assert_eq!(driver.admin.in_flight("web", "a").total(), 2);
                driver.switch("web", "a");
            }
            driver.nginx.set_http(&format!("{first}\nupstream x {{ shunt zone=shunt; }}"));
            let _ = driver.nginx.reload_refused();
            driver.nginx.set_http(&first);
            driver.a.let_go();
            assert_eq!(slow.receive().expect("an answer").status, 200);
            drop(tunnel);
            until("the old workers have ended", || {
                (!old.iter().any(|pid| is_running(*pid)) && children(master).len() == WORKERS)
                    .then_some(())
            });
        };
        // The first ones let NGINX allocate what it keeps.
        step(self);
        self.hold_across_a_reload();
        let _ = valgrind::growth(&self.folder, master);
        for _ in 0..4 {
            step(self);
            self.hold_across_a_reload();
        }
        self.compare("reloading", &[master])
    }

    /// Workers that die under requests.
    fn kill_workers(&mut self) {
        for _ in 0..3 {
            self.a.hold();
            let mut slow: Vec<_> = (0..4).map(|_| self.nginx.connect()).collect();
            for connection in &mut slow {
                connection.send("GET", "/held/web", &[], b"").expect("a request");
            }
            until("they are held", || (self.a.held() == 4).then_some(()));
            let killed = self.nginx.workers()[0];
            signal(killed, Signal::KILL);
            self.killed.insert(killed);
            until("another worker is there", || {
                (!is_running(killed) && self.nginx.workers().len() == WORKERS).then_some(())
            });
            self.switch("web", "b");
            self.a.let_go();
            until("nothing is in flight", || (self.a.held() == 0).then_some(()));
            until("nothing is in flight", || {
                (self.admin.in_flight("web", "a").total() == 0).then_some(())
            });
            self.ask("GET", "/web", b"", "b");
            self.switch("web", "a");
            self.kill_under_a_hold();
        }
        self.serve_everything();
    }

    /// Ends NGINX in both ways, and starts it from its state file, a good one and a damaged one.
    fn end(mut self) -> Report {
        let mut master = BTreeSet::from([self.nginx.master()]);
        self.switch("web", "b");
        self.nginx.quit();
        self.nginx.run();
        master.insert(self.nginx.master());
        self.ask("GET", "/web", b"", "b");
        // With a wait under way, and a request.
        self.b.hold();
        let mut slow = self.nginx.connect();
        slow.send("GET", "/held/web", &[], b"").expect("a request");
        until("it is held", || (self.b.held() == 1).then_some(()));
        let wait = self.wait("web", "b", "30s");
        signal(self.nginx.master(), Signal::TERM);
        until("nginx ends", || (!is_running(self.nginx.master())).then_some(()));
        self.b.let_go();
        drop((slow, wait));
        self.nginx.quit();

        fs::write(self.nginx.path("state/state.json"), "{ damaged").expect("its folder");
        self.nginx.run();
        master.insert(self.nginx.master());
        self.ask("GET", "/web", b"", "a");
        self.nginx.quit();
        let Self { folder, switches, killed, counts, .. } = self;
        Report { logs: valgrind::logs(&folder), master, killed, switches, counts }
    }
}
