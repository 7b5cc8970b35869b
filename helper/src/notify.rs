//! Tells webhooks how jobs went: one `POST` of JSON for each event ([`Message`]).
//!
//! No job waits for one, and none fails by one: each webhook has a queue and a task of its own, which
//! tries a few times and then says in the daemon's log that it has not got through. Of an address only
//! the host is shown, as whoever knows all of it may post there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use shunt_api::ReleaseName;
use tokio::sync::{mpsc, watch};

use crate::clock::Span;
use crate::config::notify::{Event, Notify};
use crate::wire::JobKind;
use crate::{file, log};

/// How many events can wait for a webhook.
const WAITING: usize = 64;

/// What a webhook is told.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// What happened.
    pub event: Event,
    /// The application.
    pub app: ReleaseName,
    /// The job's number, and what it is.
    pub job: u64,
    /// What the job is.
    pub kind: JobKind,
    /// The release that it is about.
    pub release: ReleaseName,
    /// What that was made of, if it is known.
    pub revision: Option<String>,
    /// The release that was active when the job began, if there was one.
    pub previous: Option<ReleaseName>,
    /// In one sentence, as a person would be told.
    pub text: String,
    /// The machine.
    pub host: String,
    /// When it happened, in RFC 3339.
    pub at: String,
}

/// The webhooks of an application.
#[derive(Debug, Default)]
pub struct Notifier {
    hooks: Vec<Webhook>,
}

#[derive(Debug)]
struct Webhook {
    events: Vec<Event>,
    name: String,
    queue: mpsc::Sender<Arc<Message>>,
    /// How many events it is still to be told.
    left: watch::Sender<usize>,
}

/// How long is tried to tell a webhook something.
#[derive(Debug, Clone)]
struct Patience {
    /// How long one attempt may take.
    limit: Duration,
    /// What is waited before each further one.
    pauses: Vec<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        let pauses = [1, 10].map(Duration::from_secs).into();
        Self { limit: Duration::from_secs(10), pauses }
    }
}

impl Notifier {
    /// One for these webhooks. It must be made within a runtime, which runs a task for each.
    #[must_use]
    pub fn new(hooks: &[Notify]) -> Self {
        if hooks.is_empty() {
            return Self::default();
        }
        Self::with(hooks, &Patience::default(), roots())
    }

    fn with(hooks: &[Notify], patience: &Patience, roots: RootCertStore) -> Self {
        let client = match client(roots) {
            Ok(client) => client,
            Err(error) => {
                log::error(format_args!("nobody is notified: {error}"));
                return Self::default();
            }
        };
        let start = |notify: &Notify| {
            let (queue, messages) = mpsc::channel(WAITING);
            let post =
                Post { client: client.clone(), notify: notify.clone(), patience: patience.clone() };
            let left = watch::Sender::new(0);
            tokio::spawn(post.all(messages, left.clone()));
            Webhook { events: notify.events.clone(), name: notify.url.to_string(), queue, left }
        };
        Self { hooks: hooks.iter().map(start).collect() }
    }

    /// Tells all that want to know. Nothing is waited for: of a webhook that does not keep up, what is
    /// too much is left out.
    pub fn tell(&self, message: Message) {
        let message = Arc::new(message);
        for hook in self.hooks.iter().filter(|hook| hook.events.contains(&message.event)) {
            hook.left.send_modify(|left| *left += 1);
            if hook.queue.try_send(message.clone()).is_err() {
                hook.left.send_modify(|left| *left -= 1);
                log::warning(format_args!(
                    "{}: webhook {} does not keep up and is not told of job {}",
                    message.app, hook.name, message.job
                ));
            }
        }
    }

    /// Waits until everybody is told, but no longer than this; who is not told by then, the log has.
    /// Without it, as long as the runtime is there the tasks go on by themselves.
    pub async fn finish(&self, limit: Duration) {
        let told = self.hooks.iter().map(async |hook| {
            let mut left = hook.left.subscribe();
            let all = left.wait_for(|left| *left == 0);
            if tokio::time::timeout(limit, all).await.is_err() {
                log::warning(format_args!(
                    "webhook {} is not told of the last {} events: it was waited for up to {}",
                    hook.name,
                    *hook.left.borrow(),
                    Span(limit)
                ));
            }
        });
        futures_util::future::join_all(told).await;
    }
}

/// The authorities that this machine trusts.
fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Those that cannot be read are missed when somebody shows a certificate of theirs.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

fn client(roots: RootCertStore) -> Result<HttpClient, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // Events are rare: no connection is kept for the next.
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

/// What posts to one webhook.
struct Post {
    client: HttpClient,
    notify: Notify,
    patience: Patience,
}

