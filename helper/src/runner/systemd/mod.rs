//! The runner `systemd`: a release is what a slot's link leads to, run by the units of that instance.
//!
//! The link is set only while nothing runs in the slot. The socket is started before the service, so
//! that systemd holds it, and the service is started itself, as a socket that listens proves nothing.
//! To end a slot, its socket stops first: else a stray connection would start the service again. An old
//! release's socket can stay ([`rest`]): it can be switched back to at once. The units are systemd's: they
//! serve on without the daemon.

pub mod bus;
mod follow;
pub mod journal;
pub mod link;
mod rest;
pub mod unit;

use std::io;
use std::path::PathBuf;

use shunt_api::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zbus::zvariant::OwnedObjectPath;

use crate::config::Units;
use crate::config::run::instance;
use crate::log;
use crate::runner::state::{End, State};
use crate::user::{User, UserError};
use bus::{Bus, BusError, Done, Order};
use follow::Tracker;
use journal::Journal;
use unit::Unit;

pub use rest::Starting;

/// How many lines of a unit explain that it does not start.
const LINES: usize = 30;

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is called in the daemon's log.
    pub name: String,
    /// The application's units.
    pub units: Units,
    /// Where it listens.
    pub slot: Address,
    /// The slot's link.
    pub link: PathBuf,
    /// The release's folder.
    pub folder: PathBuf,
}

impl Spec {
    fn service(&self) -> String {
        self.units.service(&instance(&self.slot))
    }

    fn socket(&self) -> Option<String> {
        self.units.socket(&instance(&self.slot))
    }
}

/// Why systemd does not run a release.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be asked, or refuses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A unit cannot be loaded.
    #[error("{0}")]
    NotLoaded(String),
    /// The socket is another one than the slot's.
    #[error(
        "{unit} listens on {found:?}, and not on slot {slot}: its ListenStream= has to be the slot, \
         as in \"127.0.0.1:%i\""
    )]
    Listens {
        /// The socket unit.
        unit: String,
        /// Where it listens.
        found: Vec<String>,
        /// The slot.
        slot: Address,
    },
    /// Whoever connects would not meet the release any more.
    #[error("{unit} does not listen for this release any more: somebody has stopped it, or moved {}",
        link.display())]
    NotListening {
        /// The socket unit.
        unit: String,
        /// The slot's link.
        link: PathBuf,
    },
    /// The slot's link cannot be set.
    #[error("cannot set the slot's link {}: {error}", path.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A unit does not start, or has ended at once.
    #[error("{unit} does not start: {how}")]
    Failed {
        /// The unit.
        unit: String,
        /// How it ended.
        how: String,
        /// The last lines of it and about it.
        lines: Vec<String>,
    },
    /// The user that its units name is none.
    #[error("{unit}: {why}")]
    User {
        /// The unit.
        unit: String,
        /// What is wrong.
        why: String,
    },
}

/// A release that systemd runs in a slot.
#[derive(Debug)]
pub struct Service {
    spec: Spec,
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    journal: Journal,
    task: JoinHandle<()>,
}

/// systemd's objects of a slot.
struct Objects {
    service: OwnedObjectPath,
    socket: Option<OwnedObjectPath>,
    /// Whether nothing ran, and nothing could be started by a connection, when it was looked at.
    are_down: bool,
    /// Whether the socket listened then.
    listens: bool,
    /// Whether the service remembered a failure.
    has_failed: bool,
}

impl Service {
    /// Puts a release into a slot in which no other may run any more, and starts its units.
    ///
    /// # Errors
    ///
    /// [`SystemdError`]; then nothing runs there.
    pub async fn start(spec: Spec) -> Result<Self, SystemdError> {
        let mut bus = Bus::connect().await?;
        let empty = async {
            let objects = check(&mut bus, &spec).await?;
            if !objects.are_down {
                // Nothing may run on a link that moves.
                clear(&mut bus, &spec).await?;
            }
            set_link(&spec)?;
            Ok::<_, SystemdError>(objects)
        };
        let name = spec.service();
        let (objects, journal) = tokio::join!(empty, Journal::from_now_on(&name));
        let objects = objects?;
        match launch(&mut bus, &spec, &objects, Order::Start, &journal).await {
            Ok(unit) => Ok(Self::followed(spec, &unit, journal)),
            Err(error) => {
                if let Err(error) = clear(&mut bus, &spec).await {
                    log::error(format_args!("{} is not stopped: {error}", spec.name));
                }
                Err(error)
            }
        }
    }

    /// Stops the service and starts that of another release in the same slot. The socket is systemd's
    /// and stays, so connections wait.
    ///
    /// # Errors
    ///
    /// [`SystemdError`], and the slot in which nothing should run, but whose socket is still open:
    /// another release can be started there by the same call.
    pub async fn replace(self, spec: Spec) -> Result<Self, (Self, SystemdError)> {
        let journal = Journal::from_now_on(&spec.service()).await;
        let old = self.spec.clone();
        self.unfollow().await;
        match exchange(&spec, &journal).await {
            Ok(unit) => Ok(Self::followed(spec, &unit, journal)),
            Err(error) => Err((Self::held(old, journal), error)),
        }
    }

