//! P5, P2: a reload that gives upstreams another zone, or takes them away and brings them back.

use std::fs;

use shunt_api::{InFlight, ReleaseState, Upstream};
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::client::Connection;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::children;
use shunt_tests::scenario::nothing_in_flight;
use shunt_tests::until;

/// How the zone is declared.
const WITH: &str = "shunt_zone shunt:1m state=%STATE%;";
const WITHOUT: &str = "shunt_zone shunt:1m;";

/// Upstreams `web` (active is `c`, which the API made) and `shop` (active is `t`).
struct Two {
    nginx: Nginx,
    c: Backend,
    _others: Vec<Backend>,
}

fn start(build: &Build, zone: &str) -> Two {
    let [a, b, c, s, t] = ["a", "b", "c", "s", "t"].map(|release| Backend::start(release, 1));
    let more = format!(
        "upstream web {{ shunt;\n{}{} }}\n{} server {{ listen unix:%FOLDER%/shop.sock;
         location / {{ proxy_pass http://shop; }} }}",
        a.lines(),
        b.lines(),
        shop(&s, &t)
    );
    let mut setup = Setup::standard(&more);
    setup.http = setup.http.replace(WITH, zone);
    let nginx = Nginx::start(build, setup);
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "c", &c.addresses).status, 201);
    admin.switch("web", "c", None).unwrap();
    admin.switch("shop", "t", None).unwrap();
    Two { nginx, c, _others: vec![a, b, s, t] }
}

fn shop(s: &Backend, t: &Backend) -> String {
    format!("upstream shop {{ shunt;\n{}{} }}", s.lines(), t.lines())
}

impl Two {
    /// Replaces a text of the configuration, which is then loaded.
    #[track_caller]
    fn reload(&mut self, from: &str, to: &str) {
        let http = self.nginx.http();
        assert!(http.contains(from), "{from} is not in\n{http}");
        let http = http.replace(from, to);
        self.nginx.set_http(&http);
        self.nginx.reload();
    }

    /// Nothing has changed since the start but figures.
    #[track_caller]
    fn check(&self) {
        let admin = self.nginx.admin();
        let (web, shop) = (admin.state("web"), admin.state("shop"));
        assert_eq!((web.generation, web.active.unwrap().as_str()), (3, "c"));
        assert_eq!((shop.generation, shop.active.unwrap().as_str()), (2, "t"));
        assert_eq!((web.previous.unwrap().as_str(), shop.previous.unwrap().as_str()), ("a", "s"));
        let shop = Connection::unix(&self.nginx.path("shop.sock")).unwrap().ask("GET", "/", b"");
        assert_eq!(shop.unwrap().release(), "t");
        assert_eq!(self.nginx.connect().ask("GET", "/", b"").unwrap().release(), "c");
    }

    fn saved(&self) -> String {
        fs::read_to_string(self.nginx.path("state/state.json")).unwrap()
    }
}

fn p5_a_zone_grows_and_shrinks_with_its_state(build: &Build) {
    for zone in [WITH, WITHOUT] {
        let mut two = start(build, zone);
        for (from, to) in [("shunt:1m", "shunt:2m"), ("shunt:2m", "shunt:64k")] {
            // An old worker has the head of a change, and gets its body after the reload.
            let mut late = Connection::unix(&two.nginx.path("api.sock")).unwrap();
            late.raw(
                b"POST /v1/upstreams/web/switch HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{",
            )
            .unwrap();
            let _ = two.nginx.admin().state("web");
            two.reload(from, to);
            two.check();
            late.raw(b"\"release\":\"a\"}").unwrap();
            let response = late.receive().unwrap();
            assert_eq!(response.status, 409, "{}", response.text());
            two.check();
        }
        assert_eq!(two.nginx.admin().index().zones[0].size, 64 << 10);
    }
}

