//! P6, P11: what is refused is refused with the right status, as problem+json, and changes nothing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::{Build, own};
use shunt_tests::client::Connection;
use shunt_tests::free_port;
use shunt_tests::nginx::{Nginx, STANDARD, Setup};

fn start(build: &Build) -> (Nginx, Backend) {
    let a = Backend::start("a", 1);
    let upstream = format!("upstream web {{ hash $uri; shunt;\n{} }}", a.lines());
    (Nginx::start(build, Setup::standard(&upstream)), a)
}

/// Method, target, headers and body of a request, and the status that it is refused with.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], String, u16);

fn p6_bad_input_changes_nothing(build: &Build) {
    let (nginx, _a) = start(build);
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "b", &["127.0.0.1:9".to_owned()]).status, 201);
    let before = admin.state("web");
    let file = fs::read(nginx.path("state/state.json")).unwrap();

    let put = "/v1/upstreams/web/releases/c";
    let switch = "/v1/upstreams/web/switch";
    let servers = |s: &str| format!("{{\"servers\":[{s}]}}");
    let megabyte = "x".repeat(1 << 20);
    let cases: Vec<Case> = vec![
        ("PUT", put, &[], "{".to_owned(), 400),
        ("PUT", put, &[], "not json".to_owned(), 400),
        ("PUT", put, &[("Content-Length", "0")], String::new(), 400),
        ("PUT", put, &[], servers(r#"{"address":"127.0.0.1:80","colour":"red"}"#), 422),
        ("PUT", put, &[], servers(r#"{"address":"app.example:80"}"#), 422),
        ("PUT", put, &[], servers(r#"{"address":"127.0.0.1"}"#), 422),
        ("PUT", put, &[], servers(r#"{"address":"unix:relative"}"#), 422),
        // What NGINX cannot read would be no release.
        ("PUT", put, &[], servers(r#"{"address":"255.255.255.255:80"}"#), 422),
        ("PUT", put, &[], servers(r#"{"address":"127.0.0.1:80","weight":0}"#), 422),
        ("PUT", put, &[], servers(""), 422),
        // `hash` knows no backup servers.
        (
            "PUT",
            put,
            &[],
            servers(r#"{"address":"127.0.0.1:80"},{"address":"127.0.0.1:81","backup":true}"#),
            422,
        ),
        ("PUT", put, &[], megabyte, 413),
        (
            "PUT",
            "/v1/upstreams/web/releases/a%2Fb",
            &[],
            servers(r#"{"address":"127.0.0.1:80"}"#),
            400,
        ),
        (
            "PUT",
            "/v1/upstreams/none/releases/c",
            &[],
            servers(r#"{"address":"127.0.0.1:80"}"#),
            404,
        ),
        ("POST", switch, &[], r#"{"release":"none"}"#.to_owned(), 404),
        ("POST", switch, &[], r#"{"release":"b","at":"noon"}"#.to_owned(), 422),
        ("POST", switch, &[("If-Match", "\"99\"")], r#"{"release":"b"}"#.to_owned(), 412),
        ("POST", switch, &[("If-Match", "2")], r#"{"release":"b"}"#.to_owned(), 400),
        ("POST", switch, &[("Transfer-Encoding", "chunked")], String::new(), 411),
        ("POST", "/v1/upstreams/none/switch", &[], r#"{"release":"b"}"#.to_owned(), 404),
        ("DELETE", "/v1/upstreams/web/releases/a", &[], String::new(), 409),
        ("DELETE", "/v1/upstreams/web/releases/none", &[], String::new(), 404),
        ("GET", "/v1/upstreams/none", &[], String::new(), 404),
        ("GET", "/v1/upstreams/web?wait=drained&release=none", &[], String::new(), 404),
        ("GET", "/v1/upstreams/web?wait=forever", &[], String::new(), 400),
        ("GET", "/v2/", &[], String::new(), 404),
        ("GET", switch, &[], String::new(), 405),
        ("PATCH", "/v1/upstreams/web", &[], String::new(), 405),
    ];
    for (method, target, headers, body, status) in cases {
        let body = body.as_bytes();
        let response = if headers.iter().any(|(name, _)| *name == "Transfer-Encoding") {
            let mut connection = Connection::unix(&nginx.path("api.sock")).unwrap();
            connection.send(method, target, headers, b"").unwrap();
            connection.raw(b"0\r\n\r\n").unwrap();
            connection.receive().unwrap()
        } else {
            admin.ask(method, target, headers, body)
        };
        let short = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(response.status, status, "{method} {target} {short}: {}", response.text());
        let problem = problem(&response);
        if status == 405 {
            assert!(response.header("allow").is_some());
        }
        if status == 412 {
            assert_eq!(problem.upstream.unwrap().generation, before.generation);
        }
    }
    assert_eq!(admin.state("web"), before);
    assert_eq!(fs::read(nginx.path("state/state.json")).unwrap(), file);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p6_bad_canaries_and_holds_change_nothing(build: &Build) {
    let (nginx, _a) = start(build);
    let admin = nginx.admin();
    for release in ["b", "c"] {
        assert_eq!(admin.put("web", release, &["127.0.0.1:9".to_owned()]).status, 201);
    }
    let canary = "/v1/upstreams/web/canary";
    let hold = "/v1/upstreams/web/hold";
    // Once without any, and once with one of each: they stay as they are.
    for round in 0..2 {
        let before = admin.state("web");
        let file = fs::read(nginx.path("state/state.json")).unwrap();
        let stale = format!("\"{}\"", before.generation - 1);
        let stale = [("If-Match", stale.as_str())];
        let mut cases: Vec<Case> = Vec::new();
        for (body, status) in [
            ("", 411),
            ("0.5", 422),
            (r#"{"release":"b""#, 400),
            (r#"{"release":"b"}"#, 422),
            (r#"{"share":0.5}"#, 422),
            (r#"{"release":"b","share":-0.1}"#, 422),
            (r#"{"release":"b","share":1.0001}"#, 422),
            (r#"{"release":"b","share":0.00001}"#, 422),
            (r#"{"release":"b","share":"half"}"#, 422),
            (r#"{"release":"b","share":null}"#, 422),
            (r#"{"release":"b","share":1e400}"#, 400),
            (r#"{"release":"b","share":0.5,"until":"noon"}"#, 422),
            (r#"{"release":"none","share":0.5}"#, 404),
            (r#"{"release":"a/b","share":0.5}"#, 422),
            // The active one.
            (r#"{"release":"a","share":0.5}"#, 409),
        ] {
            cases.push(("PUT", canary, &[], body.to_owned(), status));
        }
        for (body, status) in [
            ("", 411),
            ("30", 422),
            (r#"{"timeout":"30s""#, 400),
            ("{}", 422),
            (r#"{"timeout":30}"#, 422),
            (r#"{"timeout":"soon"}"#, 422),
            (r#"{"timeout":"-1s"}"#, 422),
            (r#"{"timeout":"0s"}"#, 422),
            (r#"{"timeout":"61m"}"#, 422),
            (r#"{"timeout":"99999999999999999999s"}"#, 422),
            (r#"{"timeout":"30s","max":10}"#, 422),
        ] {
            cases.push(("PUT", hold, &[], body.to_owned(), status));
        }
        let (good_canary, good_hold) = (r#"{"release":"b","share":0.5}"#, r#"{"timeout":"30s"}"#);
        for (target, good) in [(canary, good_canary), (hold, good_hold)] {
            cases.push(("PUT", target, &stale, good.to_owned(), 412));
            cases.push(("PUT", target, &[("If-Match", "7")], good.to_owned(), 400));
            cases.push(("DELETE", target, &stale, String::new(), 412));
            cases.push(("POST", target, &[], good.to_owned(), 405));
            cases.push(("GET", target, &[], String::new(), 405));
        }
        for nowhere in ["/v1/upstreams/none/canary", "/v1/upstreams/none/previous"] {
            cases.push(("DELETE", nowhere, &[], String::new(), 404));
        }
        cases.push(("PUT", "/v1/upstreams/none/canary", &[], good_canary.to_owned(), 404));
        cases.push(("PUT", "/v1/upstreams/none/hold", &[], good_hold.to_owned(), 404));
        for (method, target, headers, body, status) in cases {
            let response = admin.ask(method, target, headers, body.as_bytes());
            let text = response.text();
            assert_eq!(response.status, status, "{method} {target} {headers:?} {body}: {text}");
            let problem = problem(&response);
            if status == 412 {
                assert_eq!(problem.upstream.unwrap().generation, before.generation);
            }
        }
        let now = admin.state("web");
        // Of a hold, the time that is left goes on.
        let hold_is = now.hold.is_some();
        assert_eq!(hold_is, before.hold.is_some());
        assert_eq!(shunt_api::Upstream { hold: before.hold, ..now }, before, "round {round}");
        assert_eq!(fs::read(nginx.path("state/state.json")).unwrap(), file);
        if round == 0 {
            // What is not there cannot be ended, and that is no change either.
            for target in [canary, hold] {
                assert_eq!(admin.ask("DELETE", target, &[], b"").status, 200);
            }
            assert_eq!(admin.state("web"), before);
            assert_eq!(admin.ask("PUT", canary, &[], good_canary.as_bytes()).status, 200);
            assert_eq!(admin.ask("PUT", hold, &[], br#"{"timeout":"30m"}"#).status, 200);
        }
    }
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p6_a_body_is_read_whole_however_it_arrives(build: &Build) {
    let (nginx, _a) = start(build);
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "b", &["127.0.0.1:9".to_owned()]).status, 201);
    let body = br#"{"release":"b"}"#;
    let head = format!(
        "POST /v1/upstreams/web/switch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    for split in 0..=body.len() {
        admin.switch("web", "a", None).unwrap();
        let mut connection = Connection::unix(&nginx.path("api.sock")).unwrap();
        let first = [head.as_bytes(), &body[..split]].concat();
        connection.raw(&first).unwrap();
        // A request in between gives NGINX the time to read the first part.
        let _ = admin.state("web");
        connection.raw(&body[split..]).unwrap();
        let response = connection.receive().unwrap();
        assert_eq!(response.status, 200, "split at {split}: {}", response.text());
    }
    // What follows a whole JSON text is not forgotten.
    let mut connection = Connection::unix(&nginx.path("api.sock")).unwrap();
    connection.raw(head.replace("15", "25").as_bytes()).unwrap();
    connection.raw(body).unwrap();
    connection.raw(b"   garbage").unwrap();
    assert_eq!(connection.receive().unwrap().status, 400);
    // Far more than fits beside the head of a request.
    let many: Vec<String> = (1..=256).map(|port| format!("127.0.0.1:{port}")).collect();
    assert_eq!(admin.put("web", "c", &many).status, 201);
    assert_eq!(admin.state("web").release("c").unwrap().servers.len(), 256);
}

fn the_api_answers_inside_of_if_and_limit_except(build: &Build) {
    let a = Backend::start("a", 1);
    let http = format!(
        "{STANDARD} upstream web {{ shunt;\n{} }}
         server {{ listen unix:%FOLDER%/odd.sock;
             location / {{ shunt_api write=on; limit_except GET {{ allow all; }} if ($host = test) {{ set $x 1; }} }} }}",
        a.lines()
    );
    let nginx = Nginx::start(build, Setup { http, workers: 1 });
    let odd = shunt_tests::admin::Admin::new(&nginx.path("odd.sock"));
    assert_eq!(odd.switch("web", "a", None).unwrap().generation, 1);
    assert_eq!(odd.index().workers, 1);
}

fn a_host_name_is_refused_with_advice(build: &Build) {
    let (nginx, _a) = start(build);
    let response = nginx.admin().put("web", "b", &["localhost:3000".to_owned()]);
    let problem = problem(&response);
    assert!(problem.detail.contains("resolve it first"), "{problem}");
}

fn p6_the_same_again_changes_nothing(build: &Build) {
    let (nginx, _a) = start(build);
    let admin = nginx.admin();
    let servers = ["127.0.0.1:9".to_owned()];
    assert_eq!(admin.put("web", "b", &servers).status, 201);
    let before = admin.state("web");
    assert_eq!(admin.put("web", "b", &servers).status, 200);
    assert_eq!(admin.switch("web", "a", None).unwrap().generation, before.generation);
    assert_eq!(admin.state("web"), before);
}

fn p11_whoever_has_no_right_changes_and_learns_nothing(build: &Build) {
    let a = Backend::start("a", 1);
    let port = free_port();
    let token_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(token_file.path(), "correct-horse-battery\n").unwrap();
    let http = format!(
        "{STANDARD} upstream web {{ shunt;\n{} }}
         server {{ listen 127.0.0.1:{port}; location / {{ shunt_api write=on token_file={}; }} }}",
        a.lines(),
        token_file.path().display()
    );
    let nginx = Nginx::start(build, Setup { http, workers: 2 });
    let admin = nginx.admin();
    let before = admin.state("web");
    let body = br#"{"release":"a"}"#;

    // Where `write` is off, nobody may write, root included; the upstream need not exist.
    for upstream in ["web", "none"] {
        let target = format!("/read/v1/upstreams/{upstream}/switch");
        let response = admin.ask("POST", &target, &[], body);
        assert_eq!(problem(&response).detail, "you may read here, but change nothing");
        assert_eq!(response.status, 403);
    }
    assert_eq!(admin.ask("GET", "/read/v1/upstreams/web", &[], b"").status, 200);

    // Over TCP a token is needed, and it must be the right one.
    let ask = |authorization: Option<&str>| {
        let mut connection = Connection::tcp(port).unwrap();
        let headers: Vec<_> = authorization.iter().map(|a| ("Authorization", *a)).collect();
        connection.send("POST", "/v1/upstreams/none/switch", &headers, body).unwrap();
        connection.receive().unwrap()
    };
    for wrong in [
        None,
        Some("Bearer wrong"),
        Some("Bearer correct-horse-batterx"),
        Some("Bearer "),
        Some("Basic correct-horse-battery"),
        Some("correct-horse-battery"),
    ] {
        let response = ask(wrong);
        assert_eq!(problem(&response).status, 401, "{wrong:?}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    }
    // With it, one learns that there is no such upstream.
    assert_eq!(ask(Some("Bearer correct-horse-battery")).status, 404);
    assert_eq!(admin.state("web"), before);

    // Another user than root, over the unix socket, which is open to all.
    if rustix::process::geteuid().is_root() {
        let ask = own("shunt-ask");
        // A user who may not look into root's folders needs the program elsewhere.
        let folder = tempfile::Builder::new().prefix("shunt").tempdir_in("/tmp").unwrap();
        let program = folder.path().join("ask");
        fs::copy(ask, &program).unwrap();
        for path in [nginx.folder(), folder.path()] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(path, mode).unwrap();
        }
        let run = |uid: u32, method: &str, target: &str| {
            let mut command = Command::new(&program);
            command.arg(nginx.path("api.sock")).args([method, target, r#"{"release":"a"}"#]);
            command.uid(uid).gid(uid);
            let output = command.output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        assert_eq!(run(65534, "POST", "/v1/upstreams/web/switch"), "403");
        assert_eq!(run(65534, "POST", "/v1/upstreams/none/switch"), "403");
        assert_eq!(run(65534, "GET", "/v1/upstreams/web"), "200");
        assert_eq!(run(0, "POST", "/v1/upstreams/web/switch"), "200");
    }
}

fn p11_a_refusal_is_the_same_whatever_there_is(build: &Build) {
    let a = Backend::start("a", 1);
    let port = free_port();
    let token_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(token_file.path(), "correct-horse-battery\n").unwrap();
    let http = format!(
        "{STANDARD} upstream web {{ shunt;\n{} }}
         server {{ listen 127.0.0.1:{port}; location / {{ shunt_api write=on token_file={}; }} }}",
        a.lines(),
        token_file.path().display()
    );
    let nginx = Nginx::start(build, Setup { http, workers: 2 });
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "b", &["127.0.0.1:9".to_owned()]).status, 201);
    let before = admin.state("web");

    // Each call for what there is and what there is not, with what is right and what is wrong.
    let good = br#"{"release":"b","share":0.5,"timeout":"1s","servers":[]}"#;
    let large = vec![b' '; shunt_api::MAX_BODY + 1];
    let bodies: [&[u8]; 4] = [good, b"{", b"", &large];
    let conditions: [&[(&str, &str)]; 3] =
        [&[], &[("If-Match", "\"2\"")], &[("If-Match", "\"99\"")]];
    let calls = ["web", "none"].into_iter().flat_map(|upstream| {
        let release = move |r: &str| format!("/v1/upstreams/{upstream}/releases/{r}");
        let of = move |what: &str| format!("/v1/upstreams/{upstream}/{what}");
        ["a", "b", "none"]
            .into_iter()
            .flat_map(move |r| [("PUT", release(r)), ("DELETE", release(r))])
            .chain([("POST", of("switch")), ("PUT", of("canary")), ("DELETE", of("canary"))])
            .chain([("PUT", of("hold")), ("DELETE", of("hold")), ("DELETE", of("previous"))])
    });
    let calls: Vec<(&str, String)> = calls.collect();
    let unix = |prefix: &'static str| {
        let socket = nginx.path("api.sock");
        move || (Connection::unix(&socket).unwrap(), prefix)
    };
    type Open<'a> = Box<dyn Fn() -> (Connection, &'static str) + 'a>;
    let ways: [(u16, Open); 2] =
        [(403, Box::new(unix("/read"))), (401, Box::new(|| (Connection::tcp(port).unwrap(), "")))];
    for (status, open) in ways {
        let mut said: Option<(Vec<(String, String)>, String)> = None;
        for (method, target) in &calls {
            for body in bodies {
                for condition in conditions {
                    let (mut connection, prefix) = open();
                    // The server may refuse before all of it is sent.
                    let _ = connection.send(method, &format!("{prefix}{target}"), condition, body);
                    let mut response = connection.receive().unwrap();
                    assert_eq!(response.status, status, "{method} {target}");
                    response.headers.retain(|(name, _)| !["date", "connection"].contains(&&**name));
                    let this = (response.headers.clone(), response.text());
                    assert_eq!(*said.get_or_insert(this.clone()), this, "{method} {target}");
                }
            }
        }
    }
    assert_eq!(admin.state("web"), before);
}

fn p11_a_named_user_may_write(build: &Build) {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else; this user may write to what it runs itself.
        return;
    }
    let a = Backend::start("a", 1);
    let http = format!(
        "{} upstream web {{ shunt;\n{} }}",
        STANDARD.replace("shunt_api write=on;", "shunt_api write=on user=nobody;"),
        a.lines()
    );
    let nginx = Nginx::start(build, Setup { http, workers: 2 });
    let folder = tempfile::Builder::new().prefix("shunt").tempdir_in("/tmp").unwrap();
    let program = folder.path().join("ask");
    fs::copy(own("shunt-ask"), &program).unwrap();
    for path in [nginx.folder(), folder.path()] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    for (uid, status) in [(65534, "200"), (2, "403")] {
        let mut command = Command::new(&program);
        command.arg(nginx.path("api.sock"));
        command.args(["POST", "/v1/upstreams/web/switch", r#"{"release":"a"}"#]);
        let output = command.uid(uid).gid(uid).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), status, "user {uid}");
    }
}

each_nginx!(
    p6_bad_input_changes_nothing,
    p6_bad_canaries_and_holds_change_nothing,
    p6_a_body_is_read_whole_however_it_arrives,
    the_api_answers_inside_of_if_and_limit_except,
    a_host_name_is_refused_with_advice,
    p6_the_same_again_changes_nothing,
    p11_whoever_has_no_right_changes_and_learns_nothing,
    p11_a_refusal_is_the_same_whatever_there_is,
    p11_a_named_user_may_write,
);
