//! The Compose file of `docker/`, and applications in images of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use shunt_api::Upstream;

use super::container::Container;
use super::engine::{docker, try_docker};
use super::reaper::Reaper;
use super::watch::Watch;
use crate::build;
use crate::helper::Output;
use crate::until;

/// What users have: NGINX with the module, `shuntd`, and two containers of an application.
#[derive(Debug)]
pub struct Compose {
    name: String,
    /// The images of both.
    images: [String; 2],
    /// A machine in the same network, which has `shunt` and `curl`.
    pub client: Container,
    _reaper: Reaper,
}

/// An image of the application: one of its releases, with files that make it worse.
///
/// # Panics
///
/// When it cannot be built.
#[must_use]
#[track_caller]
pub fn application(release: &str, files: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let target = build::folder().join("../target/release/shunt-demo-app");
    std::fs::copy(&target, folder.path().join("server"))
        .unwrap_or_else(|e| panic!("{}: {e}", target.display()));
    std::fs::write(folder.path().join("REVISION"), release).expect("written");
    for file in files {
        std::fs::write(folder.path().join(file), "of this test").expect("written");
    }
    let recipe = "FROM debian:bookworm-slim\nWORKDIR /app\nCOPY . .\nCMD [\"/app/server\"]\n";
    std::fs::write(folder.path().join("Dockerfile"), recipe).expect("written");
    let tag = format!("shunt-test-app:{release}{}", files.concat());
    docker(&["build", "--quiet", "--tag", &tag, &folder.path().display().to_string()]);
    tag
}

/// The command: a plugin of Docker's, or a program of its own.
fn compose() -> Command {
    if try_docker(&["compose", "version"], b"").code == 0 {
        let mut command = Command::new("docker");
        command.arg("compose");
        return command;
    }
    Command::new("docker-compose")
}

/// Where the Compose files are.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker")
}

/// Runs the command on the file in this folder, with this environment.
#[track_caller]
pub(super) fn run_in(folder: &Path, name: &str, env: &[(&str, &str)], args: &[&str]) -> String {
    let mut command = compose();
    command.current_dir(folder).args(["--file", "compose.yaml", "--project-name", name]);
    // A port of the host's that is free.
    command.env("PORT", "0").envs(env.iter().copied()).args(args);
    let output = command.output().unwrap_or_else(|e| panic!("docker-compose: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Compose {
    /// Starts all of it, and waits until NGINX answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn up(blue: &str, green: &str) -> Self {
        let reaper = Reaper::of("com.docker.compose.project", "shunttest");
        let (_, name) = reaper.label.split_once('=').expect("a name and a value");
        let name = name.to_owned();
        let run = |args: &[&str]| run(&name, [blue, green], args);
        run(&["up", "--detach"]);
        let options = [
            format!("--label={}", reaper.label),
            format!("--network={name}_default"),
            "--entrypoint=sleep".to_owned(),
        ];
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let client = Container::start(&options, "shunt/nginx", &["infinity"]);
        let images = [blue.to_owned(), green.to_owned()];
        let all = Self { name, images, client, _reaper: reaper };
        until("NGINX answers", || all.answering());
        all
    }

    /// Who answers, if somebody does.
    #[must_use]
    pub fn answering(&self) -> Option<String> {
        let said = self.client.try_run(&["curl", "-sS", "--fail", "http://nginx/release"]);
        (said.code == 0).then(|| said.stdout.trim().to_owned())
    }

    /// Replaces a container of the application by one of another image.
    #[track_caller]
    pub fn replace(&mut self, service: &str, image: &str) {
        let place = usize::from(service == "green");
        self.images[place] = image.to_owned();
        self.run(&["up", "--detach", "--no-deps", service]);
    }

    /// Runs the command on it.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        run(&self.name, [&self.images[0], &self.images[1]], args)
    }

    /// Runs `shunt` beside shuntd.
    #[must_use]
    #[track_caller]
    pub fn shunt(&self, args: &[&str]) -> Output {
        let id = self.run(&["ps", "--quiet", "shuntd"]);
        Container::started(id.trim().to_owned()).try_run(&[&["shunt"], args].concat())
    }

    /// Starts load: GET and POST over new and over kept-open connections, and a WebSocket.
    #[must_use]
    #[track_caller]
    pub fn watch(&self) -> Watch<'_> {
        Watch::all_ways(&self.client, "http://nginx/", 100)
    }

    /// Waits until so many more requests were given to a release.
    #[track_caller]
    pub fn wait_for_requests(&self, count: u64) {
        let id = self.run(&["ps", "--quiet", "nginx"]);
        let nginx = Container::started(id.trim().to_owned());
        let ask = "curl --silent --fail --unix-socket /run/shunt/nginx.sock http://shunt/v1/upstreams/web";
        let asked = || {
            let state: Upstream = serde_json::from_str(&nginx.sh(ask)).expect("an upstream");
            state.releases.iter().map(|release| release.requests).sum::<u64>()
        };
        let before = asked();
        until("requests", || (asked() >= before + count).then_some(()));
    }
}

#[track_caller]
fn run(name: &str, [blue, green]: [&str; 2], args: &[&str]) -> String {
    run_in(&folder(), name, &[("BLUE", blue), ("GREEN", green)], args)
}