    /// Takes over what runs in a slot, as an earlier daemon has started it; `None` when that is another
    /// release or nothing. One that has its socket only, as after a crash, is started behind it, unless it
    /// `rests`.
    ///
    /// # Errors
    ///
    /// [`SystemdError`].
    pub async fn adopt(spec: Spec, rests: bool) -> Result<Option<Self>, SystemdError> {
        if !link::leads_to(&spec.link, &spec.folder) {
            return Ok(None);
        }
        let mut bus = Bus::connect().await?;
        let objects = check(&mut bus, &spec).await?;
        let journal = Journal::from_now_on(&spec.service()).await;
        let mut unit = Unit::read(&bus.properties(&objects.service).await?);
        if !unit.is_up() {
            if unit.is_down() && !objects.listens {
                return Ok(None);
            }
            if rests && objects.listens {
                return Ok(Some(Self::resting(spec, &unit, journal)));
            }
            unit = launch(&mut bus, &spec, &objects, Order::Start, &journal).await?;
        }
        Ok(Some(Self::followed(spec, &unit, journal)))
    }

    /// One that runs.
    fn followed(spec: Spec, unit: &Unit, journal: Journal) -> Self {
        let tracker = Tracker::new(unit);
        let state = tracker.running(unit);
        Self::follow(spec, tracker, state, journal)
    }

    fn follow(spec: Spec, tracker: Tracker, state: State, journal: Journal) -> Self {
        let (publish, state) = watch::channel(state);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(follow::follow(spec.clone(), tracker, publish, stopped));
        Self { spec, state, stop, journal, task }
    }

    /// A slot in which nothing should run.
    fn held(spec: Spec, journal: Journal) -> Self {
        let ((_, state), (stop, _)) = (watch::channel(State::Stopped), watch::channel(true));
        Self { spec, state, stop, journal, task: tokio::spawn(async {}) }
    }

    async fn unfollow(self) {
        self.stop.send_replace(true);
        // It has nothing to tell.
        let _ = self.task.await;
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows what it is doing.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Its journal since the start.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Stops it, so that nothing can start there any more.
    pub async fn stop(self) -> End {
        let spec = self.spec.clone();
        self.unfollow().await;
        match halt(&spec, true).await {
            Ok((end, _)) => end,
            Err(error) => not_stopped(&spec, &error),
        }
    }
}

/// The user of an application's units; `None` when it is root, and when the daemon could not become
/// anybody else: then what it does is done as its own user.
///
/// # Errors
///
/// [`SystemdError`].
pub async fn user(units: &Units, slot: &Address) -> Result<Option<User>, SystemdError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let name = units.service(&instance(slot));
    let mut bus = Bus::connect().await?;
    let object = bus.load(&name).await?;
    let properties = bus.properties(&object).await?;
    if let Some(why) = Unit::read(&properties).why_not_loaded(&name) {
        return Err(SystemdError::NotLoaded(why));
    }
    let wrong = |why: String| SystemdError::User { unit: unit::template(&name), why };
    match unit::user(&name, &properties) {
        Ok(None) => Ok(None),
        Ok(Some(user)) => {
            User::find(&user).map(Some).map_err(|error: UserError| wrong(error.to_string()))
        }
        Err(why) => Err(SystemdError::NotLoaded(why)),
    }
}

/// Loads the units of a slot, and looks whether they are good for it.
async fn check(bus: &mut Bus, spec: &Spec) -> Result<Objects, SystemdError> {
    let load = async |bus: &mut Bus, name: &str| {
        let object = bus.load(name).await?;
        let properties = bus.properties(&object).await?;
        let unit = Unit::read(&properties);
        if let Some(why) = unit.why_not_loaded(name) {
            return Err(SystemdError::NotLoaded(why));
        }
        if unit.is_stale {
            let name = unit::template(name);
            log::warning(format_args!(
                "{}: {name} has changed, run \"systemctl daemon-reload\"",
                spec.name
            ));
        }
        Ok((object, properties, unit))
    };
    let warn = |limit: Option<String>| {
        if let Some(limit) = limit {
            log::warning(format_args!("{}: {limit}", spec.name));
        }
    };
    let name = spec.service();
    let (service, properties, unit) = load(bus, &name).await?;
    let (are_down, has_failed) = (unit.is_down(), unit.active == "failed");
    let Some(socket) = spec.socket() else {
        return Ok(Objects { service, socket: None, are_down, listens: false, has_failed });
    };
    warn(unit::limit(&name, &properties));
    let (object, properties, unit) = load(bus, &socket).await?;
    warn(unit::limit(&socket, &properties));
    let found = unit::listens(&properties);
    if !found.iter().any(|found| unit::reaches(&spec.slot, found)) {
        return Err(SystemdError::Listens { unit: socket, found, slot: spec.slot.clone() });
    }
    let (are_down, listens) = (are_down && unit.is_down(), unit.is_up());
    Ok(Objects { service, socket: Some(object), are_down, listens, has_failed })
}

