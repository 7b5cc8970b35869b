//! The application that is deployed: this very program, which runs nothing but [`the_application`].
//! It takes its socket by `LISTEN_FDS` and names its release in a header. With a file `sick` in its
//! folder it never becomes healthy, with `crash` it ends at once; with `slow-start` it takes so many
//! milliseconds to start.

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

/// How it is started.
pub fn command() -> Vec<String> {
    this_program(module_path!(), "the_application")
}

/// How the events of a job are shown to somebody else: program and arguments.
pub fn follower() -> (String, Vec<String>) {
    let mut command = this_program(module_path!(), "the_follower");
    (command.remove(0), command)
}

/// How connections are made that are never used: program and arguments.
pub fn crowd() -> (String, Vec<String>) {
    let mut command = this_program(module_path!(), "the_crowd");
    (command.remove(0), command)
}

/// How this program is started to run nothing but one test of a module.
pub fn this_program(module: &str, test: &str) -> Vec<String> {
    let exe = std::env::current_exe().unwrap().display().to_string();
    let (_, module) = module.split_once("::").unwrap();
    let test = format!("{module}::{test}");
    vec![exe, "--exact".into(), test, "--ignored".into(), "--nocapture".into()]
}

/// As [`command`], but with a file `kill` in its folder it kills the daemon before anything else.
pub fn command_that_kills() -> Vec<String> {
    let script = "[ -e kill ] && rm kill && kill -KILL $PPID; exec \"$@\"";
    let mut whole: Vec<_> = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    whole.extend(command());
    whole
}

/// As [`command`], but under a shell that leads the group and has closed the socket itself, so that
/// nobody can take it over from there.
pub fn command_behind_a_shell() -> Vec<String> {
    let inner = r#"export LISTEN_PID=$$; exec "$@""#;
    let outer = format!("sh -c '{inner}' sh \"$@\" & exec 3<&-; wait");
    let mut whole = vec!["/bin/sh".to_owned(), "-c".to_owned(), outer, "sh".to_owned()];
    whole.extend(command());
    whole
}

#[tokio::test]
#[ignore = "the application that other tests deploy"]
async fn the_application() {
    let Ok(release) = std::env::var("RELEASE") else { return };
    println!("\nrelease {release} starts");
    if let Ok(why) = std::fs::read_to_string("crash") {
        eprint!("{why}");
        std::process::exit(3);
    }
    if let Ok(ms) = std::fs::read_to_string("slow-start") {
        tokio::time::sleep(std::time::Duration::from_millis(ms.parse().unwrap())).await;
    }
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap();
    let listener = listener.expect("a socket in LISTEN_FDS");
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let health = || async {
        if std::fs::remove_file("kill-at-health").is_ok() {
            let daemon = rustix::process::getppid().unwrap();
            rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
        }
        match std::fs::read_to_string("sick") {
            Ok(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            Err(_) => (StatusCode::OK, "well\n".to_owned()),
        }
    };
    let named = move |mut response: Response| {
        response.headers_mut().insert("x-release", release.parse().unwrap());
        std::future::ready(response)
    };
    let router =
        Router::new().route("/health", get(health)).layer(axum::middleware::map_response(named));
    axum::serve(listener, router).await.unwrap();
}

#[tokio::test]
#[ignore = "what other tests run as somebody else"]
async fn the_follower() {
    let (Ok(socket), Ok(job)) = (std::env::var("SOCKET"), std::env::var("JOB")) else { return };
    let client = shunt_helper::cli::client::Client::new(socket.as_ref());
    let show = |event: &shunt_helper::wire::Event| {
        println!("{event:?}");
        Ok(())
    };
    client.follow(job.parse().unwrap(), show).await.unwrap();
}

#[test]
#[ignore = "what other tests run as somebody else"]
fn the_crowd() {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    let Ok(socket) = std::env::var("SOCKET") else { return };
    let all: Vec<_> = (0..300).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut last = Vec::new();
    // It is closed, told why or not.
    let _ = all.last().unwrap().read_to_end(&mut last);
    println!("{{}}");
    std::io::stdin().read_to_end(&mut last).unwrap();
}
