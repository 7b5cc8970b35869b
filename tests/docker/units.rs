//! The units of a slot, as the helper's runner sees them: this test program itself runs in the
//! container, where systemd is.

use std::path::Path;
use std::time::Duration;

use shunt_helper::config::Units;
use shunt_helper::runner::state::{End, State};
use shunt_helper::runner::systemd::bus::Bus;
use shunt_helper::runner::systemd::{Service, Spec, SystemdError};
use shunt_tests::docker::Debian;
use shunt_tests::docker::site::Site;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where this program is in the container.
const PROGRAM: &str = "/usr/local/bin/shunt-docker-test";

const PLACE: &str = "127.0.0.1:3001";
const SERVICE: &str = "web@3001.service";
const SOCKET: &str = "web@3001.socket";

/// Runs one of the tests below in a container that has these releases. `late` takes a moment to start,
/// and `bad` does not.
#[track_caller]
fn inside(debian: Debian, test: &str) {
    let site = Site::start(debian);
    for release in ["v1", "v2", "late", "bad"] {
        let folder = site.release(release);
        site.server.sh(&format!("mkdir -p /srv/web/releases; cp -r {folder} /srv/web/releases/"));
    }
    site.server.write(
        "/srv/web/releases/late/server",
        "#!/bin/sh\nsleep 0.5\nexec /usr/local/lib/demo/server\n",
    );
    site.server.write("/srv/web/releases/bad/server", "#!/bin/sh\necho bad luck\nexit 7\n");
    let program = std::env::current_exe().expect("this program");
    site.server.write(PROGRAM, std::fs::read(program).expect("this program"));
    site.server.run(&["chmod", "755", PROGRAM]);
    let name = format!("units::{test}");
    let output = site.server.try_run(&[PROGRAM, "--exact", &name, "--ignored", "--nocapture"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("1 passed"), "{}", output.stdout);
}

fn spec(release: &str) -> Spec {
    // Elsewhere these units may be somebody's.
    assert_eq!(std::env::current_exe().expect("this program"), Path::new(PROGRAM));
    Spec {
        name: format!("web: {release}"),
        units: Units { unit: "web".to_owned(), socket: true },
        slot: PLACE.parse().expect("an address"),
        link: "/srv/web/slots/3001".into(),
        folder: Path::new("/srv/web/releases").join(release),
    }
}

/// The release that answers in the slot; waits for it.
async fn answers() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(PLACE).await?;
    let request = b"GET /release HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
}

async fn is_active(unit: &str) -> bool {
    let mut bus = Bus::connect().await.unwrap();
    let object = bus.load(unit).await.unwrap();
    let properties = bus.properties(&object).await.unwrap();
    properties["ActiveState"].downcast_ref::<String>().unwrap() == "active"
}

