//! The runner `docker`: a release is a container, made of the image that the release's folder names.
//!
//! A slot's address leads to its container ([`place`]). Containers are found again by their labels
//! ([`body`]), and serve on without the daemon: Docker starts again what has crashed, and all of them
//! when the machine starts. Nothing holds a slot's address while nothing runs there.

pub mod body;
mod credentials;
pub mod engine;
mod follow;
pub mod image;
mod logs;
pub mod place;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::ContainerSummary;
use jiff::Timestamp;
use shunt_api::{Address, ReleaseName};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;
use crate::deploy::releases::Releases;
use crate::log;
use crate::runner::state::{End, State};
use crate::source::image::{Image, is_digest};
use engine::{Engine, EngineError, LIMIT};
use follow::{Followed, Seen, Tracker};
use place::{OtherPort, Place, Subnet};

pub use logs::Logs;

/// How long an Engine has to say which containers there are.
const GLANCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is called in the daemon's log.
    pub name: String,
    /// The application.
    pub app: ReleaseName,
    /// Its folder.
    pub root: PathBuf,
    /// The slot.
    pub slot: Address,
    /// The release.
    pub release: ReleaseName,
    /// The ID of its image, as its folder has it.
    pub image: Option<String>,
    /// By which name the image can be had again.
    pub again: Option<Image>,
    /// The environment beyond the image's own.
    pub env: BTreeMap<String, String>,
    /// The group that may read its log.
    pub group: Option<u32>,
    /// How containers are made.
    pub config: config::Docker,
}

/// Why Docker does not run a release.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// Its Engine cannot be asked, or refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image is not there, and must not be fetched.
    #[error(
        "there is no image {0} on this machine, and with pull = \"never\" it is not fetched: \
         build or load it, or write pull = \"missing\""
    )]
    NoImage(Image),
    /// An image cannot be fetched.
    #[error(
        "cannot fetch image {image}: {error}; is its name right, and has shuntd's user logged in \
         (docker login)? Or fetch it by hand: docker pull {image}"
    )]
    Pull {
        /// The image.
        image: Image,
        /// Why.
        error: EngineError,
    },
    /// A release's folder says nothing of an image.
    #[error("release \"{0}\" is not made of an image: another runner has made it; deploy it anew")]
    NotMadeOfOne(ReleaseName),
    /// A release's image is gone.
    #[error(
        "the image of release \"{release}\", {id}, is not there any more: somebody has removed it, as \
         `docker image prune` does; deploy the release anew"
    )]
    Gone {
        /// The release.
        release: ReleaseName,
        /// The image's ID.
        id: String,
    },
    /// The network is not there.
    #[error("there is no network {0:?}: docker network create --subnet … {0}")]
    NoNetwork(String),
    /// The port is another one than the slot's.
    #[error(transparent)]
    Port(#[from] OtherPort),
    /// The slot is none for a container.
    #[error("slot {0} is a file, a container has an address with a port")]
    File(PathBuf),
    /// Something else has the slot's address or port.
    #[error(
        "cannot start a container in slot {slot}: {why}; `docker ps` and `ss -lntp` tell who is there"
    )]
    InUse {
        /// The slot.
        slot: SocketAddr,
        /// In the Engine's words.
        why: String,
    },
    /// The container cannot be made or started.
    #[error("cannot start container {name}: {error}")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        error: EngineError,
    },
}

