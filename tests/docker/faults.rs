//! Deploys under load, and at each step of them something breaks. What then becomes of the requests, of
//! the deploy and of the machine is a table, which the test holds against `docs/faults.md`.
//!
//! One machine for each Debian goes through all rows; each row deploys one more release.

mod fault;
mod load;
mod rows;
mod table;

use std::collections::BTreeSet;

use serde_json::Value;
use shunt_tests::docker::Debian;
use shunt_tests::docker::job::{Ended, Job};
use shunt_tests::docker::site::Site;
use shunt_tests::until;

use fault::Fault;
use load::{Load, Outcome};
use rows::{At, End, Loss, ROWS, Row};
use table::Line;

/// Where `make install` has put the sample.
const SAMPLE: &str = "/usr/local/share/doc/shunt/examples/web-systemd.toml";

/// Steps that are watched last until somebody has seen enough, the hook as long as there is a file.
const MORE: &str = r#"
interval = "20ms"
release_header = "X-Release"
deadline = "60s"
[hooks]
after_switch = ["/bin/sh", "-c", "while [ -e hooked ]; do sleep 0.02; done"]
[canary]
steps = [{ share = 0.3, time = "10m" }]
[guard]
time = "10m"
"#;

/// The start lasts as long as there is a file.
const PROGRAM: &str = "#!/bin/sh
while [ -e starting ]; do sleep 0.02; done
exec /usr/local/lib/demo/server
";

/// What the sample of NGINX's configuration has beside: requests fall back, and HTTP/2.
const NGINX: &str = r"
sed -i 's/^    shunt;/    shunt; shunt_fallback on;/; s/^    listen 80;/    listen 80; listen 83 http2;/' \
    /etc/nginx/conf.d/shunt.conf
sed -i 's/^Type=.*/Type=notify/' /etc/systemd/system/web@.service
systemctl daemon-reload
systemctl reload nginx
";

/// The machine, from row to row.
struct World {
    site: Site,
    /// How many releases there were.
    releases: u32,
    /// The one that serves.
    serves: String,
}

impl World {
    fn new(debian: Debian) -> Self {
        let site = Site::start(debian);
        site.server.sh(NGINX);
        load::install(&site);
        let sample = site.server.read(SAMPLE);
        let world = Self { site, releases: 1, serves: "v1".to_owned() };
        world.site.configure_app(&sample);
        world.make("v1", None);
        let ended = world.site.deploy("web", "v1").end();
        assert_eq!(ended.code, 0, "{ended:?}");
        world.site.configure_app(&format!("{sample}{MORE}"));
        world.site.wait_until_idle();
        world
    }

    /// Makes a release that stops at this step of its deploy, if it is one where it can.
    fn make(&self, release: &str, at: Option<At>) {
        let folder = self.site.release(release);
        self.site.server.write(&format!("{folder}/server"), PROGRAM);
        let gate = at.and_then(At::gate).map_or_else(String::new, |gate| format!("touch {gate}"));
        self.site.server.sh(&format!("cd {folder}; chmod 755 server; touch endless; {gate}"));
    }

    /// Goes through one row.
    fn run(&mut self, row: &Row) -> Line {
        self.releases += 1;
        let (old, new) = (self.serves.clone(), format!("v{}", self.releases));
        println!("--- {} at {}: {old} -> {new}", row.fault.name(), row.at.name());
        self.make(&new, Some(row.at));
        self.site.server.sh(&format!("touch /srv/web/releases/{old}/endless"));
        row.fault.prepare(&self.site);
        let load = Load::start(&self.site, row.fault == Fault::ClientSlow);
        self.site.wait_for_requests(30);
        let job = self.bring(row.at, &new);
        if row.fault == Fault::Restart && row.at != At::Drain {
            // NGINX waits for what it has in flight; one row shows how long.
            self.let_go();
        }
        row.fault.strike(&self.site, &old, &new);
        self.open(row.at, &new);
        if row.end.is_new() {
            self.drive();
        }
        let ended = job.end();
        // Some wait for these.
        self.let_go();
        row.fault.mend(&self.site);
        self.drive();
        let serves = if row.end.is_new() { &new } else { &old };
        assert_eq!(&self.site.answering(), serves, "{ended:?}");
        let outcome = load.end();
        row.fault.tidy(&self.site);
        // A shuntd that was started for that finishes what it finds unfinished.
        self.drive();
        let said = self.said(row, &ended, &new);
        let line = Line { row: *row, said, outcome, old: old.clone(), new: new.clone() };
        println!("{}{:?}", table::table(std::slice::from_ref(&line)), line.outcome.kinds);
        assert!(row.code().is_none_or(|code| code == ended.code), "{ended:?}");
        let Outcome { failures, kinds, http2, .. } = &line.outcome;
        match row.loss {
            Loss::None => assert_eq!(*failures, 0, "{kinds:?}"),
            Loss::AtMost(most, which) => {
                assert!(*failures <= most, "{kinds:?}");
                let allowed =
                    |kind: &String| which != rows::CLOSING || kind.starts_with("POST kept-open");
                assert!(kinds.keys().all(allowed), "{kinds:?}");
            }
            Loss::While(_) => {
                assert!(*failures > 0, "nothing has broken");
                // After a boot NGINX may be there before the application.
                let allowed =
                    |kind: &String| row.fault == Fault::PowerCut || !kind.contains("status");
                assert!(kinds.keys().all(allowed), "{kinds:?}");
            }
        }
        assert!(*http2 > 0, "no request over HTTP/2");
        self.check(serves, (row.end == End::OldStays).then_some(&*old));
        self.serves = serves.clone();
        line
    }

