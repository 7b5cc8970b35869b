//! A server that is set up as Shunt's guide says, and a client elsewhere.

use shunt_api::Upstream;

use super::Debian;
use super::container::Container;
use super::engine::docker;
use super::job::Job;
use super::reaper::Reaper;
use super::watch::Watch;
use crate::helper::Output;
use crate::until;

/// systemd mounts, makes namespaces for its units, and writes to its part of the cgroups. Root may look
/// into other users' processes, as on any machine.
const SYSTEMD: [&str; 11] = [
    "--cap-add=SYS_ADMIN",
    "--cap-add=SYS_PTRACE",
    "--security-opt=apparmor=unconfined",
    "--security-opt=seccomp=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--hostname=server",
    "--network-alias=server",
    "--env=container=docker",
    "--stop-timeout=30",
];

/// The application that the image has (`shunt-demo-app`).
const APPLICATION: &str = "/usr/local/lib/demo/server";

/// The token of the admin API for other hosts.
const TOKEN: &str = "/etc/nginx/shunt.token";

/// Requests a second of [`Site::watch`].
pub const RATE: u32 = 200;

/// Two machines with a network of their own, which leads nowhere else.
///
/// The server has what `make install` installs, and the samples of the repository: NGINX's upstream
/// `web` (at first it goes to port 3000, where nobody is), the units `web@PORT.socket` and
/// `web@PORT.service` of the user `web`, and `shuntd`, which has no application yet (see
/// [`Site::configure_app`]).
#[derive(Debug)]
pub struct Site {
    /// The server.
    pub server: Container,
    /// The machine that asks.
    pub client: Container,
    _reaper: Reaper,
}

impl Site {
    /// Starts both machines, and waits until everything on the server runs.
    ///
    /// # Panics
    ///
    /// When it does not, or when there is no Docker Engine.
    #[must_use]
    #[track_caller]
    pub fn start(debian: Debian) -> Self {
        Self::of(&debian.image(), &debian.image())
    }

    /// The same, but the server is without Shunt and its samples; what it is installed from is in `/usr/src/shunt`.
    ///
    /// # Panics
    ///
    /// As [`Site::start`].
    #[must_use]
    #[track_caller]
    pub fn without_shunt(debian: Debian) -> Self {
        Self::of(&debian.plain_image(), &debian.image())
    }

    #[track_caller]
    fn of(server: &str, client: &str) -> Self {
        let reaper = Reaper::start();
        let label = format!("--label={}", reaper.label);
        let name = reaper.label.replace('=', "-");
        docker(&["network", "create", "--internal", &label, &name]);
        let network = format!("--network={name}");
        let options = [&SYSTEMD[..], &[&label, &network]].concat();
        let server = Container::start(&options, server, &[]);
        let options = ["--entrypoint=sleep", "--hostname=client", &label, &network];
        let client = Container::start(&options, client, &["infinity"]);
        let site = Self { server, client, _reaper: reaper };
        site.server.wait_until_booted();
        site
    }

    /// Makes a release of the application: a folder that `shunt deploy --from` takes.
    #[track_caller]
    pub fn release(&self, name: &str) -> String {
        let folder = format!("/srv/web/dist/{name}");
        self.server.sh(&format!(
            "mkdir -p {folder}; cp {APPLICATION} {folder}/server; echo {name} >{folder}/REVISION"
        ));
        folder
    }

    /// Puts a release into a slot and starts its units there, as the runner `systemd` will.
    #[track_caller]
    pub fn run_in_slot(&self, port: u16, release: &str) {
        let from = self.release(release);
        self.server.sh(&format!(
            "systemctl stop web@{port}.socket web@{port}.service
             mkdir -p /srv/web/releases /srv/web/slots
             cp -r {from} /srv/web/releases/{release}
             ln -sfn ../releases/{release} /srv/web/slots/{port}
             systemctl start web@{port}.socket web@{port}.service"
        ));
    }

    /// Gives shuntd the application `web` by this file, and starts shuntd again.
    #[track_caller]
    pub fn configure_app(&self, toml: &str) {
        // Most tests are of something else, and need not wait for it.
        let guard = if toml.contains("\n[guard]") { "" } else { "\n[guard]\ntime = \"0s\"\n" };
        self.server.write("/etc/shunt/apps/web.toml", format!("{toml}{guard}"));
        self.server.run(&["systemctl", "restart", "shuntd.service"]);
    }

    /// Runs `shunt` on the server, as root.
    #[must_use]
    #[track_caller]
    pub fn shunt(&self, args: &[&str]) -> Output {
        self.server.try_run(&[&["shunt"], args].concat())
    }

