//! A cache in front of a switchable upstream: what it has is served without a release, and what it
//! fetches behind a client's back is in flight like anything else.

use shunt_api::InFlight;
use shunt_tests::admin::Admin;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests};
use shunt_tests::until;

/// NGINX with a cache in front of releases `a` and `b` of `web`.
///
/// Answers for `/held` are too old as soon as they are stored, those for `/held/fresh` never.
fn start(build: &Build, cache: &str) -> (Nginx, Admin, Backend, Backend) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 2));
    let more = format!(
        "upstream web {{ shunt;\n{}{} keepalive 4; }}
         proxy_cache_path %FOLDER%/cache keys_zone=cache:1m;
         server {{ listen unix:%FOLDER%/ways.sock;
             add_header X-Cache $upstream_cache_status;
             add_header X-Served $shunt_release;
             proxy_cache cache; proxy_http_version 1.1; proxy_set_header Connection '';
             {cache}
             location = /running {{ return 200 $connections_writing; }}
             location / {{ proxy_set_header X-Answer 'X-Accel-Expires: @1'; proxy_pass http://web; }}
             location /held/fresh {{ proxy_set_header X-Answer 'X-Accel-Expires: 3600';
                 proxy_pass http://web; }} }}",
        a.lines(),
        b.lines()
    );
    let nginx = Nginx::start(build, Setup::standard(&more));
    let ways = Admin::new(&nginx.path("ways.sock"));
    (nginx, ways, a, b)
}

/// The cache's verdict and the release that the answer once came from.
fn ask(ways: &Admin, path: &str) -> [String; 2] {
    let answer = ways.ask("GET", path, &[], b"");
    assert_eq!(answer.status, 200);
    [answer.header("x-cache").unwrap().to_owned(), answer.text()]
}

/// How many requests run, this one left out.
fn running(ways: &Admin) -> usize {
    ways.ask("GET", "/running", &[], b"").text().parse::<usize>().unwrap() - 1
}

fn what_the_cache_has_needs_no_release(build: &Build) {
    let (nginx, ways, _a, _b) = start(build, "");
    assert_eq!(ask(&ways, "/held/fresh"), ["MISS", "a"]);
    nginx.admin().switch("web", "b", None).unwrap();
    let hit = ways.ask("GET", "/held/fresh", &[], b"");
    assert_eq!((hit.header("x-cache"), hit.text().as_str()), (Some("HIT"), "a"));
    assert_eq!(hit.header("x-served"), None, "no release has served it");
    // What is too old is asked for again, at the release that is active now.
    assert_eq!(ask(&ways, "/held"), ["MISS", "b"]);
    nginx.admin().switch("web", "a", None).unwrap();
    assert_eq!(ask(&ways, "/held"), ["EXPIRED", "a"]);
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn an_update_in_the_background_is_in_flight_until_it_ends(build: &Build) {
    let cache = "proxy_cache_background_update on; proxy_cache_use_stale updating;";
    let (nginx, ways, a, b) = start(build, cache);
    let admin = nginx.admin();
    assert_eq!(ask(&ways, "/held"), ["MISS", "a"]);
    nothing_in_flight(&nginx, "web");

    a.hold();
    // Answered from the cache at once; what it has begun goes on after that.
    assert_eq!(ask(&ways, "/held"), ["STALE", "a"]);
    until("the update is at release a", || (a.held() == 1).then_some(()));
    admin.switch("web", "b", None).unwrap();
    assert_eq!(ask(&ways, "/held"), ["UPDATING", "a"], "nobody else updates meanwhile");
    assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 1, upgraded: 0 });
    assert_eq!(admin.in_flight("web", "b"), InFlight::default());
    a.let_go();
    nothing_in_flight(&nginx, "web");

    // The next update is the new release's, and what it brought is served after it.
    b.hold();
    assert_eq!(ask(&ways, "/held"), ["STALE", "a"]);
    until("the update is at release b", || (b.held() == 1).then_some(()));
    assert_eq!(admin.in_flight("web", "b"), InFlight { requests: 1, upgraded: 0 });
    b.let_go();
    nothing_in_flight(&nginx, "web");
    assert_eq!(ask(&ways, "/held"), ["STALE", "b"]);
    // An update may begin after its client has the answer.
    until("the last update is counted", || (requests(&nginx, "web")[1].1 == 2).then_some(()));
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 2), ("b".to_owned(), 2)]);
    nothing_in_flight(&nginx, "web");
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn those_who_wait_for_the_caches_lock_are_not_in_flight(build: &Build) {
    const WAITING: usize = 8;
    let cache = "proxy_cache_lock on; proxy_cache_lock_timeout 30s; proxy_cache_lock_age 30s;";
    let (nginx, ways, a, _b) = start(build, cache);
    let admin = nginx.admin();
    a.hold();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&ways, "/held/fresh"));
        until("the first is held", || (a.held() == 1).then_some(()));
        let others: Vec<_> =
            (0..WAITING).map(|_| scope.spawn(|| ask(&ways, "/held/fresh"))).collect();
        until("the others wait", || (running(&ways) == 1 + WAITING).then_some(()));
        admin.switch("web", "b", None).unwrap();
        assert_eq!(admin.in_flight("web", "a"), InFlight { requests: 1, upgraded: 0 });
        assert_eq!(admin.in_flight("web", "b"), InFlight::default());
        a.let_go();
        assert_eq!(first.join().unwrap(), ["MISS", "a"]);
        for other in others {
            assert_eq!(other.join().unwrap(), ["HIT", "a"]);
        }
    });
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 1), ("b".to_owned(), 0)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

each_nginx!(
    what_the_cache_has_needs_no_release,
    an_update_in_the_background_is_in_flight_until_it_ends,
    those_who_wait_for_the_caches_lock_are_not_in_flight,
);
