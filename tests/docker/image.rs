//! The image `shunt/nginx` and the Compose file: what users put in front of their own containers.

use std::process::Command;

use shunt_tests::docker::compose::{Compose, application};
use shunt_tests::until;

#[test]
fn containers_of_an_application_are_flipped_by_the_compose_file() {
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(|release| application(release, &[]));
    let mut site = Compose::up(&v1, &v2);
    assert_eq!(site.answering().as_deref(), Some("v1"), "where the environment says");
    let deploy = |site: &Compose, release: &str, slot: &str| {
        site.shunt(&["deploy", "web", "--release", release, "--slot", slot])
    };

    let watch = site.watch();
    site.wait_for_requests(50);
    let output = deploy(&site, "v2", "green:3000");
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering().as_deref(), Some("v2"));
    site.wait_for_requests(50);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert!(verdict.releases["v1"] > 0 && verdict.releases["v2"] > 0, "{verdict:?}");

    // A new version takes the container that serves nobody. It has another address, maybe.
    site.replace("blue", &application("v3", &["sick"]));
    let output = deploy(&site, "v3", "blue:3000");
    assert_eq!(output.code, 4, "it is not healthy: {output:?}");
    assert_eq!(site.answering().as_deref(), Some("v2"));
    site.replace("blue", &v3);
    let output = deploy(&site, "v3", "blue:3000");
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(site.answering().as_deref(), Some("v3"));

    // The state outlives the container, killed or not; its socket in the volume is no hindrance.
    site.run(&["kill", "nginx"]);
    site.run(&["up", "--detach", "nginx"]);
    until("NGINX answers again", || (site.answering().as_deref() == Some("v3")).then_some(()));
    let output = site.shunt(&["status"]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// Runs the image with these options and this command, which ends; gives its exit code and what it said.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("docker").args(["run", "--rm"]).args(args).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into())
}

#[test]
fn the_image_is_configured_by_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let (code, said) = run(&[
        &format!("--volume={}:/run/secrets/token:ro", token.display()),
        "--env=SHUNT_UPSTREAM=shop",
        "--env=SHUNT_SERVERS=127.0.0.1:4000 weight=2, 127.0.0.1:4001",
        "--env=SHUNT_TOKEN_FILE=/run/secrets/token",
        "--env=SHUNT_LISTEN=8080",
        "shunt/nginx",
        "nginx",
        "-T",
    ]);
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "upstream shop {",
        "    server  127.0.0.1:4000 weight=2;",
        "    server  127.0.0.1:4001;",
        "    listen 8080;",
        "    listen 8081;",
        "    location / { shunt_api write=on token_file=/run/secrets/token; }",
        "        proxy_set_header    Host $http_host;",
    ] {
        assert!(said.lines().any(|l| l == line), "{line}\n{said}");
    }
    let (code, said) = run(&["--env=SHUNT_SERVERS= ,", "shunt/nginx"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("SHUNT_SERVERS is empty"), "{said}");
    // Any other command is just run.
    let (code, said) = run(&["shunt/nginx", "shunt", "--version"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("shunt "), "{said}");
}
