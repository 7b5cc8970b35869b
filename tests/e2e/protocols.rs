//! A switchable upstream works with every protocol that NGINX speaks to an upstream; gRPC is in
//! `grpc.rs`, TLS in `tls.rs`.

use std::net::TcpStream;

use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::protocol::{fastcgi, memcached, scgi, uwsgi};
use shunt_tests::scenario::{nothing_in_flight, switch_under};

/// More than one record, packet or buffer of any of the protocols.
const BODY: usize = 300_000;

/// NGINX with two releases that speak something, and a location that passes it on.
fn start(
    build: &Build,
    speak: fn(&Backend, TcpStream),
    location: &str,
    keepalive: &str,
) -> (Nginx, Admin, Backend) {
    let [a, b] = ["a", "b"].map(|release| Backend::speaking(release, 2, "127.0.0.1:0", speak));
    let more = format!(
        "upstream web {{ shunt;\n{}{}{keepalive} }}
         server {{ listen unix:%FOLDER%/ways.sock; client_max_body_size 1m;
             add_header X-Served $shunt_release;
             location / {{ {location} }} }}",
        a.lines(),
        b.lines()
    );
    let nginx = Nginx::start(build, Setup::standard(&more));
    let ways = Admin::new(&nginx.path("ways.sock"));
    (nginx, ways, a)
}

/// The three protocols that pass parameters and a body as CGI has them.
fn gateway(build: &Build, name: &str, speak: fn(&Backend, TcpStream), more: &str, keepalive: &str) {
    let location = format!(
        "{name}_pass web;
         {name}_param REQUEST_URI $request_uri;
         {name}_param REQUEST_METHOD $request_method;
         {name}_param CONTENT_LENGTH $content_length;
         {more}"
    );
    let (nginx, ways, a) = start(build, speak, &location, keepalive);
    switch_under(&nginx, &a, |path| {
        let answer = ways.ask("GET", path, &[], b"");
        assert_eq!((answer.status, answer.header("x-served")), (200, Some(answer.release())));
        answer.text()
    });
    let body: Vec<u8> = (0..BODY).map(|i| (i % 251) as u8).collect();
    nginx.admin().switch("web", "b", None).unwrap();
    let answer = ways.ask("POST", "/", &[], &body);
    assert_eq!((answer.status, answer.release()), (200, "b"));
    assert!(answer.body == body, "another body came back");
    nothing_in_flight(&nginx, "web");
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn fastcgi_pass_is_switched(build: &Build) {
    gateway(build, "fastcgi", fastcgi::serve, "", "");
}

fn fastcgi_pass_with_keepalive_is_switched(build: &Build) {
    gateway(build, "fastcgi", fastcgi::serve, "fastcgi_keep_conn on;", "keepalive 4;");
}

fn uwsgi_pass_is_switched(build: &Build) {
    gateway(build, "uwsgi", uwsgi::serve, "", "");
}

fn scgi_pass_is_switched(build: &Build) {
    gateway(build, "scgi", scgi::serve, "", "");
}

fn memcached(build: &Build, keepalive: &str) {
    let location = "set $memcached_key $uri; memcached_pass web;";
    let (nginx, ways, a) = start(build, memcached::serve, location, keepalive);
    switch_under(&nginx, &a, |path| {
        let answer = ways.ask("GET", path, &[], b"");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-served"), Some(answer.text().as_str()));
        answer.text()
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn memcached_pass_is_switched(build: &Build) {
    memcached(build, "");
}

fn memcached_pass_with_keepalive_is_switched(build: &Build) {
    memcached(build, "keepalive 4;");
}

each_nginx!(
    fastcgi_pass_is_switched,
    fastcgi_pass_with_keepalive_is_switched,
    uwsgi_pass_is_switched,
    scgi_pass_is_switched,
    memcached_pass_is_switched,
    memcached_pass_with_keepalive_is_switched,
);
