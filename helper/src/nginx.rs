//! The client of the module's API.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shunt_api::call::encode;
use shunt_api::{
    Address, CanaryRequest, HoldRequest, NginxTime, Portion, Problem, ReleaseName, ReleaseSpec,
    SwitchReply, SwitchRequest, Upstream,
};

use crate::config::App;
use crate::file;
use crate::request::{self, RequestError};

/// The pause before a call is made again.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);

/// The longest that one call waits; a longer wait is several calls.
const WAIT: Duration = Duration::from_secs(30);

/// What is said of an upstream that no `shunt_hold` names.
#[must_use]
pub fn unheld(upstream: &str) -> String {
    format!(
        "no \"shunt_hold {upstream};\" is in NGINX's configuration, so a hold parks no request; write \
         it where requests are passed to {upstream}, then: nginx -t && systemctl reload nginx"
    )
}

/// Why a call has failed.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// There was no answer.
    #[error("NGINX's shunt_api: {0}")]
    Request(#[from] RequestError),
    /// NGINX has refused, and said why.
    #[error("NGINX refuses: {0}")]
    Refused(Problem),
    /// The answer is not the module's.
    #[error("NGINX answers {status} at {address}, which is not shunt_api's way: {why}")]
    Strange {
        /// Where.
        address: Address,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer.
        why: String,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file: {0}")]
    Token(std::io::Error),
}

impl NginxError {
    /// Whether NGINX may have done what was asked, although it did not say so.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        match self {
            Self::Request(error) => !error.is_unsent(),
            // Also what says that it was done, in words that are not the module's.
            Self::Strange { status, .. } => !(400..500).contains(status),
            Self::Refused(_) | Self::Token(_) => false,
        }
    }

    /// Whether NGINX has refused with this status, after which nothing has changed.
    #[must_use]
    pub fn is_refused_with(&self, status: u16) -> bool {
        matches!(self, Self::Refused(problem) if problem.status == status)
    }

    /// Whether NGINX could not be reached at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Strange { .. })
    }
}

/// One upstream in NGINX.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    upstream: String,
    token_file: Option<std::path::PathBuf>,
    limit: Duration,
}

