//! systemd's manager, over the system bus (`org.freedesktop.systemd1(5)`).
//!
//! The bus may go away, and systemd may leave it for a moment (`systemctl daemon-reexec`). What asks for
//! something waits for both to be back, for a bounded time; jobs go on meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus::match_rule::Builder;
use zbus::message::Type;
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue};
use zbus::{Connection, MatchRule, MessageStream};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long systemd may take to answer a call.
const ANSWER: Duration = Duration::from_secs(25);

/// How long is waited for the bus to be back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often is tried whether it is.
const AGAIN: Duration = Duration::from_millis(100);

/// How often to look whether a job is still there, for the case that its end was not told.
const LOOK: Duration = Duration::from_secs(1);

/// How many signals wait. Of one unit there are never that many.
const QUEUE: usize = 64;

/// Why systemd cannot be asked, or does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no bus, or systemd is not on it.
    #[error(
        "cannot reach systemd over D-Bus: {}; systemctl start dbus.service, or, where there is no systemd, \
         runner = \"process\"",
        away(.0)
    )]
    Away(zbus::Error),
    /// It takes no orders from this user.
    #[error(
        "systemd takes no orders from shuntd: {0}; run shuntd as root, or let polkit allow its user \
         org.freedesktop.systemd1.manage-units"
    )]
    Refused(String),
    /// Anything else.
    #[error("systemd says: {0}")]
    Other(zbus::Error),
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        match name(&error) {
            Some(
                "org.freedesktop.DBus.Error.AccessDenied"
                | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
                | "org.freedesktop.DBus.Error.AuthFailed",
            ) => Self::Refused(error.to_string()),
            Some(
                "org.freedesktop.DBus.Error.NoReply"
                | "org.freedesktop.DBus.Error.Timeout"
                | "org.freedesktop.DBus.Error.TimedOut"
                | "org.freedesktop.DBus.Error.Disconnected"
                | "org.freedesktop.DBus.Error.ServiceUnknown"
                | "org.freedesktop.DBus.Error.NameHasNoOwner"
                | "org.freedesktop.DBus.Error.NoServer",
            ) => Self::Away(error),
            Some(_) => Self::Other(error),
            None => match error {
                zbus::Error::InputOutput(_)
                | zbus::Error::Connection(..)
                | zbus::Error::Handshake(_)
                | zbus::Error::Address(_) => Self::Away(error),
                error => Self::Other(error),
            },
        }
    }
}

impl BusError {
    /// Whether the answer was this error.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Other(error) if name(error) == Some(wanted))
    }
}

fn name(error: &zbus::Error) -> Option<&str> {
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.as_str()),
        _ => None,
    }
}

/// An order to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing happens when it runs.
    Start,
    /// With all that belongs to it.
    Stop,
    /// Stop, then start.
    Restart,
}

impl Order {
    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// As it should.
    Well,
    /// Otherwise: systemd's word for it, as `failed`, `timeout`, `dependency`.
    Not(String),
    /// It has ended while systemd could not be heard.
    Unknown,
}

/// What systemd knows of a unit: the properties of all of its interfaces.
pub type Properties = HashMap<String, OwnedValue>;

/// A connection to systemd.
#[derive(Debug)]
pub struct Bus {
    connection: Connection,
}

