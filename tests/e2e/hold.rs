//! Hold: new requests wait while their upstream is held, and all are answered afterwards.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::load::{Load, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{hold, parked, resume};
use shunt_tests::until;

fn start(build: &Build, hold: &str) -> (Nginx, Backend) {
    let a = Backend::start("a", 1);
    let upstream = format!("{hold} upstream web {{ shunt;\n{} keepalive 8; }}", a.lines());
    (Nginx::start(build, Setup::standard(&upstream)), a)
}

/// Reads an answer in a thread of its own.
fn receive(mut connection: Connection) -> mpsc::Receiver<(Response, Instant)> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let response = connection.receive().expect("an answer");
        // The test may have ended.
        let _ = send.send((response, Instant::now()));
    });
    receive
}

fn requests_wait_until_the_resume_and_bodies_arrive_whole(build: &Build) {
    let (nginx, _a) = start(build, "shunt_hold web;");
    hold(&nginx, "30s");
    let body = vec![b'x'; 100_000];
    let mut waiting = Vec::new();
    for n in 0..40 {
        let mut connection = nginx.connect();
        if n % 2 == 0 {
            connection.send("GET", "/", &[], b"").unwrap();
        } else {
            connection.send("POST", "/", &[], &body).unwrap();
        }
        waiting.push((n, receive(connection)));
    }
    // One whose body is still to come.
    let mut late = nginx.connect();
    late.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf").unwrap();
    parked(&nginx, 41);
    assert_eq!(nginx.admin().state("web").release("a").unwrap().requests, 0);
    // What is not for this upstream goes on, the API above all.
    let resumed = resume(&nginx);
    late.raw(b"half").unwrap();
    assert_eq!(late.receive().unwrap().body, b"halfhalf");
    for (n, waiting) in waiting {
        let (response, at) = waiting.recv_timeout(Duration::from_secs(10)).expect("an answer");
        assert_eq!(response.status, 200);
        if n % 2 == 1 {
            assert_eq!(response.body, body);
        }
        // The promise is 20 ms; the rest is for 41 threads on a busy machine.
        assert!(at.saturating_duration_since(resumed) < Duration::from_secs(2));
    }
    let state = nginx.admin().state("web");
    assert_eq!((state.parked, state.parked_total, state.hold), (0, 41, None));
}

fn an_upstream_says_whether_a_location_parks_requests_for_it(build: &Build) {
    let a = Backend::start("a", 1);
    let upstreams = format!(
        "upstream web {{ shunt;\n{0} }} upstream shop {{ shunt;\n{0} }} upstream blog {{ shunt;\n{0} }} \
         server {{ listen unix:%FOLDER%/other.sock; location /a {{ shunt_hold off; }} \
         location /b {{ shunt_hold web; shunt_hold blog; }} }}",
        a.lines()
    );
    let mut nginx = Nginx::start(build, Setup::standard(&upstreams));
    let holdable = ["web", "shop", "blog"].map(|name| nginx.admin().state(name).holdable);
    assert_eq!(holdable, [true, false, true]);
    // The next configuration may say something else.
    let without = nginx.http().replace("shunt_hold blog;", "");
    nginx.set_http(&without);
    nginx.reload();
    let holdable = ["web", "shop", "blog"].map(|name| nginx.admin().state(name).holdable);
    assert_eq!(holdable, [true, false, false]);
}

fn requests_are_let_go_in_the_order_of_their_arrival(build: &Build) {
    const REQUESTS: u64 = 30;
    // It takes connections one after the other, in the order in which they were made.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!(
        "shunt_hold web; upstream web {{ shunt; server {}; }}",
        listener.local_addr().unwrap()
    );
    let setup = Setup { workers: 1, ..Setup::standard(&upstream) };
    let nginx = Nginx::start(build, setup);
    hold(&nginx, "30s");
    let mut connections = Vec::new();
    for n in 0..REQUESTS {
        let mut connection = nginx.connect();
        connection.send("GET", &format!("/{n}"), &[], b"").unwrap();
        parked(&nginx, n + 1);
        connections.push(connection);
    }
    resume(&nginx);
    for n in 0..REQUESTS {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, format!("GET /{n} HTTP/1.1\r\n"));
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
    for mut connection in connections {
        assert_eq!(connection.receive().unwrap().status, 200);
    }
}

