//! Instructions that a worker of NGINX executes for a proxied request, counted by valgrind.
//!
//! NGINX is as it is by default, with its access log; a plain upstream is that of an NGINX without the
//! module. What the machine does besides, and how fast it is, does not matter to this count. It is that
//! of NGINX and the module: the kernel's part, which is the same for both, is left out, so that the
//! ratio is the worst that can be said of the module.
//!
//! One thing is put right. How long a call of `malloc` or `free` takes depends on what the process has
//! asked for since its start, in which order: on what lies where, and what is free beside it. It is the
//! same for every request of a process, but another number in another one, with the module or without
//! it, up or down, and that difference is as large as all that the module does. So the instructions
//! within the allocator are counted apart, and each call of it is counted as what it costs on the
//! average in NGINX without the module. A call that the module makes, or has NGINX make, counts in full;
//! where the heap's pieces lie by chance does not count. What callgrind counts besides is left as it is.

use std::process::ExitCode;

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::until;
use tempfile::TempDir;

use crate::callgrind::{self, Profile};
use crate::results::{Figures, Folder};

/// Requests of a short run and of a long one: the difference is free of what starting costs.
const REQUESTS: (usize, usize) = (500, 2500);

/// The table of the brief count, and what makes it; the line of the module with its extras off, and the column in it.
pub const BRIEF: &str = "instructions-brief";
pub const BRIEF_COMMAND: &str = "scripts/bench instructions --brief";
pub const SHUNT: &str = "round robin, keepalive: shunt";
pub const RATIO: &str = "÷ plain";

/// How many other connections are open, so that not everything lies at the same place each time. The
/// mean is taken.
const OTHERS: [usize; 3] = [0, 1, 5];

/// What a request may cost with the module, in terms of one without it (P10).
const LIMIT: f64 = 1.01;

/// What a browser sends.
const HEADERS: [(&str, &str); 7] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-GB,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "http://test/products"),
    ("Cookie", "session=5f2b8c1d9e7a4f60"),
    ("Upgrade-Insecure-Requests", "1"),
];

/// Which of them to count.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only what P10 speaks of: round robin with keepalive, the module's extras off. Fails when it
    /// costs more than 1 %.
    #[arg(long)]
    check: bool,
    /// The same configuration, which does not fail.
    #[arg(long, conflicts_with = "check")]
    brief: bool,
    /// Only this NGINX: debian, trixie, stable.
    #[arg(long)]
    nginx: Option<String>,
}

/// A configuration to count for.
struct Case {
    name: String,
    /// What the `upstream` block has before its servers, and after them.
    method: &'static str,
    keepalive: &'static str,
    /// The module's extras, if any; `None` is a plain upstream.
    shunt: Option<Extras>,
    /// NGINX's own `zone`.
    zone: bool,
}

/// What of the module is in use.
#[derive(Clone, Copy, Default)]
struct Extras {
    upstream: &'static str,
    location: &'static str,
    canary: bool,
}

const METHODS: [(&str, &str); 3] = [
    ("round robin", ""),
    ("least_conn", "least_conn;"),
    ("hash consistent", "hash $request_uri consistent;"),
];

const EXTRAS: [(&str, Extras); 5] = [
    ("preview", Extras { upstream: "shunt_preview $http_x_want;", location: "", canary: false }),
    ("canary", Extras { upstream: "", location: "", canary: true }),
    ("fallback", Extras { upstream: "shunt_fallback on;", location: "", canary: false }),
    ("hold", Extras { upstream: "", location: "shunt_hold web;", canary: false }),
    (
        "all of them",
        Extras {
            upstream: "shunt_preview $http_x_want; shunt_canary_key $cookie_session; shunt_fallback on;",
            location: "shunt_hold web;",
            canary: true,
        },
    ),
];

/// Counts, prints a table, and tells whether P10 holds. The results of a check are not kept.
pub fn run(args: &Args, folder: impl FnOnce() -> Folder) -> ExitCode {
    let builds = [
        ("debian", Build::debian as fn() -> Build),
        ("trixie", Build::trixie),
        ("stable", Build::stable),
    ];
    let wanted = |name: &str| match &args.nginx {
        Some(wanted) => wanted == name,
        None => name != "trixie",
    };
    let mut good = true;
    let mut figures = if args.brief {
        Figures::made_by(BRIEF_COMMAND, BRIEF)
    } else {
        Figures::new("instructions")
    };
    for (_, build) in builds.iter().filter(|(name, _)| wanted(name)) {
        good &= table(&build(), args, &mut figures);
    }
    if !args.check {
        figures.finish(&folder());
    }
    if good {
        ExitCode::SUCCESS
    } else {
        println!("P10 does not hold: more than {LIMIT}");
        ExitCode::FAILURE
    }
}