/// Stops everything in a slot, and its socket first.
async fn clear(bus: &mut Bus, spec: &Spec) -> Result<(), SystemdError> {
    for unit in spec.socket().into_iter().chain([spec.service()]) {
        order(bus, Order::Stop, &unit).await?;
    }
    Ok(())
}

/// Gives an order that nothing but its job can prevent.
async fn order(bus: &mut Bus, order: Order, unit: &str) -> Result<(), SystemdError> {
    match bus.run(order, unit).await? {
        Done::Well | Done::Unknown => Ok(()),
        Done::Not(result) => {
            let how = format!("its job ended as {result:?}");
            Err(SystemdError::Failed { unit: unit.to_owned(), how, lines: Vec::new() })
        }
    }
}

fn set_link(spec: &Spec) -> Result<(), SystemdError> {
    link::set(&spec.link, &spec.folder)
        .map_err(|error| SystemdError::Link { path: spec.link.clone(), error })
}

/// Starts the socket, then the service, which works then.
async fn launch(
    bus: &mut Bus,
    spec: &Spec,
    objects: &Objects,
    order: Order,
    journal: &Journal,
) -> Result<Unit, SystemdError> {
    let name = spec.service();
    // Of an earlier crash loop nothing is remembered.
    bus.reset_failed(&name).await?;
    if let (Some(socket), Some(object)) = (spec.socket(), &objects.socket) {
        bus.reset_failed(&socket).await?;
        let done = bus.run(Order::Start, &socket).await?;
        let unit = match done {
            Done::Well => None,
            Done::Not(_) | Done::Unknown => Some(Unit::read(&bus.properties(object).await?)),
        };
        if let Some(unit) = unit.filter(|unit| !unit.is_up()) {
            // What it says is not in the service's journal.
            let how = format!(
                "{} (unit result {:?}); \"journalctl --unit={socket}\" says why",
                why(&done),
                unit.result
            );
            return Err(SystemdError::Failed { unit: socket, how, lines: Vec::new() });
        }
    }
    let done = bus.run(order, &name).await?;
    let unit = Unit::read(&bus.properties(&objects.service).await?);
    if matches!(done, Done::Well | Done::Unknown) && unit.is_up() {
        return Ok(unit);
    }
    let mut how = match &*unit.result {
        // It is being started again already.
        "success" | "" if unit.code == 0 => why(&done),
        _ => unit.end(),
    };
    if let (Some(socket), Some(object)) = (spec.socket(), &objects.socket) {
        let unit = Unit::read(&bus.properties(object).await?);
        if unit::is_closed_by_crashes(&unit) {
            let closed = unit::closed_by_crashes(&socket, &name, &unit.result);
            how = format!("{how}; {closed}");
        }
    }
    let lines = journal.last_lines(LINES).await;
    Err(SystemdError::Failed { unit: name, how, lines })
}

fn why(done: &Done) -> String {
    match done {
        Done::Well | Done::Unknown => "it has ended at once".to_owned(),
        Done::Not(result) => format!("its job ended as {result:?}"),
    }
}

/// Another release in the same slot.
async fn exchange(spec: &Spec, journal: &Journal) -> Result<Unit, SystemdError> {
    let mut bus = Bus::connect().await?;
    let objects = check(&mut bus, spec).await?;
    order(&mut bus, Order::Stop, &spec.service()).await?;
    set_link(spec)?;
    // A connection may have started the old release again before the link was set.
    let launched = launch(&mut bus, spec, &objects, Order::Restart, journal).await;
    // Why it did not start is what is told, also when it cannot be stopped.
    if launched.is_err()
        && let Err(error) = order(&mut bus, Order::Stop, &spec.service()).await
    {
        log::error(format_args!("{} is not stopped: {error}", spec.name));
    }
    launched
}

fn not_stopped(spec: &Spec, error: &SystemdError) -> End {
    log::error(format_args!("{} is not stopped: {error}", spec.name));
    End::Unknown(error.to_string())
}

/// Stops a service, and its socket before that if it is to close.
async fn halt(spec: &Spec, close: bool) -> Result<(End, Unit), SystemdError> {
    let mut bus = Bus::connect().await?;
    let name = spec.service();
    let object = bus.load(&name).await?;
    let ran = !Unit::read(&bus.properties(&object).await?).is_down();
    if let Some(socket) = spec.socket().filter(|_| close) {
        order(&mut bus, Order::Stop, &socket).await?;
    }
    order(&mut bus, Order::Stop, &name).await?;
    let unit = Unit::read(&bus.properties(&object).await?);
    Ok((if ran && unit.was_killed() { End::Killed } else { End::ByItself }, unit))
}
