//! How soon parked requests are let go, and what a hold costs that parks nothing.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::wake_ups;
use shunt_tests::scenario::{hold, parked, resume};
use shunt_tests::{free_port, until};

/// What is promised.
const SOON: Duration = Duration::from_millis(20);

/// NGINX with a location `/` that can be held, and answers by itself and tells when, and by which
/// worker. It listens on this port with a queue for each worker, so that all of them get some.
fn start(build: &Build, workers: usize) -> (Nginx, u16) {
    let port = free_port();
    let http = format!(
        "upstream web {{ shunt; server 127.0.0.1:1; }}
         server {{
             listen 127.0.0.1:{port} reuseport;
             location / {{
                 shunt_hold web;
                 stub_status;
                 add_header X-Time $msec always;
                 add_header X-Worker $pid always;
             }}
         }}"
    );
    (Nginx::start(build, Setup { workers, ..Setup::standard(&http) }), port)
}

/// When a worker answered, by NGINX's clock, which is the machine's.
fn answered(response: &Response) -> Duration {
    assert_eq!(response.status, 200);
    let text = response.header("x-time").expect("a time");
    Duration::from_secs_f64(text.parse().expect("seconds"))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970")
}

fn parked_requests_of_all_workers_are_let_go_within_20_ms_of_the_resume(build: &Build) {
    const WORKERS: usize = 4;
    const REQUESTS: u64 = 32;
    let (nginx, port) = start(build, WORKERS);
    // On a busy machine a worker may not get to run for longer than that. A module that took longer by
    // itself would be late most of the time: that by luck it were in time so much more often than
    // not is one in a million.
    let (mut rounds, mut lead) = (Vec::new(), 0);
    while lead < 5 {
        assert!(rounds.len() < 100, "too late most of the time: {rounds:?}");
        hold(&nginx, "30s");
        let ask = |_| {
            let mut connection = Connection::tcp(port).unwrap();
            connection.send("GET", "/", &[], b"").unwrap();
            connection
        };
        let waiting: Vec<Connection> = (0..REQUESTS).map(ask).collect();
        parked(&nginx, REQUESTS);
        resume(&nginx);
        let replied = now();
        let answers: Vec<Response> =
            waiting.into_iter().map(|mut w| w.receive().unwrap()).collect();
        let workers: BTreeSet<_> = answers.iter().map(|a| a.header("x-worker")).collect();
        let last = answers.iter().map(answered).max().expect("an answer");
        let took = last.saturating_sub(replied);
        // Now and then the kernel leaves a worker out.
        if workers.len() == WORKERS {
            lead += if took <= SOON { 1 } else { -1 };
        }
        rounds.push(took);
    }
    println!("{rounds:?}");
}

fn a_worker_is_woken_up_only_while_something_is_parked(build: &Build) {
    const TIMES: u64 = 100;
    // The worker of one has a request parked, and so is a clock for the other's.
    let [(clock, port), (nginx, own)] = [start(build, 1), start(build, 1)];
    hold(&clock, "10m");
    let (send, answer) = mpsc::channel();
    let mut waiting = Connection::tcp(port).unwrap();
    waiting.send("GET", "/", &[], b"").unwrap();
    parked(&clock, 1);
    std::thread::spawn(move || send.send(waiting.receive().map(|r| r.status)));
    let [ticking, quiet] = [clock.workers()[0], nginx.workers()[0]];
    let sleeps = |when: &str| {
        // What the test itself has asked it for may take a moment to end.
        until(when, || {
            let (start, before) = (wake_ups(ticking), wake_ups(quiet));
            until("the other one was woken up", || {
                (wake_ups(ticking) >= start + TIMES).then_some(())
            });
            (wake_ups(quiet) == before).then_some(())
        });
    };
    sleeps("nothing is held");
    hold(&nginx, "10m");
    sleeps("nothing is parked");
    let mut request = Connection::tcp(own).unwrap();
    request.send("GET", "/", &[], b"").unwrap();
    parked(&nginx, 1);
    let before = wake_ups(quiet);
    until("it is woken up", || (wake_ups(quiet) >= before + TIMES).then_some(()));
    resume(&nginx);
    assert_eq!(request.receive().unwrap().status, 200);
    drop(request);
    sleeps("nothing is parked any more");
    hold(&nginx, "10m");
    let mut request = Connection::tcp(own).unwrap();
    request.send("GET", "/", &[], b"").unwrap();
    parked(&nginx, 1);
    drop(request);
    sleeps("whoever waited has left");
    assert!(answer.try_recv().is_err(), "the clock has run all the time");
}

each_nginx!(
    parked_requests_of_all_workers_are_let_go_within_20_ms_of_the_resume,
    a_worker_is_woken_up_only_while_something_is_parked,
);