impl Bus {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`BusError`]; it is tried again for a while.
    pub async fn connect() -> Result<Self, BusError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Self::try_connect().await {
                Err(BusError::Away(_)) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
                result => return result,
            }
        }
    }

    async fn try_connect() -> Result<Self, BusError> {
        let builder = zbus::connection::Builder::system()?.method_timeout(ANSWER);
        let connection = builder.build().await?;
        // Without it systemd sends no signals.
        let to = (Some(SYSTEMD), Some(MANAGER));
        connection.call_method(to.0, MANAGER_PATH, to.1, "Subscribe", &()).await?;
        Ok(Self { connection })
    }

    /// Calls a method, all of which can be called twice: again when the bus was away.
    async fn call<B>(
        &mut self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<zbus::Message, BusError>
    where
        B: serde::Serialize + DynamicType,
    {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.once(path, interface, method, body).await {
                Err(BusError::Away(_)) if Instant::now() < end => {
                    tokio::time::sleep(AGAIN).await;
                    self.connection = Self::connect().await?.connection;
                }
                result => return result,
            }
        }
    }

    /// Calls a method, whatever comes of it.
    async fn once<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<zbus::Message, BusError>
    where
        B: serde::Serialize + DynamicType,
    {
        let to = (Some(SYSTEMD), Some(interface));
        Ok(self.connection.call_method(to.0, path, to.1, method, body).await?)
    }

    async fn manage<B>(&mut self, method: &str, body: &B) -> Result<zbus::Message, BusError>
    where
        B: serde::Serialize + DynamicType,
    {
        self.call(MANAGER_PATH, MANAGER, method, body).await
    }

    /// The object of a unit, which is loaded if it was not.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn load(&mut self, unit: &str) -> Result<OwnedObjectPath, BusError> {
        Ok(self.manage("LoadUnit", &unit).await?.body().deserialize()?)
    }

    /// What systemd knows of a unit.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn properties(&mut self, unit: &OwnedObjectPath) -> Result<Properties, BusError> {
        // Of all interfaces, as `systemctl show` asks for them.
        let reply = self.call(unit.as_str(), PROPERTIES, "GetAll", &"").await?;
        Ok(reply.body().deserialize()?)
    }

    /// Lets a unit forget that it has failed, and how often it was started.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn reset_failed(&mut self, unit: &str) -> Result<(), BusError> {
        match self.manage("ResetFailedUnit", &unit).await {
            // Then there is nothing to forget.
            Err(error) if error.is(NO_SUCH_UNIT) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Gives an order, and does not wait for the end of its job.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn begin(&mut self, order: Order, unit: &str) -> Result<(), BusError> {
        self.manage(order.method(), &(unit, "replace")).await.map(|_| ())
    }

    /// Gives an order, waits for the end of its job, and tells whether it did what it should.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn run(&mut self, order: Order, unit: &str) -> Result<Done, BusError> {
        let signals = signals(MANAGER, "JobRemoved")?.path(MANAGER_PATH)?;
        let rule = signals.arg(2, unit)?.build();
        // From here on no end is missed.
        let mut removed = self.listen(rule.clone()).await?;
        let job: OwnedObjectPath = match self.manage(order.method(), &(unit, "replace")).await {
            Ok(reply) => reply.body().deserialize()?,
            // What is not even loaded does not run.
            Err(error) if order == Order::Stop && error.is(NO_SUCH_UNIT) => return Ok(Done::Well),
            Err(error) => return Err(error),
        };
        loop {
            match tokio::time::timeout(LOOK, removed.next()).await {
                Ok(Some(Ok(message))) => {
                    let body = message.body();
                    let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                        body.deserialize()?;
                    if path == job {
                        return Ok(if result == "done" { Done::Well } else { Done::Not(result) });
                    }
                }
                // The connection is lost, and a new one has to listen itself.
                Ok(Some(Err(_)) | None) => {
                    self.connection = Self::connect().await?.connection;
                    removed = self.listen(rule.clone()).await?;
                    if !self.is_there(&job).await? {
                        return Ok(Done::Unknown);
                    }
                }
                Err(_) if self.is_there(&job).await? => {}
                Err(_) => return Ok(Done::Unknown),
            }
        }
    }

    /// Whether systemd restarts the unit of a process: then the process is told to end, but its unit is
    /// started again at once. It is asked a single time, as whoever is about to end does not wait.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn restarts_unit_of(pid: u32) -> Result<bool, BusError> {
        const UNIT: &str = "org.freedesktop.systemd1.Unit";
        let bus = Self::try_connect().await?;
        let get = async |path: &OwnedObjectPath, interface: &str, property: &str| {
            let reply = bus.once(path.as_str(), PROPERTIES, "Get", &(interface, property)).await?;
            Ok::<OwnedValue, BusError>(reply.body().deserialize()?)
        };
        let reply = bus.once(MANAGER_PATH, MANAGER, "GetUnitByPID", &pid).await?;
        let unit: OwnedObjectPath = reply.body().deserialize()?;
        // The number of its job, zero if it has none, and the job.
        let job = get(&unit, UNIT, "Job").await?;
        let (number, job) = <(u32, OwnedObjectPath)>::try_from(job).map_err(zbus::Error::from)?;
        if number == 0 {
            return Ok(false);
        }
        // It is "restart" until the unit is stopped; then the same job is to "start" it.
        let kind = get(&job, JOB, "JobType").await?;
        Ok(<&str>::try_from(&kind).map_err(zbus::Error::from)? == "restart")
    }

    /// Whether a job has not ended.
    async fn is_there(&mut self, job: &OwnedObjectPath) -> Result<bool, BusError> {
        match self.call(job.as_str(), PROPERTIES, "Get", &(JOB, "State")).await {
            Ok(_) => Ok(true),
            Err(BusError::Other(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Follows a unit: whenever something comes, something of it may have changed.
    ///
    /// # Errors
    ///
    /// [`BusError`].
    pub async fn changes(&mut self, unit: &OwnedObjectPath) -> Result<MessageStream, BusError> {
        let rule = signals(PROPERTIES, "PropertiesChanged")?;
        self.listen(rule.path(unit.clone())?.build()).await
    }

    async fn listen(&mut self, rule: MatchRule<'_>) -> Result<MessageStream, BusError> {
        Ok(MessageStream::for_match_rule(rule, &self.connection, Some(QUEUE)).await?)
    }
}

/// Signals of systemd's.
fn signals(interface: &'static str, member: &'static str) -> Result<Builder<'static>, BusError> {
    let signals = MatchRule::builder().msg_type(Type::Signal).sender(SYSTEMD)?;
    Ok(signals.interface(interface)?.member(member)?)
}

/// Where the bus was looked for, and what the system said.
fn away(error: &zbus::Error) -> String {
    match error {
        zbus::Error::Connection(error, address) => format!("{address}: {}", system(error)),
        zbus::Error::InputOutput(error) => system(error),
        error => error.to_string(),
    }
}

/// Some errors have a kind and no text, which is then called an "entity".
fn system(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        std::io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_that_is_not_there_is_said_with_its_place_and_what_to_do() {
        use std::io::{Error, ErrorKind};
        let address: zbus::Address = "unix:path=/run/no-bus".parse().unwrap();
        let error = zbus::Error::Connection(Error::from(ErrorKind::NotFound).into(), address);
        let said = BusError::from(error).to_string();
        assert!(
            said.starts_with(
                "cannot reach systemd over D-Bus: unix:path=/run/no-bus: there is no such socket;"
            ),
            "{said}"
        );
        assert!(
            said.contains("systemctl start dbus") && said.contains("runner = \"process\""),
            "{said}"
        );
        let lost = zbus::Error::InputOutput(Error::from(ErrorKind::BrokenPipe).into());
        let said = BusError::from(lost).to_string();
        assert!(said.starts_with("cannot reach systemd over D-Bus: broken pipe;"), "{said}");
    }
}
