//! The Compose file of `docker/runner/`, where `shuntd` starts the containers of the application.

use serde_json::Value;
use shunt_api::Upstream;

use super::compose::{folder, run_in};
use super::container::Container;
use super::engine::docker;
use super::job::Job;
use super::reaper::Reaper;
use super::watch::Watch;
use crate::helper::Output;
use crate::until;

/// NGINX and `shuntd` in containers, and a network for those of the application.
#[derive(Debug)]
pub struct Runner {
    name: String,
    env: [(&'static str, String); 3],
    /// The application's folder, by which its containers are known.
    root: String,
    /// A machine in the same network, which has `shunt` and `curl`.
    pub client: Container,
    _file: tempfile::TempDir,
    _reaper: Reaper,
}

impl Runner {
    /// Starts all of it, with this at the end of the application's file, and waits until `shuntd` answers.
    /// Nothing is deployed yet.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn up(more: &str) -> Self {
        let root = |name: &str| format!("/var/lib/shunt/{name}");
        let of_app = |name: &str| vec![format!("shunt.root={}", root(name))];
        let reaper = Reaper::with("com.docker.compose.project", "shunttest", of_app);
        let (_, name) = reaper.label.split_once('=').expect("a name and a value");
        let (name, root) = (name.to_owned(), root(name));
        // As a user does who has such a network already: another one, and what is in it.
        let net = subnet(&name);
        let file = tempfile::tempdir().expect("a folder");
        let text = std::fs::read_to_string(folder().join("runner/web.toml")).expect("the file");
        let text = text
            .replace("172.30.30.", &format!("{net}."))
            .replace("network = \"web\"", &format!("network = \"{name}\""))
            .replace("image   = \"web\"", "image   = \"shunt-test-app\"")
            .replace("/var/lib/shunt/web", &root);
        let path = file.path().join("web.toml");
        std::fs::write(&path, format!("{text}{more}")).expect("written");
        let env = [
            ("APP", path.display().to_string()),
            ("NETWORK", name.clone()),
            ("SUBNET", format!("{net}.0/24")),
        ];
        compose(&name, &env, &["up", "--detach"]);
        let options = [
            format!("--label={}", reaper.label),
            format!("--network={name}"),
            "--entrypoint=sleep".to_owned(),
        ];
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let client = Container::start(&options, "shunt/nginx", &["infinity"]);
        let all = Self { name, env, root, client, _file: file, _reaper: reaper };
        all.wait_until_idle();
        all
    }

    /// Runs the command on it.
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        compose(&self.name, &self.env, args)
    }

    /// The container of a service.
    #[track_caller]
    fn service(&self, name: &str) -> Container {
        Container::started(self.run(&["ps", "--quiet", name]).trim().to_owned())
    }

    /// Runs `shunt` beside shuntd.
    #[must_use]
    #[track_caller]
    pub fn shunt(&self, args: &[&str]) -> Output {
        self.service("shuntd").try_run(&[&["shunt"], args].concat())
    }

    /// Runs `shunt` beside shuntd with a command that follows a job.
    #[must_use]
    #[track_caller]
    pub fn job(&self, args: &[&str]) -> Job {
        Job::start(&self.service("shuntd"), args)
    }

