//! P5, P6: the disk is full, the zone is full, an upstream has all the releases that it can have.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use shunt_api::{Index, Problem, Upstreams};
use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::scenario::active;

/// A disk that can be filled.
enum Disk {
    /// A file system of a few KiB.
    Mounted(PathBuf),
    /// Where nothing may be mounted: the workers' limit of what files may have, which makes no
    /// difference to who writes.
    Limited,
}

impl Disk {
    /// NGINX with its state file on such a disk.
    fn start(build: &Build, upstream: &str) -> (Self, Nginx) {
        // A worker that meets its limit is not to be killed, but told.
        let ignoring = ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""].map(ToOwned::to_owned);
        let mut limited = build.clone();
        limited.under = ignoring.to_vec();
        let mut setup = Setup::standard(upstream);
        setup.http = setup.http.replace("%STATE%", "%FOLDER%/disk/state.json");
        let mut nginx = Nginx::prepare(build, setup.clone());
        let folder = nginx.path("disk");
        fs::create_dir(&folder).unwrap();
        let disk = match mount("shunt", &folder, "tmpfs", MountFlags::empty(), c"size=64k") {
            Ok(()) => Self::Mounted(folder),
            Err(error) => {
                eprintln!("a limit stands for a small disk, as none can be mounted: {error}");
                nginx = Nginx::prepare(&limited, setup);
                fs::create_dir(nginx.path("disk")).unwrap();
                Self::Limited
            }
        };
        nginx.run();
        (disk, nginx)
    }

    fn fill(&self, nginx: &Nginx) {
        match self {
            Self::Mounted(folder) => {
                let mut file = File::create(folder.join("filler")).unwrap();
                let full = std::iter::repeat(()).find_map(|()| file.write_all(&[0; 512]).err());
                assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
            }
            Self::Limited => Self::limit(nginx, Some(1)),
        }
    }

    fn free(&self, nginx: &Nginx) {
        match self {
            Self::Mounted(folder) => fs::remove_file(folder.join("filler")).unwrap(),
            Self::Limited => Self::limit(nginx, None),
        }
    }

    fn limit(nginx: &Nginx, current: Option<u64>) {
        for worker in nginx.workers() {
            let pid = Pid::from_raw(i32::try_from(worker).unwrap());
            prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted(folder) = self {
            // NGINX may still have something open there.
            let _ = unmount(folder.as_path(), UnmountFlags::DETACH);
        }
    }
}

/// Switches between `b` and `c`.
fn there_or_back(nginx: &Nginx) -> Result<u32, Problem> {
    let next = if active(nginx).1 == "c" { "b" } else { "c" };
    nginx.admin().switch("web", next, None).map(|reply| reply.generation)
}

/// A full disk takes changes as long as there is room in the file's last block.
fn use_up(nginx: &Nginx) {
    let refused = (0..1000).find_map(|_| there_or_back(nginx).err());
    assert_eq!(refused.expect("it has no end").status, 507);
}

fn p6_on_a_full_disk_a_change_is_refused_and_nothing_is_lost(build: &Build) {
    let [a, b, c] = ["a", "b", "c"].map(|release| Backend::start(release, 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    let (disk, mut nginx) = Disk::start(build, &upstream);
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "c", &c.addresses).status, 201);
    admin.switch("web", "c", None).unwrap();

    for round in 0..3 {
        disk.fill(&nginx);
        use_up(&nginx);
        let before = admin.state("web");
        let file = fs::read(nginx.path("disk/state.json")).unwrap();
        for n in 0..5 {
            let refused = [
                admin.switch("web", "a", None).unwrap_err(),
                problem(&admin.put("web", &format!("d{n}"), &["127.0.0.1:9".to_owned()])),
                problem(&admin.ask("DELETE", "/v1/upstreams/web/previous", &[], b"")),
            ];
            for refused in refused {
                assert_eq!(refused.status, 507, "{refused}");
                let why = "; nothing was changed";
                assert!(refused.detail.contains(why), "{refused}");
                let says = ["No space left on device", "File too large"];
                assert!(says.iter().any(|s| refused.detail.contains(s)), "{refused}");
            }
        }
        let now = admin.state("web");
        assert_eq!((now.generation, now.releases.len()), (before.generation, 3));
        assert_eq!(fs::read(nginx.path("disk/state.json")).unwrap(), file);
        let left: Vec<_> = fs::read_dir(nginx.path("disk")).unwrap().flatten().collect();
        let left = left.iter().filter(|e| e.file_name() != "filler").count();
        assert_eq!(left, 1, "half a file is in the way");
        // Traffic and reloads go on.
        let active = active(&nginx).1;
        assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), active);
        if round == 1 {
            nginx.reload();
        }
        disk.free(&nginx);
        assert_eq!(there_or_back(&nginx).unwrap(), now.generation + 1);
    }
    let before = active(&nginx);
    nginx.quit();
    nginx.run();
    assert_eq!(active(&nginx), before);
    assert_eq!(nginx.admin().state("web").releases.len(), 3);
}

