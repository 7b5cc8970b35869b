//! A switchable upstream works wherever NGINX takes an upstream's name: ways to name it, kinds of
//! servers, and bodies that are on their way while it is switched.

use std::os::unix::net::UnixListener;

use shunt_api::InFlight;
use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests, switch_under};
use shunt_tests::until;

/// NGINX with releases `a` and `b` of `web`, and this in a server on `ways.sock`.
fn start(build: &Build, a: &Backend, b: &Backend, server: &str) -> (Nginx, Admin) {
    let more = format!(
        "upstream web {{ shunt;\n{}{} }}
         server {{ listen unix:%FOLDER%/ways.sock;
             add_header X-Served \"$shunt_upstream $shunt_release\" always;
             add_header X-Tried $upstream_addr always;
             {server} }}",
        a.lines(),
        b.lines()
    );
    let nginx = Nginx::start(build, Setup::standard(&more));
    let ways = Admin::new(&nginx.path("ways.sock"));
    (nginx, ways)
}

fn two() -> [Backend; 2] {
    ["a", "b"].map(|release| Backend::start(release, 2))
}

/// An address on which nobody listens, and nobody will: connecting to it is refused.
fn dead(nginx_folder: &std::path::Path) -> String {
    let path = nginx_folder.join("dead.sock");
    // The socket's file stays when its listener goes.
    drop(UnixListener::bind(&path).unwrap());
    format!("unix:{}", path.display())
}