    /// Waits until shuntd answers, and no job runs.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        until("no job runs", || {
            let said = self.shunt(&["status"]);
            (said.code == 0 && !said.stdout.contains(" job ")).then_some(())
        });
    }

    /// Kills shuntd, as a machine that has no memory left does.
    #[track_caller]
    pub fn kill_shuntd(&self) {
        self.run(&["kill", "shuntd"]);
    }

    /// Loses what shuntd remembers, while it does not run; the releases stay.
    #[track_caller]
    pub fn forget(&self) {
        let id = self.run(&["ps", "--all", "--quiet", "shuntd"]);
        let volumes = format!("--volumes-from={}", id.trim());
        let script = "rm /var/lib/shunt/journal.db*";
        docker(&["run", "--rm", &volumes, "--entrypoint=sh", "shunt/nginx", "-c", script]);
    }

    /// Starts the next one.
    #[track_caller]
    pub fn start_shuntd(&self) {
        self.run(&["start", "shuntd"]);
    }

    /// The releases of which there is a container, running or not, and those containers.
    #[must_use]
    #[track_caller]
    pub fn containers(&self) -> Vec<(String, String)> {
        let of_app = format!("label=shunt.root={}", self.root);
        let format = "{{.Label \"shunt.release\"}} {{.ID}}";
        let said = docker(&["ps", "--all", "--no-trunc", "--filter", &of_app, "--format", format]);
        let pair = |line: &str| {
            let (release, id) = line.split_once(' ').expect("both");
            (release.to_owned(), id.to_owned())
        };
        let mut found: Vec<_> = said.lines().map(pair).collect();
        found.sort();
        found
    }

    /// The releases of which there is a container, in their order.
    #[must_use]
    #[track_caller]
    pub fn releases(&self) -> Vec<String> {
        self.containers().into_iter().map(|(release, _)| release).collect()
    }

    /// The container of a release.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn container(&self, release: &str) -> String {
        let found = self.containers().into_iter().find(|(found, _)| found == release);
        found.unwrap_or_else(|| panic!("no container of {release}")).1
    }

    /// Kills the process of a release from the outside: Docker takes it for a crash.
    #[track_caller]
    pub fn crash(&self, release: &str) {
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &self.container(release)]);
        let script = format!("kill -KILL {pid}");
        docker(&["run", "--rm", "--pid=host", "--entrypoint=sh", "shunt/nginx", "-c", &script]);
    }

    /// Who answers, if somebody does.
    #[must_use]
    pub fn answering(&self) -> Option<String> {
        let said = self.client.try_run(&["curl", "-sS", "--fail", "http://nginx/release"]);
        (said.code == 0).then(|| said.stdout.trim().to_owned())
    }

    /// Starts load: GET and POST over new and over kept-open connections, and a WebSocket.
    #[must_use]
    #[track_caller]
    pub fn watch(&self) -> Watch<'_> {
        Watch::all_ways(&self.client, "http://nginx/", 100)
    }

    /// The upstream, as NGINX tells it.
    ///
    /// # Panics
    ///
    /// When NGINX does not.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> Upstream {
        let url = "http://shunt/v1/upstreams/web";
        let ask = ["curl", "-sS", "--fail", "--unix-socket", "/run/shunt/nginx.sock", url];
        serde_json::from_str(&self.service("nginx").run(&ask)).expect("an upstream")
    }

    /// Waits until so many more requests were given to the active release.
    #[track_caller]
    pub fn wait_for_requests(&self, count: u64) {
        let requests = || {
            let state = self.state();
            let active = state.active.as_ref().and_then(|active| state.release(active.as_str()));
            active.map(|active| active.requests).expect("an active release")
        };
        let before = requests();
        until("requests", || (requests() >= before + count).then_some(()));
    }

    /// What `shunt` says as JSON.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[must_use]
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let said = self.shunt(&[&["--json"], args].concat());
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"))
    }

    /// What `shuntd` has logged.
    #[must_use]
    #[track_caller]
    pub fn log(&self) -> String {
        self.run(&["logs", "--no-color", "shuntd"])
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of shuntd\n{}", self.log());
        }
    }
}

#[track_caller]
fn compose(name: &str, env: &[(&'static str, String)], args: &[&str]) -> String {
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run_in(&folder().join("runner"), name, &env, args)
}

/// The beginning of a network's addresses: of those that are for tests (RFC 2544), some that another
/// test hardly has.
fn subnet(name: &str) -> String {
    let sum =
        name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("198.{}.{}", 18 + (sum >> 8) % 2, sum % 256)
}