/// A release in a container.
#[derive(Debug)]
pub struct Container {
    spec: Spec,
    /// None when nothing runs in the slot.
    id: Option<String>,
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Container {
    /// Starts a release in a slot where no other may run any more.
    ///
    /// # Errors
    ///
    /// [`DockerError`]; then nothing runs there.
    pub async fn start(spec: Spec) -> Result<Self, DockerError> {
        let engine = Engine::patient(&spec.config.socket, spec.config.stop_timeout + LIMIT).await?;
        // What an earlier daemon may have left.
        for left in engine.labelled(spec.of_slot()).await? {
            halt(&engine, &spec, &release_of(&left, &spec), &left.id.unwrap_or_default()).await?;
        }
        let since = Timestamp::now().as_second();
        let id = launch(&engine, &spec).await?;
        Ok(Self::follow(spec, id, Tracker::default(), Some(since)))
    }

    /// Stops it and starts another release in the same slot. Nothing listens there meanwhile.
    ///
    /// # Errors
    ///
    /// [`DockerError`], and the slot in which nothing runs.
    pub async fn replace(self, spec: Spec) -> Result<Self, (Self, DockerError)> {
        let old = self.spec.clone();
        self.stop().await;
        Self::start(spec).await.map_err(|error| (Self::held(old), error))
    }

    /// Takes over a container that an earlier daemon has started; `None` when there is none that runs,
    /// or will again by itself.
    ///
    /// # Errors
    ///
    /// [`DockerError`].
    pub async fn adopt(spec: Spec) -> Result<Option<Self>, DockerError> {
        let engine = Engine::connect(&spec.config.socket).await?;
        for found in engine.labelled(spec.of_release()).await? {
            let id = found.id.unwrap_or_default();
            let seen = Seen::of(&engine.inspect(&id).await?);
            if seen.is_up {
                return Ok(Some(Self::follow(spec, id, Tracker::new(&seen), None)));
            }
            // It was made and not started, or somebody has stopped it.
            halt(&engine, &spec, &spec.release, &id).await?;
        }
        Ok(None)
    }

    fn follow(spec: Spec, id: String, tracker: Tracker, since: Option<i64>) -> Self {
        let ((publish, state), (stop, stopped)) =
            (watch::channel(tracker.state()), watch::channel(false));
        let (name, socket) = (spec.name.clone(), spec.config.socket.clone());
        let followed = Followed { name, socket, id: id.clone(), since };
        let task = tokio::spawn(follow::follow(followed, tracker, publish, stopped));
        Self { spec, id: Some(id), state, stop, task }
    }

    /// A slot in which nothing runs.
    fn held(spec: Spec) -> Self {
        let ((_, state), (stop, _)) = (watch::channel(State::Stopped), watch::channel(true));
        Self { spec, id: None, state, stop, task: tokio::spawn(async {}) }
    }

    /// Follows what it is doing.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What it has said.
    #[must_use]
    pub fn logs(&self) -> Option<Logs> {
        let socket = self.spec.config.socket.clone();
        self.id.clone().map(|id| Logs { socket, id })
    }

    /// Stops and removes it; the end of what it has said is kept in the release's log.
    pub async fn stop(self) -> End {
        let Self { spec, id, stop, task, .. } = self;
        stop.send_replace(true);
        // It has nothing to tell.
        let _ = task.await;
        let Some(id) = id else { return End::ByItself };
        let ended = async {
            let limit = spec.config.stop_timeout + LIMIT;
            let engine = Engine::patient(&spec.config.socket, limit).await?;
            halt(&engine, &spec, &spec.release, &id).await
        };
        ended.await.unwrap_or_else(|error| {
            log::error(format_args!("{} is not stopped: {error}", spec.name));
            End::Unknown(error.to_string())
        })
    }
}

/// What of an application is in containers, running or not. The daemon's start waits for this: an
/// Engine that hangs is not waited for long.
///
/// # Errors
///
/// [`EngineError`].
pub async fn find(
    socket: &Path,
    app: &ReleaseName,
    root: &Path,
) -> Result<Vec<(Address, ReleaseName)>, EngineError> {
    let all = Engine::patient(socket, GLANCE).await?.labelled(body::of_app(app, root)).await?;
    let of = |found: ContainerSummary| {
        let labels = found.labels?;
        let slot = labels.get(body::SLOT)?.parse().ok()?;
        Some((slot, ReleaseName::new(labels.get(body::RELEASE)?).ok()?))
    };
    Ok(all.into_iter().filter_map(of).collect())
}

/// The parts of a network.
///
/// # Errors
///
/// [`DockerError`].
pub async fn subnets(engine: &Engine, network: &str) -> Result<Vec<Subnet>, DockerError> {
    let found = engine.network(network).await.map_err(|error| match error.is_not_found() {
        true => DockerError::NoNetwork(network.to_owned()),
        false => error.into(),
    })?;
    let parts = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    Ok(parts.iter().filter_map(|part| Subnet::parse(part.subnet.as_deref()?)).collect())
}

/// How a slot leads to its container.
///
/// # Errors
///
/// [`DockerError`].
pub async fn place(
    engine: &Engine,
    config: &config::Docker,
    slot: &Address,
) -> Result<(SocketAddr, Place), DockerError> {
    let slot = match slot {
        Address::Ip(slot) => *slot,
        Address::Unix(path) => return Err(DockerError::File(path.clone())),
    };
    let network = config.network.as_deref();
    let parts = match network {
        Some(network) => subnets(engine, network).await?,
        None => Vec::new(),
    };
    Ok((slot, place::of(slot, config.port, network, &parts)?))
}

/// Makes a container and starts it.
async fn launch(engine: &Engine, spec: &Spec) -> Result<String, DockerError> {
    let image = image_of(engine, spec).await?;
    let (slot, place) = place(engine, &spec.config, &spec.slot).await?;
    let name = spec.container_name();
    let failed = |error: EngineError| match &error {
        EngineError::Refused { why, .. } if is_in_use(why) => {
            DockerError::InUse { slot, why: why.clone() }
        }
        _ => DockerError::Start { name: name.clone(), error },
    };
    let id = engine.create(&name, spec.body(&image, slot, place)).await.map_err(failed)?;
    if let Err(error) = engine.start(&id).await {
        if let Err(error) = engine.remove(&id).await {
            log::error(format_args!("{}: container {name} is not removed: {error}", spec.name));
        }
        return Err(failed(error));
    }
    Ok(id)
}

/// Whether the Engine refuses as somebody has the address or the port.
fn is_in_use(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    why.contains("already in use") && why.contains("address") || why.contains("port is already")
}

/// The image of a release, which is fetched again when it was removed meanwhile.
async fn image_of(engine: &Engine, spec: &Spec) -> Result<String, DockerError> {
    let id = spec.image.clone().filter(|id| is_digest(id));
    let id = id.ok_or_else(|| DockerError::NotMadeOfOne(spec.release.clone()))?;
    let is_there = async || match engine.image(&id).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    };
    if is_there().await? {
        return Ok(id);
    }
    let may_pull = spec.config.pull != config::Pull::Never;
    if let Some(image) = spec.again.clone().filter(|image| may_pull && image.is_pinned()) {
        let pulled = engine.pull(&image, &mut |_: &str| {}).await;
        pulled.map_err(|error| DockerError::Pull { image, error })?;
        if is_there().await? {
            return Ok(id);
        }
    }
    Err(DockerError::Gone { release: spec.release.clone(), id })
}

