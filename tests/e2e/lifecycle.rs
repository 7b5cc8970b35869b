//! P5: reload, restart, and what fails, keep the state.

use std::fs;

use rustix::process::Signal;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::{Load, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::signal;
use shunt_tests::until;

struct Fixture {
    nginx: Nginx,
    _backends: [Backend; 3],
}

/// Releases `a` and `b` are configured, `c` is the API's and active, `b` is the previous one.
fn start(build: &Build) -> Fixture {
    let backends = ["a", "b", "c"].map(|release| Backend::start(release, 2));
    let lines: String = backends[..2].iter().map(Backend::lines).collect();
    let upstream = format!("upstream web {{ shunt;\n{lines}keepalive 4; }}");
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let admin = nginx.admin();
    assert_eq!(admin.put("web", "c", &backends[2].addresses).status, 201);
    admin.switch("web", "b", None).unwrap();
    admin.switch("web", "c", None).unwrap();
    Fixture { nginx, _backends: backends }
}

#[track_caller]
fn check(nginx: &Nginx) {
    let state = nginx.admin().state("web");
    assert_eq!(state.generation, 4);
    assert_eq!(state.active.unwrap().as_str(), "c");
    assert_eq!(state.previous.unwrap().as_str(), "b");
    let names: Vec<_> = state.releases.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for _ in 0..8 {
        assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), "c");
    }
}

fn p5_a_reload_keeps_the_state_and_loses_no_request(build: &Build) {
    let f = start(build);
    let load = Load::start(f.nginx.port, 16);
    for _ in 0..5 {
        f.nginx.reload();
        check(&f.nginx);
    }
    // A worker that shuts down closes idle kept-open connections, which a client may notice only
    // when it has sent a request: nothing that the module could change. New connections must not
    // fail.
    let (kept, new): (Vec<_>, Vec<_>) = load.stop().into_iter().partition(|s| s.kept);
    assert!(!new.is_empty() && !kept.is_empty());
    assert_eq!(failures(&new), [] as [&String; 0]);
    let closed = |why: &str| why.starts_with("receive: ") || why.starts_with("send: ");
    let failed = failures(&kept);
    let other: Vec<_> = failed.iter().filter(|why| !closed(why)).collect();
    assert!(other.is_empty(), "{other:?}");
    // Each of the clients has one kept connection, and each reload ends it once at most for each of the
    // old workers: the next connection may be to another one that has not heard of the reload yet.
    assert!(failed.len() <= 5 * 8 * 4, "{failed:?}");
}

fn p5_a_restart_keeps_the_state(build: &Build) {
    let mut f = start(build);
    f.nginx.quit();
    f.nginx.run();
    check(&f.nginx);
    // So does a crash of everything.
    let (master, workers) = (f.nginx.master(), f.nginx.workers());
    signal(master, Signal::KILL);
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    until("all are gone", || {
        let gone = workers.iter().all(|w| !shunt_tests::process::is_running(*w));
        gone.then_some(())
    });
    f.nginx.quit();
    // A killed NGINX leaves its socket behind, as without the module.
    fs::remove_file(f.nginx.path("api.sock")).unwrap();
    f.nginx.run();
    check(&f.nginx);
}

fn p5_a_reload_that_fails_changes_nothing(build: &Build) {
    let mut f = start(build);
    let good = f.nginx.http().to_owned();
    let file = fs::read(f.nginx.path("state/state.json")).unwrap();

    f.nginx.set_http(&format!("{good}\nupstream broken {{ shunt; shunt_release a nowhere; }}"));
    let said = f.nginx.reload_refused();
    assert!(said.contains("host not found"), "{said}");
    check(&f.nginx);

    // A port that somebody else has: the configuration is good, but cannot be brought into force.
    // It drops a release and adds an upstream, which must not happen either.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let without_b: String = good
        .lines()
        .filter(|line| !line.starts_with("shunt_release b"))
        .map(|l| format!("{l}\n"))
        .collect();
    let port = taken.local_addr().unwrap().port();
    f.nginx.set_http(&format!(
        "{without_b}\nupstream more {{ shunt; server 127.0.0.1:1; }}\nserver {{ listen 127.0.0.1:{port}; }}"
    ));
    let said = f.nginx.reload_refused();
    assert!(said.contains("bind()"), "{said}");
    check(&f.nginx);
    assert_eq!(fs::read(f.nginx.path("state/state.json")).unwrap(), file);
    assert_eq!(f.nginx.admin().index().zones[0].upstreams.used, 1);

    f.nginx.set_http(&good);
    f.nginx.reload();
    check(&f.nginx);
}

fn p5_a_damaged_state_file_is_kept_aside_and_nginx_starts(build: &Build) {
    let mut f = start(build);
    f.nginx.quit();
    fs::write(f.nginx.path("state/state.json"), "{\"version\":1,\"upstre").unwrap();
    f.nginx.run();
    let state = f.nginx.admin().state("web");
    assert_eq!(state.active.unwrap().as_str(), "a", "the configuration's first release");
    let aside = fs::read_to_string(f.nginx.path("state/state.json.damaged.0")).unwrap();
    assert_eq!(aside, "{\"version\":1,\"upstre");
    assert!(f.nginx.log().contains("state.json.damaged.0"), "it is logged");
}

