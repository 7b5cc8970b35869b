//! The module comes, goes and is replaced with a reload.

use std::fs;

use rustix::process::Signal;
use shunt_api::InFlight;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{children, signal};
use shunt_tests::scenario::active;
use shunt_tests::until;

/// The same servers without the module.
fn plain(a: &Backend) -> String {
    format!(
        "upstream web {{ server {}; }} server {{ listen 127.0.0.1:%PORT%; \
         location / {{ proxy_pass http://web; }} }}",
        a.addresses[0]
    )
}

fn switchable(a: &Backend, b: &Backend) -> String {
    Setup::standard(&format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines())).http
}

fn released(nginx: &Nginx) -> String {
    nginx.connect().ask("GET", "/", b"").unwrap().release().to_owned()
}

#[track_caller]
fn old_workers_end(nginx: &Nginx) {
    until("the old workers end", || (children(nginx.master()).len() == 4).then_some(()));
}

fn p5_a_reload_brings_the_module_takes_it_away_and_brings_it_back(build: &Build) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 1));
    let (plain, switchable) = (plain(&a), switchable(&a, &b));
    let mut nginx = Nginx::prepare(build, Setup { http: plain.clone(), workers: 4 });
    nginx.set_module(None);
    nginx.run();
    let master = nginx.master();
    assert_eq!(released(&nginx), "a");
    for generation in [1, 3, 5] {
        nginx.set_module(Some(&build.module));
        nginx.set_http(&switchable);
        nginx.reload();
        assert_eq!(active(&nginx), (generation, "a".to_owned()));
        for release in ["b", "a"] {
            nginx.admin().switch("web", release, None).unwrap();
            assert_eq!(released(&nginx), release);
        }
        // A request that an old worker has is answered without the module's configuration, too.
        a.hold();
        let mut held = nginx.connect();
        held.send("GET", "/held", &[], b"").unwrap();
        until("the request is held", || (a.held() == 1).then_some(()));
        nginx.set_module(None);
        nginx.set_http(&plain);
        nginx.reload();
        assert_eq!(released(&nginx), "a");
        a.let_go();
        assert_eq!(held.receive().unwrap().release(), "a");
        old_workers_end(&nginx);
    }
    assert_eq!(nginx.master(), master);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p5_p2_another_file_of_the_module_takes_everything_over(build: &Build) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 1));
    let http = switchable(&a, &b).replace(" state=%STATE%", "");
    let mut nginx = Nginx::start(build, Setup { http, workers: 4 });
    let master = nginx.master();
    for n in 0..6 {
        // A package that puts its files where the version is part of the path.
        let file = nginx.path(&format!("module{n}.so"));
        fs::copy(&build.module, &file).unwrap();
        let (release, other) = if n % 2 == 0 { (&b, "a") } else { (&a, "b") };
        nginx.admin().switch("web", release.release(), None).unwrap();
        release.hold();
        let mut held = nginx.connect();
        held.send("GET", "/held", &[], b"").unwrap();
        until("the request is held", || (release.held() == 1).then_some(()));
        nginx.admin().switch("web", other, None).unwrap();
        let before = active(&nginx);
        nginx.set_module(Some(&file));
        nginx.reload();
        assert_eq!(active(&nginx), before);
        let one = InFlight { requests: 1, upgraded: 0 };
        assert_eq!(nginx.admin().in_flight("web", release.release()), one);
        release.let_go();
        assert_eq!(held.receive().unwrap().release(), release.release());
        old_workers_end(&nginx);
        assert_eq!(nginx.admin().in_flight("web", release.release()), InFlight::default());
        assert_eq!(released(&nginx), other);
        // Nothing refers to a file that no process has any more.
        fs::write(nginx.path("gone"), "").unwrap();
        fs::rename(nginx.path("gone"), &file).unwrap();
    }
    assert_eq!(nginx.master(), master);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn another_file_of_the_module_knows_of_an_upgrade(build: &Build) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 1));
    let mut nginx = Nginx::prepare(build, Setup { http: switchable(&a, &b), workers: 4 });
    nginx.run_in_background();
    let file = nginx.path("module.so");
    fs::copy(&build.module, &file).unwrap();
    nginx.set_module(Some(&file));
    nginx.reload();
    let (old, new) = (nginx.master(), nginx.upgrade());
    let only = |one: u32, other: u32| {
        signal(other, Signal::WINCH);
        until("the other one's workers end", || nginx.workers_of(other).is_empty().then_some(()));
        assert_eq!(nginx.workers_of(one).len(), 4);
        assert_eq!(nginx.admin().switch("web", "b", None).unwrap_err().status, 409);
    };
    only(new, old);
    signal(old, Signal::HUP);
    until("new workers of the old one", || (nginx.workers_of(old).len() == 4).then_some(()));
    only(old, new);
    signal(new, Signal::QUIT);
    until("the new one ends", || (!shunt_tests::process::is_running(new)).then_some(()));
    nginx.admin().switch("web", "b", None).unwrap();
}

each_nginx!(
    p5_a_reload_brings_the_module_takes_it_away_and_brings_it_back,
    p5_p2_another_file_of_the_module_takes_everything_over,
    another_file_of_the_module_knows_of_an_upgrade,
);
