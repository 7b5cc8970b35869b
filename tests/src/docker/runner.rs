//! `shuntd` that starts the containers of the application: as in the Compose file of `docker/runner/`, or
//! as on a machine.

use serde_json::Value;
use shunt_api::Upstream;

use super::compose::{folder, run_in};
use super::container::Container;
use super::engine::{docker, try_docker};
use super::job::Job;
use super::reaper::Reaper;
use super::watch::Watch;
use crate::helper::Output;
use crate::{free_port, until};

/// What has NGINX, `shuntd`, `shunt` and `curl`.
const IMAGE: &str = "shunt/nginx";

/// NGINX and `shuntd` in containers, where the latter starts those of the application.
#[derive(Debug)]
pub struct Runner {
    /// The application's folder, by which its containers are known.
    root: String,
    nginx: Container,
    shuntd: Container,
    /// A machine that reaches NGINX, and has `shunt` and `curl`.
    pub client: Container,
    /// Where it does.
    url: String,
    _file: tempfile::TempDir,
    _reaper: Reaper,
}

impl Runner {
    /// Starts what the Compose file has, with this at the end of the application's file, and waits until
    /// `shuntd` answers. Containers of the application will have addresses of their own. Nothing is
    /// deployed yet.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn up(more: &str) -> Self {
        let reaper = Reaper::with("com.docker.compose.project", "shunttest", of_app);
        let name = value(&reaper);
        // As a user does who has such a network already: another one, and what is in it.
        let net = subnet(&name);
        let adapt = |text: &str| {
            let text = text.replace("172.30.30.", &format!("{net}."));
            text.replace("network = \"web\"", &format!("network = \"{name}\"")) + more
        };
        let (file, path) = app_file(&name, adapt);
        let env = [("APP", &*path), ("NETWORK", &*name), ("NET", &*net)];
        let run = |args: &[&str]| run_in(&folder().join("runner"), &name, &env, args);
        run(&["up", "--detach"]);
        let [nginx, shuntd] =
            ["nginx", "shuntd"].map(|service| run(&["ps", "--quiet", service]).trim().to_owned());
        let network = format!("--network={name}");
        let options = ["--label", &reaper.label, &network, "--entrypoint=sleep"];
        let client = Container::start(&options, IMAGE, &["infinity"]);
        let [nginx, shuntd] = [nginx, shuntd].map(Container::started);
        let (root, url) = (root(&name), "http://nginx/".to_owned());
        let all = Self { root, nginx, shuntd, client, url, _file: file, _reaper: reaper };
        all.wait_until_idle();
        all
    }

    /// The same with NGINX and `shuntd` as if they ran on this machine, and slots that are published on
    /// it, from which Docker leads to port 8080.
    ///
    /// # Panics
    ///
    /// As [`Runner::up`].
    #[must_use]
    #[track_caller]
    pub fn on_this_machine(slots: [u16; 2], more: &str) -> Self {
        let reaper = Reaper::with("shunt-test", "", of_app);
        let name = value(&reaper);
        let adapt = |text: &str| {
            let mut slots = slots.iter().map(|port| format!("127.0.0.1:{port}"));
            let mut next = || slots.next().expect("one of two");
            let text = text.replace("172.30.30.11:3000", &next());
            let text = text.replace("172.30.30.12:3000", &next());
            text.replace("network = \"web\"", "port = 8080") + more
        };
        let (file, path) = app_file(&name, adapt);
        let volume = format!("run-{name}");
        docker(&["volume", "create", "--label", &reaper.label, &volume]);
        let (run, app) =
            (format!("{volume}:/run/shunt"), format!("{path}:/etc/shunt/apps/web.toml:ro"));
        let options = ["--network=host", "--label", &reaper.label, "--volume", &run];
        let listen = format!("127.0.0.1:{}", free_port());
        let env = [
            format!("--env=SHUNT_LISTEN={listen}"),
            "--env=SHUNT_SERVERS=127.0.0.1:1 down".to_owned(),
        ];
        let env = env.each_ref().map(String::as_str);
        let nginx = Container::start(&[&options[..], &env].concat(), IMAGE, &[]);
        let socket = "/var/run/docker.sock:/var/run/docker.sock";
        let more = ["--volume", &*app, "--volume", socket];
        let shuntd = Container::start(&[&options[..], &more].concat(), IMAGE, &["shuntd"]);
        let client = Container::start(
            &[&options[..], &["--entrypoint=sleep"]].concat(),
            IMAGE,
            &["infinity"],
        );
        let (root, url) = (root(&name), format!("http://{listen}/"));
        let all = Self { root, nginx, shuntd, client, url, _file: file, _reaper: reaper };
        all.wait_until_idle();
        all
    }

    /// Runs `shunt` beside shuntd.
    #[must_use]
    #[track_caller]
    pub fn shunt(&self, args: &[&str]) -> Output {
        self.shuntd.try_run(&[&["shunt"], args].concat())
    }

    /// Runs `shunt` beside shuntd with a command that follows a job.
    #[must_use]
    #[track_caller]
    pub fn job(&self, args: &[&str]) -> Job {
        Job::start(&self.shuntd, args)
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
        self.shuntd.cut_off();
    }

    /// Loses what shuntd remembers, while it does not run; the releases stay.
    #[track_caller]
    pub fn forget(&self) {
        let volumes = format!("--volumes-from={}", self.shuntd.id());
        let script = "rm /var/lib/shunt/journal.db*";
        docker(&["run", "--rm", &volumes, "--entrypoint=sh", IMAGE, "-c", script]);
    }

    /// Starts the next one.
    #[track_caller]
    pub fn start_shuntd(&self) {
        self.shuntd.power_on();
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
        docker(&["run", "--rm", "--pid=host", "--entrypoint=sh", IMAGE, "-c", &script]);
    }

    /// Who answers, if somebody does.
    #[must_use]
    pub fn answering(&self) -> Option<String> {
        let url = format!("{}release", self.url);
        let said = self.client.try_run(&["curl", "-sS", "--fail", &url]);
        (said.code == 0).then(|| said.stdout.trim().to_owned())
    }

    /// Starts load: GET and POST over new and over kept-open connections, and a WebSocket.
    #[must_use]
    #[track_caller]
    pub fn watch(&self) -> Watch<'_> {
        Watch::all_ways(&self.client, &self.url, 100)
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
        serde_json::from_str(&self.nginx.run(&ask)).expect("an upstream")
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
        let said = try_docker(&["logs", self.shuntd.id()], b"");
        said.stdout + &said.stderr
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of shuntd\n{}", self.log());
        }
    }
}

/// The value of the label of all that a test has.
fn value(reaper: &Reaper) -> String {
    reaper.label.split_once('=').expect("a name and a value").1.to_owned()
}

/// The application's folder.
fn root(name: &str) -> String {
    format!("/var/lib/shunt/{name}")
}

/// The labels of what shuntd starts.
fn of_app(name: &str) -> Vec<String> {
    vec![format!("shunt.root={}", root(name))]
}

/// The application's file, adapted; and where it is.
#[track_caller]
fn app_file(name: &str, adapt: impl Fn(&str) -> String) -> (tempfile::TempDir, String) {
    let file = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(folder().join("runner/web.toml")).expect("the file");
    let text = text
        .replace("image   = \"web\"", "image   = \"shunt-test-app\"")
        .replace("/var/lib/shunt/web", &root(name));
    let path = file.path().join("web.toml");
    std::fs::write(&path, adapt(&text)).expect("written");
    let path = path.display().to_string();
    (file, path)
}

/// The beginning of a network's addresses: of those that are for tests (RFC 2544), some that another
/// test hardly has.
fn subnet(name: &str) -> String {
    let sum =
        name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("198.{}.{}", 18 + (sum >> 8) % 2, sum % 256)
}
