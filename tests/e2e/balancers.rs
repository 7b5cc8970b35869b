//! NGINX's balancing methods and the parameters of its servers do in a release what they do in a
//! plain upstream.

mod methods;

use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::json;
use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::until;

use methods::{METHODS, Server, WITH_BACKUP, Ways, body, http, switchable};

/// Each server has its own name, and answers with it.
fn servers<const N: usize>(folder: &Path, names: [&str; N]) -> [Backend; N] {
    names.map(|name| Backend::unix(name, 1, folder))
}

fn count(answers: &[String], server: &str) -> usize {
    answers.iter().filter(|answer| *answer == server).count()
}

fn a_dead_server_is_left_alone_after_max_fails(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let [s, t] = servers(folder.path(), ["s", "t"]);
    let dead = folder.path().join("dead.sock");
    // The file stays when its listener goes: nobody can listen there, and connecting is refused.
    drop(UnixListener::bind(&dead).unwrap());
    let dead = format!("unix:{}", dead.display());
    let servers: [Server; 3] = [
        (&s.addresses[0], json!({})),
        (&dead, json!({ "max_fails": 2, "fail_timeout": "1h" })),
        (&t.addresses[0], json!({})),
    ];
    let ways = Ways::start(build, &METHODS, &servers);
    for (method, _) in METHODS {
        ways.each(method, |way| {
            let mut tries = 0;
            for key in 0..60 {
                let answer = way.ask("/", key);
                assert_eq!(answer.status, 200, "{}", way.name);
                let tried = answer.header("x-tried").unwrap();
                tries += tried.split(", ").filter(|address| *address == dead).count();
            }
            assert_eq!(tries, 2, "{}", way.name);
        });
    }
}

fn a_server_that_came_back_is_used_after_fail_timeout(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let [s] = servers(folder.path(), ["s"]);
    // Where the server "late" will listen.
    let late = format!("unix:{}", folder.path().join("late0.sock").display());
    let parameters = json!({ "max_fails": 1, "fail_timeout": "1s" });
    let addresses = [(s.addresses[0].as_str(), json!({})), (late.as_str(), parameters)];
    let ways = Ways::start(build, &METHODS, &addresses);
    for (method, _) in METHODS {
        ways.each(method, |way| assert_eq!(count(&way.answers(20), "s"), 20, "{}", way.name));
    }
    let _late = servers(folder.path(), ["late"]);
    for (method, _) in METHODS {
        ways.each(method, |way| {
            until("the server is used", || (count(&way.answers(20), "late") > 0).then_some(()));
        });
    }
}

fn max_conns_is_kept_also_across_switches(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let backends = servers(folder.path(), ["s", "t"]);
    let one = json!({ "max_conns": 1 });
    let addresses = backends.each_ref().map(|b| (b.addresses[0].as_str(), one.clone()));
    let ways = Ways::start(build, &METHODS, &addresses);
    let admin = ways.nginx.admin();
    for (method, _) in METHODS {
        ways.each(method, |way| {
            backends.iter().for_each(Backend::hold);
            std::thread::scope(|scope| {
                let held = [0, 1].map(|key| scope.spawn(move || way.ask("/held", key)));
                until("each server has one", || {
                    (backends.each_ref().map(Backend::held) == [1, 1]).then_some(())
                });
                assert_eq!(way.ask("/", 2).status, 502, "{}", way.name);
                if let Some(release) = way.name.strip_suffix(&format!(" {method}")) {
                    let other = if release == "given" { "declared" } else { "given" };
                    admin.switch(method, other, None).unwrap();
                    assert_eq!(way.ask("/", 2).status, 200, "{}", way.name);
                    admin.switch(method, release, None).unwrap();
                    assert_eq!(way.ask("/", 2).status, 502, "{} again", way.name);
                }
                backends.iter().for_each(Backend::let_go);
                for answer in held {
                    assert_eq!(answer.join().unwrap().status, 200, "{}", way.name);
                }
            });
            assert_eq!(way.answers(4).len(), 4, "{}", way.name);
        });
    }
}

fn a_backup_server_is_used_when_the_others_are_full(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let [s, t] = servers(folder.path(), ["s", "t"]);
    let addresses: [Server; 2] = [
        (&s.addresses[0], json!({ "max_conns": 1 })),
        (&t.addresses[0], json!({ "backup": true })),
    ];
    let ways = Ways::start(build, &WITH_BACKUP, &addresses);
    for (method, _) in WITH_BACKUP {
        ways.each(method, |way| {
            assert_eq!(count(&way.answers(10), "s"), 10, "{}", way.name);
            s.hold();
            std::thread::scope(|scope| {
                let held = scope.spawn(|| way.ask("/held", 0));
                until("the server is full", || (s.held() == 1).then_some(()));
                assert_eq!(count(&way.answers(10), "t"), 10, "{}", way.name);
                s.let_go();
                assert_eq!(held.join().unwrap().release(), "s", "{}", way.name);
            });
            assert_eq!(count(&way.answers(10), "s"), 10, "{}", way.name);
        });
    }
}

