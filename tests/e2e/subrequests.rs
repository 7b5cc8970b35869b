//! One request that goes to several switchable upstreams, or several times to one: each counts it
//! once, each is switched by itself, and the variables tell which upstream answers.

use shunt_api::InFlight;
use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::{Connection, Response};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests};
use shunt_tests::until;

/// The upstreams `web` (releases `a`, `b`) and `shop` (`s`, `t`), each release with its servers.
struct Two {
    nginx: Nginx,
    ways: Admin,
    a: Backend,
    s: Backend,
}

/// One worker, so that one log tells everything in its order.
fn start(build: &Build, locations: &str) -> Two {
    let [a, b, s, t] = ["a", "b", "s", "t"].map(|release| Backend::start(release, 2));
    let more = format!(
        "upstream web {{ shunt;\n{}{} }}
         upstream shop {{ shunt;\n{}{} }}
         log_format served '$uri $shunt_upstream/$shunt_release/$shunt_generation';
         server {{ listen unix:%FOLDER%/ways.sock;
             access_log %FOLDER%/served.log served;
             add_header X-Served \"$shunt_upstream/$shunt_release/$shunt_generation\" always;
             location / {{ proxy_pass http://web; }}
             location /shop/ {{ proxy_pass http://shop/; }}
             {locations} }}",
        a.lines(),
        b.lines(),
        s.lines(),
        t.lines()
    );
    let setup = Setup { workers: 1, ..Setup::standard(&more) };
    let nginx = Nginx::start(build, setup);
    let ways = Admin::new(&nginx.path("ways.sock"));
    Two { nginx, ways, a, s }
}

impl Two {
    fn get(&self, path: &str) -> Response {
        self.ways.ask("GET", path, &[], b"")
    }

    fn switch(&self, upstream: &str, release: &str) {
        self.nginx.admin().switch(upstream, release, None).unwrap();
    }

    /// How many requests each release was given, when all have ended.
    #[track_caller]
    fn counts(&self) -> [u64; 4] {
        nothing_in_flight(&self.nginx, "web");
        nothing_in_flight(&self.nginx, "shop");
        let both = ["web", "shop"].map(|upstream| requests(&self.nginx, upstream));
        let [web, shop] = both.map(|releases| [releases[0].1, releases[1].1]);
        [web[0], web[1], shop[0], shop[1]]
    }

    /// What was logged of the last request, which is done when its line is there.
    #[track_caller]
    fn logged(&self, lines: usize) -> String {
        until("the request is logged", || {
            let log = std::fs::read_to_string(self.nginx.path("served.log")).unwrap_or_default();
            (log.lines().count() == lines).then(|| log.lines().last().unwrap().to_owned())
        })
    }
}

fn an_accel_redirect_leads_to_another_switchable_upstream(build: &Build) {
    let two = start(
        build,
        "location /from/ { proxy_set_header X-Answer 'X-Accel-Redirect: /to/held'; \
             proxy_pass http://web; }
         location /to/ { internal; proxy_pass http://shop/; }",
    );
    let answer = two.get("/from/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "s"));
    assert_eq!(answer.header("x-served"), Some("shop/s/1"));
    assert_eq!(two.logged(1), "/to/held shop/s/1");
    assert_eq!(two.counts(), [1, 0, 1, 0]);

    // It holds on to both until it ends, and each of them is switched by itself.
    two.s.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| two.get("/from/"));
        until("the request is held", || (two.s.held() == 1).then_some(()));
        two.switch("web", "b");
        two.switch("shop", "t");
        let one = InFlight { requests: 1, upgraded: 0 };
        assert_eq!(two.nginx.admin().in_flight("web", "a"), one);
        assert_eq!(two.nginx.admin().in_flight("shop", "s"), one);
        assert_eq!(two.get("/from/").header("x-served"), Some("shop/t/2"));
        two.s.let_go();
        assert_eq!(held.join().unwrap().header("x-served"), Some("shop/s/1"));
    });
    assert_eq!(two.counts(), [2, 1, 2, 1]);
    assert_eq!(two.nginx.complaints(), [] as [String; 0]);
}

fn an_accel_redirect_back_to_the_same_upstream_keeps_the_release(build: &Build) {
    let two = start(
        build,
        "location /from/ { proxy_set_header X-Answer 'X-Accel-Redirect: /to/'; \
             proxy_pass http://web/held; }
         location /to/ { internal; proxy_pass http://web/; }",
    );
    two.a.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| two.get("/from/"));
        until("the request is held", || (two.a.held() == 1).then_some(()));
        two.switch("web", "b");
        two.a.let_go();
        let answer = held.join().unwrap();
        assert_eq!((answer.release(), answer.header("x-served")), ("a", Some("web/a/1")));
    });
    assert_eq!(two.counts(), [1, 0, 0, 0]);
}

fn includes_come_from_the_release_that_the_page_came_from(build: &Build) {
    let two = start(
        build,
        "ssi_types *;
         location /page/ { ssi on; proxy_set_header X-Body '<!--#include virtual=\"/\" --> \
             <!--#include virtual=\"/part/\" --> <!--#include virtual=\"/shop/\" -->';
             proxy_pass http://web/; }
         location /part/ { proxy_pass http://web/held; }",
    );
    let answer = two.get("/page/");
    assert_eq!(answer.text(), "a a s");
    assert_eq!(answer.header("x-served"), Some("web/a/1"));
    assert_eq!(two.logged(1), "/page/ web/a/1", "the log tells where the page came from");
    assert_eq!(two.counts(), [1, 0, 1, 0]);

    two.a.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| two.get("/page/"));
        until("a part is held", || (two.a.held() == 1).then_some(()));
        two.switch("web", "b");
        two.a.let_go();
        assert_eq!(
            held.join().unwrap().text(),
            "a a s",
            "the parts of one page are of one release"
        );
    });
    assert_eq!(two.counts(), [2, 0, 2, 0]);
    assert_eq!(two.nginx.complaints(), [] as [String; 0]);
}

