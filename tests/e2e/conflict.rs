//! P7: of two changes based on the same generation, one wins and the other is told.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::Signal;
use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::process::{other_threads, signal, wake_ups_of_thread};
use shunt_tests::until;

fn p7_of_many_switches_at_once_one_wins(build: &Build) {
    let releases: Vec<Backend> = (0..8).map(|i| Backend::start(&format!("r{i}"), 1)).collect();
    let lines: String = releases.iter().map(Backend::lines).collect();
    let nginx =
        Nginx::start(build, Setup::standard(&format!("upstream web {{ shunt;\n{lines} }}")));
    for _ in 0..50 {
        let before = nginx.admin().state("web");
        let others: Vec<String> = before
            .releases
            .iter()
            .map(|r| r.name.to_string())
            .filter(|name| before.active.as_ref().is_none_or(|active| active.as_str() != name))
            .collect();
        let barrier = Arc::new(Barrier::new(others.len()));
        let threads: Vec<_> = others
            .into_iter()
            .map(|release| {
                let (admin, barrier) = (nginx.admin(), barrier.clone());
                let generation = before.generation;
                std::thread::spawn(move || {
                    barrier.wait();
                    (admin.switch("web", &release, Some(generation)), release)
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let winners: Vec<_> = results.iter().filter(|(result, _)| result.is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let now = nginx.admin().state("web");
        assert_eq!(now.generation, before.generation + 1);
        assert_eq!(now.active.as_ref().unwrap().as_str(), winners[0].1);
        assert_eq!(now.previous, before.active);
        for (result, _) in results {
            if let Err(problem) = result {
                assert_eq!(problem.status, 412, "{problem}");
                // The one who lost sees what won.
                assert_eq!(problem.upstream.unwrap().active, now.active);
            }
        }
    }
}

/// The file by which the masters of an upgrade know of each other, as a worker has it open.
fn file_of_masters(worker: u32) -> PathBuf {
    let mut files = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().map(|f| f.unwrap().path());
    let is_it = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("shunt-masters"))
    };
    files.find(is_it).expect("the file of the masters")
}

const SWITCH: &str = "/v1/upstreams/web/switch";

/// Stops a worker in the middle of a change, with the zone locked. Gives its connection, and one to
/// the other worker; `None` when the change was given up before that.
fn stop_in_a_change(nginx: &Nginx) -> Option<(u32, [Connection; 2])> {
    let connect = || {
        let mut connection = Connection::unix(&nginx.path("worker.sock")).unwrap();
        let index = connection.ask("GET", "/v1/", b"").unwrap();
        (index.header("x-worker").unwrap().parse::<u32>().unwrap(), connection)
    };
    let (worker, mut changing) = connect();
    let (_, mut other) = until("the other worker", || Some(connect()).filter(|o| o.0 != worker));
    // A change waits for this lock while it has that of the zone.
    let file = File::options().read(true).write(true).open(file_of_masters(worker)).unwrap();
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let of_threads = || -> u64 {
        other_threads(worker).iter().map(|thread| wake_ups_of_thread(worker, *thread)).sum()
    };
    let idle = of_threads();
    changing.send("POST", SWITCH, &[], br#"{"release":"b"}"#).unwrap();
    until("the change waits, in its thread", || (of_threads() > idle + 20).then_some(()));
    signal(worker, Signal::STOP);
    drop(file);
    let response = other.ask("POST", SWITCH, br#"{"release":"a"}"#).unwrap();
    if response.status == 503 {
        assert!(problem(&response).detail.contains("another change is being written"));
        return Some((worker, [changing, other]));
    }
    signal(worker, Signal::CONT);
    None
}

fn a_worker_that_hangs_in_a_change_does_not_stop_the_others(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let http = format!(
        "{STANDARD} upstream web {{ shunt;\n{}{} }}
         server {{ listen unix:%FOLDER%/worker.sock;
             location / {{ shunt_api write=on; add_header X-Worker $pid always; }} }}",
        a.lines(),
        b.lines()
    );
    let nginx = Nginx::start(build, Setup { http, workers: 2 });
    let (worker, [mut changing, mut other]) =
        until("a worker hangs in a change", || stop_in_a_change(&nginx));
    // Each would serve nobody for half a second.
    let start = Instant::now();
    for _ in 0..10 {
        let response = other.ask("POST", SWITCH, br#"{"release":"a"}"#).unwrap();
        assert_eq!(response.status, 503, "{}", response.text());
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    signal(worker, Signal::CONT);
    assert_eq!(changing.receive().unwrap().status, 200, "the change that hung is made");
    // And the next ones wait for each other again.
    assert_eq!(other.ask("POST", SWITCH, br#"{"release":"a"}"#).unwrap().status, 200);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

each_nginx!(
    p7_of_many_switches_at_once_one_wins,
    a_worker_that_hangs_in_a_change_does_not_stop_the_others,
);
