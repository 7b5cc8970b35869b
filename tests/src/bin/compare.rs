//! The usual deploy script beside `shunt deploy`: the same application, on the same server, under the
//! same load from another machine.
//!
//! Prints a table in Markdown, in which a WebSocket that the server closes has failed, too. Fails when `shunt deploy` costs a request, or does not end as it should.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use shunt_tests::docker::Debian;
use shunt_tests::docker::site::Site;
use shunt_tests::docker::watch::Verdict;

const DEPLOY: &str = include_str!("../../docker/usual/deploy.sh");
const SOCKET: &str = include_str!("../../docker/usual/myapp.socket");
const SERVICE: &str = include_str!("../../docker/usual/myapp.service");
const NGINX: &str = include_str!("../../docker/usual/myapp.conf");

/// Where the sample of an application's configuration is on the server.
const SAMPLE: &str = "/usr/local/share/doc/shunt/examples/web.toml";

/// How long there is load before a deploy, and after it.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(4);

/// What is deployed.
struct Release {
    /// What it is, for the table.
    what: &'static str,
    /// The program that starts it.
    program: &'static str,
    /// Whether it is fit to serve; one that is not, but runs, says so when it is asked for its health.
    good: bool,
    /// How long somebody else's request takes meanwhile, in milliseconds.
    slow: Option<u32>,
}

const SERVER: &str = "exec /usr/local/lib/demo/server";

const RELEASES: [Release; 5] = [
    Release { what: "starts at once", program: SERVER, good: true, slow: None },
    Release {
        what: "starts at once; a request takes 4 s meanwhile",
        program: SERVER,
        good: true,
        slow: Some(4000),
    },
    Release {
        what: "takes 3 s to start",
        program: "sleep 3; exec /usr/local/lib/demo/server",
        good: true,
        slow: None,
    },
    Release { what: "starts, but is not healthy", program: SERVER, good: false, slow: None },
    // The last, as the script's application does not run any more then.
    Release {
        what: "crashes at start",
        program: "echo out of luck >&2; exit 3",
        good: false,
        slow: None,
    },
];

/// A way to deploy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Script,
    Shunt,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Script => "the script",
            Self::Shunt => "`shunt deploy`",
        }
    }

    fn url(self) -> &'static str {
        match self {
            Self::Script => "http://server:81/",
            Self::Shunt => "http://server/",
        }
    }
}

/// What came of a deploy.
struct Outcome {
    code: i32,
    took: Duration,
    verdict: Verdict,
    answers: String,
    /// Whether systemd has given the application up, socket and all: nothing starts it again.
    given_up: bool,
}

/// A release as a folder that both ways begin with.
fn make_release(site: &Site, name: &str, release: &Release) -> String {
    let folder = site.release(name);
    site.server.write(&format!("{folder}/server"), format!("#!/bin/sh\n{}\n", release.program));
    if !release.good {
        site.server.write(&format!("{folder}/sick"), "the database has no table \"users\"\n");
    }
    folder
}