fn parked_requests_survive_a_reload(build: &Build) {
    let (nginx, _a) = start(build, "shunt_hold web;");
    hold(&nginx, "30s");
    let mut connection = nginx.connect();
    connection.send("POST", "/", &[], b"body").unwrap();
    parked(&nginx, 1);
    nginx.reload();
    let mut new = nginx.connect();
    new.send("GET", "/", &[], b"").unwrap();
    parked(&nginx, 2);
    resume(&nginx);
    assert_eq!(connection.receive().unwrap().body, b"body");
    assert_eq!(new.receive().unwrap().status, 200);
}

fn clients_that_leave_are_forgotten(build: &Build) {
    let (nginx, _a) = start(build, "shunt_hold web;");
    hold(&nginx, "30s");
    let mut connections: Vec<_> = (0..10).map(|_| nginx.connect()).collect();
    for connection in &mut connections {
        connection.send("GET", "/", &[], b"").unwrap();
    }
    parked(&nginx, 10);
    connections.truncate(3);
    parked(&nginx, 3);
    resume(&nginx);
    for mut connection in connections {
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    let state = nginx.admin().state("web");
    assert_eq!(state.release("a").unwrap().requests, 3, "{state:?}");
}

fn no_more_wait_than_may_and_none_for_longer(build: &Build) {
    let (nginx, _a) = start(build, "shunt_hold web max=5 timeout=1s;");
    hold(&nginx, "10s");
    let mut connections: Vec<_> = (0..5).map(|_| nginx.connect()).collect();
    for connection in &mut connections {
        connection.send("GET", "/", &[], b"").unwrap();
    }
    parked(&nginx, 5);
    let refused = nginx.connect().ask("GET", "/", b"").unwrap();
    assert_eq!(refused.status, 503);
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&after), "{after}");
    for mut connection in connections {
        let late = connection.receive().unwrap();
        assert_eq!((late.status, late.header("retry-after").is_some()), (503, true));
    }
    assert_eq!(nginx.admin().state("web").parked, 0);
    assert_eq!(nginx.admin().state("web").parked_total, 5);
}

fn a_hold_ends_by_itself(build: &Build) {
    let (nginx, _a) = start(build, "shunt_hold web;");
    hold(&nginx, "300ms");
    let start = Instant::now();
    let response = nginx.connect().ask("GET", "/", b"").unwrap();
    assert_eq!((response.status, response.release()), (200, "a"));
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(nginx.admin().state("web").hold, None);
}

fn nothing_waits_where_no_hold_is_configured(build: &Build) {
    let (nginx, _a) = start(
        build,
        "shunt_hold web; server { listen unix:%FOLDER%/off.sock; \
                                    shunt_hold off; location / { proxy_pass http://web; } }",
    );
    hold(&nginx, "30s");
    let mut off = Connection::unix(&nginx.path("off.sock")).unwrap();
    assert_eq!(off.ask("GET", "/", b"").unwrap().status, 200);
    resume(&nginx);
}

fn holds_under_load_cost_no_request(build: &Build) {
    let (nginx, _a) = start(build, "shunt_hold web;");
    let load = Load::start(nginx.port, 32);
    for _ in 0..20 {
        let before = nginx.admin().state("web").parked_total;
        hold(&nginx, "30s");
        until("requests are parked", || {
            (nginx.admin().state("web").parked_total >= before + 8).then_some(())
        });
        resume(&nginx);
    }
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
    parked(&nginx, 0);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

each_nginx!(
    requests_wait_until_the_resume_and_bodies_arrive_whole,
    requests_are_let_go_in_the_order_of_their_arrival,
    parked_requests_survive_a_reload,
    clients_that_leave_are_forgotten,
    no_more_wait_than_may_and_none_for_longer,
    a_hold_ends_by_itself,
    nothing_waits_where_no_hold_is_configured,
    an_upstream_says_whether_a_location_parks_requests_for_it,
    holds_under_load_cost_no_request,
);
