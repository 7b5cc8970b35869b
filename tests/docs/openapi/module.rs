//! The document against the running module: every operation, every status that it can be answered
//! with, and every other path and method.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use shunt_api::{Call, Method};
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::nothing_in_flight;
use shunt_tests::{free_port, until};

use super::{Document, Operation, errors};

/// What every answer of NGINX has.
const STANDARD: [&str; 5] = ["server", "date", "content-type", "content-length", "connection"];

/// The operation of a call. A call that is new has to be added here, to the document, and to the
/// requests below.
fn operation(call: &Call) -> &'static str {
    match call {
        Call::Index => "getIndex",
        Call::Upstreams => "getUpstreams",
        Call::Upstream { .. } => "getUpstream",
        Call::PutRelease { .. } => "putRelease",
        Call::DeleteRelease { .. } => "deleteRelease",
        Call::Switch { .. } => "switch",
        Call::DeletePrevious { .. } => "deletePrevious",
        Call::PutCanary { .. } => "putCanary",
        Call::DeleteCanary { .. } => "deleteCanary",
        Call::PutHold { .. } => "putHold",
        Call::DeleteHold { .. } => "deleteHold",
    }
}

/// A change that would change something in the state that [`prepare`] makes: method, what follows
/// the upstream in the path, body.
type Change = (&'static str, &'static str, &'static str);

const CHANGES: [Change; 8] = [
    ("PUT", "/releases/d", r#"{"servers":[{"address":"127.0.0.1:9"}]}"#),
    ("DELETE", "/releases/c", ""),
    ("POST", "/switch", r#"{"release":"c"}"#),
    ("DELETE", "/previous", ""),
    ("PUT", "/canary", r#"{"release":"c","share":0.1}"#),
    ("DELETE", "/canary", ""),
    ("PUT", "/hold", r#"{"timeout":"1h"}"#),
    ("DELETE", "/hold", ""),
];

/// The answers, as they are held against the document.
struct Checks {
    document: Document,
    operations: Vec<Operation>,
    seen: RefCell<BTreeSet<(String, u16)>>,
}

impl Checks {
    fn new() -> Self {
        let document = Document::committed();
        let operations = document.operations();
        Self { document, operations, seen: RefCell::default() }
    }

    /// The operation that has this method and path.
    fn find(&self, method: &str, path: &str) -> Option<&Operation> {
        self.operations.iter().find(|o| o.method == method && is_of(&o.path, path))
    }

    /// Holds an answer against the document.
    #[track_caller]
    fn check(&self, method: &str, target: &str, body: &[u8], response: &Response) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let about = format!("{method} {target} {}: {}", response.status, response.text());
        let operation = self.find(method, path).unwrap_or_else(|| panic!("{about}"));
        if let Ok(call) = Call::parse(method_of(method), path, query) {
            assert_eq!(self::operation(&call), operation.id, "{about}");
        }
        let known = self.document.response(operation, response.status);
        let known = known.unwrap_or_else(|| panic!("the status is not in the document: {about}"));
        self.headers(known, response, &about);
        let content = known["content"].as_object().expect("content");
        let media = content.get(response.header("content-type").unwrap_or_default());
        let media = media.unwrap_or_else(|| panic!("the type is not in the document: {about}"));
        let json: Value = serde_json::from_slice(&response.body).expect("JSON");
        let validator = self.document.validator(&media["schema"]);
        assert_eq!(errors(&validator, &json), [] as [String; 0], "{about}");
        if response.status < 300 && !body.is_empty() {
            assert_eq!(self.in_request(operation, body), Some(true), "{about}");
        }
        self.seen.borrow_mut().insert((operation.id.clone(), response.status));
    }

    fn headers(&self, known: &Value, response: &Response, about: &str) {
        let headers = known["headers"].as_object().expect("headers");
        for (name, header) in headers {
            let header = self.document.resolve(header);
            let text = response.header(&name.to_lowercase());
            let text = text.unwrap_or_else(|| panic!("there is no {name}: {about}"));
            let value = match header["schema"]["type"].as_str() {
                Some("integer") => text.parse::<u64>().map_or(json!(text), |n| json!(n)),
                _ => json!(text),
            };
            let validator = self.document.validator(&header["schema"]);
            assert_eq!(errors(&validator, &value), [] as [String; 0], "{name}: {about}");
        }
        for (name, _) in &response.headers {
            let known = headers.keys().any(|known| known.eq_ignore_ascii_case(name));
            assert!(known || STANDARD.contains(&name.as_str()), "what is {name}? {about}");
        }
    }

    /// Whether a body is what the document says; `None` if it has none there.
    fn in_request(&self, operation: &Operation, body: &[u8]) -> Option<bool> {
        let schema = operation.body.pointer("/requestBody/content/application~1json/schema")?;
        let body = serde_json::from_slice(body).expect("JSON");
        Some(self.document.validator(schema).is_valid(&body))
    }

    /// Every status of every operation has been seen.
    fn are_complete(&self) {
        let documented = self.operations.iter().flat_map(|operation| {
            let responses = operation.body["responses"].as_object().expect("responses");
            // "default" is what no test can bring about: damage.
            let statuses = responses.keys().filter(|status| *status != "default");
            statuses.map(|status| (operation.id.clone(), status.parse().expect("a status")))
        });
        assert_eq!(*self.seen.borrow(), documented.collect());
    }
}

fn method_of(method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    }
}

/// Whether a path is one of these, with something for each parameter.
fn is_of(template: &str, path: &str) -> bool {
    let parts = |path: &str| path.split('/').map(ToOwned::to_owned).collect::<Vec<_>>();
    let (template, path) = (parts(template), parts(path));
    template.len() == path.len()
        && template.iter().zip(&path).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
}

/// NGINX, and what asks it.
struct Api {
    nginx: Nginx,
    tcp: u16,
    checks: Checks,
    /// The servers of `a`, `b`, `c`.
    backends: [Backend; 3],
}

impl Api {
    fn start(build: &Build) -> Self {
        let backends = ["a", "b", "c"].map(|release| Backend::start(release, 1));
        let lines: String = backends[..2].iter().map(Backend::lines).collect();
        let tcp = free_port();
        let http = format!(
            "shunt_zone shunt:1m state=%STATE%;
             upstream web {{ shunt; shunt_fallback on;\n{lines} }}
             upstream other {{ shunt; server 127.0.0.1:1 backup; server localhost:2; }}
             server {{
                 listen unix:%FOLDER%/api.sock;
                 location / {{ shunt_api write=on; }}
                 location /read/ {{ shunt_api; }}
                 location = /pid {{ return 200 $pid; }}
             }}
             server {{
                 listen 127.0.0.1:{tcp};
                 location / {{ shunt_api write=on token_file=%FOLDER%/token; }}
             }}
             server {{
                 listen 127.0.0.1:%PORT%;
                 location / {{ shunt_hold web; proxy_pass http://web; }}
             }}"
        );
        let mut nginx = Nginx::prepare(build, Setup { http, workers: 4 });
        fs::write(nginx.path("token"), "correct-horse-battery\n").unwrap();
        nginx.run();
        Self { nginx, tcp, checks: Checks::new(), backends }
    }

    fn connect(&self) -> Connection {
        Connection::unix(&self.nginx.path("api.sock")).expect("a connection")
    }

    /// Asks, and holds the answer against the document.
    #[track_caller]
    fn ask_with(
        &self,
        mut connection: Connection,
        (method, target): (&str, &str),
        headers: &[(&str, &str)],
        body: &str,
        status: u16,
    ) -> Response {
        connection.send(method, target, headers, body.as_bytes()).expect("it can be sent");
        let response = connection.receive().expect("an answer");
        assert_eq!(response.status, status, "{method} {target} {body}: {}", response.text());
        let target = target.strip_prefix("/read").unwrap_or(target);
        self.checks.check(method, target, body.as_bytes(), &response);
        response
    }

    #[track_caller]
    fn ask(&self, method: &str, target: &str, body: &str, status: u16) -> Value {
        let response = self.ask_with(self.connect(), (method, target), &[], body, status);
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// A connection to a worker, and the worker's pid.
    fn connect_to_worker(&self) -> (Connection, String) {
        let mut connection = self.connect();
        let pid = connection.ask("GET", "/pid", b"").expect("an answer").text();
        (connection, pid)
    }
}

fn target(path: &str) -> String {
    format!("/v1/upstreams/web{path}")
}

/// Calls that are done.
fn what_is_done(api: &Api) {
    let put = target("/releases/c");
    let servers = |servers: &str| format!(r#"{{"servers":[{servers}]}}"#);
    let own = servers(&format!(r#"{{"address":"{}"}}"#, api.backends[2].addresses[0]));
    api.ask("PUT", &put, &own, 201);
    api.ask("PUT", &put, &own, 200);
    for server in [
        r#"{"address":"[::1]:80"}"#,
        r#"{"address":"unix:/run/a b.sock","weight":10000}"#,
        r#"{"address":"127.0.0.1:80","weight":1,"max_fails":0,"fail_timeout":"1m 30s","max_conns":7,"down":true}"#,
        r#"{"address":"127.0.0.1:80"},{"address":"127.0.0.1:81","fail_timeout":"20","backup":true}"#,
    ] {
        api.ask(
            "PUT",
            &target("/releases/d"),
            &servers(server),
            200 + u16::from(server.contains("::1")),
        );
        api.ask("GET", "/v1/upstreams", "", 200);
    }
    api.ask("DELETE", &target("/releases/d"), "", 200);
    // Answered requests, and one that cannot be, so that there are figures.
    let mut connection = api.nginx.connect();
    for path in ["/", "/missing", "/"] {
        connection.ask("GET", path, b"").unwrap();
    }
    nothing_in_flight(&api.nginx, "web");
    for (path, writable) in [("/v1/", true), ("/read/v1/", false)] {
        assert_eq!(api.ask("GET", path, "", 200)["writable"], writable);
    }
    let now = api.ask("GET", &target(""), "", 200);
    let generation = now["generation"].to_string();
    api.ask("GET", &target("?wait=change&generation=0"), "", 200);
    let wait = format!("?wait=change&generation={generation}&timeout=20ms");
    assert_eq!(api.ask("GET", &target(&wait), "", 200), now);
    api.ask("GET", &target("?wait=drained&release=c&timeout=1m+30s"), "", 200);
    for tags in [format!("\"{generation}\""), "*".to_owned(), format!("W/\"1\", \"{generation}\"")]
    {
        let call = ("POST", &*target("/switch"));
        let body = r#"{"release":"a"}"#;
        let reply = api.ask_with(api.connect(), call, &[("If-Match", &tags)], body, 200);
        assert_eq!(reply.header("etag"), Some(&*format!("\"{generation}\"")));
    }
    api.ask("POST", &target("/switch"), r#"{"release":"c"}"#, 200);
    for share in ["0", "0.0001", "1"] {
        let body = format!(r#"{{"release":"b","share":{share}}}"#);
        api.ask("PUT", &target("/canary"), &body, 200);
    }
    for timeout in ["1500ms", "10", "1m30", "1h"] {
        let held = api.ask("PUT", &target("/hold"), &format!(r#"{{"timeout":"{timeout}"}}"#), 200);
        assert!(held["hold"]["ends_in"].is_string(), "{held}");
    }
    for (method, path, _) in CHANGES.iter().filter(|c| c.0 == "DELETE" && c.1 != "/releases/c") {
        api.ask(method, &target(path), "", 200);
    }
}

/// Release `a` is active, `b` the previous one and the canary, `c` idle; the upstream is held.
fn prepare(api: &Api) {
    for release in ["b", "a"] {
        api.ask("POST", &target("/switch"), &format!(r#"{{"release":"{release}"}}"#), 200);
    }
    api.ask("PUT", &target("/canary"), r#"{"release":"b","share":0.5}"#, 200);
    api.ask("PUT", &target("/hold"), r#"{"timeout":"30m"}"#, 200);
}

/// Bodies that are refused with 422, and whether the document's schema says so, too.
const WRONG: [(&str, &str, bool); 27] = [
    ("/releases/d", r#"[]"#, true),
    ("/releases/d", r#"{"servers":[]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80"}],"x":1}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","colour":"red"}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"app.example:80"}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1"}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"unix:run/a.sock"}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:0"}]}"#, false),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","weight":0}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","weight":10001}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","max_fails":-1}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","fail_timeout":"soon"}]}"#, true),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","fail_timeout":"500ms"}]}"#, false),
    ("/releases/d", r#"{"servers":[{"address":"127.0.0.1:80","backup":true}]}"#, false),
    (
        "/releases/d",
        r#"{"servers":[{"address":"127.0.0.1:80"},{"address":"127.0.0.1:80"}]}"#,
        false,
    ),
    ("/switch", r#"{}"#, true),
    ("/switch", r#"{"release":7}"#, true),
    ("/switch", r#"{"release":"a/b"}"#, true),
    ("/switch", r#"{"release":".."}"#, true),
    ("/switch", r#"{"release":"b","at":"noon"}"#, true),
    ("/canary", r#"{"release":"b"}"#, true),
    ("/canary", r#"{"release":"b","share":2}"#, true),
    ("/canary", r#"{"release":"b","share":0.00005}"#, false),
    ("/hold", r#"{"timeout":30}"#, true),
    ("/hold", r#"{"timeout":"1 minute"}"#, true),
    ("/hold", r#"{"timeout":"0s"}"#, false),
    ("/hold", r#"{"timeout":"2h"}"#, false),
];

/// Calls that are refused.
fn what_is_refused(api: &Api) {
    for path in ["/v1/", "/v1/upstreams"] {
        api.ask("GET", &format!("{path}?x=1"), "", 400);
    }
    for query in ["?x=1", "?wait=drained", "?wait=drained&release=a%2Fb", "?wait=change"] {
        api.ask("GET", &target(query), "", 400);
    }
    for path in ["none", "web?wait=drained&release=none"] {
        api.ask("GET", &format!("/v1/upstreams/{path}"), "", 404);
    }
    for (method, path, body) in CHANGES {
        let target = target(path);
        let call = (method, &*target);
        let refused = |headers: &[(&str, &str)], status| {
            api.ask_with(api.connect(), call, headers, body, status)
        };
        api.ask(method, &format!("{target}?x=1"), body, 400);
        refused(&[("If-Match", "7")], 400);
        let tcp = Connection::tcp(api.tcp).expect("a connection");
        api.ask_with(tcp, call, &[("Authorization", "Bearer wrong")], body, 401);
        api.ask(method, &format!("/read{target}"), body, 403);
        api.ask(method, &target.replace("web", "none"), body, 404);
        let stale = refused(&[("If-Match", "\"0\"")], 412);
        let stale: Value = serde_json::from_slice(&stale.body).expect("JSON");
        assert_eq!(stale["upstream"]["name"], "web");
        // Nobody sends what is announced here.
        let size = (shunt_api::MAX_BODY + 1).to_string();
        let none = |headers: &[(&str, &str)], status| {
            api.ask_with(api.connect(), call, headers, "", status);
        };
        none(&[("Content-Length", &size)], 413);
        none(&[("Transfer-Encoding", "chunked")], 411);
        if !body.is_empty() {
            api.ask(method, &target, "{", 400);
            none(&[], 411);
        }
    }
    for path in ["/releases/none", "/releases/a%2Fb"] {
        api.ask("DELETE", &target(path), "", if path.contains('%') { 400 } else { 404 });
    }
    for release in ["a", "b"] {
        api.ask("DELETE", &target(&format!("/releases/{release}")), "", 409);
    }
    api.ask("PUT", &target("/canary"), r#"{"release":"a","share":0.5}"#, 409);
    for (path, body, in_schema) in WRONG {
        let method = if path == "/switch" { "POST" } else { "PUT" };
        api.ask(method, &target(path), body, 422);
        let operation = api.checks.find(method, &target(path)).expect("an operation");
        let valid = api.checks.in_request(operation, body.as_bytes()).expect("a schema");
        assert_eq!(valid, !in_schema, "{body}");
    }
}

/// The state file cannot be written, or only after a while.
fn what_the_disk_refuses(api: &Api) {
    let (state, elsewhere) = (api.nginx.path("state"), api.nginx.path("elsewhere"));
    fs::rename(&state, &elsewhere).unwrap();
    for (method, path, body) in CHANGES {
        api.ask(method, &target(path), body, 507);
    }
    // A pipe in place of the folder: who opens it waits until somebody writes to it.
    mknodat(CWD, &state, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for (method, path, body) in CHANGES {
        let (one, pid) = api.connect_to_worker();
        let other = until("a connection to another worker", || {
            let (other, other_pid) = api.connect_to_worker();
            (other_pid != pid).then_some(other)
        });
        let (send, receive) = mpsc::channel();
        for mut connection in [one, other] {
            let send = send.clone();
            std::thread::spawn(move || {
                connection.send(method, &target(path), &[], body.as_bytes()).expect("it is sent");
                // The test may have failed by then.
                let _ = send.send(connection.receive().expect("an answer"));
            });
        }
        let limit = Duration::from_secs(30);
        let busy = receive.recv_timeout(limit).expect("an answer of the one who waits");
        assert_eq!(busy.status, 503, "{}", busy.text());
        drop(fs::OpenOptions::new().write(true).open(&state).unwrap());
        let refused = receive.recv_timeout(limit).expect("an answer of the one who writes");
        assert_eq!(refused.status, 507, "{}", refused.text());
        for response in [busy, refused] {
            api.checks.check(method, &target(path), body.as_bytes(), &response);
        }
    }
    fs::remove_file(&state).unwrap();
    fs::rename(&elsewhere, &state).unwrap();
}

/// A worker of an older configuration, whose zone was given up, may not write.
fn what_an_old_worker_refuses(api: &mut Api) {
    let late = CHANGES.map(|(method, path, body)| {
        let body = if body.is_empty() { " " } else { body };
        let mut connection = api.connect();
        let headers = [("Expect", "100-continue"), ("Content-Length", &*body.len().to_string())];
        connection.send(method, &target(path), &headers, b"").unwrap();
        // So it has read the head, and waits for the body.
        assert_eq!(connection.receive_head().expect("an answer").status, 100);
        (connection, method, path, body)
    });
    let larger = api.nginx.http().replace("shunt:1m", "shunt:2m");
    api.nginx.set_http(&larger);
    api.nginx.reload();
    for (mut connection, method, path, body) in late {
        connection.raw(body.as_bytes()).unwrap();
        let response = connection.receive().expect("an answer");
        assert_eq!(response.status, 409, "{}", response.text());
        api.checks.check(method, &target(path), b"", &response);
    }
}

fn the_module_does_what_the_document_says(build: &Build) {
    let mut api = Api::start(build);
    what_is_done(&api);
    prepare(&api);
    let state = |api: &Api| {
        let mut state = api.ask("GET", &target(""), "", 200);
        // It passes.
        state["hold"]["ends_in"].take();
        state
    };
    let before = state(&api);
    what_is_refused(&api);
    what_the_disk_refuses(&api);
    what_an_old_worker_refuses(&mut api);
    // What old workers may still send is in flight until they have ended.
    nothing_in_flight(&api.nginx, "web");
    assert_eq!(state(&api), before);
    api.checks.are_complete();
}

/// Asks for whatever could be there, where nothing can be changed.
fn nothing_answers_that_the_document_lacks(build: &Build) {
    let api = Api::start(build);
    let words = api.checks.operations.iter().flat_map(|o| o.path.split('/'));
    let words: BTreeSet<&str> = words
        .filter(|word| !word.is_empty() && !word.starts_with('{'))
        .chain(["web", "a", "metrics", "state", "drain"])
        .collect();
    // From each path to those with one more word, up to as many as the longest has.
    let mut paths = vec![String::new()];
    let mut level = vec!["/v1".to_owned(), "/v2".to_owned(), "/metrics".to_owned()];
    for _ in 0..4 {
        paths.extend(level.iter().cloned());
        let here = level.iter().filter(|path| path.as_str() == "/v1" || path.starts_with("/v1/up"));
        level = here.flat_map(|p| words.iter().map(move |w| format!("{p}/{w}"))).collect();
    }
    paths.extend(level);
    paths.extend(["/v1/", "/v1/upstreams/"].map(ToOwned::to_owned));
    // What is the same as another path.
    let known = |path: &str| match path {
        "/v1" => "/v1/".to_owned(),
        "/v1/upstreams/" => "/v1/upstreams".to_owned(),
        path => path.to_owned(),
    };
    let mut connection = api.connect();
    let mut answered = BTreeSet::new();
    for path in paths {
        let there = known(&path);
        let methods: Vec<&str> = api
            .checks
            .operations
            .iter()
            .filter(|o| is_of(&o.path, &there))
            .map(|o| o.method.as_str())
            .collect();
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
            let response = connection.ask(method, &format!("/read{path}"), b"").unwrap();
            let text = response.text();
            if let Some(operation) = api.checks.find(method, &there) {
                api.checks.check(method, &there, b"", &response);
                let expected: &[u16] = if method == "GET" { &[200, 404] } else { &[403] };
                assert!(expected.contains(&response.status), "{method} {path}: {text}");
                answered.insert(operation.id.clone());
                continue;
            }
            let status = if methods.is_empty() { 404 } else { 405 };
            assert_eq!(response.status, status, "{method} {path}: {text}");
            let problem = shunt_tests::admin::problem(&response);
            if methods.is_empty() {
                assert!(problem.detail.starts_with("nothing is at"), "{method} {path}: {text}");
            } else {
                let allowed =
                    response.header("allow").expect("an Allow header").replace("HEAD", "");
                let allowed: BTreeSet<_> =
                    allowed.split(',').map(str::trim).filter(|m| !m.is_empty()).collect();
                assert_eq!(allowed, methods.iter().copied().collect(), "{path}");
            }
        }
    }
    assert_eq!(answered.len(), api.checks.operations.len());
}

fn a_head_is_answered_as_a_get_without_the_body(build: &Build) {
    let api = Api::start(build);
    let mut connection = api.connect();
    for path in ["/v1/", "/v1/upstreams", "/v1/upstreams/web", "/v1/upstreams/none", "/v1/none"] {
        connection.send("HEAD", path, &[], b"").unwrap();
        let head = connection.receive_head().unwrap();
        let get = connection.ask("GET", path, b"").unwrap();
        let lasting = |response: &Response| {
            let headers = response.headers.iter().filter(|(name, _)| name != "date").cloned();
            (response.status, headers.collect::<Vec<_>>())
        };
        assert_eq!(lasting(&head), lasting(&get), "{path}");
    }
}

each_nginx!(
    the_module_does_what_the_document_says,
    nothing_answers_that_the_document_lacks,
    a_head_is_answered_as_a_get_without_the_body,
);