/// Sets both ways up, with `v0` running in each.
fn prepare() -> Site {
    let site = Site::start(Debian::Bookworm);
    let server = &site.server;
    let first = make_release(&site, "v0", &RELEASES[0]);
    server.write("/srv/deploy.sh", DEPLOY);
    server.write("/etc/systemd/system/myapp.socket", SOCKET);
    server.write("/etc/systemd/system/myapp.service", SERVICE);
    server.write("/etc/nginx/conf.d/myapp.conf", NGINX);
    server.sh("git config --global init.defaultBranch main
         git config --global user.name Somebody
         git config --global user.email somebody@example.com
         git init --quiet /srv/git/myapp
         mkdir --parents /srv/myapp/releases
         systemctl daemon-reload
         systemctl enable --quiet myapp.socket myapp.service
         systemctl reload nginx");
    commit(&site, &first);
    let output = server.try_run(&["bash", "/srv/deploy.sh", "v0"]);
    assert!(output.code == 0, "{output:?}");

    // Health is waited for as long as the slowest release needs.
    let sample = server.read(SAMPLE).replace("# deadline = \"30s\"", "deadline = \"6s\"");
    assert!(sample.contains("\ndeadline"), "the sample: {sample}");
    site.configure_app(&sample);
    let output = site.shunt(&["deploy", "web", "--release", "v0", "--from", &first]);
    assert!(output.code == 0, "{output:?}");
    site
}

/// Makes a release the newest in the application's repository.
fn commit(site: &Site, folder: &str) {
    site.server.sh(&format!(
        "cd /srv/git/myapp
         rm --force *
         cp {folder}/* .
         for step in install migrate; do echo '#!/bin/sh' >$step; done
         chmod +x *
         git add --all
         git commit --quiet --message 'a release'"
    ));
}

fn deploy(site: &Site, way: Way, name: &str, release: &Release, folder: &str) -> Outcome {
    let watch = site.watch_at(way.url());
    std::thread::sleep(BEFORE);
    let slow = release.slow.map(|ms| {
        let url = format!("{}slow?ms={ms}", way.url());
        let slow = site.client.spawn(&["curl", "-s", "--fail", &url]);
        // So that it is there before the deploy.
        std::thread::sleep(BEFORE / 2);
        slow
    });
    let began = Instant::now();
    let output = match way {
        Way::Script => site.server.try_run(&["bash", "/srv/deploy.sh", name]),
        Way::Shunt => site.shunt(&["deploy", "web", "--release", name, "--from", folder]),
    };
    let took = began.elapsed();
    let slow = slow.is_none_or(|mut slow| slow.wait().expect("curl ends").success());
    std::thread::sleep(AFTER);
    let mut verdict = watch.end();
    verdict.requests += u64::from(release.slow.is_some());
    verdict.failures += u64::from(!slow);
    let url = format!("{}release", way.url());
    let said = site.client.try_run(&["curl", "-s", "--fail", "--max-time", "5", &url]);
    let answers = if said.code == 0 { said.stdout } else { "nobody".to_owned() };
    let given_up =
        way == Way::Script && site.server.property("myapp.socket", "ActiveState") == "failed";
    Outcome { code: output.code, took, verdict, answers, given_up }
}

fn row(release: &Release, way: Way, outcome: &Outcome) -> String {
    let Outcome { code, took, verdict, answers, given_up } = outcome;
    let gap = match given_up {
        true => "until somebody repairs it".to_owned(),
        false => format!("{:.0} ms", verdict.longest_gap),
    };
    format!(
        "| {} | {} | {} of {} | {gap} | {} in {:.1} s | {} |",
        release.what,
        way.name(),
        verdict.failures,
        verdict.requests,
        if *code == 0 { "done".to_owned() } else { format!("exit {code}") },
        took.as_secs_f64(),
        answers,
    )
}

fn main() -> ExitCode {
    let site = prepare();
    let mut table = vec![
        "| the new release | deployed by | failed | longest gap | the command ended | who answers then |".to_owned(),
        "| --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    let mut good = true;
    let mut serving = "v0".to_owned();
    for (n, release) in RELEASES.iter().enumerate() {
        let name = format!("v{}", n + 1);
        let folder = make_release(&site, &name, release);
        commit(&site, &folder);
        for way in [Way::Script, Way::Shunt] {
            let outcome = deploy(&site, way, &name, release, &folder);
            println!("{}", row(release, way, &outcome));
            for failure in &outcome.verdict.first_failures {
                println!("    {failure}");
            }
            table.push(row(release, way, &outcome));
            if way == Way::Shunt {
                if release.good {
                    serving.clone_from(&name);
                }
                let code = if release.good { 0 } else { 4 };
                good &= outcome.verdict.failures == 0
                    && outcome.code == code
                    && outcome.answers == serving;
            }
        }
    }
    println!("\n{}", table.join("\n"));
    if !good {
        eprintln!("shunt deploy has lost a request, or has not ended as it should");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
