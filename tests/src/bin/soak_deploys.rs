//! A server under load on which releases are deployed, refused, switched back and rolled back, while what
//! may fail fails: at random, one thing after the other. `shuntd` is killed in the middle of a job, an
//! application is killed, NGINX is reloaded and its workers are killed. Ends with counts, and fails on
//! one request that failed without a reason which can be named, on a job that did not end as it should,
//! and on a server that is not left as it should be.
//!
//! `TIME` is how long, in seconds; `SEED` decides what is done, and in which order.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::Value;
use shunt_tests::build::{self, Build};
use shunt_tests::helper::Daemon;
use shunt_tests::load::{Load, Sample};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{children, signal};
use shunt_tests::until;

/// Clients that ask all the time.
const CLIENTS: usize = 4;

/// How long after a fault what it has broken may still be answered.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Its upstream, whose old release answers for a new one that cannot be connected to.
const UPSTREAM: &str =
    "upstream web { shunt; shunt_fallback on; server 127.0.0.1:1; keepalive 16; }";

/// For how long a release is watched after the switch, and what is kept.
const MORE: &str = r#"
    [guard]
    time = "400ms"
    # What the machine does besides is not judged here.
    p99_floor = "1s"
    min_requests = 5
    [keep]
    releases = 3
"#;

/// What makes a release unfit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    /// Never healthy.
    Sick,
    /// Ends at its start.
    Crashing,
    /// Healthy, but answers everybody with an error.
    Bad,
}

/// A time in which requests may fail, and why.
struct Excuse {
    why: &'static str,
    from: Instant,
    to: Instant,
}

struct Driver {
    nginx: Nginx,
    daemon: Daemon,
    random: Rng,
    next: u32,
    /// Who serves.
    active: String,
    /// Whom a rollback goes to.
    previous: Option<String>,
    excuses: Vec<Excuse>,
    counts: BTreeMap<&'static str, u32>,
    mistakes: Vec<String>,
}

fn main() -> ExitCode {
    let (time, seed) = match shunt_tests::soak::settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("shunt-soak-deploys: {error}");
            return ExitCode::from(2);
        }
    };
    println!("soak of deploys: {time} seconds, SEED={seed}");
    let mut driver = Driver::start(seed);
    let load = Load::start_idempotent(driver.nginx.port, CLIENTS);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(time) {
        driver.step();
    }
    driver.look();
    driver.report(&load.stop())
}