fn pid(service: &Service) -> u32 {
    match service.state() {
        State::Running { pid: Some(pid), .. } => pid,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn systemctl(args: &[&str]) {
    assert!(std::process::Command::new("systemctl").args(args).status().unwrap().success());
}

#[tokio::test]
#[ignore = "runs in a container"]
async fn in_a_container_a_release_takes_the_place_of_another() {
    let v1 = Service::start(spec("v1")).await.unwrap();
    assert_eq!(answers().await.unwrap(), "v1");
    let old = pid(&v1);
    // While it is replaced, whoever connects waits for the one that comes.
    let replaced = tokio::spawn(v1.replace(spec("late")));
    while Path::new(&format!("/proc/{old}")).exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(answers().await.unwrap(), "late");
    let late = replaced.await.unwrap().map_err(|(_, error)| error).unwrap();

    // One that does not start: the socket is still there, and so is who has connected.
    let outcome = match late.replace(spec("bad")).await {
        // systemd has started it, and it has ended a moment later.
        Ok(bad) => {
            let ended = shunt_helper::runner::state::ended(bad.watch(), 0).await;
            assert!(ended.contains("exit status 7"), "{ended}");
            let lines = bad.journal().last_lines(30).await;
            assert!(lines.iter().any(|line| line == "bad luck"), "{lines:?}");
            bad
        }
        Err((held, error)) => {
            let SystemdError::Failed { how, .. } = &error else { panic!("{error}") };
            assert!(how.contains("exit status 7"), "{error}");
            assert_eq!(held.state(), State::Stopped);
            held
        }
    };
    assert!(is_active(SOCKET).await);
    let waiting = tokio::spawn(answers());
    let v1 = outcome.replace(spec("v1")).await.map_err(|(_, error)| error).unwrap();
    assert_eq!(answers().await.unwrap(), "v1");
    assert_eq!(waiting.await.unwrap().unwrap(), "v1");

    // Undone, nothing can start there.
    assert_eq!(v1.stop().await, End::ByItself);
    assert!(answers().await.is_err() && !is_active(SERVICE).await);
}

#[tokio::test]
#[ignore = "runs in a container"]
async fn in_a_container_what_runs_is_taken_over() {
    assert!(Service::adopt(spec("v1"), false).await.unwrap().is_none(), "there is nothing");
    let v1 = Service::start(spec("v1")).await.unwrap();
    let first = pid(&v1);
    // A daemon that is gone follows it no more.
    drop(v1);
    assert!(Service::adopt(spec("v2"), false).await.unwrap().is_none(), "it is another release");
    let v1 = Service::adopt(spec("v1"), false).await.unwrap().expect("it runs");
    assert_eq!(pid(&v1), first);
    drop(v1);
    // Without its process the socket is enough.
    systemctl(&["stop", SERVICE]);
    let v1 = Service::adopt(spec("v1"), false).await.unwrap().expect("it has its socket");
    assert_ne!(pid(&v1), first);
    // As an old release.
    let (end, v1) = v1.retire().await;
    assert_eq!(end, End::ByItself);
    assert!(!is_active(SERVICE).await && is_active(SOCKET).await);
    drop(v1);
    let v1 = Service::adopt(spec("v1"), true).await.unwrap().expect("it listens");
    assert_eq!(v1.state(), State::Listens);
    assert!(!is_active(SERVICE).await);
    // A connection starts it, which is in no other's way.
    assert_eq!(answers().await.unwrap(), "v1");
    let v2 = Service::start(spec("v2")).await.unwrap();
    assert_eq!(answers().await.unwrap(), "v2");
    v2.stop().await;
    assert!(Service::adopt(spec("v2"), true).await.unwrap().is_none(), "nothing of it is left");
}

/// Waits until it is so.
async fn until(service: &Service, wanted: impl FnMut(&State) -> bool) {
    let mut watch = service.watch();
    let found = tokio::time::timeout(Duration::from_secs(20), watch.wait_for(wanted)).await;
    found.expect("in time").expect("it is followed");
}

#[tokio::test]
#[ignore = "runs in a container"]
async fn in_a_container_an_old_release_listens_and_starts_again() {
    let late = Service::start(spec("late")).await.unwrap();
    let (end, late) = late.retire().await;
    assert_eq!(end, End::ByItself);
    let late = late.expect("it listens");
    assert_eq!(late.state(), State::Listens);
    // Somebody connects, as a port scan does.
    assert_eq!(answers().await.unwrap(), "late");
    until(&late, |state| matches!(state, State::Running { restarts: 0, .. })).await;
    let (_, late) = late.retire().await;
    // It is told to start, and whoever connects waits, whether it has or not.
    let late = late.expect("it listens").rouse().await.map_err(|(_, error)| error).unwrap();
    let waiting = tokio::spawn(answers());
    let unit = late.starting().wait().await.unwrap();
    let late = late.started(&unit).await;
    assert!(matches!(late.state(), State::Running { restarts: 0, .. }));
    assert_eq!(waiting.await.unwrap().unwrap(), "late");

    // Whoever stops the socket stops all of it, and nobody is sent there.
    let (_, late) = late.retire().await;
    let late = late.expect("it listens");
    systemctl(&["stop", SOCKET]);
    until(&late, |state| *state == State::Stopped).await;
    let (late, error) = late.rouse().await.unwrap_err();
    assert!(matches!(error, SystemdError::NotListening { .. }), "{error}");
    // Somebody has moved the link.
    systemctl(&["start", SOCKET]);
    until(&late, |state| *state == State::Listens).await;
    let link = Path::new("/srv/web/slots/3001");
    std::fs::remove_file(link).unwrap();
    std::os::unix::fs::symlink("../releases/v1", link).unwrap();
    let (late, error) = late.rouse().await.unwrap_err();
    assert!(matches!(error, SystemdError::NotListening { .. }), "{error}");
    assert_eq!(late.stop().await, End::ByItself);
    assert!(!is_active(SOCKET).await);
}

#[tokio::test]
#[ignore = "runs in a container"]
async fn in_a_container_one_that_does_not_stop_is_killed() {
    std::fs::create_dir_all("/run/systemd/system/web@.service.d").unwrap();
    std::fs::write(
        "/run/systemd/system/web@.service.d/stop.conf",
        "[Service]\nTimeoutStopSec=200ms\nKillSignal=SIGCONT\n",
    )
    .unwrap();
    systemctl(&["daemon-reload"]);
    let v1 = Service::start(spec("v1")).await.unwrap();
    assert_eq!(v1.stop().await, End::Killed);
    assert!(!is_active(SERVICE).await);
    // What an earlier one was is not said of a later one.
    std::fs::remove_file("/run/systemd/system/web@.service.d/stop.conf").unwrap();
    systemctl(&["daemon-reload"]);
    let v2 = Service::start(spec("v2")).await.unwrap();
    assert_eq!(v2.stop().await, End::ByItself);
}

fn a_release_takes_the_place_of_another_behind_the_same_socket(debian: Debian) {
    inside(debian, "in_a_container_a_release_takes_the_place_of_another");
}

fn p9_what_runs_is_taken_over_with_its_socket(debian: Debian) {
    inside(debian, "in_a_container_what_runs_is_taken_over");
}

fn an_old_release_listens_until_a_connection_or_an_order_starts_it(debian: Debian) {
    inside(debian, "in_a_container_an_old_release_listens_and_starts_again");
}

fn one_that_does_not_stop_in_time_is_killed_and_that_is_told(debian: Debian) {
    inside(debian, "in_a_container_one_that_does_not_stop_is_killed");
}

each_debian!(
    a_release_takes_the_place_of_another_behind_the_same_socket,
    p9_what_runs_is_taken_over_with_its_socket,
    an_old_release_listens_until_a_connection_or_an_order_starts_it,
    one_that_does_not_stop_in_time_is_killed_and_that_is_told,
);
