//! `shunt doctor` with real NGINX.

use shunt_tests::build::Build;
use shunt_tests::helper::{Daemon, Output};
use shunt_tests::nginx::{Nginx, Setup};

fn start(build: &Build, upstream: &str) -> (Nginx, Daemon) {
    let upstream = format!("upstream web {{ shunt; server 127.0.0.1:1; {upstream} }}");
    let nginx = Nginx::start(build, Setup { workers: 1, ..Setup::standard(&upstream) });
    let daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), "");
    let _ = daemon.release("v1");
    let output = daemon.deploy("v1");
    assert_eq!(output.code, 0, "{output:?}");
    (nginx, daemon)
}

fn doctor(build: &Build, nginx: &Nginx, daemon: &Daemon, more: &[&str]) -> Output {
    let conf = nginx.path("nginx.conf");
    let nginx = format!("{} -c {}", build.nginx.display(), conf.display());
    let (apps, state) = (daemon.path("apps"), daemon.path("state"));
    let (apps, state) = (apps.display().to_string(), state.display().to_string());
    let args = ["doctor", "web", "--config", &apps, "--state", &state, "--nginx", &nginx];
    daemon.shunt(&[&args, more].concat())
}

fn a_machine_that_is_well_has_no_problem(build: &Build) {
    let (nginx, daemon) = start(build, "keepalive 8;");
    let output = doctor(build, &nginx, &daemon, &["--keepalive", "200ms"]);
    assert_eq!(output.code, 0, "{output:?}");
    let version = &build.version;
    for saw in [
        format!("in NGINX {version}, 1 worker\n"),
        "upstream \"web\" is switchable, active is \"v1\"".to_owned(),
        "that it was given, descriptor 3".to_owned(),
        "NGINX uses it for 1m; --keepalive 61s would see all of it".to_owned(),
        "0 problems, 0 warnings".to_owned(),
    ] {
        assert!(output.stdout.contains(&saw), "{saw}: {}", output.stdout);
    }
}

fn what_nginx_keeps_open_is_read_from_its_configuration(build: &Build) {
    let (nginx, daemon) = start(build, "");
    let output = doctor(build, &nginx, &daemon, &[]);
    let saw = "NGINX keeps no connection to the upstream open";
    assert!(output.code == 0 && output.stdout.contains(saw), "{output:?}");
    let (nginx, daemon) = start(build, "keepalive 8; keepalive_timeout 100ms;");
    let output = doctor(build, &nginx, &daemon, &[]);
    let saw = "keeps an idle connection open for 600ms and more, NGINX uses it for 100ms";
    assert!(output.code == 0 && output.stdout.contains(saw), "{output:?}");
}

fn an_upstream_that_is_not_switchable_is_a_problem(build: &Build) {
    let (mut nginx, daemon) = start(build, "");
    let other = nginx.http().replace("upstream web {", "upstream other {");
    let other = format!("{other} upstream web {{ server 127.0.0.1:1; }}");
    nginx.set_http(&other);
    nginx.reload();
    let output = doctor(build, &nginx, &daemon, &[]);
    let saw = "NGINX has no switchable upstream \"web\"";
    assert!(output.code == 1 && output.stdout.contains(saw), "{output:?}");
    assert!(output.stdout.contains("→ write \"shunt;\" into upstream web"), "{output:?}");
}

fn a_module_that_is_not_loaded_is_a_problem(build: &Build) {
    let (mut nginx, daemon) = start(build, "");
    nginx.quit();
    nginx.set_module(None);
    nginx.set_http(
        "server { listen unix:%FOLDER%/api.sock; location / { return 404; } } \
         server { listen 127.0.0.1:%PORT%; }",
    );
    nginx.run();
    let output = doctor(build, &nginx, &daemon, &[]);
    let saw = "answers 404 Not Found to GET /v1/";
    assert!(output.code == 1 && output.stdout.contains(saw), "{output:?}");
    assert!(output.stdout.contains("load_module modules/ngx_http_shunt_module.so"), "{output:?}");
}

each_nginx!(
    a_machine_that_is_well_has_no_problem,
    what_nginx_keeps_open_is_read_from_its_configuration,
    an_upstream_that_is_not_switchable_is_a_problem,
    a_module_that_is_not_loaded_is_a_problem,
);
