//! `grpc_pass`: calls, and streams that stay open across a switch.

mod message;
mod server;

use shunt_api::InFlight;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests, switch_under};

use crate::h2c::{Client, listen, runtime, soon};
use message::{Messages, frame};

const ONE: InFlight = InFlight { requests: 1, upgraded: 0 };

fn start(build: &Build, keepalive: &str) -> (Nginx, Backend) {
    let [a, b] =
        ["a", "b"].map(|release| Backend::speaking(release, 2, "127.0.0.1:0", server::serve));
    let more = format!(
        "upstream web {{ shunt;\n{}{}{keepalive} }}
         server {{ {} location / {{ grpc_pass grpc://web; }} }}",
        a.lines(),
        b.lines(),
        listen(build)
    );
    (Nginx::start(build, Setup::standard(&more)), a)
}

/// A call with one message that has one message as its answer, which is well.
async fn unary(client: &Client, path: &str) -> String {
    let (response, mut body) = client.begin("POST", path, message::HEADERS).await;
    body.send_data(frame("hello"), true).unwrap();
    let response = soon("an answer", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut messages = Messages::new(response.into_body());
    let text = messages.next().await.expect("a message");
    assert_eq!(messages.next().await, None);
    assert_eq!(messages.status().await.as_deref(), Some("0"));
    text
}

fn a_unary_call_is_switched(build: &Build) {
    let (nginx, a) = start(build, "");
    let runtime = runtime();
    switch_under(&nginx, &a, |path| {
        runtime.block_on(async {
            let client = Client::connect(&nginx.path("h2.sock")).await;
            unary(&client, path).await
        })
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn calls_of_one_client_follow_every_switch(build: &Build) {
    const SWITCHES: u64 = 100;
    let (nginx, _a) = start(build, "keepalive 4;");
    let admin = nginx.admin();
    runtime().block_on(async {
        let client = Client::connect(&nginx.path("h2.sock")).await;
        for n in 0..SWITCHES {
            let release = if n % 2 == 0 { "b" } else { "a" };
            admin.switch("web", release, None).unwrap();
            assert_eq!(unary(&client, "/").await, release);
        }
    });
    nothing_in_flight(&nginx, "web");
    let half = SWITCHES / 2;
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), half), ("b".to_owned(), half)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn a_servers_stream_stays_with_its_release_across_a_switch(build: &Build) {
    let (nginx, a) = start(build, "keepalive 4;");
    let admin = nginx.admin();
    runtime().block_on(async {
        let client = Client::connect(&nginx.path("h2.sock")).await;
        a.hold();
        let (response, mut body) = client.begin("POST", "/held/watch", message::HEADERS).await;
        body.send_data(frame("watch"), true).unwrap();
        let response = soon("the stream's head", response).await.unwrap();
        let mut messages = Messages::new(response.into_body());
        assert_eq!(messages.next().await.as_deref(), Some("a"), "before the switch");
        admin.switch("web", "b", None).unwrap();
        assert_eq!(admin.in_flight("web", "a"), ONE);
        assert_eq!(unary(&client, "/").await, "b", "on the same connection");
        a.let_go();
        assert_eq!(messages.next().await.as_deref(), Some("a"), "after the switch");
        assert_eq!(messages.next().await, None);
        assert_eq!(messages.status().await.as_deref(), Some("0"));
    });
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn a_conversation_stays_with_its_release_across_switches(build: &Build) {
    const ROUNDS: u32 = 20;
    let (nginx, _a) = start(build, "");
    let admin = nginx.admin();
    runtime().block_on(async {
        let client = Client::connect(&nginx.path("h2.sock")).await;
        let (response, mut body) = client.begin("POST", "/chat", message::HEADERS).await;
        body.send_data(frame("hello"), false).unwrap();
        let response = soon("the stream's head", response).await.unwrap();
        let mut messages = Messages::new(response.into_body());
        assert_eq!(messages.next().await.as_deref(), Some("a: hello"));
        for n in 0..ROUNDS {
            let release = if n % 2 == 0 { "b" } else { "a" };
            admin.switch("web", release, None).unwrap();
            body.send_data(frame(&format!("round {n}")), false).unwrap();
            assert_eq!(messages.next().await, Some(format!("a: round {n}")));
            assert_eq!(admin.in_flight("web", "a"), ONE);
        }
        body.send_data(bytes::Bytes::new(), true).unwrap();
        assert_eq!(messages.next().await, None);
        assert_eq!(messages.status().await.as_deref(), Some("0"));
    });
    nothing_in_flight(&nginx, "web");
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), 1), ("b".to_owned(), 0)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

each_nginx!(
    a_unary_call_is_switched,
    calls_of_one_client_follow_every_switch,
    a_servers_stream_stays_with_its_release_across_a_switch,
    a_conversation_stays_with_its_release_across_switches,
);