fn p5_a_zone_that_would_be_too_small_is_refused_with_the_size_that_would_do(build: &Build) {
    let mut two = start(build, WITH);
    for n in 0..30 {
        let server = [format!("127.0.0.1:{}", n + 1)];
        assert_eq!(two.nginx.admin().put("web", &format!("r{n}"), &server).status, 201);
    }
    let (good, saved) = (two.nginx.http().to_owned(), two.saved());
    two.nginx.set_http(&good.replace("shunt:1m", "shunt:32k"));
    // As with all that NGINX says of a zone: where the new configuration wants it.
    let log = two.nginx.path("new.log");
    two.nginx.set_main(&format!("{}\nerror_log {};", two.nginx.main(), log.display()));
    let said = two.nginx.reload_refused();
    assert!(fs::read_to_string(log).unwrap().contains("do not fit into zone \"shunt\""));
    assert!(said.contains("upstreams do not fit into zone \"shunt\": the zone is full"), "{said}");
    let advice = said.split("; \"shunt_zone ").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(two.nginx.admin().state("web").generation, 33);
    assert_eq!(two.saved(), saved);
    let smaller = good.replace("shunt:1m", advice);
    two.nginx.set_http(&smaller);
    two.nginx.reload();
    let state = two.nginx.admin().state("web");
    assert_eq!((state.generation, state.releases.len()), (33, 33));
    assert_eq!(state.active.unwrap().as_str(), "c");
}

fn p5_a_zone_of_another_name_has_the_state(build: &Build) {
    for zone in [WITH, WITHOUT] {
        let mut two = start(build, zone);
        two.check();
        let before = nothing_in_flight(&two.nginx, "web");
        two.reload("shunt_zone shunt:1m", "shunt_zone other:1m");
        let now = nothing_in_flight(&two.nginx, "web");
        // The figures, too.
        assert_eq!(now, before);
        two.check();
        assert_eq!(two.nginx.admin().switch("web", "a", None).unwrap().generation, 4);
    }
}

fn p5_a_state_file_that_a_reload_names_is_written(build: &Build) {
    let mut two = start(build, WITHOUT);
    two.reload(WITHOUT, WITH);
    two.check();
    two.nginx.quit();
    two.nginx.run();
    two.check();
    // Also when there is an older one already.
    fs::copy(two.nginx.path("state/state.json"), two.nginx.path("state/older.json")).unwrap();
    two.nginx.admin().switch("web", "a", None).unwrap();
    two.nginx.admin().switch("web", "c", None).unwrap();
    two.reload("%STATE%", "%FOLDER%/state/older.json");
    two.nginx.quit();
    two.nginx.run();
    let state = two.nginx.admin().state("web");
    assert_eq!((state.generation, state.active.unwrap().as_str()), (5, "c"));
}

fn p5_an_upstream_moves_to_another_zone_and_back(build: &Build) {
    for zone in [WITH, WITHOUT] {
        let mut two = start(build, zone);
        let both = format!("{zone} shunt_zone more:1m state=%FOLDER%/state/more.json;");
        // `shop` has to say which zone is meant as soon as there are two.
        let http = two.nginx.http().replace(zone, &both);
        let http = http.replace("upstream shop { shunt;", "upstream shop { shunt zone=shunt;");
        two.nginx.set_http(&http);
        two.reload("upstream web { shunt;", "upstream web { shunt zone=more;");
        two.check();
        let used = |two: &Two| {
            let zones = two.nginx.admin().index().zones;
            [zones[0].upstreams.used, zones[1].upstreams.used]
        };
        assert_eq!(used(&two), [1, 1], "it is not in the zone where it was");
        two.nginx.admin().switch("web", "b", None).unwrap();
        two.nginx.admin().switch("web", "c", None).unwrap();
        // Back, where an older state of it must not be found.
        two.reload("upstream web { shunt zone=more;", "upstream web { shunt zone=shunt;");
        let state = two.nginx.admin().state("web");
        assert_eq!((state.generation, state.active.unwrap().as_str()), (5, "c"));
        assert_eq!(state.previous.unwrap().as_str(), "b");
        assert_eq!(used(&two), [2, 0]);
        if zone == WITH {
            let more = fs::read_to_string(two.nginx.path("state/more.json")).unwrap();
            assert!(two.saved().contains("\"web\"") && !more.contains("\"web\""));
            two.nginx.quit();
            two.nginx.run();
            assert_eq!(two.nginx.admin().state("web").active.unwrap().as_str(), "c");
        }
        assert_eq!(two.nginx.complaints(), [] as [String; 0]);
    }
}