/// Why a webhook was not told.
#[derive(Debug)]
struct Failed {
    why: String,
    /// Whether it may be another time.
    again: bool,
}

impl Post {
    async fn all(self, mut messages: mpsc::Receiver<Arc<Message>>, left: watch::Sender<usize>) {
        while let Some(message) = messages.recv().await {
            if let Err(why) = self.patiently(&message).await {
                log::warning(format_args!(
                    "{}: webhook {} is not told: {why}",
                    message.app, self.notify.url
                ));
            }
            left.send_modify(|left| *left -= 1);
        }
    }

    async fn patiently(&self, message: &Message) -> Result<(), String> {
        let mut pauses = self.patience.pauses.iter();
        loop {
            let attempt = tokio::time::timeout(self.patience.limit, self.once(message)).await;
            let failed = match attempt {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failed)) => failed,
                Err(_) => {
                    let why = format!("no answer within {}", Span(self.patience.limit));
                    Failed { why, again: true }
                }
            };
            match pauses.next() {
                Some(pause) if failed.again => tokio::time::sleep(*pause).await,
                _ => return Err(failed.why),
            }
        }
    }

    async fn once(&self, message: &Message) -> Result<(), Failed> {
        let never = |why: String| Failed { why, again: false };
        let body = serde_json::to_vec(message).map_err(|e| never(e.to_string()))?;
        let mut request = Request::post(self.notify.url.secret().clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("shuntd/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &self.notify.token_file {
            // Each time, as it may be another one by now.
            let token = token(path).map_err(never)?;
            request = request.header(header::AUTHORIZATION, token);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|e| never(e.to_string()))?;
        let answer = self.client.request(request).await;
        match answer.map_err(|e| Failed { why: causes(&e), again: true })?.status() {
            status if status.is_success() => Ok(()),
            // What it says beyond that may hold what it was told. No redirect is followed.
            status => Err(Failed {
                why: format!("it answers {status}"),
                again: status.is_server_error()
                    || status == StatusCode::TOO_MANY_REQUESTS
                    || status == StatusCode::REQUEST_TIMEOUT,
            }),
        }
    }
}

