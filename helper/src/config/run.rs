//! How to run an application: the section `[run]`.

mod docker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use shunt_api::{Address, AddressError};

use super::{field, schema};
use crate::runner::user::User;
use crate::source::image::Image;

pub use docker::{Docker, Pull, SOCKET};

/// How to run an application.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Raw")]
#[schemars(with = "Raw")]
pub struct Run {
    /// What starts and stops it.
    pub runner: Runner,
    /// Where releases listen. Of the runner `external`: those that need not be resolved.
    pub slots: Vec<Address>,
    /// The user to run as; that of the daemon if left out. With systemd the unit says it, see
    /// [`crate::deploy::app::App::job_config`]; who runs in a container its image does.
    pub user: Option<User>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
}

/// What starts and stops an application in its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// The daemon itself.
    Process {
        /// Program and arguments; relative to the release's folder.
        command: Vec<String>,
        /// How long a release may take to end after `SIGTERM`.
        stop_timeout: Duration,
    },
    /// systemd.
    Systemd(Units),
    /// Docker's Engine.
    Docker(Box<Docker>),
    /// Somebody else: nothing is started and nothing is stopped.
    External {
        /// The slots as they are written.
        slots: Vec<Slot>,
    },
}

/// The units of an application, of which each slot has an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    /// `web` for `web@.service` and `web@.socket`.
    pub unit: String,
    /// Whether there is `web@.socket`.
    pub socket: bool,
}

impl Units {
    /// The service of a slot.
    #[must_use]
    pub fn service(&self, instance: &str) -> String {
        format!("{}@{instance}.service", self.unit)
    }

    /// The socket of a slot, if it has one.
    #[must_use]
    pub fn socket(&self, instance: &str) -> Option<String> {
        self.socket.then(|| format!("{}@{instance}.socket", self.unit))
    }
}

