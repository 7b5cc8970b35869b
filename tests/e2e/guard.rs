//! The guard on NGINX's real figures: releases that turn bad, or do not, under load.

use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shunt_api::{ReleaseName, Upstream};
use shunt_helper::config::App;
use shunt_helper::deploy::guard::{self, Overruled, Verdict, Window};
use shunt_helper::nginx::Client;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::load::Load;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::until;

/// A release that answers with 500 as soon as it is told to.
struct Release {
    backend: Backend,
    is_bad: Arc<AtomicBool>,
}

impl Release {
    fn start(name: &str) -> Self {
        let is_bad = Arc::new(AtomicBool::new(false));
        let bad = is_bad.clone();
        let speak = move |backend: &Backend, mut stream: std::net::TcpStream| {
            let reader = stream.try_clone().unwrap();
            // What is asked has no body; each request ends with an empty line.
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if line.is_empty() {
                    let status = if bad.load(Ordering::SeqCst) { "500 Oh" } else { "200 OK" };
                    let name = backend.release();
                    let head = format!("HTTP/1.1 {status}\r\nX-Release: {name}\r\n");
                    let answer = format!("{head}Content-Length: 2\r\n\r\nok");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            }
        };
        Self { backend: Backend::speaking(name, 1, "127.0.0.1:0", speak), is_bad }
    }

    fn turn_bad(&self) {
        self.is_bad.store(true, Ordering::SeqCst);
    }
}

/// NGINX with two releases, the first of which is active, and the application that they are of.
fn start(build: &Build, guard: &str) -> (Nginx, App, [Release; 2]) {
    let releases = ["old", "new"].map(Release::start);
    let lines: String = releases.iter().map(|r| r.backend.lines()).collect();
    let upstream = format!("upstream web {{ shunt; {lines} keepalive 8; }}");
    let nginx = Nginx::start(build, Setup { workers: 2, ..Setup::standard(&upstream) });
    let socket = nginx.path("api.sock");
    let app = format!(
        "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:{}\"\n[run]\ncommand = [\"x\"]\n\
         slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[guard]\n{guard}",
        socket.display()
    );
    (nginx, App::parse(&app).unwrap(), releases)
}

fn name(text: &str) -> ReleaseName {
    ReleaseName::new(text).unwrap()
}

/// Waits until a release has answered so often.
#[track_caller]
fn answers(nginx: &Nginx, release: &str, more: u64) -> Upstream {
    let responses = |state: &Upstream| {
        let r = state.release(release).unwrap().responses;
        r.successful + r.server_error
    };
    let start = responses(&nginx.admin().state("web"));
    until("answers", || {
        let state = nginx.admin().state("web");
        (responses(&state) >= start + more).then_some(state)
    })
}

/// Switches, as a deploy does, and watches; gives the verdict and when there was one.
fn switch_and_watch(nginx: &Nginx, app: &App) -> JoinHandle<(Result<Verdict, Overruled>, Instant)> {
    let began = nginx.admin().state("web");
    let before = answers(nginx, "old", 500);
    nginx.admin().switch("web", "new", Some(before.generation)).unwrap();
    let (new, old) = (name("new"), name("old"));
    let window = Window::after_switch(&new, Some(&old), &began, &before, &app.guard);
    watch(app, window)
}

fn watch(app: &App, window: Window) -> JoinHandle<(Result<Verdict, Overruled>, Instant)> {
    let (client, limits) = (Client::new(app), app.guard.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let verdict = runtime.block_on(guard::watch(&client, &limits, window));
        (verdict, Instant::now())
    })
}

fn p8_a_release_that_turns_bad_has_failed_within_a_second(build: &Build) {
    let (nginx, app, [_old, new]) = start(build, "time = \"60s\"");
    let load = Load::start_idempotent(nginx.port, 4);
    let watch = switch_and_watch(&nginx, &app);
    answers(&nginx, "new", 100);
    new.turn_bad();
    let (verdict, at) = watch.join().unwrap();
    let Ok(Verdict::Failed(why)) = verdict else { panic!("{verdict:?}") };
    assert!(why.contains(" errors in "), "{why}");
    let samples = load.stop();
    let first = samples.iter().filter(|s| s.result.is_err()).map(|s| s.end).min().unwrap();
    let took = at.saturating_duration_since(first);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn a_good_release_is_good_and_nginx_may_start_again_meanwhile(build: &Build) {
    // On a busy machine a connection that waits is no wonder: only errors count here.
    let (mut nginx, app, _releases) = start(build, "time = \"2s\"\np99_ratio = \"off\"");
    let load = Load::start_idempotent(nginx.port, 4);
    let watch = switch_and_watch(&nginx, &app);
    answers(&nginx, "new", 100);
    // It looks four times a second: what was counted until now is seen before NGINX forgets it.
    let counted = Instant::now();
    until("two looks", || (counted.elapsed() > Duration::from_millis(500)).then_some(()));
    nginx.quit();
    nginx.run();
    let (verdict, _) = watch.join().unwrap();
    let Ok(Verdict::Successful(said)) = verdict else { panic!("{verdict:?}") };
    let _ = load.stop();
    let counted: u64 = said.split(' ').nth(3).unwrap().parse().unwrap();
    assert!(counted > 100, "{said}");
}

fn p8_a_bad_canary_has_failed_and_a_person_who_ends_it_is_no_failure(build: &Build) {
    let (nginx, app, [_old, new]) = start(build, "");
    let load = Load::start_idempotent(nginx.port, 4);
    let canary = |method: &str| {
        let body = r#"{"release":"new","share":0.5}"#;
        let response = nginx.admin().ask(method, "/v1/upstreams/web/canary", &[], body.as_bytes());
        assert_eq!(response.status, 200);
    };
    let begin = || {
        let before = nginx.admin().state("web");
        canary("PUT");
        let minute = Duration::from_secs(60);
        watch(&app, Window::canary(&name("new"), &name("old"), &before, minute))
    };
    let watched = begin();
    answers(&nginx, "new", 100);
    canary("DELETE");
    let (verdict, _) = watched.join().unwrap();
    assert_eq!(verdict, Err(Overruled { active: Some(name("old")) }));
    new.turn_bad();
    let (verdict, _) = begin().join().unwrap();
    assert!(matches!(verdict, Ok(Verdict::Failed(_))), "{verdict:?}");
    let samples = load.stop();
    assert!(samples.iter().any(|s| s.result.as_deref() == Ok("old")));
}

each_nginx!(
    p8_a_release_that_turns_bad_has_failed_within_a_second,
    a_good_release_is_good_and_nginx_may_start_again_meanwhile,
    p8_a_bad_canary_has_failed_and_a_person_who_ends_it_is_no_failure,
);
