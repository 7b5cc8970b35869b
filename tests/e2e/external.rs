//! The runner `external`: somebody else runs the releases in their slots.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use shunt_tests::build::{self, Build};
use shunt_tests::helper::Daemon;
use shunt_tests::load::{Load, failures};
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::process::{is_running, signal};
use shunt_tests::{free_port, until};

/// A release that this test runs.
struct Server(Child);

impl Server {
    fn start(daemon: &Daemon, release: &str, port: u16) -> Self {
        let folder = daemon.release(release);
        let mut command = Command::new(build::own("shunt-demo-app"));
        command.current_dir(folder).env("PORT", port.to_string()).stdout(Stdio::null());
        let server = Self(command.spawn().expect("it starts"));
        until("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }

    fn runs(&self) -> bool {
        is_running(self.0.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(self.0.id(), Signal::TERM);
        // It is a child of this process, so this ends.
        let _ = self.0.wait();
    }
}

/// An application with two slots; the first is written by name.
fn start(build: &Build, ports: [u16; 2]) -> (Nginx, Daemon) {
    let upstream = "upstream web { shunt; server 127.0.0.1:1; keepalive 8; }";
    let nginx = Nginx::start(build, Setup { workers: 2, ..Setup::standard(upstream) });
    let mut daemon = Daemon::start(&nginx.path("helper"), &nginx.path("api.sock"), "");
    let app = std::fs::read_to_string(daemon.path("apps/web.toml")).unwrap();
    let lines = app.lines().map(str::trim).map(|line| match line.split(' ').next() {
        Some("command") => "runner = \"external\"".to_owned(),
        Some("slots") => {
            format!("slots = [\"localhost:{}\", \"127.0.0.1:{}\"]", ports[0], ports[1])
        }
        _ => line.to_owned(),
    });
    let app: Vec<_> = lines.collect();
    std::fs::write(daemon.path("apps/web.toml"), app.join("\n")).unwrap();
    daemon.end();
    daemon.run();
    (nginx, daemon)
}

fn release_that_answers(nginx: &Nginx) -> String {
    nginx.connect().ask("GET", "/", b"").expect("an answer").release().to_owned()
}

#[track_caller]
fn deploy(nginx: &Nginx, daemon: &Daemon, release: &str) {
    let output = daemon.shunt(&["deploy", "web", "--release", release]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(release_that_answers(nginx), release);
}

fn p8_what_somebody_else_runs_is_switched_to_and_never_stopped(build: &Build) {
    let ports = [free_port(), free_port()];
    let (nginx, mut daemon) = start(build, ports);
    let v1 = Server::start(&daemon, "v1", ports[0]);
    let v2 = Server::start(&daemon, "v2", ports[1]);
    deploy(&nginx, &daemon, "v1");
    let servers = |release: &str| {
        let state = nginx.admin().state("web");
        let known = state.release(release).expect("it is known");
        known.servers.iter().map(|server| server.address.clone()).collect::<Vec<_>>()
    };
    // NGINX was told of an address.
    assert_eq!(servers("v1"), [format!("127.0.0.1:{}", ports[0])]);
    let load = Load::start(nginx.port, 4);
    deploy(&nginx, &daemon, "v2");
    assert_eq!(servers("v2"), [format!("127.0.0.1:{}", ports[1])]);
    assert!(v1.runs() && v2.runs());

    // In the other slot there is another release than the one that is to be there.
    let output = daemon.shunt(&["deploy", "web", "--release", "v3"]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("not healthy within"), "{}", output.stdout);
    assert!(v1.runs(), "it is not ours to stop");

    // Back to the one that still runs there.
    let output = daemon.shunt(&["rollback", "web"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(release_that_answers(&nginx), "v1");
    assert_eq!(servers("v1"), [format!("127.0.0.1:{}", ports[0])]);

    // Whether shuntd runs makes no difference to them.
    daemon.end();
    assert!(v1.runs() && v2.runs());
    daemon.run();
    let status = || daemon.shunt(&["status"]).stdout;
    until("it knows them again", || {
        status().contains("not as a process of shuntd's").then_some(())
    });
    until("no job runs", || (!status().contains("job")).then_some(()));
    drop(v2);
    let v4 = Server::start(&daemon, "v4", ports[1]);
    let slot = format!("127.0.0.1:{}", ports[1]);
    let output = daemon.shunt(&["deploy", "web", "--release", "v4", "--slot", &slot]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(release_that_answers(&nginx), "v4");
    assert!(v1.runs() && v4.runs());
    let output = daemon.shunt(&["deploy", "web", "--release", "v5", "--slot", &slot]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("is not free"), "{}", output.stdout);
    let samples = load.stop();
    assert_eq!(failures(&samples), [] as [&String; 0]);
}

each_nginx!(p8_what_somebody_else_runs_is_switched_to_and_never_stopped);
