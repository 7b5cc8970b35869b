//! Instructions that a worker of NGINX executes for a proxied request, counted by valgrind.
//!
//! NGINX is as it is by default, with its access log; a plain upstream is that of an NGINX without the
//! module. What the machine does besides, and how fast it is, does not matter to this count. It is that
//! of NGINX and the module: the kernel's part, which is the same for both, is left out, so that the
//! ratio is the worst that can be said of the module.

use std::path::Path;
use std::process::ExitCode;

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::until;
use tempfile::TempDir;

/// Requests of a short run and of a long one: the difference is free of what starting costs.
const REQUESTS: (usize, usize) = (500, 2500);

/// How many other connections are open, which differ in what the allocator has at hand: it alone
/// makes a difference of one part in a hundred. The median is taken.
const LAYOUTS: [usize; 5] = [0, 1, 2, 3, 5];

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

/// Counts, prints a table, and tells whether P10 holds.
pub fn run(args: &Args) -> ExitCode {
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
    for (_, build) in builds.iter().filter(|(name, _)| wanted(name)) {
        good &= table(&build(), args.check);
    }
    if good {
        ExitCode::SUCCESS
    } else {
        println!("P10 does not hold: more than {LIMIT}");
        ExitCode::FAILURE
    }
}

fn table(build: &Build, check: bool) -> bool {
    println!("NGINX {}", build.version);
    let mut good = true;
    let methods = if check { &METHODS[..1] } else { &METHODS };
    for (name, method) in methods {
        for keepalive in if check { &["keepalive 32;"][..] } else { &["keepalive 32;", ""] } {
            let with = if keepalive.is_empty() { "" } else { ", keepalive" };
            let case = |what: &str, shunt, zone| Case {
                name: format!("{name}{with}: {what}"),
                method,
                keepalive,
                shunt,
                zone,
            };
            let plain = count(build, &case("plain", None, false));
            show(&case("plain", None, false).name, plain, plain);
            let shunt = case("shunt", Some(Extras::default()), false);
            let n = count(build, &shunt);
            show(&shunt.name, n, plain);
            good &= !(check && n / plain > LIMIT);
            if check {
                continue;
            }
            let zone = case("with NGINX's zone", None, true);
            show(&zone.name, count(build, &zone), plain);
            if keepalive.is_empty() || !method.is_empty() {
                continue;
            }
            for (extra, extras) in EXTRAS {
                let case = case(&format!("shunt, {extra}"), Some(extras), false);
                show(&case.name, count(build, &case), plain);
            }
        }
    }
    good
}

fn show(name: &str, n: f64, plain: f64) {
    println!("  {name:<44} {n:>9.0} {:>7.4}", n / plain);
}

/// Instructions per request.
fn count(build: &Build, case: &Case) -> f64 {
    let (short, long) = REQUESTS;
    let mut counts = LAYOUTS.map(|kept| {
        let total = |requests| total(build, case, kept, requests);
        let (few, many) = (total(short), total(long));
        (many - few) as f64 / (long - short) as f64
    });
    counts.sort_by(f64::total_cmp);
    counts[LAYOUTS.len() / 2]
}

/// Instructions of a worker that serves so many requests, while other connections are open.
fn total(build: &Build, case: &Case, kept: usize, requests: usize) -> u64 {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().display();
    let under = ["valgrind", "--tool=callgrind", "--trace-children=yes"].map(ToOwned::to_owned);
    let file = format!("--callgrind-out-file={out}/%p");
    let log = format!("--log-file={out}/%p.log");
    let build = Build { under: under.into_iter().chain([file, log]).collect(), ..build.clone() };
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
    let mut others: Vec<Connection> = (0..kept).map(|_| nginx.connect()).collect();
    others.iter_mut().for_each(ask);
    let mut connection = nginx.connect();
    (0..requests).for_each(|_| ask(&mut connection));
    drop((connection, others));
    nginx.quit();
    until("the count is written", || counted(&folder.path().join(worker.to_string())))
}

/// The sum in a file of callgrind's.
fn counted(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
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