fn p5_an_upstream_that_was_taken_away_is_as_it_was_when_it_is_back(build: &Build) {
    for zone in [WITH, WITHOUT] {
        let mut two = start(build, zone);
        let whole = two.nginx.http().to_owned();
        let at = whole.find("upstream shop").unwrap();
        two.nginx.set_http(&whole[..at]);
        two.nginx.reload();
        let response = two.nginx.admin().ask("GET", "/v1/upstreams/shop", &[], b"");
        assert_eq!(response.status, 404, "{}", response.text());
        two.nginx.admin().switch("web", "b", None).unwrap();
        two.nginx.admin().switch("web", "c", None).unwrap();
        two.nginx.set_http(&whole);
        two.nginx.reload();
        let shop = two.nginx.admin().state("shop");
        assert_eq!((shop.generation, shop.active.unwrap().as_str()), (2, "t"));
        let web = two.nginx.admin().state("web");
        assert_eq!((web.generation, web.active.unwrap().as_str()), (5, "c"));
        assert_eq!(two.nginx.complaints(), [] as [String; 0]);
    }
    // A restart without it forgets it, and says so.
    let mut two = start(build, WITH);
    let whole = two.nginx.http().to_owned();
    two.nginx.set_http(&whole[..whole.find("upstream shop").unwrap()]);
    two.nginx.quit();
    two.nginx.run();
    let said = "upstream \"shop\" of the state file is not in the configuration, dropped";
    assert!(two.nginx.log().contains(said));
    two.nginx.set_http(&whole);
    two.nginx.reload();
    let shop = two.nginx.admin().state("shop");
    assert_eq!((shop.generation, shop.active.unwrap().as_str()), (1, "s"));
}

fn p2_what_workers_of_an_old_zone_have_in_flight_is_not_drained(build: &Build) {
    for (from, to) in [("shunt:1m", "shunt:2m"), ("shunt_zone shunt", "shunt_zone other")] {
        let mut two = start(build, WITH);
        two.c.hold();
        let mut held = two.nginx.connect();
        held.send("GET", "/held", &[], b"").unwrap();
        let mut tunnel = two.nginx.connect();
        tunnel
            .send("GET", "/ws", &[("Upgrade", "websocket"), ("Connection", "Upgrade")], b"")
            .unwrap();
        assert_eq!(tunnel.receive().unwrap().status, 101);
        until("the request is held", || (two.c.held() == 1).then_some(()));
        two.nginx.admin().switch("web", "a", None).unwrap();
        two.reload(from, to);
        // Also through the next reload.
        two.nginx.reload();
        let admin = two.nginx.admin();
        let c = |state: &Upstream| state.release("c").unwrap().clone();
        let now = c(&admin.state("web"));
        assert_eq!(now.in_flight, InFlight { requests: 1, upgraded: 1 });
        assert_eq!(now.state, ReleaseState::Draining);
        let refused = admin.ask("DELETE", "/v1/upstreams/web/releases/c", &[], b"");
        assert_eq!(refused.status, 409, "{}", refused.text());

        let other = admin.clone();
        let waiting = std::thread::spawn(move || {
            let target = "/v1/upstreams/web?wait=drained&release=c&timeout=60s";
            other.ask("GET", target, &[], b"")
        });
        two.c.let_go();
        assert_eq!(held.receive().unwrap().release(), "c");
        tunnel.raw(b"still here").unwrap();
        assert_eq!(tunnel.read(10).unwrap(), b"still here");
        assert!(!waiting.is_finished(), "called drained with an upgraded connection");
        drop((held, tunnel));
        let state: Upstream = serde_json::from_slice(&waiting.join().unwrap().body).unwrap();
        assert_eq!(c(&state).in_flight, InFlight::default());
        until("the old workers end", || (children(two.nginx.master()).len() == 4).then_some(()));
        assert_eq!(admin.ask("DELETE", "/v1/upstreams/web/releases/c", &[], b"").status, 200);
    }
}