fn a_backup_server_is_refused_where_the_method_knows_none(build: &Build) {
    let plain = [("127.0.0.1:1", json!({})), ("127.0.0.1:2", json!({}))];
    let with_backup = [("127.0.0.1:1", json!({})), ("127.0.0.1:2", json!({ "backup": true }))];
    let others: Vec<_> = METHODS.iter().filter(|m| !WITH_BACKUP.contains(m)).copied().collect();
    for method in &others {
        let http = http(&METHODS[..1], &plain) + &switchable(*method, &with_backup);
        let (good, said) = Nginx::prepare(build, Setup { http, workers: 1 }).test();
        let what = "balancing method does not support parameter \"backup\"";
        assert!(!good && said.contains(what), "{method:?}: {said}");
    }
    let nginx = Nginx::start(build, Setup { http: http(&METHODS, &plain), workers: 1 });
    for (name, _) in others {
        let target = format!("/v1/upstreams/{name}/releases/given");
        let response = nginx.admin().ask("PUT", &target, &[], body(&with_backup).as_bytes());
        assert_eq!(problem(&response).status, 422, "{name}");
    }
}

fn a_server_that_is_down_gets_nothing(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let [s, t, u] = servers(folder.path(), ["s", "t", "u"]);
    let addresses: [Server; 3] = [
        (&s.addresses[0], json!({})),
        (&t.addresses[0], json!({ "down": true })),
        (&u.addresses[0], json!({})),
    ];
    let ways = Ways::start(build, &METHODS, &addresses);
    for (method, _) in METHODS {
        ways.each(method, |way| {
            let answers = way.answers(30);
            assert_eq!(count(&answers, "t"), 0, "{}", way.name);
            let both = ["s", "u"].map(|server| count(&answers, server));
            assert!(both.iter().all(|n| *n > 0), "{}: {both:?}", way.name);
        });
    }
}

fn weights_share_as_in_a_plain_upstream(build: &Build) {
    /// How many are asked where chance decides, and how far two counts may be apart then: six times
    /// the standard deviation of their difference. Without weights it would be some 50.
    const MANY: usize = 140;
    const APART: usize = 36;
    // Ports, because `hash … consistent` takes host and port of a server apart.
    let backends = ["s", "t"].map(|name| Backend::start(name, 1));
    let [s, t] = backends.each_ref().map(|b| b.addresses[0].as_str());
    let addresses = [(s, json!({ "weight": 6 })), (t, json!({ "weight": 1 }))];
    let ways = Ways::start(build, &METHODS, &addresses);
    for (method, _) in METHODS {
        let chance = method.starts_with("random");
        let mut plain = None;
        ways.each(method, |way| {
            let answers = way.answers(if chance { MANY } else { 70 });
            let plain = plain.get_or_insert_with(|| answers.clone());
            let heavy = [plain, &answers].map(|answers| count(answers, "s"));
            if chance {
                assert!(heavy[0].abs_diff(heavy[1]) <= APART, "{}: {heavy:?}", way.name);
            } else if method.contains("hash") || method == "consistent" {
                assert_eq!(answers, *plain, "{}: each key has its server", way.name);
                assert!((45..70).contains(&heavy[1]), "{}: {heavy:?}", way.name);
            } else {
                assert_eq!(heavy[1], 60, "{}: six of seven", way.name);
            }
        });
    }
}

fn least_conn_looks_at_what_is_in_flight(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let [s, t] = servers(folder.path(), ["s", "t"]);
    let addresses = [&s, &t].map(|b| (b.addresses[0].as_str(), json!({})));
    let ways = Ways::start(build, &WITH_BACKUP, &addresses);
    ways.each("least_conn", |way| {
        s.hold();
        std::thread::scope(|scope| {
            // One of two that are asked one after the other comes to each server.
            let held = scope.spawn(|| [way.ask("/held", 0), way.ask("/held", 1)]);
            until("a request is held", || (s.held() == 1).then_some(()));
            assert_eq!(count(&way.answers(10), "t"), 10, "{}", way.name);
            s.let_go();
            held.join().unwrap();
        });
    });
}

fn resolving_at_run_time_is_refused(build: &Build) {
    for upstream in [
        "upstream web { shunt; server localhost:1 resolve; }",
        "upstream web { shunt; shunt_release a localhost:1 resolve; }",
    ] {
        let http = format!("{STANDARD} resolver 127.0.0.1; {upstream}");
        let nginx = Nginx::prepare(build, Setup { http, workers: 1 });
        let (good, said) = nginx.test();
        // Before 1.27.3 NGINX does not know it.
        let ours = "\"resolve\" does not work in an upstream with \"shunt\"";
        let known = said.contains(ours) || said.contains("invalid parameter \"resolve\"");
        assert!(!good && known, "{upstream}: {said}");
        assert_eq!(
            said.contains(ours),
            !["1.22.1", "1.26.3"].contains(&&*build.version),
            "{upstream}: {said}"
        );
    }
}

each_nginx!(
    a_dead_server_is_left_alone_after_max_fails,
    a_server_that_came_back_is_used_after_fail_timeout,
    max_conns_is_kept_also_across_switches,
    a_backup_server_is_used_when_the_others_are_full,
    a_backup_server_is_refused_where_the_method_knows_none,
    a_server_that_is_down_gets_nothing,
    weights_share_as_in_a_plain_upstream,
    least_conn_looks_at_what_is_in_flight,
    resolving_at_run_time_is_refused,
);