impl Client {
    /// The upstream of an application.
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self {
            address: app.nginx.clone(),
            upstream: app.upstream().to_owned(),
            token_file: app.token_file.clone(),
            limit: app.nginx_timeout,
        }
    }

    /// How long a call may take that does not wait for something.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The upstream as it is.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn state(&self) -> Result<Upstream, NginxError> {
        self.call("GET", "", None, None::<&()>, self.limit).await
    }

    /// Adds a release, or gives it other servers, if the upstream is still at this generation.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn put(
        &self,
        release: &ReleaseName,
        slot: &Address,
        generation: u32,
    ) -> Result<Upstream, NginxError> {
        let spec = ReleaseSpec::single(slot.clone());
        let path = format!("/releases/{release}");
        self.call("PUT", &path, Some(generation), Some(&spec), self.limit).await
    }

    /// Deletes a release, if the upstream is still at this generation.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn delete(
        &self,
        release: &ReleaseName,
        generation: u32,
    ) -> Result<Upstream, NginxError> {
        let path = format!("/releases/{release}");
        self.call("DELETE", &path, Some(generation), None::<&()>, self.limit).await
    }

    /// Makes a release active, if the upstream is still at this generation.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn switch(
        &self,
        release: &ReleaseName,
        generation: u32,
    ) -> Result<SwitchReply, NginxError> {
        let body = SwitchRequest { release: release.clone() };
        self.call("POST", "/switch", Some(generation), Some(&body), self.limit).await
    }

    /// Ends the fallback to the previous release.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn forget_previous(&self) -> Result<Upstream, NginxError> {
        self.call("DELETE", "/previous", None, None::<&()>, self.limit).await
    }

    /// Gives a release a share of the requests, if the upstream is still at this generation.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn canary(
        &self,
        release: &ReleaseName,
        share: Portion,
        generation: u32,
    ) -> Result<Upstream, NginxError> {
        let body = CanaryRequest { release: release.clone(), share };
        self.call("PUT", "/canary", Some(generation), Some(&body), self.limit).await
    }

    /// No release gets a share any more, if the upstream is still at this generation.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn end_canary(&self, generation: u32) -> Result<Upstream, NginxError> {
        self.call("DELETE", "/canary", Some(generation), None::<&()>, self.limit).await
    }

    /// Parks new requests for at most so long.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn hold(&self, timeout: NginxTime) -> Result<Upstream, NginxError> {
        let body = HoldRequest { timeout };
        self.call("PUT", "/hold", None, Some(&body), self.limit).await
    }

    /// Lets parked requests go.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn resume(&self) -> Result<Upstream, NginxError> {
        self.call("DELETE", "/hold", None, None::<&()>, self.limit).await
    }

    /// Waits until a release has nothing in flight, at most for `limit`, and gives the last state.
    /// Nothing is polled: NGINX answers when it is so.
    ///
    /// # Errors
    ///
    /// [`NginxError`].
    pub async fn drained(
        &self,
        release: &ReleaseName,
        limit: Duration,
    ) -> Result<Upstream, NginxError> {
        let start = Instant::now();
        let patient = start + limit.max(self.limit);
        loop {
            let wait = limit.saturating_sub(start.elapsed()).min(WAIT);
            let query = format!(
                "?wait=drained&release={}&timeout={}ms",
                encode(release.as_str()),
                wait.as_millis()
            );
            let asked: Result<Upstream, _> =
                self.call("GET", &query, None, None::<&()>, wait + self.limit).await;
            let state = match asked {
                Ok(state) => state,
                // NGINX may be about to start again.
                Err(error) if error.is_unreachable() && Instant::now() < patient => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let left = state.release(release.as_str()).map_or(0, |r| r.in_flight.total());
            let drained = left == 0 && state.active.as_ref() != Some(release);
            if drained || start.elapsed() >= limit {
                return Ok(state);
            }
        }
    }

    /// Makes a call; again while the module says that it is busy, as it has changed nothing then.
    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        rest: &str,
        if_match: Option<u32>,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<T, NginxError> {
        let body = match body {
            Some(body) => Bytes::from(serde_json::to_vec(body).unwrap_or_default()),
            None => Bytes::new(),
        };
        let start = Instant::now();
        loop {
            let answer = self.once(method, rest, if_match, body.clone(), limit).await;
            match answer {
                Err(error) if error.is_refused_with(503) && start.elapsed() < self.limit => {
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }

    async fn once<T: DeserializeOwned>(
        &self,
        method: &str,
        rest: &str,
        if_match: Option<u32>,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, NginxError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/upstreams/{}{rest}", encode(&self.upstream)))
            .header(header::HOST, "shunt")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(generation) = if_match {
            request = request.header(header::IF_MATCH, format!("\"{generation}\""));
        }
        if let Some(path) = &self.token_file {
            let token = file::read_token(path).map_err(NginxError::Token)?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim_end()));
        }
        let strange = |status, why: String| NginxError::Strange {
            address: self.address.clone(),
            status,
            why,
        };
        let request = request.body(Full::new(body)).map_err(|e| strange(400, e.to_string()))?;
        let response = request::send(&self.address, request, limit).await?;
        let status = response.status();
        if status.is_success() {
            return parse(&response).map_err(|why| strange(status.as_u16(), why));
        }
        match parse::<Problem>(&response) {
            Ok(problem) => Err(NginxError::Refused(problem)),
            Err(why) => Err(strange(status.as_u16(), why)),
        }
    }
}

fn parse<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, String> {
    serde_json::from_slice(response.body()).map_err(|e| e.to_string())
}