impl Driver {
    fn start(seed: u64) -> Self {
        let nginx = Nginx::start(&Build::stable(), Setup::standard(UPSTREAM));
        let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), MORE);
        let mut driver = Self {
            nginx,
            daemon,
            random: Rng::with_seed(seed),
            next: 1,
            active: "default".to_owned(),
            previous: None,
            excuses: Vec::new(),
            counts: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        // Without anything that answers there is nothing that may fail.
        driver.deploy(Kind::Good);
        driver
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn expect(&mut self, ok: bool, what: impl FnOnce() -> String) {
        if !ok {
            let mistake = what();
            println!("WRONG: {mistake}");
            self.mistakes.push(mistake);
        }
    }

    /// Does what may break requests.
    fn excuse(&mut self, why: &'static str, work: impl FnOnce(&mut Self)) {
        let from = Instant::now();
        work(self);
        self.excuses.push(Excuse { why, from, to: Instant::now() + AFTERMATH });
    }

    fn step(&mut self) {
        match self.random.u32(0..20) {
            0..=5 => self.deploy(Kind::Good),
            6..=7 => self.deploy(Kind::Sick),
            8 => self.deploy(Kind::Crashing),
            9..=10 => {
                self.excuse("a bad release had been switched to", |d| d.deploy(Kind::Bad));
            }
            11..=12 => self.rollback(),
            13..=15 => self.deploy_of_killed_daemon(),
            16 => self.kill_application(),
            17 => self.kill_worker(),
            18 => {
                self.count("reloads of NGINX");
                // It closes kept-open connections, and whoever was just sending on one sends again.
                self.excuse("a reload closed a kept-open connection", |d| d.nginx.reload());
            }
            _ => self.prune(),
        }
        self.look();
    }

    /// Makes a release; gives its name.
    fn release(&mut self, kind: Kind) -> String {
        let name = format!("v{}", self.next);
        self.next += 1;
        let folder = self.daemon.release(&name);
        let (file, text) = match kind {
            Kind::Good => return name,
            Kind::Sick => ("sick", "of this soak"),
            Kind::Bad => ("bad", ""),
            Kind::Crashing => ("slow-start", "not a number"),
        };
        std::fs::write(folder.join(file), text).expect("its folder");
        name
    }

    fn deploy(&mut self, kind: Kind) {
        let name = self.release(kind);
        let output = self.daemon.deploy(&name);
        let (expected, what) = match kind {
            Kind::Good => (0, "deploys"),
            Kind::Sick => (4, "deploys of sick releases, refused"),
            Kind::Crashing => (4, "deploys of crashing releases, refused"),
            Kind::Bad => (5, "deploys of bad releases, switched back"),
        };
        self.count(what);
        self.expect(output.code == expected, || format!("{kind:?} {name}: {output:?}"));
        if output.code == 0 {
            self.previous = Some(std::mem::replace(&mut self.active, name));
        }
        let _ = std::fs::remove_dir_all(self.daemon.path("dist"));
    }

    fn rollback(&mut self) {
        let Some(previous) = self.previous.clone().filter(|name| name != "default") else { return };
        let output = self.daemon.shunt(&["rollback", "web", "--to", &previous]);
        self.count("rollbacks");
        self.expect(output.code == 0, || format!("rollback to {previous}: {output:?}"));
        if output.code == 0 {
            self.previous = Some(std::mem::replace(&mut self.active, previous));
        }
    }

    /// A command that runs on.
    fn begin(&self, args: &[&str]) -> Child {
        let mut command = Command::new(build::helper("shunt"));
        command.args(args).arg("--socket").arg(self.daemon.socket());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("shunt runs")
    }

    /// A deploy whose daemon is killed meanwhile. The next one finishes it, or takes it back.
    fn deploy_of_killed_daemon(&mut self) {
        let name = self.release(Kind::Good);
        let from = self.daemon.path("dist").join(&name).display().to_string();
        let mut command = self.begin(&["deploy", "web", "--release", &name, "--from", &from]);
        // At any of its steps, and at none of them when it is done.
        std::thread::sleep(Duration::from_millis(self.random.u64(0..1200)));
        self.daemon.kill();
        self.daemon.run();
        let _ = command.wait();
        self.count("deploys whose shuntd was killed");
        until("the job has ended", || self.status()["job"].is_null().then_some(()));
        let active = self.nginx.admin().state("web").active.expect("it has one").to_string();
        if active == name {
            self.count("of these, finished");
            self.previous = Some(std::mem::replace(&mut self.active, active));
        } else {
            self.count("of these, taken back or not begun");
        }
        let _ = std::fs::remove_dir_all(self.daemon.path("dist"));
    }

    /// The active release's process is killed: connections wait until it runs again.
    fn kill_application(&mut self) {
        let Some(pid) = self.pid() else {
            let found = format!("no process of {}: {}", self.active, self.status());
            return self.expect(false, || found);
        };
        self.count("applications killed");
        self.excuse("an application was killed under it", |d| {
            signal(u32::try_from(pid).expect("a pid"), Signal::KILL);
            until("it runs again", || d.pid().filter(|new| *new != pid));
        });
    }

    /// The process of the active release.
    fn pid(&self) -> Option<u64> {
        let status = self.status();
        let mut slots = status["slots"].as_array()?.iter();
        slots.find(|slot| slot["release"] == self.active.as_str())?["pid"].as_u64()
    }

    fn kill_worker(&mut self) {
        let workers = self.nginx.workers();
        let worker = workers[self.random.usize(0..workers.len())];
        self.count("workers of NGINX killed");
        self.excuse("a worker was killed under it", |d| {
            signal(worker, Signal::KILL);
            until("there is another", || {
                let now = d.nginx.workers();
                (now.len() == workers.len() && !now.contains(&worker)).then_some(())
            });
        });
    }

    fn prune(&mut self) {
        let output = self.daemon.shunt(&["prune", "web"]);
        self.count("prunes");
        self.expect(output.code == 0, || format!("prune: {output:?}"));
    }

    /// The application, as `shunt status` has it.
    fn status(&self) -> Value {
        let output = self.daemon.shunt(&["--json", "status", "web"]);
        serde_json::from_str(&output.stdout).unwrap_or_default()
    }

    /// The server is left as it should be.
    fn look(&mut self) {
        let state = self.nginx.admin().state("web");
        let active = state.active.as_ref().map(ToString::to_string).unwrap_or_default();
        let (expected, status) = (self.active.clone(), self.status());
        self.expect(active == expected, || format!("{active} is active, not {expected}"));
        self.expect(state.canary.is_none() && state.hold.is_none(), || format!("{state:?}"));
        self.expect(status["job"].is_null(), || format!("a job is left: {status}"));
        // Of the processes: the active release's alone, once the old one has drained.
        let daemon = self.daemon.pid();
        let running = children(daemon).len();
        self.expect(running <= 1, || format!("{running} processes of shuntd"));
    }

    fn report(&self, samples: &[Sample]) -> ExitCode {
        let done: Vec<_> = self.counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
        println!("\ndone: {}", done.join(", "));
        let mut excused: BTreeMap<&str, u32> = BTreeMap::new();
        let mut failures = Vec::new();
        for sample in samples {
            let Err(error) = &sample.result else { continue };
            let overlaps = |e: &&Excuse| e.from <= sample.end && sample.start <= e.to;
            match self.excuses.iter().find(overlaps) {
                Some(excuse) => *excused.entry(excuse.why).or_default() += 1,
                None => failures.push(error),
            }
        }
        println!("\n{:>10}  requests", samples.len());
        for (why, count) in &excused {
            println!("{count:>10}  failed: {why}");
        }
        println!("{:>10}  failures without a reason", failures.len());
        for failure in failures.iter().take(5) {
            println!("            {failure}");
        }
        println!("{:>10}  things that were not as they should be", self.mistakes.len());
        for mistake in self.mistakes.iter().take(5) {
            println!("            {mistake}");
        }
        // A soak in which nothing happened has shown nothing.
        if failures.is_empty() && self.mistakes.is_empty() && samples.len() > 100 {
            println!("soak of deploys: nothing is wrong");
            return ExitCode::SUCCESS;
        }
        println!("--- log of shuntd\n{}", self.daemon.log());
        println!("soak of deploys: failed");
        ExitCode::FAILURE
    }
}