fn what_goes_wrong_with_a_subrequest_that_was_parked_is_logged_as_its_own(build: &Build) {
    let two = start(
        build,
        "location /main/ { mirror /copy/; proxy_pass http://web/held; }
         location /copy/ { internal; shunt_hold shop; proxy_pass http://shop/; }",
    );
    let admin = two.nginx.admin();
    let gone = two.nginx.path("gone.sock");
    assert_eq!(admin.put("shop", "gone", &[format!("unix:{}", gone.display())]).status, 201);
    two.switch("shop", "gone");
    let hold = "/v1/upstreams/shop/hold";
    assert_eq!(admin.ask("PUT", hold, &[], br#"{"timeout":"1h"}"#).status, 200);
    two.a.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| two.get("/main/"));
        until("the copy is parked", || (admin.state("shop").parked == 1).then_some(()));
        until("the main request is held", || (two.a.held() == 1).then_some(()));
        assert_eq!(admin.ask("DELETE", hold, &[], b"").status, 200);
        let line = until("it is logged", || {
            let log = two.nginx.log();
            log.lines().find(|line| line.contains("gone.sock failed")).map(ToOwned::to_owned)
        });
        two.a.let_go();
        assert_eq!(held.join().unwrap().status, 200);
        assert!(line.contains("subrequest: \"/copy/\""), "{line}");
    });
}

fn a_mirror_goes_to_an_upstream_of_its_own(build: &Build) {
    let two = start(
        build,
        "location /main/ { mirror /copy/; proxy_pass http://web/held; }
         location /copy/ { internal; proxy_pass http://shop/held; }",
    );
    // Both are held, so both have chosen when the answer of either is there.
    two.a.hold();
    two.s.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| two.get("/main/"));
        until("both are held", || ((two.a.held(), two.s.held()) == (1, 1)).then_some(()));
        two.switch("shop", "t");
        let one = InFlight { requests: 1, upgraded: 0 };
        assert_eq!(two.nginx.admin().in_flight("web", "a"), one);
        assert_eq!(two.nginx.admin().in_flight("shop", "s"), one);
        two.a.let_go();
        let answer = held.join().unwrap();
        assert_eq!((answer.release(), answer.header("x-served")), ("a", Some("web/a/1")));
        two.s.let_go();
    });
    assert_eq!(two.logged(1), "/main/ web/a/1");
    assert_eq!(two.get("/main/").release(), "a");
    assert_eq!(two.counts(), [2, 0, 1, 1]);
    assert_eq!(two.nginx.complaints(), [] as [String; 0]);
}

fn an_upgraded_connection_counts_where_its_tunnel_is(build: &Build) {
    let two = start(
        build,
        "location /ws { mirror /copy/; proxy_http_version 1.1; proxy_set_header Connection upgrade;
             proxy_set_header Upgrade $http_upgrade; proxy_pass http://web; }
         location /copy/ { internal; proxy_pass http://shop/held; }",
    );
    // The copy has not ended when the tunnel is made, so its claim is the later one.
    two.s.hold();
    let mut tunnel = Connection::unix(&two.nginx.path("ways.sock")).unwrap();
    tunnel.send("GET", "/ws", &[("Upgrade", "websocket"), ("Connection", "Upgrade")], b"").unwrap();
    let answer = tunnel.receive().unwrap();
    assert_eq!((answer.status, answer.header("x-served")), (101, Some("web/a/1")));
    let admin = two.nginx.admin();
    assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 0, upgraded: 1 });
    assert_eq!(admin.in_flight("shop", "s"), InFlight { requests: 1, upgraded: 0 });
    tunnel.raw(b"hello").unwrap();
    assert_eq!(tunnel.read(5).unwrap(), b"hello");
    two.s.let_go();
    drop(tunnel);
    assert_eq!(two.counts(), [1, 0, 1, 0]);
}