/// Which release a container in the slot is of.
fn release_of(found: &ContainerSummary, spec: &Spec) -> ReleaseName {
    let label = found.labels.as_ref().and_then(|labels| labels.get(body::RELEASE));
    let release = label.and_then(|label| ReleaseName::new(label).ok());
    release.unwrap_or_else(|| spec.release.clone())
}

/// Stops a container, if it runs, keeps the end of its log, and removes it.
async fn halt(
    engine: &Engine,
    spec: &Spec,
    release: &ReleaseName,
    id: &str,
) -> Result<End, EngineError> {
    let before = match engine.inspect(id).await {
        Ok(container) => Seen::of(&container),
        Err(error) if error.is_not_found() => return Ok(End::ByItself),
        Err(error) => return Err(error),
    };
    let mut end = End::ByItself;
    if before.is_up {
        engine.stop(id, spec.config.stop_timeout).await?;
        let after = Seen::of(&engine.inspect(id).await?);
        // As Docker has it: 128 and SIGKILL.
        if before.runs && after.exit == Some(137) {
            end = End::Killed;
        }
    }
    let path = Releases::new(&spec.root).log(release);
    if let Err(error) = logs::keep(engine, id, path, spec.group).await {
        log::warning(format_args!("{}: what it has said is not kept: {error}", spec.name));
    }
    engine.remove(id).await?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{App, Runner};

    /// A release in a slot, with this in `[run]`.
    pub(super) fn spec(slot: &str, more: &str) -> Spec {
        let text = format!(
            "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:/n\"\n[run]\nimage = \"web\"\n\
             slots = [{slot:?}, \"192.0.2.1:1\"]\n{more}"
        );
        let app = App::parse(&text).unwrap();
        let Runner::Docker(config) = app.run.runner else { panic!("{:?}", app.run) };
        let mut env = app.run.env;
        env.insert("RELEASE".to_owned(), "v1".to_owned());
        Spec {
            name: "web".to_owned(),
            app: app.name,
            root: app.root,
            slot: slot.parse().unwrap(),
            release: ReleaseName::new("v1").unwrap(),
            image: None,
            again: None,
            env,
            group: None,
            config: *config,
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_said() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("docker.sock");
        let said = async |socket: &Path| {
            let config =
                config::Docker { socket: socket.to_owned(), ..spec("127.0.0.1:1", "").config };
            let spec = Spec { config, ..spec("127.0.0.1:1", "") };
            Container::start(spec).await.unwrap_err().to_string()
        };
        let error = said(&socket).await;
        assert!(error.contains("docker.sock: there is no such file; does it run"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = said(&socket).await;
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[test]
    fn who_has_a_slot_already_is_told_from_other_refusals() {
        for why in [
            "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:3001 \
             failed: port is already allocated",
            "Error starting userland proxy: listen tcp4 127.0.0.1:3001: bind: address already in use",
            "Address already in use",
        ] {
            assert!(is_in_use(why), "{why}");
        }
        assert!(!is_in_use(
            "The container name \"/shunt-web\" is already in use by container \"1\""
        ));
        assert!(!is_in_use("exec: \"serve\": executable file not found in $PATH"));
    }
}