fn p5_a_release_that_the_configuration_drops_gives_way(build: &Build) {
    let mut f = start(build);
    f.nginx.admin().switch("web", "b", None).unwrap();
    let without: String = f
        .nginx
        .http()
        .lines()
        .filter(|line| !line.starts_with("shunt_release b"))
        .map(|line| format!("{line}\n"))
        .collect();
    f.nginx.set_http(&without);
    f.nginx.reload();
    let state = f.nginx.admin().state("web");
    assert_eq!(state.active.unwrap().as_str(), "a");
    assert!(f.nginx.log().contains("release \"b\" of upstream \"web\" was active and is gone"));
}

fn p5_a_zone_of_another_size_takes_the_state_over(build: &Build) {
    let mut f = start(build);
    // An old worker has the head of a change, and gets its body after the reload.
    let mut late = shunt_tests::client::Connection::unix(&f.nginx.path("api.sock")).unwrap();
    late.raw(b"POST /v1/upstreams/web/switch HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{")
        .unwrap();
    let _ = f.nginx.admin().state("web");
    // Also without a state file: from the old memory.
    let other = f.nginx.http().replace("shunt:1m state=%STATE%", "shunt:2m");
    f.nginx.set_http(&other);
    f.nginx.reload();
    check(&f.nginx);
    late.raw(b"\"release\":\"a\"}").unwrap();
    let response = late.receive().unwrap();
    assert_eq!(response.status, 409, "{}", response.text());
    check(&f.nginx);
}

fn p5_an_absurd_state_file_is_damage(build: &Build) {
    let mut f = start(build);
    f.nginx.quit();
    let release = |n: usize| {
        serde_json::json!({ "name": format!("r{n}"), "servers": [
        { "address": "127.0.0.1:1", "weight": 1, "max_fails": 1, "fail_timeout": "10s",
          "max_conns": 0, "backup": false, "down": false } ] })
    };
    let releases: Vec<_> = (0..256).map(release).collect();
    let file = serde_json::json!({ "version": 1, "upstreams": [ { "name": "web", "generation": 4,
        "active": "r1", "previous": null, "releases": releases } ] });
    fs::write(f.nginx.path("state/state.json"), file.to_string()).unwrap();
    f.nginx.run();
    assert_eq!(f.nginx.admin().state("web").releases.len(), 2);
    assert!(f.nginx.path("state/state.json.damaged.0").exists());
}

fn p5_a_configuration_test_writes_nothing(build: &Build) {
    let upstream = "upstream web { shunt; server 127.0.0.1:1; }";
    let nginx = Nginx::prepare(build, Setup::standard(upstream));
    fs::remove_dir(nginx.path("state")).unwrap();
    let (good, said) = nginx.test();
    assert!(good, "{said}");
    assert!(!nginx.path("state").exists());
}

fn p5_without_a_place_for_the_state_a_change_is_refused(build: &Build) {
    let f = start(build);
    let state = f.nginx.path("state");
    fs::rename(&state, f.nginx.path("elsewhere")).unwrap();
    let problem = f.nginx.admin().switch("web", "a", None).unwrap_err();
    assert_eq!(problem.status, 507);
    assert!(problem.detail.contains("state.json"), "{problem}");
    fs::rename(f.nginx.path("elsewhere"), &state).unwrap();
    check(&f.nginx);
}

/// `master_process off;`: one process is all there is.
fn p5_without_a_master_everything_but_a_reload_works(build: &Build) {
    let backends = ["a", "b"].map(|release| Backend::start(release, 1));
    let lines: String = backends.iter().map(Backend::lines).collect();
    let Setup { http, .. } = Setup::standard(&format!("upstream web {{ shunt;\n{lines} }}"));
    let mut nginx = Nginx::prepare(build, Setup { http, workers: 0 });
    nginx.set_main(&format!("master_process off;\n{}", nginx.main()));
    nginx.run();
    let answer = |nginx: &Nginx| nginx.connect().ask("GET", "/", b"").unwrap().release().to_owned();
    assert_eq!(answer(&nginx), "a");
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(answer(&nginx), "b");
    let wait = "/v1/upstreams/web?wait=drained&release=a&timeout=10s";
    assert_eq!(nginx.admin().ask("GET", wait, &[], b"").status, 200);
    let state = nginx.admin().state("web");
    let requests: Vec<u64> = state.releases.iter().map(|r| r.requests).collect();
    assert_eq!((state.generation, requests), (2, vec![1, 1]));
    assert!(state.releases.iter().all(|r| r.in_flight.requests == 0), "{state:?}");
    nginx.quit();
    nginx.run();
    assert_eq!(answer(&nginx), "b");
}

each_nginx!(
    p5_without_a_master_everything_but_a_reload_works,
    p5_a_reload_keeps_the_state_and_loses_no_request,
    p5_a_restart_keeps_the_state,
    p5_a_reload_that_fails_changes_nothing,
    p5_a_damaged_state_file_is_kept_aside_and_nginx_starts,
    p5_a_release_that_the_configuration_drops_gives_way,
    p5_a_zone_of_another_size_takes_the_state_over,
    p5_an_absurd_state_file_is_damage,
    p5_a_configuration_test_writes_nothing,
    p5_without_a_place_for_the_state_a_change_is_refused,
);