/// Puts releases with so many servers into the upstreams in turn, from this number on, until one is
/// refused. Gives its number, and why.
fn fill(nginx: &Nginx, upstreams: &[&str], servers: usize, from: usize) -> (usize, String) {
    let servers: Vec<_> = (1..=servers).map(|port| format!("127.0.0.1:{port}")).collect();
    let mut n = from;
    loop {
        let upstream = upstreams[n % upstreams.len()];
        let response = nginx.admin().put(upstream, &format!("r{n}"), &servers);
        if response.status != 201 {
            let refused = problem(&response);
            assert_eq!(refused.status, 507, "{refused}");
            return (n, refused.detail);
        }
        n += 1;
    }
}

fn p6_a_full_zone_says_which_size_would_do_and_has_room_to_delete(build: &Build) {
    const SIX: [&str; 6] = ["web", "u1", "u2", "u3", "u4", "u5"];
    for (upstreams, servers, why) in [
        (&SIX[..], 1, "it has room for"),
        (&SIX[..2], 10, "bytes for a table"),
        (&SIX[..1], 20, "bytes for a table"),
    ] {
        let upstream = |name: &&str| format!("upstream {name} {{ shunt; server 127.0.0.1:1; }}\n");
        let mut setup = Setup::standard(&SIX.iter().map(upstream).collect::<String>());
        setup.http = setup.http.replace("shunt:1m", "shunt:32k");
        let mut nginx = Nginx::start(build, setup);
        let admin = nginx.admin();
        let (room, said) = fill(&nginx, upstreams, servers, 0);
        assert!(room > 1 && said.contains("the zone is full") && said.contains(why), "{said}");
        assert!(said.contains("; delete releases, or give it \"shunt_zone shunt:"), "{said}");
        // Nothing but a new release needs room.
        admin.switch("web", "r0", None).unwrap();
        admin.switch("web", "default", None).unwrap();
        let releases = |nginx: &Nginx| -> usize {
            upstreams.iter().map(|u| nginx.admin().state(u).releases.len() - 1).sum()
        };
        assert_eq!(releases(&nginx), room);
        for n in 0..room {
            let target = format!("/v1/upstreams/{}/releases/r{n}", upstreams[n % upstreams.len()]);
            assert_eq!(admin.ask("DELETE", &target, &[], b"").status, 200, "r{n} of {room}");
        }
        assert_eq!(fill(&nginx, upstreams, servers, 0).0, room, "all of it is free again");

        let advice = said.split("\"shunt_zone ").nth(1).unwrap().split('"').next().unwrap();
        let larger = nginx.http().replace("shunt:32k", advice);
        nginx.set_http(&larger);
        nginx.reload();
        assert_eq!(releases(&nginx), room);
        let (more, _) = fill(&nginx, upstreams, servers, room);
        assert!(more > room, "{advice} does not do");
        assert_eq!(nginx.complaints(), [] as [String; 0]);
    }
}

const MOST: usize = 64;