fn table(build: &Build, args: &Args, figures: &mut Figures) -> bool {
    let (check, short) = (args.check, args.check || args.brief);
    let nginx = format!("instructions of a proxied request, NGINX {}", build.version);
    println!("NGINX {}", build.version);
    let columns = ("counted", "calls", "in all", "ratio");
    println!("  {:<38} {:>9} {:>6} {:>9} {:>7}", "", columns.0, columns.1, columns.2, columns.3);
    let mut good = true;
    let methods = if short { &METHODS[..1] } else { &METHODS };
    for (name, method) in methods {
        for keepalive in if short { &["keepalive 32;"][..] } else { &["keepalive 32;", ""] } {
            let with = if keepalive.is_empty() { "" } else { ", keepalive" };
            let case = |what: &str, shunt, zone| Case {
                name: format!("{name}{with}: {what}"),
                method,
                keepalive,
                shunt,
                zone,
            };
            let plain = count(build, &case("plain", None, false));
            let mut add = |case: &Case, cost: Cost| {
                let ratio = show(&case.name, cost, plain);
                figures.add(&nginx, &case.name, "instructions", cost.total(plain));
                figures.add(&nginx, &case.name, RATIO, ratio);
                ratio
            };
            add(&case("plain", None, false), plain);
            let mut show = |case: &Case| add(case, count(build, case));
            let ratio = show(&case("shunt", Some(Extras::default()), false));
            good &= !(check && ratio > LIMIT);
            if short {
                continue;
            }
            show(&case("with NGINX's zone", None, true));
            if keepalive.is_empty() || !method.is_empty() {
                continue;
            }
            for (extra, extras) in EXTRAS {
                show(&case(&format!("shunt, {extra}"), Some(extras), false));
            }
        }
    }
    good
}

/// What a request costs.
#[derive(Clone, Copy)]
struct Cost {
    /// Instructions outside of the allocator.
    instructions: f64,
    /// Calls of the allocator, and their instructions.
    allocations: f64,
    allocator: f64,
}

impl Cost {
    /// All instructions, if a call of the allocator takes as many as in `plain`.
    fn total(self, plain: Self) -> f64 {
        self.instructions + self.allocations * plain.allocator / plain.allocations
    }
}

/// Prints a line, and gives the last number in it.
fn show(name: &str, cost: Cost, plain: Cost) -> f64 {
    let ratio = cost.total(plain) / plain.total(plain);
    let (total, calls) = (cost.total(plain), cost.allocations);
    let counted = cost.instructions + cost.allocator;
    println!("  {name:<38} {counted:>9.0} {calls:>6.2} {total:>9.0} {ratio:>7.4}");
    ratio
}

/// What a request costs: the mean.
fn count(build: &Build, case: &Case) -> Cost {
    let (short, long) = REQUESTS;
    let mean = |of: fn(&Profile) -> u64, profiles: &[(Profile, Profile)]| {
        let differences = profiles.iter().map(|(few, many)| of(many) as f64 - of(few) as f64);
        differences.sum::<f64>() / ((long - short) * profiles.len()) as f64
    };
    let profiles = OTHERS.map(|others| {
        std::thread::scope(|scope| {
            let few = scope.spawn(|| profile(build, case, others, short));
            let many = profile(build, case, others, long);
            (few.join().expect("the other one has panicked, and said why"), many)
        })
    });
    Cost {
        instructions: mean(|p| p.instructions, &profiles),
        allocations: mean(|p| p.allocations, &profiles),
        allocator: mean(|p| p.allocator, &profiles),
    }
}

/// What a worker executes that serves so many requests, while other connections are open.
fn profile(build: &Build, case: &Case, others: usize, requests: usize) -> Profile {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().display();
    let under = ["valgrind", "--trace-children=yes"].iter().chain(&callgrind::OPTIONS);
    let under = under.map(|option| (*option).to_owned());
    let file = format!("--callgrind-out-file={out}/%p");
    let log = format!("--log-file={out}/%p.log");
    let build = Build { under: under.chain([file, log]).collect(), ..build.clone() };
    let backends = ["a", "b"].map(|release| Backend::start(release, 2));
    let mut nginx = Nginx::prepare(&build, Setup { http: http(case, &backends), workers: 1 });
    // A plain upstream is that of an NGINX without the module.
    nginx.set_module(case.shunt.map(|_| build.module.as_path()));
    nginx.run();
    if case.shunt.is_some_and(|extras| extras.canary) {
        let body = br#"{"release":"b","share":0.5}"#;
        let answer = nginx.admin().ask("PUT", "/v1/upstreams/web/canary", &[], body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let worker = nginx.workers()[0];
    let ask = |connection: &mut Connection| {
        connection.send("GET", "/products/17", &HEADERS, b"").expect("a request");
        assert_eq!(connection.receive().expect("an answer").status, 200);
    };
    let mut others: Vec<Connection> = (0..others).map(|_| nginx.connect()).collect();
    others.iter_mut().for_each(ask);
    let mut connection = nginx.connect();
    (0..requests).for_each(|_| ask(&mut connection));
    drop((connection, others));
    nginx.quit();
    until("the count is written", || Profile::read(&folder.path().join(worker.to_string())))
}

fn http(case: &Case, [a, b]: &[Backend; 2]) -> String {
    let servers = |backend: &Backend| -> String {
        backend.addresses.iter().map(|a| format!("server {a};\n")).collect()
    };
    let (upstream, location) = match case.shunt {
        None => {
            let zone = if case.zone { "zone web 256k;" } else { "" };
            (format!("{zone} {} {}", case.method, servers(a)), "")
        }
        Some(extras) => {
            let shunt = format!("shunt; {}", extras.upstream);
            (format!("{} {shunt} {}{}", case.method, a.lines(), b.lines()), extras.location)
        }
    };
    let module = match case.shunt {
        None => "",
        Some(_) => {
            "shunt_zone shunt:1m;
             server { listen unix:%FOLDER%/api.sock; location / { shunt_api write=on; } }"
        }
    };
    format!(
        "{module}
         upstream web {{ {upstream} {} }}
         server {{
             listen 127.0.0.1:%PORT%;
             access_log %FOLDER%/access.log;
             location / {{
                 {location}
                 proxy_pass http://web;
                 proxy_http_version 1.1;
                 proxy_set_header Connection \"\";
                 proxy_set_header Host $host;
                 proxy_set_header X-Real-IP $remote_addr;
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
             }}
         }}",
        case.keepalive
    )
}
