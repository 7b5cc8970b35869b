//! A module that is none: the API's rules on one upstream `web`, without NGINX, with requests in
//! flight as the test says and with accidents on demand.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use shunt_api::{
    Call, Canary, CanaryRequest, Hold, HoldRequest, InFlight, Index, Problem, Release, ReleaseName,
    ReleaseSpec, ReleaseState, ResponseTime, Responses, Source, SwitchReply, SwitchRequest,
    Upstream, Wait,
};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What happens at the next switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// It is done, and the answer gets lost.
    AnswerLost,
    /// Somebody else changes something at the last moment.
    SomebodyFaster,
    /// It is not begun, and everything else goes on, until the test says so.
    Stalled,
}

/// What becomes of a call whose client is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is lost.
    Before,
    /// It is done, and not answered.
    After,
    /// It is done when the next daemon runs.
    Late,
}

/// The module.
pub struct Module {
    inner: Arc<Inner>,
    /// Serves as long as it is there.
    runtime: Option<Runtime>,
}

struct Inner {
    upstream: Mutex<Upstream>,
    calls: Mutex<Vec<String>>,
    accident: Mutex<Option<Accident>>,
    changed: watch::Sender<()>,
    busy: Mutex<Vec<&'static str>>,
    bad: Mutex<Option<ReleaseName>>,
    cut: Mutex<Option<(usize, Cut)>>,
    stalled: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

pub fn name(text: &str) -> ReleaseName {
    ReleaseName::new(text).unwrap()
}

impl Module {
    /// Serves on a unix socket. There is a release `default`, as of NGINX's configuration.
    pub fn start(socket: &Path) -> Self {
        let mut upstream = Upstream {
            name: "web".to_owned(),
            generation: 1,
            active: Some(name("default")),
            previous: None,
            canary: None,
            hold: None,
            holdable: true,
            parked: 0,
            parked_total: 0,
            fallback: false,
            switches: 0,
            releases: Vec::new(),
        };
        let spec = ReleaseSpec::single("127.0.0.1:1".parse().unwrap());
        put(&mut upstream, &name("default"), spec, Source::Config);
        let inner = Arc::new(Inner {
            upstream: Mutex::new(upstream),
            calls: Mutex::default(),
            accident: Mutex::default(),
            changed: watch::Sender::new(()),
            busy: Mutex::default(),
            bad: Mutex::default(),
            cut: Mutex::default(),
            stalled: watch::Sender::new(false),
        });
        let mut module = Self { inner, runtime: None };
        module.serve(socket);
        module
    }

    /// Serves again after [`Module::end`].
    pub fn serve(&mut self, socket: &Path) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let router = axum::Router::new().fallback(answer).with_state(self.inner.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        drop(_guard);
        self.runtime = Some(runtime);
    }

    /// As when NGINX is stopped.
    pub fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    pub fn state(&self) -> Upstream {
        lock(&self.inner.upstream).clone()
    }

    pub fn active(&self) -> String {
        self.state().active.unwrap().to_string()
    }

    pub fn names(&self) -> Vec<String> {
        self.state().releases.iter().map(|r| r.name.to_string()).collect()
    }

    /// Somebody switches by hand.
    pub fn switch(&self, release: &str) {
        switch(&mut lock(&self.inner.upstream), &name(release));
        self.inner.changed.send_replace(());
    }

    /// Somebody switches by hand, several times before anybody looks.
    pub fn switch_in_turn(&self, releases: &[&str]) {
        let mut upstream = lock(&self.inner.upstream);
        releases.iter().for_each(|release| switch(&mut upstream, &name(release)));
        drop(upstream);
        self.inner.changed.send_replace(());
    }

    /// From now on no `shunt_hold` names the upstream.
    pub fn has_no_hold(&self) {
        lock(&self.inner.upstream).holdable = false;
    }

    /// Somebody deletes the previous release by hand.
    pub fn forget_previous(&self) {
        lock(&self.inner.upstream).previous = None;
    }

    /// From now on the release answers every request with an error, as NGINX counts it: ten more at
    /// each look, while it is active.
    pub fn is_bad(&self, release: &str) {
        *lock(&self.inner.bad) = Some(name(release));
    }

    /// A release has so much in flight from now on.
    pub fn in_flight(&self, release: &str, requests: u64, upgraded: u64) {
        let mut upstream = lock(&self.inner.upstream);
        let found = upstream.releases.iter_mut().find(|r| r.name.as_str() == release);
        if let Some(found) = found {
            found.in_flight = InFlight { requests, upgraded };
        }
        drop(upstream);
        self.inner.changed.send_replace(());
    }