/// The instance of a unit that belongs to a slot: its port, or the stem of its file.
#[must_use]
pub fn instance(slot: &Address) -> String {
    match slot {
        Address::Ip(address) => address.port().to_string(),
        Address::Unix(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

/// A slot in which somebody else runs a release.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Slot {
    /// Where that is.
    Address(Address),
    /// It has to be resolved first.
    Host {
        /// The host's name.
        name: String,
        /// The port.
        port: u16,
    },
}

impl FromStr for Slot {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(error @ AddressError::HostName(_)) => {
                let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
                match port.parse() {
                    Ok(0) => Err(AddressError::PortZero(text.to_owned())),
                    Ok(port) if !name.contains(':') => {
                        Ok(Self::Host { name: name.to_owned(), port })
                    }
                    _ if port.is_empty() => Err(AddressError::NoPort(text.to_owned())),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

impl TryFrom<String> for Slot {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

impl Run {
    /// What two applications would both use.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Option<String> {
        if let Some(slot) = self.slots.iter().find(|slot| other.slots.contains(slot)) {
            return Some(format!("slot {slot}"));
        }
        match (&self.runner, &other.runner) {
            (Runner::Systemd(units), Runner::Systemd(others)) => {
                (units.unit == others.unit).then(|| format!("the unit {:?}", units.unit))
            }
            (Runner::External { slots }, Runner::External { slots: others }) => {
                let slot = slots.iter().find(|slot| others.contains(slot))?;
                Some(format!("slot {slot}"))
            }
            _ => None,
        }
    }
}

/// The names of the runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Process,
    Systemd,
    Docker,
    External,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Systemd => "systemd",
            Self::Docker => "docker",
            Self::External => "external",
        }
    }
}

/// The section as it is written: what belongs to each runner side by side.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [run]")]
struct Raw {
    /// What starts and stops it.
    runner: Option<Kind>,
    /// Program and arguments; relative to the release's folder. In a container in place of the image's
    /// own command.
    #[serde(default, deserialize_with = "field::some_command")]
    #[schemars(with = "Option<schema::Command>")]
    command: Option<Vec<String>>,
    /// Where releases listen; two or more, of which one is free.
    #[serde(deserialize_with = "field::slots")]
    #[schemars(with = "schema::Slots")]
    slots: Vec<Slot>,
    /// The user to run as; that of the daemon if left out. Who runs in a container its image says.
    #[serde(default, deserialize_with = "field::user")]
    #[schemars(with = "Option<String>")]
    user: Option<User>,
    /// Added to the environment.
    #[serde(default, deserialize_with = "field::some_env")]
    env: Option<BTreeMap<String, String>>,
    /// How long a release may take to end after `SIGTERM`, or the stop signal of its image.
    #[serde(default, deserialize_with = "field::some_duration")]
    #[schemars(with = "Option<schema::Time>")]
    stop_timeout: Option<Duration>,
    /// The name of the templates of systemd's, before the `@`.
    #[serde(default, deserialize_with = "field::some_unit")]
    #[schemars(with = "Option<schema::Unit>")]
    unit: Option<String>,
    /// Whether there is a socket unit.
    socket: Option<bool>,
    /// The image that containers are made of. Without a tag each deploy names it.
    #[serde(default, deserialize_with = "field::parsed")]
    #[schemars(with = "Option<schema::Image>")]
    image: Option<Image>,
    /// When the image is fetched from its registry: at each deploy, when it is not there, or never.
    pull: Option<Pull>,
    /// The port at which the application listens in its container; that of the slot if left out.
    #[serde(default, deserialize_with = "docker::port")]
    #[schemars(range(min = 1))]
    port: Option<u16>,
    /// The network of the containers.
    #[serde(default, deserialize_with = "docker::network")]
    #[schemars(with = "Option<schema::Network>")]
    network: Option<String>,
    /// What is mounted into each container: a folder or the name of a volume, where to, and `ro`.
    #[serde(default, deserialize_with = "docker::volumes")]
    #[schemars(with = "Option<Vec<schema::Volume>>")]
    volumes: Option<Vec<String>>,
    /// The unix socket of Docker's Engine.
    #[serde(default, deserialize_with = "field::absolute")]
    #[schemars(with = "Option<schema::AbsolutePath>")]
    docker: Option<PathBuf>,
}

impl TryFrom<Raw> for Run {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let kind = raw.runner.unwrap_or(match (&raw.unit, &raw.image) {
            (Some(_), _) => Kind::Systemd,
            (None, Some(_)) => Kind::Docker,
            (None, None) => Kind::Process,
        });
        let to_start =
            [("command", raw.command.is_some()), ("stop_timeout", raw.stop_timeout.is_some())];
        // With another runner than systemd also of hooks and checks.
        let of_commands = [("user", raw.user.is_some()), ("env", raw.env.is_some())];
        let of_systemd = [("unit", raw.unit.is_some()), ("socket", raw.socket.is_some())];
        let of_docker = [
            ("image", raw.image.is_some()),
            ("pull", raw.pull.is_some()),
            ("port", raw.port.is_some()),
            ("network", raw.network.is_some()),
            ("volumes", raw.volumes.is_some()),
            ("docker", raw.docker.is_some()),
        ];
        let given = |fields: &[(&'static str, bool)]| {
            fields.iter().find(|(_, given)| *given).map(|(name, _)| *name)
        };
        let (wrong, why) = match kind {
            Kind::Process | Kind::Docker if given(&of_systemd).is_some() => {
                (given(&of_systemd), "belongs to the runner \"systemd\"")
            }
            Kind::Process | Kind::Systemd if given(&of_docker).is_some() => {
                (given(&of_docker), "belongs to the runner \"docker\"")
            }
            Kind::Process | Kind::Docker => (None, ""),
            Kind::Systemd => {
                (given(&to_start).or(given(&of_commands)), "is said in the unit's own file")
            }
            Kind::External => {
                let not_ours = given(&to_start).or(given(&of_systemd)).or(given(&of_docker));
                (not_ours, "is the business of whoever runs it")
            }
        };
        if let Some(field) = wrong {
            return Err(format!("with the runner {:?}, {field:?} {why}: remove it", kind.name()));
        }
        let runner = match kind {
            Kind::Process => Runner::Process {
                command: raw.command.ok_or(
                    "missing field `command`, which the runner \"process\" starts; or name a \
                     `unit` of systemd's, or say runner = \"external\"",
                )?,
                stop_timeout: raw.stop_timeout.unwrap_or(super::ten_seconds()),
            },
            Kind::Systemd => {
                let unit = raw.unit.ok_or(
                    "missing field `unit`: the runner \"systemd\" starts instances of its \
                     templates, as in unit = \"web\" of web@.service and web@.socket",
                )?;
                Runner::Systemd(Units { unit, socket: raw.socket.unwrap_or(true) })
            }
            Kind::Docker => Runner::Docker(Box::new(Docker {
                image: raw.image.ok_or(
                    "missing field `image`, of which the runner \"docker\" makes containers, as in \
                     image = \"registry.example/web\"",
                )?,
                pull: raw.pull.unwrap_or_default(),
                port: raw.port,
                network: raw.network,
                volumes: raw.volumes.unwrap_or_default(),
                socket: raw.docker.unwrap_or_else(|| SOCKET.into()),
                command: raw.command,
                stop_timeout: raw.stop_timeout.unwrap_or(super::ten_seconds()),
            })),
            Kind::External => Runner::External { slots: raw.slots.clone() },
        };
        let slots = addresses(&raw.slots, kind)?;
        if kind == Kind::Systemd {
            check_instances(&slots)?;
        }
        if let Runner::Docker(docker) = &runner {
            docker.check(&slots)?;
        }
        Ok(Self { runner, slots, user: raw.user, env: raw.env.unwrap_or_default() })
    }
}

/// The slots that are addresses; only somebody else's may be anything else.
fn addresses(slots: &[Slot], kind: Kind) -> Result<Vec<Address>, String> {
    let mut addresses = Vec::new();
    for slot in slots {
        match slot {
            Slot::Address(address) => addresses.push(address.clone()),
            Slot::Host { .. } if kind == Kind::External => {}
            Slot::Host { .. } => return Err(AddressError::HostName(slot.to_string()).to_string()),
        }
    }
    Ok(addresses)
}

/// Each slot has an instance of its own, whose name systemd takes as it is.
fn check_instances(slots: &[Address]) -> Result<(), String> {
    for (at, slot) in slots.iter().enumerate() {
        let name = instance(slot);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(format!(
                "slot {slot} has the instance {name:?}, which can have letters, digits and \
                 \"-_.\" only: rename its file"
            ));
        }
        if let Some(other) = slots[..at].iter().find(|other| instance(other) == name) {
            return Err(format!("slots {other} and {slot} are both the instance {name:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: &str = "slots = [\"127.0.0.1:3001\", \"127.0.0.1:3002\"]\n";

    fn parse(text: &str) -> Result<Run, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn the_runner_is_process_unless_a_unit_is_named() {
        let process = parse(&format!("{SLOTS}command = [\"./server\"]")).unwrap();
        assert!(matches!(process.runner, Runner::Process { .. }));
        let said =
            parse(&format!("{SLOTS}command = [\"./server\"]\nrunner = \"process\"")).unwrap();
        assert_eq!(said, process);
        let units = Units { unit: "web".to_owned(), socket: true };
        for more in ["", "runner = \"systemd\"\n"] {
            let run = parse(&format!("{more}unit = \"web\"\n{SLOTS}")).unwrap();
            assert_eq!(run.runner, Runner::Systemd(units.clone()));
        }
        assert_eq!(units.service("3001"), "web@3001.service");
        assert_eq!(units.socket("3001").unwrap(), "web@3001.socket");
        let run = parse(&format!("unit = \"web\"\nsocket = false\n{SLOTS}")).unwrap();
        let Runner::Systemd(units) = run.runner else { panic!("{run:?}") };
        assert_eq!(units.socket("3001"), None);
    }

    #[test]
    fn the_sample_for_systemd_is_good_and_its_comments_name_the_defaults() {
        let sample = include_str!("../../../systemd/web.toml");
        let said: Vec<_> = sample
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains('=')).unwrap_or(line))
            .collect();
        assert!(said.iter().filter(|line| !line.starts_with('#')).count() > 9, "{said:?}");
        let app = crate::config::App::parse(sample).unwrap();
        assert_eq!(app, crate::config::App::parse(&said.join("\n")).unwrap());
        assert!(matches!(app.run.runner, Runner::Systemd(_)));
    }

    #[test]
    fn each_runner_has_fields_of_its_own() {
        for (text, said) in [
            ("", "missing field `command`"),
            ("runner = \"systemd\"", "missing field `unit`"),
            ("runner = \"docker\"", "missing field `image`"),
            ("runner = \"podman\"", "unknown variant `podman`"),
            ("image = \"web\"\nsocket = true", "\"socket\" belongs to the runner \"systemd\""),
            ("command = [\"x\"]\nrunner = \"process\"\nport = 1", "\"port\" belongs to"),
            ("unit = \"web\"\nnetwork = \"web\"", "\"network\" belongs to the runner \"docker\""),
            ("runner = \"external\"\nimage = \"web\"", "\"image\" is the business of"),
            ("image = \"web\"\nport = 0", "1 or more"),
            ("image = \"web\"\nnetwork = \"a b\"", "is not the name of a network"),
            ("image = \"web\"\nvolumes = [\"data\"]", "is not a volume"),
            ("image = \"web\"\nvolumes = [\"./data:/data\"]", "is not a volume"),
            ("image = \"web\"\ndocker = \"docker.sock\"", "must be an absolute path"),
            ("image = \"We b\"", "is not an image"),
            ("unit = \"web\"\ncommand = [\"x\"]", "\"command\" is said in the unit's own file"),
            ("unit = \"web\"\nuser = \"root\"", "\"user\" is said in"),
            ("unit = \"web\"\nenv = {}", "\"env\" is said in"),
            ("unit = \"web\"\nstop_timeout = \"1s\"", "\"stop_timeout\" is said in"),
            ("command = [\"x\"]\nsocket = true", "\"socket\" belongs to the runner \"systemd\""),
            ("runner = \"process\"\nunit = \"web\"", "\"unit\" belongs to"),
            ("runner = \"external\"\nunit = \"web\"", "\"unit\" is the business of"),
            ("runner = \"external\"\ncommand = [\"x\"]", "\"command\" is the business of"),
            ("unit = \"web@.service\"", "write \"web\""),
            ("unit = \"web@\"", "write \"web\""),
            ("unit = \"a/b\"", "letters, digits"),
            ("unit = \"\"", "letters, digits"),
        ] {
            // Without the right to become root there is another reason.
            if text.contains("user = ") && User::find("root").is_err() {
                continue;
            }
            let error = parse(&format!("{text}\n{SLOTS}")).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn commands_for_what_somebody_else_runs_have_an_environment() {
        let run = parse(&format!("runner = \"external\"\nenv = {{ A = \"1\" }}\n{SLOTS}")).unwrap();
        assert_eq!(run.env["A"], "1");
    }

    #[test]
    fn an_instance_is_the_port_or_the_stem_of_the_file() {
        let run = |slots: &str| parse(&format!("unit = \"web\"\nslots = {slots}"));
        let good = run("[\"unix:/run/web/blue.sock\", \"[::1]:3001\"]").unwrap();
        assert_eq!(good.slots.iter().map(instance).collect::<Vec<_>>(), ["blue", "3001"]);
        for (slots, said) in [
            ("[\"127.0.0.1:3001\", \"[::1]:3001\"]", "are both the instance \"3001\""),
            ("[\"unix:/a/b.sock\", \"unix:/b/b.sock\"]", "are both the instance \"b\""),
            ("[\"unix:/a/b c.sock\", \"[::1]:3001\"]", "rename its file"),
            ("[\"unix:/\", \"[::1]:3001\"]", "rename its file"),
        ] {
            let error = run(slots).unwrap_err();
            assert!(error.contains(said), "{slots}: {error}");
        }
    }

    #[test]
    fn only_somebody_else_s_slots_may_be_names() {
        let text = "slots = [\"blue:3000\", \"green.internal:3000\", \"127.0.0.1:3000\"]";
        let run = parse(&format!("runner = \"external\"\n{text}")).unwrap();
        assert_eq!(run.slots, ["127.0.0.1:3000".parse().unwrap()]);
        let Runner::External { slots } = &run.runner else { panic!("{run:?}") };
        assert_eq!(slots[0], Slot::Host { name: "blue".to_owned(), port: 3000 });
        assert_eq!(slots[1].to_string(), "green.internal:3000");
        for other in ["unit = \"web\"", "command = [\"x\"]"] {
            let error = parse(&format!("{other}\n{text}")).unwrap_err();
            assert!(error.contains("resolve it first"), "{error}");
        }
        for wrong in ["blue", "blue:0", "blue:x", "blue:1:2", "-:1", "blue:70000"] {
            assert!(wrong.parse::<Slot>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_applications_cannot_share_a_slot_or_a_unit() {
        let unit = |port: u16| {
            let slots = format!("[\"127.0.0.1:{port}\", \"127.0.0.1:{}\"]", port + 1);
            parse(&format!("unit = \"web\"\nslots = {slots}")).unwrap()
        };
        assert_eq!(unit(3001).shared_with(&unit(3002)).unwrap(), "slot 127.0.0.1:3002");
        assert_eq!(unit(3001).shared_with(&unit(4001)).unwrap(), "the unit \"web\"");
        let external = |other: &str| {
            parse(&format!("runner = \"external\"\nslots = [\"blue:1\", {other:?}]")).unwrap()
        };
        assert_eq!(external("a:1").shared_with(&external("b:1")).unwrap(), "slot blue:1");
        assert_eq!(external("a:1").shared_with(&unit(3001)), None);
    }
}
