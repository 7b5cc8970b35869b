//! All kinds of requests at the same time, from another machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout};

use shunt_tests::docker::program::Program;
use shunt_tests::docker::site::Site;
use shunt_tests::docker::watch::Watch;

/// Where programs are on the machine that asks.
const HTTP2: &str = "/usr/local/bin/shunt-http2";
const RELAY: &str = "/usr/local/bin/shunt-relay";

/// Puts the programs where they are used.
pub fn install(site: &Site) {
    for (path, program) in
        [(HTTP2, env!("CARGO_BIN_EXE_shunt-http2")), (RELAY, env!("CARGO_BIN_EXE_shunt-relay"))]
    {
        site.client.write(path, std::fs::read(program).expect("it is built"));
        site.client.run(&["chmod", "755", path]);
    }
}

/// GET and POST over new and kept-open connections, and over one with HTTP/2, a WebSocket that is opened
/// again and again, and one download that lasts as long as the test wants it to.
pub struct Load<'a> {
    watch: Watch<'a>,
    /// GET and POST over HTTP/2.
    http2: Program<'a>,
    download: Download,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many there were.
    pub requests: u64,
    /// Of these, over HTTP/2.
    pub http2: u64,
    /// How many failed.
    pub failures: u64,
    /// Why, and how many of each kind; the first that were told.
    pub kinds: BTreeMap<String, u64>,
    /// Answers by release.
    pub releases: BTreeMap<String, u64>,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap: f64,
}

impl<'a> Load<'a> {
    /// Starts it; with a relay that makes the network slow.
    pub fn start(site: &'a Site, slow: bool) -> Self {
        if slow {
            site.client.sh(&format!(
                "for port in 80 83; do {RELAY} 127.0.0.1:$port server:$port 100 >/dev/null 2>&1 & done
                 until curl -s -o /dev/null http://127.0.0.1/; do sleep 0.02; done"
            ));
        }
        let host = if slow { "127.0.0.1" } else { "server" };
        let url = format!("http://{host}/");
        let args =
            ["--rate", "100", "--post", "/echo", "--websocket", "/ws", "--websocket-time", "200ms"];
        Self {
            watch: site.watch_with(&[&args[..], &[&url]].concat()),
            http2: Program::start(&site.client, &[HTTP2, &format!("{host}:83")]),
            download: Download::start(site, host),
        }
    }

    /// Ends it, when all downloads have been let go.
    pub fn end(self) -> Outcome {
        let mut outcome = Outcome::default();
        self.download.end(&mut outcome);
        let lines = self.http2.end();
        outcome.http2 = lines.len() as u64;
        for line in lines {
            outcome.add(match line.strip_prefix("failed ") {
                None => Ok(line),
                Some(why) => Err(format!("HTTP/2 {why}")),
            });
        }
        let verdict = self.watch.end();
        outcome.requests += verdict.requests;
        outcome.failures += verdict.failures;
        for failure in &verdict.first_failures {
            let text = |name: &str| failure[name].as_str().unwrap_or_default().to_owned();
            let way = text("way").to_uppercase();
            *outcome.kinds.entry(format!("{way} {}", text("why"))).or_default() += 1;
        }
        for (release, count) in verdict.releases {
            *outcome.releases.entry(release).or_default() += count;
        }
        outcome.longest_gap = verdict.longest_gap;
        outcome
    }
}

impl Outcome {
    fn add(&mut self, result: Result<String, String>) {
        self.requests += 1;
        match result {
            Ok(release) => *self.releases.entry(release).or_default() += 1,
            Err(why) => {
                self.failures += 1;
                *self.kinds.entry(why).or_default() += 1;
            }
        }
    }
}

/// A download that is under way.
struct Download {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Download {
    fn start(site: &Site, host: &str) -> Self {
        let url = format!("http://{host}/download");
        let mut child = site.client.spawn(&["curl", "-s", "-N", "--fail", &url]);
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        let first = lines.next().expect("a line").expect("a line");
        assert!(first.starts_with("more of "), "{first}");
        Self { child, lines }
    }

    fn end(mut self, outcome: &mut Outcome) {
        let last = self.lines.map_while(Result::ok).last().unwrap_or_default();
        let status = self.child.wait().expect("curl ends");
        outcome.add(match last.strip_prefix("all of ") {
            Some(release) if status.success() => Ok(release.to_owned()),
            _ => Err(format!("download cut off (curl {})", status.code().unwrap_or(-1))),
        });
    }
}