    pub fn at_the_next_switch(&self, accident: Accident) {
        *lock(&self.inner.accident) = Some(accident);
    }

    /// From now on calls that begin like this are answered as by a module that is busy.
    pub fn busy(&self, calls: &[&'static str]) {
        *lock(&self.inner.busy) = calls.to_vec();
    }

    /// The call after so many more is cut off: it stalls until [`Module::let_go`].
    pub fn cut(&self, after: usize, how: Cut) {
        *lock(&self.inner.cut) = Some((after, how));
    }

    /// Whether a call is stalled.
    pub fn is_stalled(&self) -> bool {
        *self.inner.stalled.borrow()
    }

    /// Lets what is stalled go on, and waits until it has.
    pub fn let_go(&self) {
        self.inner.stalled.send_replace(false);
        crate::world::until("nothing is stalled", || {
            (self.inner.stalled.receiver_count() == 0).then_some(())
        });
    }

    /// Every call until now: its method and path.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.inner.calls).clone()
    }
}

fn put(upstream: &mut Upstream, release: &ReleaseName, spec: ReleaseSpec, source: Source) {
    let servers = spec.servers.into_iter().map(Into::into).collect();
    match upstream.releases.iter_mut().find(|r| r.name == *release) {
        Some(known) => known.servers = servers,
        None => upstream.releases.push(Release {
            name: release.clone(),
            source,
            state: ReleaseState::Idle,
            servers,
            in_flight: InFlight::default(),
            requests: 0,
            responses: Responses::default(),
            connect_failures: 0,
            fallbacks: 0,
            response_time: ResponseTime::default(),
        }),
    }
}

fn switch(upstream: &mut Upstream, release: &ReleaseName) {
    if upstream.active.as_ref() != Some(release) {
        upstream.previous = upstream.active.replace(release.clone());
        upstream.canary.take_if(|canary| canary.release == *release);
        upstream.generation += 1;
    }
}

/// Answers, also when the client has gone meanwhile.
async fn answer(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    tokio::spawn(answer_in_any_case(inner, method, uri, headers, body)).await.unwrap()
}

async fn answer_in_any_case(
    inner: Arc<Inner>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let line = format!("{method} {uri}");
    lock(&inner.calls).push(line.clone());
    let method = match method.as_str() {
        "GET" => shunt_api::Method::Get,
        "PUT" => shunt_api::Method::Put,
        "POST" => shunt_api::Method::Post,
        "DELETE" => shunt_api::Method::Delete,
        other => panic!("{other}"),
    };
    let call = match Call::parse(method, uri.path(), uri.query().unwrap_or_default()) {
        Ok(call) => call,
        Err(error) => return problem(error.status(), error.to_string()),
    };
    if let Call::Upstream { wait: Some(Wait::Drained { release, timeout }), .. } = &call {
        if lock(&inner.upstream).release(release.as_str()).is_none() {
            return problem(404, format!("upstream \"web\" has no release \"{release}\""));
        }
        let mut changed = inner.changed.subscribe();
        let drained = || {
            let upstream = lock(&inner.upstream);
            let left = upstream.release(release.as_str()).map_or(0, |r| r.in_flight.total());
            upstream.active.as_ref() != Some(release) && left == 0
        };
        let waiting = async {
            while !drained() {
                changed.changed().await.unwrap();
            }
        };
        // At the timeout the answer is the state as it is.
        let _ = tokio::time::timeout(timeout.duration(), waiting).await;
    }
    // Held until the answer: it tells how many there are.
    let mut stalled = inner.stalled.subscribe();
    let cut = {
        let mut cut = lock(&inner.cut);
        let now = cut.take_if(|(left, _)| *left == 0).map(|(_, how)| how);
        if let Some((left, _)) = &mut *cut {
            *left -= 1;
        }
        now
    };
    if matches!(cut, Some(Cut::Before | Cut::Late)) {
        inner.stalled.send_replace(true);
        stalled.wait_for(|stalled| !stalled).await.unwrap();
        if cut == Some(Cut::Before) {
            return StatusCode::BAD_GATEWAY.into_response();
        }
    }
    let accident = match call {
        Call::Switch { .. } => lock(&inner.accident).take(),
        _ => None,
    };
    if accident == Some(Accident::Stalled) {
        inner.stalled.send_replace(true);
        stalled.wait_for(|stalled| !stalled).await.unwrap();
    } else if lock(&inner.busy).iter().any(|busy| line.starts_with(busy)) {
        return problem(503, "another change is being written, try again".to_owned());
    }
    let response = {
        let mut upstream = lock(&inner.upstream);
        let bad = lock(&inner.bad).clone().filter(|bad| upstream.active.as_ref() == Some(bad));
        let bad = upstream.releases.iter_mut().find(|release| Some(&release.name) == bad.as_ref());
        if let Some(bad) = bad {
            bad.requests += 10;
            bad.responses.server_error += 10;
            bad.response_time.count += 10;
        }
        if accident == Some(Accident::SomebodyFaster) {
            upstream.generation += 1;
        }
        let if_match = headers.get("if-match").map(|value| value.to_str().unwrap().to_owned());
        let generation = upstream.generation;
        if call.is_change() && if_match.is_some_and(|given| given != format!("\"{generation}\"")) {
            return problem(412, format!("the upstream is at generation {generation}"));
        }
        match change(&mut upstream, call, &body) {
            Ok(json) => ([("content-type", "application/json")], json).into_response(),
            Err(problem) => refused(&problem),
        }
    };
    inner.changed.send_replace(());
    if cut == Some(Cut::After) {
        inner.stalled.send_replace(true);
        stalled.wait_for(|stalled| !stalled).await.unwrap();
    }
    match accident {
        Some(Accident::AnswerLost) => StatusCode::BAD_GATEWAY.into_response(),
        Some(Accident::SomebodyFaster | Accident::Stalled) | None => response,
    }
}

fn change(upstream: &mut Upstream, call: Call, body: &[u8]) -> Result<Vec<u8>, Box<Problem>> {
    match call {
        Call::Upstream { .. } => {}
        Call::Index => {
            let index = Index {
                module: env!("CARGO_PKG_VERSION").to_owned(),
                nginx: "1.28.3".to_owned(),
                workers: 2,
                zones: Vec::new(),
                writable: true,
            };
            return Ok(serde_json::to_vec(&index).unwrap());
        }
        Call::PutRelease { release, .. } => {
            let spec = serde_json::from_slice(body).unwrap();
            put(upstream, &release, spec, Source::Api);
            upstream.generation += 1;
        }
        Call::Switch { .. } => {
            let SwitchRequest { release } = serde_json::from_slice(body).unwrap();
            if upstream.release(release.as_str()).is_none() {
                return Err(refusal(404, format!("no release \"{release}\"")));
            }
            let from = upstream.active.clone();
            switch(upstream, &release);
            let reply = SwitchReply { release, from, generation: upstream.generation };
            return Ok(serde_json::to_vec(&reply).unwrap());
        }
        Call::DeletePrevious { .. } => {
            if upstream.previous.take().is_some() {
                upstream.generation += 1;
            }
        }
        Call::DeleteRelease { release, .. } => {
            let known = upstream.release(release.as_str());
            let known = known.ok_or_else(|| refusal(404, format!("no release \"{release}\"")))?;
            let busy = known.source == Source::Config || known.in_flight.total() > 0;
            let canary = upstream.canary.as_ref().map(|canary| &canary.release);
            if busy || upstream.active.as_ref() == Some(&release) || canary == Some(&release) {
                return Err(refusal(409, format!("release \"{release}\" is needed")));
            }
            upstream.releases.retain(|r| r.name != release);
            upstream.generation += 1;
        }
        Call::PutCanary { .. } => {
            let CanaryRequest { release, share } = serde_json::from_slice(body).unwrap();
            let known = upstream.release(release.as_str()).is_some();
            if !known || upstream.active.as_ref() == Some(&release) {
                return Err(refusal(409, format!("release \"{release}\" cannot be a canary")));
            }
            upstream.canary = Some(Canary { release, share });
            upstream.generation += 1;
        }
        Call::DeleteCanary { .. } => {
            upstream.generation += u32::from(upstream.canary.take().is_some());
        }
        Call::PutHold { .. } => {
            let HoldRequest { timeout } = serde_json::from_slice(body).unwrap();
            upstream.hold = Some(Hold { ends_in: timeout });
            upstream.generation += 1;
        }
        Call::DeleteHold { .. } => {
            upstream.generation += u32::from(upstream.hold.take().is_some());
        }
        call => panic!("the helper does not ask for {call:?}"),
    }
    Ok(serde_json::to_vec(upstream).unwrap())
}

fn refusal(status: u16, detail: String) -> Box<Problem> {
    Box::new(Problem::new(status, detail))
}

fn problem(status: u16, detail: String) -> Response {
    refused(&Problem::new(status, detail))
}

fn refused(problem: &Problem) -> Response {
    let json = serde_json::to_vec(problem).unwrap();
    (StatusCode::from_u16(problem.status).unwrap(), json).into_response()
}