fn the_one_who_authorises_is_switched_by_itself(build: &Build) {
    let two = start(
        build,
        "location /main/ { auth_request /auth/; auth_request_set $auth $shunt_release;
             add_header X-Auth $auth; add_header X-Served $shunt_upstream/$shunt_release;
             error_page 401 403 = @refused; proxy_pass http://web/; }
         location /auth/ { internal; proxy_pass http://shop/held; }
         location @refused { proxy_pass http://web; }",
    );
    let said = |answer: &Response| {
        assert_eq!(answer.status, 200);
        ["x-auth", "x-served"].map(|name| answer.header(name).unwrap().to_owned())
    };
    assert_eq!(said(&two.get("/main/")), ["s", "web/a"]);
    two.s.hold();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| two.get("/main/"));
        until("the request is held", || (two.s.held() == 1).then_some(()));
        two.switch("shop", "t");
        // The release is chosen when the request goes there.
        two.switch("web", "b");
        assert_eq!(said(&two.get("/main/")), ["t", "web/b"]);
        two.s.let_go();
        assert_eq!(said(&held.join().unwrap()), ["s", "web/b"]);
    });
    assert_eq!(two.counts(), [1, 2, 2, 1]);
    assert_eq!(two.nginx.complaints(), [] as [String; 0]);
}

fn an_error_page_in_a_named_location_is_counted_once(build: &Build) {
    let two = start(
        build,
        "location /missing/ { proxy_intercept_errors on; error_page 404 = @again;
             proxy_pass http://web; }
         location @again { rewrite ^ /other break; proxy_pass http://web; }
         location /missing-there/ { proxy_intercept_errors on; error_page 404 = @there;
             proxy_pass http://web; }
         location @there { rewrite ^ /other break; proxy_pass http://shop; }
         location /missing-here/ { proxy_intercept_errors on; error_page 404 = @here;
             proxy_pass http://web; }
         location @here { return 200 'a page'; }
         location /tried/ { try_files /nothing @again; }",
    );
    for (path, served) in [
        ("/missing/", "web/a/1"),
        ("/missing-there/", "shop/s/1"),
        ("/missing-here/", "web/a/1"),
        ("/tried/", "web/a/1"),
    ] {
        let answer = two.get(path);
        assert_eq!((answer.status, answer.header("x-served")), (200, Some(served)), "{path}");
    }
    assert_eq!(two.counts(), [4, 0, 1, 0]);
}

fn the_variables_are_of_the_upstream_that_answers(build: &Build) {
    let plain = Backend::start("plain", 1);
    let two = start(
        build,
        &format!(
            "location /there-and-back/ {{ proxy_set_header X-Answer 'X-Accel-Redirect: /two/'; \
                 proxy_pass http://web; }}
             location /two/ {{ internal; proxy_set_header X-Answer 'X-Accel-Redirect: /three/'; \
                 proxy_pass http://shop; }}
             location /three/ {{ internal; proxy_pass http://web; }}
             location /out/ {{ proxy_set_header X-Answer 'X-Accel-Redirect: /plain/'; \
                 proxy_pass http://web; }}
             location /plain/ {{ proxy_pass http://{0}; }}
             location /auth/ {{ internal; proxy_pass http://shop; }}
             location /file/ {{ auth_request /auth/; return 200; }}
             location /after/ {{ auth_request /auth/; proxy_pass http://{0}; }}",
            plain.addresses[0]
        ),
    );
    for (path, served) in [
        ("/there-and-back/", "web/a/1"),
        ("/out/", "//"),
        ("/plain/", "//"),
        ("/after/", "//"),
        ("/", "web/a/1"),
    ] {
        let answer = two.get(path);
        assert_eq!((answer.status, answer.header("x-served")), (200, Some(served)), "{path}");
    }
}

fn the_variables_are_empty_until_a_request_goes_upstream(build: &Build) {
    let two = start(
        build,
        "location /early/ { set $early \"<$shunt_upstream$shunt_release$shunt_generation>\";
             proxy_set_header X-Answer \"X-Sent: <$shunt_release>\";
             add_header X-Early $early; proxy_pass http://web; }",
    );
    let answer = two.get("/early/");
    assert_eq!(answer.header("x-early"), Some("<>"));
    assert_eq!(
        answer.header("x-sent"),
        Some("<>"),
        "a release is chosen after its request is made"
    );
}

each_nginx!(
    an_accel_redirect_leads_to_another_switchable_upstream,
    an_accel_redirect_back_to_the_same_upstream_keeps_the_release,
    includes_come_from_the_release_that_the_page_came_from,
    what_goes_wrong_with_a_subrequest_that_was_parked_is_logged_as_its_own,
    a_mirror_goes_to_an_upstream_of_its_own,
    an_upgraded_connection_counts_where_its_tunnel_is,
    the_one_who_authorises_is_switched_by_itself,
    an_error_page_in_a_named_location_is_counted_once,
    the_variables_are_of_the_upstream_that_answers,
    the_variables_are_empty_until_a_request_goes_upstream,
);
