use super::*;

pub(super) fn spec(folder: &std::path::Path, script: &str) -> Spec {
    let slot = Address::Unix(folder.join("slot.sock"));
    Spec {
        name: "v1".to_owned(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        folder: folder.to_owned(),
        slot,
        user: None,
        env: BTreeMap::from([("RELEASE".to_owned(), "v1".to_owned())]),
        log: folder.join("v1.log"),
        stop_timeout: Duration::from_secs(5),
    }
}

pub(super) async fn until(process: &Process, wanted: impl FnMut(&State) -> bool) -> State {
    let mut watch = process.watch();
    let found = tokio::time::timeout(Duration::from_secs(20), watch.wait_for(wanted));
    found.await.expect("in time").expect("supervised").clone()
}

pub(super) async fn lines(process: &Process, n: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let lines = process.log().last_lines(100);
        if lines.len() >= n {
            return lines;
        }
        assert!(Instant::now() < deadline, "{lines:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn until_gone(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Identity::of(pid).is_some() {
        assert!(Instant::now() < deadline, "process {pid} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_process_gets_its_socket_as_systemd_would_give_it() {
    let tmp = tempfile::tempdir().unwrap();
    let script = "echo $LISTEN_FDS $LISTEN_FDNAMES $RELEASE $((LISTEN_PID == $$)); \
                  [ -S /proc/$$/fd/3 ] && echo socket; pwd; exec sleep 60";
    let process = Process::start(spec(tmp.path(), script)).await.unwrap();
    let lines = lines(&process, 3).await;
    assert_eq!(lines[..2], ["1 http v1 1", "socket"]);
    assert_eq!(lines[2], tmp.path().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(process.stop().await, End::ByItself, "sleep ends on SIGTERM");
    assert!(!tmp.path().join("slot.sock").exists());
}

/// Users of this machine that are in further groups.
fn names_with_groups() -> Vec<String> {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let members = groups.lines().filter_map(|line| line.rsplit(':').next());
    let names = members.flat_map(|m| m.split(',')).filter(|name| !name.is_empty());
    names.filter(|name| User::find(name).is_ok()).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_process_runs_as_its_user_with_the_groups_that_the_user_has() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tmp.path(), mode).unwrap();
    // What the system knows of each; none of root's own.
    for name in names_with_groups().iter().map(String::as_str).chain(["nobody"]) {
        let user = User::find(name).unwrap();
        let script = "id -u; id -G; id -G $USER; exec sleep 60";
        let log = tmp.path().join(format!("{name}.log"));
        let spec = Spec { user: Some(user.clone()), log, ..spec(tmp.path(), script) };
        let process = Process::start(spec).await.unwrap();
        let said = lines(&process, 3).await;
        assert_eq!(said[0], user.uid.to_string());
        assert_eq!(said[1], said[2], "{name}");
        process.stop().await;
    }
}

#[tokio::test]
async fn what_has_left_the_group_with_the_socket_ends_with_the_release() {
    let tmp = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // It stays when the group is killed, and whatever has not been told to let go of descriptor 3.
    let away = "setsid sh -c 'setsid sh -c \"echo \\$\\$; touch away; exec sleep 600\" & exec sleep 600' &";
    let stays = format!("{away} exec sleep 600");
    let spec = Spec { slot: Address::Ip(free), ..spec(tmp.path(), &stays) };
    let process = Process::start(spec.clone()).await.unwrap();
    let away_pid = lines(&process, 1).await[0].parse().unwrap();
    process.stop().await;
    until_gone(away_pid).await;
    // The next one can listen there. It ends by itself, and what it left does not wait for long.
    let ends = Spec { command: spec.command[..2].to_vec(), ..spec };
    let script = format!(
        "[ -e ran ] && exec sleep 600; touch ran; rm away; {away} \
         until [ -e away ]; do sleep 0.01; done; exit 1"
    );
    let ends = Spec { command: [ends.command.clone(), vec![script]].concat(), ..ends };
    let process = Process::start(ends).await.unwrap();
    let away_pid = lines(&process, 1).await[0].parse().unwrap();
    until(&process, |s| matches!(s, State::Running { restarts: 1, .. })).await;
    until_gone(away_pid).await;
    process.stop().await;
}

#[tokio::test]
async fn connections_wait_while_a_process_that_died_starts_again() {
    let tmp = tempfile::tempdir().unwrap();
    let process = Process::start(spec(tmp.path(), "echo once; exit 7")).await.unwrap();
    let state = until(&process, |s| matches!(s, State::Ended { restarts: 1, .. })).await;
    assert_eq!(state, State::Ended { how: "exit status 7".to_owned(), restarts: 1 });
    // Nobody accepts, but the connection is made.
    tokio::net::UnixStream::connect(tmp.path().join("slot.sock")).await.unwrap();
    process.stop().await;
}

#[tokio::test]
async fn another_program_takes_the_place_while_the_socket_stays_open() {
    let tmp = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let script = |word: &str| format!("echo {word}; exec sleep 600");
    let of = |script: &str, log: &str| Spec {
        slot: Address::Ip(free),
        log: tmp.path().join(log),
        ..spec(tmp.path(), script)
    };
    let first = Process::start(of(&script("old"), "old.log")).await.unwrap();
    lines(&first, 1).await;
    // Before, while and after: whoever has connected is not told to go away.
    let early = tokio::net::TcpStream::connect(free).await.unwrap();
    let bad = Spec { command: vec!["./nothing".to_owned()], ..of("", "bad.log") };
    let (held, error) = first.replace(bad).await.err().unwrap();
    assert!(matches!(error, StartError::Spawn { .. }), "{error}");
    assert_eq!(held.state(), State::Stopped);
    let meanwhile = tokio::net::TcpStream::connect(free).await.unwrap();
    // The old one again.
    let again = held.replace(of(&script("again"), "old.log")).await.unwrap();
    assert_eq!(lines(&again, 1).await, ["again"]);
    let next = again.replace(of(&script("new"), "new.log")).await.unwrap();
    assert_eq!(lines(&next, 1).await, ["new"]);
    assert!(matches!(next.state(), State::Running { restarts: 0, .. }));
    for stream in [early, meanwhile] {
        let read = stream.try_read(&mut [0]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
    next.stop().await;
    assert!(tokio::net::TcpStream::connect(free).await.is_err());
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_with_its_whole_group() {
    let tmp = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; sleep 600 & echo $!; while :; do sleep 600; done";
    let mut spec = spec(tmp.path(), script);
    spec.stop_timeout = Duration::from_millis(200);
    let process = Process::start(spec).await.unwrap();
    let pid: u32 = lines(&process, 1).await[0].parse().unwrap();
    assert_eq!(process.stop().await, End::Killed);
    until_gone(pid).await;
}

#[tokio::test]
async fn what_a_process_leaves_behind_ends_before_it_is_started_again() {
    let tmp = tempfile::tempdir().unwrap();
    let script = "[ -e pid ] && exec sleep 600; sleep 600 & echo $! > pid; exit 1";
    let process = Process::start(spec(tmp.path(), script)).await.unwrap();
    until(&process, |s| matches!(s, State::Running { restarts: 1, .. })).await;
    let pid = std::fs::read_to_string(tmp.path().join("pid")).unwrap();
    until_gone(pid.trim().parse().unwrap()).await;
    process.stop().await;
}

#[tokio::test]
async fn p9_a_process_that_outlived_its_daemon_is_taken_over_with_its_socket() {
    let tmp = tempfile::tempdir().unwrap();
    let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.01; done";
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spec = Spec { slot: Address::Ip(free), ..spec(tmp.path(), script) };
    let first = Process::start(spec.clone()).await.unwrap();
    lines(&first, 1).await;
    let State::Running { pid: Some(pid), .. } = first.state() else {
        panic!("{:?}", first.state())
    };
    // As a daemon that is killed leaves it: nobody waits, nobody holds the socket.
    first.abandon().await;
    let second = Process::adopt(spec.clone(), Identity::of(pid).unwrap()).unwrap();
    assert_eq!(second.state(), State::Running { pid: Some(pid), restarts: 0 });
    tokio::net::TcpStream::connect(free).await.unwrap();
    // It is supervised from now on: started again when it dies, on the same socket.
    let group = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    until(&second, |s| matches!(s, State::Running { restarts: 1, .. })).await;
    tokio::net::TcpStream::connect(free).await.unwrap();
    assert_eq!(second.stop().await, End::ByItself);
}

#[tokio::test]
async fn a_process_that_is_another_one_now_is_not_taken_over() {
    let tmp = tempfile::tempdir().unwrap();
    let process = Process::start(spec(tmp.path(), "exec sleep 600")).await.unwrap();
    let State::Running { pid: Some(pid), .. } = process.state() else {
        panic!("{:?}", process.state())
    };
    let real = Identity::of(pid).unwrap();
    let reused = Identity { start: real.start - 1, ..real };
    assert!(Process::adopt(spec(tmp.path(), ""), reused).is_err());
    let other = Address::Unix(tmp.path().join("other.sock"));
    let elsewhere = Spec { slot: other, ..spec(tmp.path(), "") };
    let error = Process::adopt(elsewhere, real).unwrap_err().to_string();
    assert!(error.contains("does not listen on"), "{error}");
    process.stop().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let tmp = tempfile::tempdir().unwrap();
    let mut spec = spec(tmp.path(), "");
    spec.command = vec!["./nothing".to_owned()];
    let error = Process::start(spec.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::Spawn { .. }), "{error}");
    let said = "the release has no file \"./nothing\": `[run] command` is relative to its folder";
    assert!(error.to_string().ends_with(said), "{error}");
    spec.command = vec!["/no/where".to_owned()];
    let error = Process::start(spec.clone()).await.unwrap_err();
    let said = "there is no file /no/where, which `[run] command` names";
    assert!(error.to_string().ends_with(said), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    spec.slot = Address::Ip(taken.local_addr().unwrap());
    let error = Process::start(spec).await.unwrap_err();
    assert!(error.is_in_use() && error.to_string().contains("ss -lntp"), "{error}");
}