fn p2_what_a_worker_cuts_off_at_its_end_is_not_in_flight(build: &Build) {
    let mut two = start(build, WITH);
    two.nginx.set_main("worker_shutdown_timeout 300ms; user root root;");
    two.nginx.reload();
    two.c.hold();
    let mut held = two.nginx.connect();
    held.send("GET", "/held", &[], b"").unwrap();
    let mut tunnel = two.nginx.connect();
    tunnel.send("GET", "/ws", &[("Upgrade", "websocket"), ("Connection", "Upgrade")], b"").unwrap();
    assert_eq!(tunnel.receive().unwrap().status, 101);
    until("the request is held", || (two.c.held() == 1).then_some(()));
    two.nginx.admin().switch("web", "a", None).unwrap();
    let in_flight = two.nginx.admin().in_flight("web", "c");
    assert_eq!(in_flight, InFlight { requests: 1, upgraded: 1 });
    let admin = two.nginx.admin();
    let waiting = std::thread::spawn(move || {
        // Asked of an old worker, or soon one: it is cut off as well, or answers.
        until("an answer", || {
            let target = "/v1/upstreams/web?wait=drained&release=c&timeout=60s";
            admin.try_ask("GET", target, &[], b"").ok()
        })
    });
    two.nginx.reload();
    assert!(held.receive().is_err() && tunnel.read(1).is_err(), "they are cut off");
    let state: Upstream = serde_json::from_slice(&waiting.join().unwrap().body).unwrap();
    assert_eq!(state.release("c").unwrap().in_flight, InFlight::default());
    until("the old workers end", || (children(two.nginx.master()).len() == 4).then_some(()));
    let release = two.nginx.admin().state("web").release("c").unwrap().clone();
    assert_eq!((release.in_flight, release.state), (InFlight::default(), ReleaseState::Idle));
    two.c.let_go();
}

fn what_is_parked_goes_on_when_the_zone_is_another_one(build: &Build) {
    let mut two = start(build, WITH);
    two.reload(
        "location / { proxy_pass http://web;",
        "location / { shunt_hold web; proxy_pass http://web;",
    );
    let held = two.nginx.admin().ask("PUT", "/v1/upstreams/web/hold", &[], br#"{"timeout":"1m"}"#);
    assert_eq!(held.status, 200);
    let mut old = two.nginx.connect();
    old.send("POST", "/", &[], b"body").unwrap();
    let parked = |two: &Two| {
        until("it is parked", || (two.nginx.admin().state("web").parked == 1).then_some(()));
    };
    parked(&two);
    let http = two.nginx.http().replace("shunt:1m", "shunt:2m");
    two.nginx.set_http(&http);
    two.nginx.reload();
    assert_eq!(old.receive().unwrap().body, b"body");
    // The hold itself lasts.
    let mut new = two.nginx.connect();
    new.send("POST", "/", &[], b"more").unwrap();
    parked(&two);
    let resumed = two.nginx.admin().ask("DELETE", "/v1/upstreams/web/hold", &[], b"");
    assert_eq!(resumed.status, 200);
    assert_eq!(new.receive().unwrap().body, b"more");
}

each_nginx!(
    p5_a_zone_grows_and_shrinks_with_its_state,
    p5_a_zone_that_would_be_too_small_is_refused_with_the_size_that_would_do,
    p5_a_zone_of_another_name_has_the_state,
    p5_a_state_file_that_a_reload_names_is_written,
    p5_an_upstream_moves_to_another_zone_and_back,
    p5_an_upstream_that_was_taken_away_is_as_it_was_when_it_is_back,
    p2_what_workers_of_an_old_zone_have_in_flight_is_not_drained,
    p2_what_a_worker_cuts_off_at_its_end_is_not_in_flight,
    what_is_parked_goes_on_when_the_zone_is_another_one,
);