    /// Brings a deploy to this step, where it stays.
    fn bring(&self, at: At, new: &str) -> Job {
        let mut job = self.site.deploy("web", new);
        for step in [At::Canary, At::Guard] {
            if at > step {
                job.reaches(step.name());
                self.order("promote");
            }
        }
        job.reaches(at.name());
        job
    }

    fn order(&self, order: &str) {
        let output = self.site.shunt(&[order, "web", "--detach"]);
        assert_eq!(output.code, 0, "{output:?}");
    }

    /// Lets go on what a file makes last.
    fn open(&self, at: At, new: &str) {
        if let Some(gate) = at.gate() {
            self.site.server.run(&["rm", "-f", &format!("/srv/web/releases/{new}/{gate}")]);
        }
    }

    /// Lets all downloads end.
    fn let_go(&self) {
        self.site.server.sh("rm -f /srv/web/releases/*/endless");
    }

    /// Sees to it that the job comes to its end, whichever shuntd makes it.
    fn drive(&self) {
        until("the job has ended", || {
            let job = &self.status()["job"];
            match job["step"].as_str() {
                // It may be at the next step by now.
                Some("canary" | "guard") => {
                    let _ = self.site.shunt(&["promote", "web", "--detach"]);
                }
                Some("drain") => self.let_go(),
                _ => {}
            }
            job.is_null().then_some(())
        });
    }

    /// What shuntd says of the application.
    fn status(&self) -> Value {
        let said = self.site.shunt(&["--json", "status", "web"]).stdout;
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// What was said at the end of the deploy, by whichever shuntd ended it.
    fn said(&self, row: &Row, ended: &Ended, new: &str) -> String {
        if !row.end.is_told_later() {
            return ended.text().to_owned();
        }
        let how = if row.end == End::Finished { "is finished" } else { "is taken back" };
        let words = format!("cut off at the step {}, {how}", row.at.name());
        let journal = self.site.server.journal("shuntd.service");
        let mut lines = journal.lines().filter(|line| line.contains(&format!("\"{new}\"")));
        let line = lines.find(|line| line.contains(&words));
        line.unwrap_or_else(|| panic!("not in the journal: {words}: {journal}")).to_owned()
    }

    /// Everything is as it should be when nothing is under way.
    fn check(&self, serves: &str, stays: Option<&str>) {
        let status = self.status();
        assert_eq!(status["active"], serves, "{status}");
        for none in ["job", "canary", "hold", "nginx_error"] {
            assert!(status[none].is_null(), "{none}: {status}");
        }
        let expected: BTreeSet<_> = stays.into_iter().chain([serves]).collect();
        let slots = status["slots"].as_array().expect("slots");
        let runs = |slot: &&Value| slot["runs"] == true;
        let running = || slots.iter().filter(runs);
        let releases: BTreeSet<_> = running().filter_map(|slot| slot["release"].as_str()).collect();
        assert_eq!(releases, expected, "{status}");
        // Of the others, at most the socket listens of what was stopped in order.
        for slot in slots.iter().filter(|slot| !runs(slot) && !slot["release"].is_null()) {
            assert!(slot["listens"] == true && slot["pid"].is_null(), "{status}");
        }
        let pids: BTreeSet<_> = running().map(|slot| slot["pid"].to_string()).collect();
        let running = self.site.server.run(&["pgrep", "-x", "server"]);
        let running: BTreeSet<_> = running.lines().map(ToOwned::to_owned).collect();
        assert_eq!(running, pids, "every process is known");
        let state = self.site.state("web");
        let known: BTreeSet<_> = state.releases.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(known, expected.into_iter().chain(["default"]).collect(), "{state:?}");
        let told = "readlink /srv/web/current; pgrep -c -f 'nginx: master'";
        assert_eq!(self.site.server.sh(told), format!("releases/{serves}\n1\n"));
        assert_eq!(self.site.answering(), serves);
    }
}

fn every_fault_at_every_step_costs_what_the_table_says(debian: Debian) {
    let mut world = World::new(debian);
    // Some rows only, as SHUNT_FAULT="KillNew Guard".
    let only = std::env::var("SHUNT_FAULT").unwrap_or_default();
    let mut lines = Vec::new();
    for row in ROWS.iter().filter(|row| format!("{:?} {:?}", row.fault, row.at).contains(&only)) {
        lines.push(world.run(row));
        std::fs::write(table::path(debian), table::table(&lines)).expect("the table");
    }
    table::hold_against(include_str!("../../docs/faults.md"), &lines);
}

each_debian!(every_fault_at_every_step_costs_what_the_table_says);
