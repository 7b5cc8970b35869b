//! A client of the module's API.

use std::path::{Path, PathBuf};

use shunt_api::{Index, Problem, SwitchReply, Upstream};

use crate::client::{Connection, Response};

/// The API on a unix socket.
#[derive(Debug, Clone)]
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    /// The API on this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Any request over a connection of its own.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn try_ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        let mut connection = Connection::unix(&self.socket)?;
        connection.send(method, target, headers, body)?;
        connection.receive()
    }

    /// Any request over a connection of its own.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    #[must_use]
    #[track_caller]
    pub fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_ask(method, target, headers, body).expect("an answer of shunt_api")
    }

    /// The index.
    ///
    /// # Panics
    ///
    /// When the answer is not that.
    #[must_use]
    #[track_caller]
    pub fn index(&self) -> Index {
        serde_json::from_slice(&self.ask("GET", "/v1/", &[], b"").body).expect("an index")
    }

    /// An upstream.
    ///
    /// # Panics
    ///
    /// When the answer is not that.
    #[must_use]
    #[track_caller]
    pub fn state(&self, upstream: &str) -> Upstream {
        let response = self.ask("GET", &format!("/v1/upstreams/{upstream}"), &[], b"");
        let state: Upstream = serde_json::from_slice(&response.body).expect("an upstream");
        let etag = format!("\"{}\"", state.generation);
        assert_eq!(response.header("etag"), Some(etag.as_str()));
        state
    }

    /// Adds a release with these servers; gives the status.
    #[must_use]
    #[track_caller]
    pub fn put(&self, upstream: &str, release: &str, servers: &[String]) -> Response {
        let servers: Vec<_> = servers.iter().map(|s| serde_json::json!({ "address": s })).collect();
        let body = serde_json::json!({ "servers": servers }).to_string();
        let target = format!("/v1/upstreams/{upstream}/releases/{release}");
        self.ask("PUT", &target, &[], body.as_bytes())
    }

    /// Switches.
    ///
    /// # Errors
    ///
    /// What the API refuses with.
    ///
    /// # Panics
    ///
    /// When the answer is neither.
    #[track_caller]
    pub fn switch(
        &self,
        upstream: &str,
        release: &str,
        if_match: Option<u32>,
    ) -> Result<SwitchReply, Problem> {
        let body = serde_json::json!({ "release": release }).to_string();
        let generation = if_match.map(|g| format!("\"{g}\""));
        let headers: Vec<_> = generation.iter().map(|g| ("If-Match", g.as_str())).collect();
        let target = format!("/v1/upstreams/{upstream}/switch");
        let response = self.ask("POST", &target, &headers, body.as_bytes());
        if response.status == 200 {
            Ok(serde_json::from_slice(&response.body).expect("a reply"))
        } else {
            Err(problem(&response))
        }
    }

    /// What is in flight at a release.
    ///
    /// # Panics
    ///
    /// When there is no such release.
    #[must_use]
    #[track_caller]
    pub fn in_flight(&self, upstream: &str, release: &str) -> shunt_api::InFlight {
        self.state(upstream).release(release).expect("a release").in_flight
    }
}

/// Reads a problem, and checks that it is one.
///
/// # Panics
///
/// When it is not.
#[must_use]
#[track_caller]
pub fn problem(response: &Response) -> Problem {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let problem: Problem = serde_json::from_slice(&response.body).expect("a problem");
    assert_eq!(problem.status, response.status);
    assert!(!problem.title.is_empty() && !problem.detail.is_empty());
    problem
}