fn p6_an_upstream_has_64_releases_and_no_more(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let backends: Vec<_> =
        (0..MOST).map(|n| Backend::unix(&format!("r{n}"), 1, folder.path())).collect();
    let lines = |n: usize| backends[..n].iter().map(Backend::lines).collect::<String>();
    let upstream = |lines: &str| format!("upstream web {{ shunt;\n{lines} }}");
    let mut nginx = Nginx::start(build, Setup::standard(&upstream(&lines(MOST / 2))));
    let admin = nginx.admin();
    for backend in &backends[MOST / 2..] {
        assert_eq!(admin.put("web", backend.release(), &backend.addresses).status, 201);
    }
    let refused = problem(&admin.put("web", "more", &["127.0.0.1:1".to_owned()]));
    assert_eq!(refused.status, 409);
    assert_eq!(refused.detail, "upstream \"web\" has 64 releases, delete one first");
    let all_are_served = |nginx: &Nginx| {
        // The first is active already.
        for backend in backends[1..].iter().chain(&backends[..1]) {
            nginx.admin().switch("web", backend.release(), None).unwrap();
            let answer = nginx.connect().ask("GET", "/", b"").unwrap();
            assert_eq!(answer.release(), backend.release());
        }
    };
    all_are_served(&nginx);

    // One more in the configuration, with those of the API: found before anything is changed.
    let http = nginx.http().to_owned();
    let more = format!("{}shunt_release more 127.0.0.1:1;", lines(MOST / 2));
    nginx.set_http(&http.replace(&lines(MOST / 2), &more));
    let said = nginx.reload_refused();
    assert!(said.contains("upstream \"web\" would have more than 64 releases"), "{said}");
    // All of them in the configuration, and one more than that.
    nginx.set_http(&http.replace(&lines(MOST / 2), &lines(MOST)));
    nginx.reload();
    all_are_served(&nginx);
    nginx.quit();
    nginx.run();
    all_are_served(&nginx);
    nginx.set_http(
        &http.replace(&lines(MOST / 2), &format!("{}shunt_release more 127.0.0.1:1;", lines(MOST))),
    );
    let (good, said) = nginx.test();
    let line = "more than 64 releases in one upstream in ";
    assert!(!good && said.contains(line) && said.contains("nginx.conf:"), "{said}");
}

const MANY: usize = 1000;

fn a_thousand_upstreams(build: &Build) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 1));
    // In memory: it is not the disk that is looked at.
    let shm = Path::new("/dev/shm");
    let folder =
        if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let state = folder.path().join("state.json");
    let (a, b) = (&a.addresses[0], &b.addresses[0]);
    let upstreams: String = (0..MANY)
        .map(|n| format!("upstream u{n} {{ shunt; shunt_release a {a}; shunt_release b {b}; }}\n"))
        .collect();
    let http = STANDARD
        .replace("shunt:1m state=%STATE%", &format!("shunt:4m state={}", state.display()))
        .replace("http://web", "http://$arg_to")
        + "server { listen unix:%FOLDER%/metrics.sock; location / { shunt_metrics; } }\n"
        + &upstreams;
    let start = Instant::now();
    let mut nginx = Nginx::start(build, Setup { http, workers: 2 });
    let mut api = Connection::unix(&nginx.path("api.sock")).unwrap();
    for n in 0..MANY {
        let target = format!("/v1/upstreams/u{n}/switch");
        let response = api.ask("POST", &target, br#"{"release":"b"}"#).unwrap();
        assert_eq!(response.status, 200, "u{n}: {}", response.text());
    }
    let all_are_at_b = |nginx: &Nginx| {
        let response = nginx.admin().ask("GET", "/v1/upstreams", &[], b"");
        let all: Upstreams = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(all.upstreams.len(), MANY);
        for upstream in all.upstreams {
            assert_eq!(upstream.active.unwrap().as_str(), "b", "{}", upstream.name);
        }
        for n in [0, MANY / 2, MANY - 1] {
            let answer = nginx.connect().ask("GET", &format!("/?to=u{n}"), b"").unwrap();
            assert_eq!(answer.release(), "b", "u{n}");
        }
    };
    all_are_at_b(&nginx);
    nginx.reload();
    all_are_at_b(&nginx);
    nginx.quit();
    nginx.run();
    all_are_at_b(&nginx);
    let page = shunt_tests::admin::Admin::new(&nginx.path("metrics.sock"));
    let page = page.ask("GET", "/metrics", &[], b"").text();
    let series = page.lines().filter(|l| l.starts_with("shunt_release_active{")).count();
    assert_eq!(series, 2 * MANY);
    let index: Index = nginx.admin().index();
    assert_eq!(index.zones[0].upstreams.used, MANY as u64);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
}

each_nginx!(
    p6_on_a_full_disk_a_change_is_refused_and_nothing_is_lost,
    p6_a_full_zone_says_which_size_would_do_and_has_room_to_delete,
    p6_an_upstream_has_64_releases_and_no_more,
    a_thousand_upstreams,
);