fn token(path: &Path) -> Result<HeaderValue, String> {
    let token = file::read_token(path)
        .map_err(|error| format!("cannot read the token file {}: {error}", path.display()))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| {
        format!("the token file {} has more in it than a line of text", path.display())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with what has caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc as std_mpsc;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    /// A request as it came: all lines of its head, and its body.
    #[derive(Debug)]
    struct Seen {
        head: String,
        body: serde_json::Value,
    }

    /// Answers a request, and tells of it before: whoever has the answer can look.
    fn answer(stream: impl Read + Write, status: u16, seen: &std_mpsc::Sender<Seen>) -> Option<()> {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length: ") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).unwrap();
        // A test that has seen enough is gone.
        let _ = seen.send(Seen { head, body });
        let reply = format!("HTTP/1.1 {status} x\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n");
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
        stream.get_mut().flush().ok()
    }

    /// A webhook that answers so, the last one for ever; `0`: not at all.
    fn server(statuses: &'static [u16]) -> (String, std_mpsc::Receiver<Seen>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook/secret", listener.local_addr().unwrap());
        let (sender, seen) = std_mpsc::channel();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for (n, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                match statuses[n.min(statuses.len() - 1)] {
                    0 => open.push(stream),
                    status => answer(stream, status, &sender).unwrap(),
                }
            }
        });
        (url, seen)
    }

    fn notify(url: &str, more: &str) -> Notify {
        toml::from_str(&format!("url = {url:?}\n{more}")).unwrap()
    }

    fn message(event: Event) -> Message {
        Message {
            event,
            app: ReleaseName::new("web").unwrap(),
            job: 7,
            kind: JobKind::Deploy,
            release: ReleaseName::new("v2").unwrap(),
            revision: Some("abc".to_owned()),
            previous: ReleaseName::new("v1").ok(),
            text: "web is on \"v2\"".to_owned(),
            host: "box".to_owned(),
            at: "2026-11-23T10:00:00Z".to_owned(),
        }
    }

    fn patience() -> Patience {
        let pauses = [1, 1].map(Duration::from_millis).into();
        Patience { limit: Duration::from_secs(20), pauses }
    }

    fn post(notify: Notify, roots: RootCertStore) -> Post {
        Post { client: client(roots).unwrap(), notify, patience: patience() }
    }

    #[tokio::test]
    async fn a_webhook_is_told_what_it_wants_to_know_in_order() {
        let tmp = tempfile::tempdir().unwrap();
        let token = tmp.path().join("token");
        std::fs::write(&token, "t0ken\n").unwrap();
        let (url, seen) = server(&[200]);
        let more = format!("events = [\"began\", \"failed\"]\ntoken_file = {token:?}");
        let notifier = Notifier::with(&[notify(&url, &more)], &patience(), RootCertStore::empty());
        for event in [Event::Began, Event::Done, Event::Failed] {
            notifier.tell(message(event));
        }
        notifier.finish(Duration::from_secs(20)).await;
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen.len(), 2);
        let wanted = serde_json::json!({
            "event": "began", "app": "web", "job": 7, "kind": "deploy", "release": "v2",
            "revision": "abc", "previous": "v1", "text": "web is on \"v2\"", "host": "box",
            "at": "2026-11-23T10:00:00Z",
        });
        assert_eq!(seen[0].body, wanted);
        assert_eq!(seen[1].body["event"], "failed");
        let head = seen[0].head.to_ascii_lowercase();
        assert!(head.starts_with("post /hook/secret http/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: bearer t0ken\r\n"), "{head}");
        assert!(head.contains("content-type: application/json\r\n"), "{head}");
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_what_does_not_is_not() {
        for (statuses, attempts, why) in [
            (&[503, 429, 204][..], 3, None),
            (&[500], 3, Some("it answers 500 Internal Server Error")),
            (&[404], 1, Some("it answers 404 Not Found")),
            (&[302], 1, Some("it answers 302 Found")),
        ] {
            let (url, seen) = server(statuses);
            let post = post(notify(&url, ""), RootCertStore::empty());
            let told = post.patiently(&message(Event::Done)).await;
            assert_eq!(told.err().as_deref(), why);
            assert_eq!(seen.try_iter().count(), attempts);
        }
    }

    #[tokio::test]
    async fn nobody_who_answers_is_waited_for_up_to_the_limit() {
        let (url, _seen) = server(&[0]);
        let mut post = post(notify(&url, ""), RootCertStore::empty());
        post.patience.limit = Duration::from_millis(50);
        let why = post.patiently(&message(Event::Done)).await.unwrap_err();
        assert_eq!(why, "no answer within 50ms");
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        post.notify = notify(&format!("http://{free}/secret"), "");
        let why = post.patiently(&message(Event::Done)).await.unwrap_err();
        assert!(why.contains("refused") && !why.contains("secret"), "{why}");
    }

    #[tokio::test]
    async fn a_webhook_that_does_not_keep_up_holds_nobody_up() {
        let (url, _seen) = server(&[0]);
        let notifier = Notifier::with(&[notify(&url, "")], &patience(), RootCertStore::empty());
        let began = std::time::Instant::now();
        for _ in 0..WAITING * 2 {
            notifier.tell(message(Event::Done));
        }
        notifier.finish(Duration::from_millis(50)).await;
        assert!(*notifier.hooks[0].left.borrow() >= WAITING);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_read_is_named_and_not_shown() {
        let tmp = tempfile::tempdir().unwrap();
        let (url, seen) = server(&[200]);
        let path = tmp.path().join("token");
        let post = post(notify(&url, &format!("token_file = {path:?}")), RootCertStore::empty());
        let why = post.patiently(&message(Event::Done)).await.unwrap_err();
        assert!(why.contains("cannot read the token file"), "{why}");
        std::fs::write(&path, "se\ncret").unwrap();
        let why = post.patiently(&message(Event::Done)).await.unwrap_err();
        assert!(why.contains("more in it than a line") && !why.contains("cret\""), "{why}");
        assert_eq!(seen.try_iter().count(), 0);
        std::fs::write(&path, "secret").unwrap();
        assert!(token(&path).unwrap().is_sensitive());
    }

    #[tokio::test]
    async fn over_tls_only_whom_the_machine_trusts_is_told() {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "the tests' authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&key).unwrap();
        let issuer = Issuer::new(parameters, key);
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, seen) = std_mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let tls = ServerConnection::new(config.clone()).unwrap();
                // One who does not trust it asks nothing.
                answer(StreamOwned::new(tls, stream.unwrap()), 200, &sender);
            }
        });
        let url = format!("https://localhost:{port}/hook");
        let strange = post(notify(&url, ""), RootCertStore::empty());
        let why = strange.patiently(&message(Event::Done)).await.unwrap_err();
        assert!(why.contains("UnknownIssuer"), "{why}");
        assert_eq!(seen.try_iter().count(), 0, "it was told nothing");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        post(notify(&url, ""), roots).patiently(&message(Event::Done)).await.unwrap();
        assert_eq!(seen.recv().unwrap().body["release"], "v2");
    }
}