fn proxy_pass_with_the_name_is_switched(build: &Build) {
    let [a, b] = two();
    let (nginx, ways) = start(build, &a, &b, "location / { proxy_pass http://web; }");
    switch_under(&nginx, &a, |path| {
        let answer = ways.ask("GET", path, &[], b"");
        let served = format!("web {}", answer.release());
        assert_eq!(answer.header("x-served"), Some(served.as_str()));
        answer.text()
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn proxy_pass_with_a_variable_is_switched(build: &Build) {
    let [a, b] = two();
    let location = "location / { set $u web; proxy_pass http://$u; }";
    let (nginx, ways) = start(build, &a, &b, location);
    switch_under(&nginx, &a, |path| {
        let answer = ways.ask("GET", path, &[], b"");
        let served = format!("web {}", answer.release());
        assert_eq!(answer.header("x-served"), Some(served.as_str()));
        answer.text()
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn one_location_goes_to_switchable_upstreams_and_others(build: &Build) {
    let [a, b] = two();
    let plain = Backend::start("plain", 1);
    let server = format!(
        "location / {{ proxy_pass http://$arg_to; }} }}
         upstream other {{ server {0}; }}
         upstream shop {{ shunt; shunt_release s {0};",
        plain.addresses[0]
    );
    let (nginx, ways) = start(build, &a, &b, &server);
    let address = plain.addresses[0].as_str();
    for _ in 0..2 {
        for (to, release, served) in [
            ("web", "a", Some("web a")),
            ("other", "plain", Some("")),
            ("shop", "plain", Some("shop s")),
            (address, "plain", Some("")),
        ] {
            let answer = ways.ask("GET", &format!("/?to={to}"), &[], b"");
            assert_eq!((answer.status, answer.release()), (200, release), "{to}");
            assert_eq!(answer.header("x-served"), served, "{to}");
        }
    }
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 2), ("b".to_owned(), 0)]);
    assert_eq!(requests(&nginx, "shop"), [("s".to_owned(), 2)]);
}

fn releases_on_ports_and_on_unix_sockets_take_turns(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Backend::unix("a", 2, folder.path()), Backend::start("b", 2));
    let (nginx, ways) = start(build, &a, &b, "location / { proxy_pass http://web; }");
    switch_under(&nginx, &a, |path| ways.ask("GET", path, &[], b"").text());
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn releases_on_ipv6_are_switched(build: &Build) {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: this machine has no IPv6, [::1] cannot be bound");
        return;
    }
    let [a, b] = ["a", "b"].map(|r| Backend::speaking(r, 2, "[::1]:0", Backend::http));
    let (nginx, ways) = start(build, &a, &b, "location / { proxy_pass http://web; }");
    switch_under(&nginx, &a, |path| ways.ask("GET", path, &[], b"").text());
    // The same address from the API, where it is read by other code.
    assert_eq!(nginx.admin().put("web", "six", &b.addresses).status, 201);
    nginx.admin().switch("web", "six", None).unwrap();
    let answer = ways.ask("GET", "/", &[], b"");
    assert_eq!(answer.header("x-served"), Some("web six"));
    assert!(b.addresses.contains(&answer.header("x-tried").unwrap().to_owned()), "{answer:?}");
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn an_upload_that_is_not_buffered_stays_with_its_release(build: &Build) {
    let [a, b] = two();
    let location = "location / { proxy_request_buffering off; proxy_http_version 1.1; \
                    proxy_pass http://web; }";
    let (nginx, ways) = start(build, &a, &b, location);
    let admin = nginx.admin();
    let mut upload = Connection::unix(&nginx.path("ways.sock")).unwrap();
    upload.raw(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\none").unwrap();
    let one = InFlight { requests: 1, upgraded: 0 };
    until("the upload is at its release", || (admin.in_flight("web", "a") == one).then_some(()));
    admin.switch("web", "b", None).unwrap();
    upload.raw(b"two").unwrap();
    assert_eq!(ways.ask("GET", "/", &[], b"").release(), "b");
    assert_eq!(admin.in_flight("web", "a"), one);
    upload.raw(b"end").unwrap();
    let answer = upload.receive().unwrap();
    assert_eq!((answer.release(), answer.text().as_str()), ("a", "onetwoend"));
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn an_upload_that_is_buffered_goes_to_the_release_of_its_end(build: &Build) {
    let [a, b] = two();
    let (nginx, ways) = start(build, &a, &b, "location / { proxy_pass http://web; }");
    let mut upload = Connection::unix(&nginx.path("ways.sock")).unwrap();
    upload.raw(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\none").unwrap();
    assert_eq!(ways.ask("GET", "/", &[], b"").release(), "a");
    nginx.admin().switch("web", "b", None).unwrap();
    upload.raw(b"two").unwrap();
    let answer = upload.receive().unwrap();
    assert_eq!((answer.release(), answer.text().as_str()), ("b", "onetwo"));
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
}

fn a_slow_answer_that_is_not_buffered_stays_with_its_release(build: &Build) {
    let [a, b] = two();
    let location = "location / { proxy_buffering off; proxy_pass http://web; }";
    let (nginx, ways) = start(build, &a, &b, location);
    let admin = nginx.admin();
    a.hold();
    let mut slow = Connection::unix(&nginx.path("ways.sock")).unwrap();
    slow.send("POST", "/halved", &[], b"onetwo").unwrap();
    assert_eq!(slow.receive_head().unwrap().release(), "a");
    assert_eq!(slow.read(3).unwrap(), b"one");
    admin.switch("web", "b", None).unwrap();
    assert_eq!(ways.ask("GET", "/", &[], b"").release(), "b");
    assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 1, upgraded: 0 });
    a.let_go();
    assert_eq!(slow.read(3).unwrap(), b"two");
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn the_next_server_that_is_tried_is_the_releases_own(build: &Build) {
    const TIMES: u64 = 12;
    let [a, b] = two();
    let location = "location / { proxy_pass http://web; }";
    let (nginx, ways) = start(build, &a, &b, location);
    let admin = nginx.admin();
    let dead = dead(nginx.folder());
    // `max_fails=0`, so that the dead one is tried again and again.
    let body = serde_json::json!({ "servers": [
        { "address": dead, "max_fails": 0 },
        { "address": b.addresses[0], "max_fails": 0 },
        { "address": b.addresses[1], "max_fails": 0 },
    ]});
    let target = "/v1/upstreams/web/releases/c";
    assert_eq!(admin.ask("PUT", target, &[], body.to_string().as_bytes()).status, 201);
    admin.switch("web", "c", None).unwrap();
    let mut retried = 0;
    for n in 0..TIMES {
        let (method, body): (_, &[u8]) = if n % 2 == 0 { ("GET", b"") } else { ("POST", b"body") };
        let answer = ways.ask(method, "/", &[], body);
        assert_eq!((answer.status, answer.release()), (200, "b"), "{answer:?}");
        assert_eq!(answer.header("x-served"), Some("web c"));
        let tried: Vec<_> = answer.header("x-tried").unwrap().split(", ").collect();
        let (last, refused) = tried.split_last().unwrap();
        assert!(b.addresses.iter().any(|address| address == last), "{tried:?}");
        assert!(refused.iter().all(|address| *address == dead), "{tried:?}");
        retried += refused.len();
    }
    assert!(retried > 0, "the dead server was tried");
    // With none but dead servers the answer is NGINX's, though other releases are well.
    let only = serde_json::json!({ "servers": [{ "address": dead, "max_fails": 0 }] });
    assert_eq!(admin.ask("PUT", target, &[], only.to_string().as_bytes()).status, 200);
    let answer = ways.ask("GET", "/", &[], b"");
    assert_eq!((answer.status, answer.header("x-tried")), (502, Some(dead.as_str())));
    admin.switch("web", "b", None).unwrap();
    assert_eq!(ways.ask("GET", "/", &[], b"").release(), "b");
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web")[1].1, 1);
}

each_nginx!(
    proxy_pass_with_the_name_is_switched,
    proxy_pass_with_a_variable_is_switched,
    one_location_goes_to_switchable_upstreams_and_others,
    releases_on_ports_and_on_unix_sockets_take_turns,
    releases_on_ipv6_are_switched,
    an_upload_that_is_not_buffered_stays_with_its_release,
    an_upload_that_is_buffered_goes_to_the_release_of_its_end,
    a_slow_answer_that_is_not_buffered_stays_with_its_release,
    the_next_server_that_is_tried_is_the_releases_own,
);
