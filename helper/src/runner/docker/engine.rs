//! Docker's Engine, asked over its socket: what is needed of its API, and its refusals in our words.

use std::collections::HashMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, EventMessage, ImageInspect,
    NetworkInspect,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, EventsOptions, ListContainersOptions, LogsOptions,
    RemoveContainerOptions, StopContainerOptions,
};
use futures_util::stream::{Stream, StreamExt};

use super::credentials;
use crate::plain::plain;
use crate::source::image::Image;

/// How long the Engine may take to answer what is no work for it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Why the Engine does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It cannot be asked.
    #[error(
        "cannot reach Docker's Engine at {}: {why}; does it run, and may shuntd's user use its socket \
         (group docker)? `[run] docker` names another one", socket.display()
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It refuses.
    #[error("Docker's Engine refuses: {why}")]
    Refused {
        /// The status of its answer; none when it came later.
        status: Option<u16>,
        /// In its own words.
        why: String,
    },
    /// It answers something that is not understood.
    #[error("cannot understand Docker's Engine: {0}")]
    Strange(String),
}

impl EngineError {
    fn new(error: &Error, socket: &Path) -> Self {
        let unreachable =
            |why: String| Self::Unreachable { socket: socket.to_owned(), why: plain(&why) };
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: Some(*status_code), why: plain(message.trim()) }
            }
            Error::DockerStreamError { error } => {
                Self::Refused { status: None, why: plain(error.trim()) }
            }
            Error::SocketNotFoundError(_) => unreachable("there is no such file".to_owned()),
            Error::RequestTimeoutError => unreachable("it does not answer in time".to_owned()),
            Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. } => unreachable(cause(error)),
            other => Self::Strange(plain(&other.to_string())),
        }
    }

    /// Whether it knows nothing of what it was asked about.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is_refused_with(404)
    }

    /// Whether its refusal has this status.
    #[must_use]
    pub fn is_refused_with(&self, with: u16) -> bool {
        matches!(self, Self::Refused { status: Some(status), .. } if *status == with)
    }
}

/// What is at the bottom of an error: what is above says only that a client has failed.
fn cause(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    text
}

/// The Engine.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    socket: PathBuf,
}

impl Engine {
    /// Asks for it, and in which version of the API it is to be talked to.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        Self::patient(socket, LIMIT).await
    }

    /// One that may take so long for each answer.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn patient(socket: &Path, limit: Duration) -> Result<Self, EngineError> {
        let wrong = |error: Error| EngineError::new(&error, socket);
        let path = socket.to_string_lossy();
        let version = bollard::API_DEFAULT_VERSION;
        let docker = Docker::connect_with_unix(&path, limit.as_secs().max(1), version);
        let docker = docker.map_err(wrong)?.negotiate_version().await.map_err(wrong)?;
        Ok(Self { docker, socket: socket.to_owned() })
    }

    fn wrong(&self) -> impl Fn(Error) -> EngineError + '_ {
        |error| EngineError::new(&error, &self.socket)
    }

    /// Makes a container; gives its ID.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn create(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String, EngineError> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let made = self.docker.create_container(Some(options), body).await;
        Ok(made.map_err(self.wrong())?.id)
    }

    /// Starts one.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        self.docker.start_container(id, None).await.map_err(self.wrong())
    }

    /// Stops one by the stop signal of its image, and after this time by `SIGKILL`.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn stop(&self, id: &str, limit: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(limit.as_secs().max(1)).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), ..Default::default() };
        self.docker.stop_container(id, Some(options)).await.map_err(self.wrong())
    }

    /// Removes one with its anonymous volumes, running or not.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        match self.docker.remove_container(id, Some(options)).await.map_err(self.wrong()) {
            Err(error) if error.is_not_found() => Ok(()),
            removed => removed,
        }
    }

    /// All about one.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse, EngineError> {
        self.docker.inspect_container(id, None).await.map_err(self.wrong())
    }

    /// Those with all of these labels, running or not.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn labelled(
        &self,
        labels: impl IntoIterator<Item = (&str, String)>,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let labels = labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options =
            ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        self.docker.list_containers(Some(options)).await.map_err(self.wrong())
    }

    /// The last lines that one has said, at most so many.
    ///
    /// # Errors
    ///
    /// [`EngineError`]; also when its logs are kept where they cannot be read.
    pub async fn last_lines(&self, id: &str, n: usize) -> Result<Vec<String>, EngineError> {
        let options =
            LogsOptions { stdout: true, stderr: true, tail: n.to_string(), ..Default::default() };
        let mut logs = std::pin::pin!(self.docker.logs(id, Some(options)));
        let mut said = Vec::new();
        while let Some(part) = logs.next().await {
            said.extend_from_slice(part.map_err(self.wrong())?.as_ref());
        }
        let text = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(n)..].iter().map(|line| plain(line)).collect())
    }

    /// What happens to a container, from this moment on (seconds since 1970), or from now on.
    pub fn events(
        &self,
        id: &str,
        since: Option<i64>,
    ) -> impl Stream<Item = Result<EventMessage, EngineError>> + use<> {
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("container".to_owned(), vec![id.to_owned()]),
        ]);
        let options = EventsOptions {
            since: since.map(|since| since.to_string()),
            until: None,
            filters: Some(filters),
        };
        let (docker, socket) = (self.docker.clone(), self.socket.clone());
        let events = docker.events(Some(options));
        events.map(move |event| event.map_err(|error| EngineError::new(&error, &socket)))
    }

    /// All about an image.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn image(&self, name: &str) -> Result<ImageInspect, EngineError> {
        self.docker.inspect_image(name).await.map_err(self.wrong())
    }

    /// Fetches an image from its registry; what is said meanwhile is passed on.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn pull(
        &self,
        image: &Image,
        lines: &mut (dyn FnMut(&str) + Send + '_),
    ) -> Result<(), EngineError> {
        let options =
            CreateImageOptions { from_image: Some(image.to_string()), ..Default::default() };
        let credentials = credentials::of(image);
        let said = self.docker.create_image(Some(options), None, credentials);
        let mut said = std::pin::pin!(said);
        while let Some(info) = said.next().await {
            let info = info.map_err(self.wrong())?;
            if let Some(why) = info.error_detail.and_then(|error| error.message) {
                return Err(EngineError::Refused { status: None, why: plain(&why) });
            }
            // Of a layer under way there would be a line ten times a second.
            if let Some(status) = info.status.filter(|_| info.progress_detail.is_none()) {
                lines(&plain(&match info.id {
                    Some(id) => format!("{id}: {status}"),
                    None => status,
                }));
            }
        }
        Ok(())
    }

    /// All about a network.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub async fn network(&self, name: &str) -> Result<NetworkInspect, EngineError> {
        self.docker.inspect_network(name, None).await.map_err(self.wrong())
    }
}
