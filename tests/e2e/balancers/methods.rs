//! Every balancing method with the same servers: in a plain upstream, in a release that the
//! configuration declares, and in one that the API was given.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};
use shunt_tests::admin::Admin;
use shunt_tests::build::Build;
use shunt_tests::client::Response;
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests};

/// NGINX's methods, by the name that the tests give them.
pub const METHODS: [(&str, &str); 7] = [
    ("round_robin", ""),
    ("least_conn", "least_conn;"),
    ("ip_hash", "ip_hash;"),
    ("hash", "hash $arg_key;"),
    ("consistent", "hash $arg_key consistent;"),
    ("random", "random;"),
    ("random_two", "random two least_conn;"),
];

/// The methods that know `backup`.
pub const WITH_BACKUP: [(&str, &str); 2] = [METHODS[0], METHODS[1]];

/// A server: its address, and its parameters as the API takes them.
pub type Server<'a> = (&'a str, Value);

/// As NGINX's `server` takes it.
fn line((address, parameters): &Server) -> String {
    let mut line = (*address).to_owned();
    for (name, value) in parameters.as_object().expect("an object") {
        match value {
            Value::Bool(true) => line.push_str(&format!(" {name}")),
            Value::String(text) => line.push_str(&format!(" {name}={text}")),
            other => line.push_str(&format!(" {name}={other}")),
        }
    }
    line
}

/// As the API takes a release.
pub fn body(servers: &[Server]) -> String {
    let servers = servers.iter().map(|(address, parameters)| {
        let mut server = parameters.clone();
        server["address"] = json!(address);
        server
    });
    json!({ "servers": servers.collect::<Vec<_>>() }).to_string()
}

/// An upstream of this method with a declared release.
pub fn switchable((name, method): (&str, &str), servers: &[Server]) -> String {
    let lines: String =
        servers.iter().map(|s| format!("shunt_release declared {};\n", line(s))).collect();
    format!("upstream {name} {{ {method} shunt;\n{lines} }}\n")
}

/// The same without a release.
fn plain((name, method): (&str, &str), servers: &[Server]) -> String {
    let lines: String = servers.iter().map(|s| format!("server {};\n", line(s))).collect();
    format!("upstream plain_{name} {{ {method}\n{lines} }}\n")
}

/// What is in the `http` block for these methods, the first of which is round robin.
pub fn http(methods: &[(&str, &str)], servers: &[Server]) -> String {
    let mut http = STANDARD.replace("http://web", "http://round_robin");
    for method in methods {
        http.push_str(&switchable(*method, servers));
        http.push_str(&plain(*method, servers));
    }
    http.push_str(
        "server { listen unix:%FOLDER%/ways.sock;
             set_real_ip_from unix:; real_ip_header X-Real-IP;
             add_header X-Tried $upstream_addr always;
             location / { proxy_pass http://$arg_to; } }",
    );
    http
}

/// NGINX with an upstream of each method.
pub struct Ways {
    pub nginx: Nginx,
    asked: Mutex<BTreeMap<String, u64>>,
}

/// An upstream that is asked.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    ways: &'a Ways,
    upstream: &'a str,
    /// What it shows when a test fails.
    pub name: &'a str,
}

impl Ways {
    /// Starts it. One worker: what a method counts, it counts in each.
    pub fn start(build: &Build, methods: &[(&str, &str)], servers: &[Server]) -> Self {
        let setup = Setup { http: http(methods, servers), workers: 1 };
        let nginx = Nginx::start(build, setup);
        for (name, _) in methods {
            let target = format!("/v1/upstreams/{name}/releases/given");
            let response = nginx.admin().ask("PUT", &target, &[], body(servers).as_bytes());
            assert_eq!(response.status, 201, "{name}: {}", response.text());
        }
        Self { nginx, asked: Mutex::default() }
    }

    /// Calls `f` with a method's plain upstream, with its declared release and with the given one.
    pub fn each(&self, method: &str, mut f: impl FnMut(Way)) {
        let plain = format!("plain_{method}");
        f(Way { ways: self, upstream: &plain, name: &plain });
        for release in ["declared", "given"] {
            self.nginx.admin().switch(method, release, None).expect("a switch");
            f(Way { ways: self, upstream: method, name: &format!("{release} {method}") });
        }
        nothing_in_flight(&self.nginx, method);
        let counted: u64 = requests(&self.nginx, method).iter().map(|(_, n)| n).sum();
        assert_eq!(counted, self.asked.lock().unwrap()[method], "{method}: requests");
    }
}

impl Way<'_> {
    /// Asks with a key: `hash` takes it as it is, `ip_hash` sees it in the client's address.
    #[track_caller]
    pub fn ask(&self, path: &str, key: usize) -> Response {
        *self.ways.asked.lock().unwrap().entry(self.upstream.to_owned()).or_default() += 1;
        let target = format!("{path}?to={}&key={key}", self.upstream);
        let address = format!("10.{}.{}.1", key / 256, key % 256);
        let socket = self.ways.nginx.path("ways.sock");
        Admin::new(&socket).ask("GET", &target, &[("X-Real-IP", &address)], b"")
    }

    /// Asks with so many keys: which server answered each.
    #[track_caller]
    pub fn answers(&self, keys: usize) -> Vec<String> {
        let ask = |key| {
            let answer = self.ask("/", key);
            assert_eq!(answer.status, 200, "{}", self.name);
            answer.release().to_owned()
        };
        (0..keys).map(ask).collect()
    }
}