    /// Waits until no job runs: shuntd begins with one that looks after what runs already.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        until("no job runs", || (!self.shunt(&["status"]).stdout.contains(" job ")).then_some(()));
    }

    /// Runs `shunt` on the server, as root, with a command that follows a job.
    #[must_use]
    #[track_caller]
    pub fn job(&self, args: &[&str]) -> Job {
        Job::start(&self.server, args)
    }

    /// Begins the deploy of a release (see [`Site::release`]).
    #[must_use]
    #[track_caller]
    pub fn deploy(&self, app: &str, release: &str) -> Job {
        let from = format!("/srv/web/dist/{release}");
        self.job(&["deploy", app, "--release", release, "--from", &from])
    }

    /// An upstream, as NGINX tells it to root.
    ///
    /// # Panics
    ///
    /// When NGINX does not.
    #[must_use]
    #[track_caller]
    pub fn state(&self, upstream: &str) -> Upstream {
        let url = format!("http://shunt/v1/upstreams/{upstream}");
        let socket = ["curl", "--silent", "--show-error", "--unix-socket", "/run/shunt-nginx.sock"];
        let said = self.server.run(&[&socket[..], &[&url]].concat());
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("no upstream: {e}: {said}"))
    }

    /// A change through the API from the client, which has the token; gives what is answered.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[track_caller]
    pub fn change(&self, method: &str, path: &str, body: &str) -> String {
        self.client.sh(&format!(
            "curl --silent --show-error --fail-with-body --request {method} --data '{body}' \
                --header \"Authorization: Bearer $(cat {TOKEN})\" http://server:8080/v1/upstreams{path}"
        ))
    }

    /// Tells NGINX from the client that a release is in a slot.
    #[track_caller]
    pub fn put(&self, release: &str, port: u16) {
        let body = format!(r#"{{"servers":[{{"address":"127.0.0.1:{port}"}}]}}"#);
        self.change("PUT", &format!("/web/releases/{release}"), &body);
    }

    /// Makes a release the active one from the client.
    #[track_caller]
    pub fn switch(&self, release: &str) {
        self.change("POST", "/web/switch", &format!(r#"{{"release":"{release}"}}"#));
    }

    /// The release that answers the client.
    ///
    /// # Panics
    ///
    /// When there is no answer, or it is an error.
    #[must_use]
    #[track_caller]
    pub fn answering(&self) -> String {
        let said = self.client.run(&["curl", "-sS", "--fail", "http://server/release"]);
        said.trim().to_owned()
    }

    /// Starts load from the client: GET and POST over new and over kept-open connections, and a
    /// WebSocket.
    #[must_use]
    #[track_caller]
    pub fn watch(&self) -> Watch<'_> {
        self.watch_at("http://server/")
    }

    /// The same, to another place.
    #[must_use]
    #[track_caller]
    pub fn watch_at(&self, url: &str) -> Watch<'_> {
        Watch::all_ways(&self.client, url, RATE)
    }

    /// Starts load as these arguments of `shunt watch` say.
    #[must_use]
    #[track_caller]
    pub fn watch_with(&self, args: &[&str]) -> Watch<'_> {
        Watch::start(&self.client, args)
    }

    /// Starts load that also NGINX's own reload must not disturb: GET over new and over kept-open
    /// connections. NGINX closes the latter when it reloads; what was just being sent then, a client
    /// may send again if it is no POST (RFC 9112, section 9.3.1).
    #[must_use]
    #[track_caller]
    pub fn watch_gets(&self) -> Watch<'_> {
        self.watch_with(&["--rate", &RATE.to_string(), "http://server/"])
    }

    /// Waits until so many more requests of the load have been given to the active release.
    #[track_caller]
    pub fn wait_for_requests(&self, count: u64) {
        let requests = || {
            let state = self.state("web");
            let active = state.active.clone().expect("an active release");
            let entry = state.release(active.as_str()).expect("it is there");
            (active, entry.requests)
        };
        let before = requests();
        until("requests", || {
            let now = requests();
            assert_eq!(now.0, before.0, "nobody switches meanwhile");
            (now.1 >= before.1 + count).then_some(())
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tell =
                "journalctl --no-pager --boot --lines=200; tail -n 50 /var/log/nginx/error.log";
            let said = self.server.try_run(&["sh", "-c", tell]);
            eprintln!("--- the server's log\n{}{}", said.stdout, said.stderr);
        }
    }
}
