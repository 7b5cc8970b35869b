//! What belongs to the runner `docker`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use shunt_api::Address;

use crate::origin::image::Image;

/// Where Docker's Engine answers as a rule.
pub const SOCKET: &str = "/var/run/docker.sock";

/// How containers of an application are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    /// The image; a deploy names its tag, unless it has one.
    pub image: Image,
    /// When it is fetched from its registry.
    pub pull: Pull,
    /// Where the application listens in its container; at the port of its slot if left out.
    pub port: Option<u16>,
    /// The network that containers are in; Docker's own if left out.
    pub network: Option<String>,
    /// What is mounted into each.
    pub volumes: Vec<String>,
    /// Where Docker's Engine answers: a unix socket.
    pub socket: PathBuf,
    /// In place of the image's own command.
    pub command: Option<Vec<String>>,
    /// How long a release may take to end after the stop signal of its image.
    pub stop_timeout: Duration,
}

/// When an image is fetched from its registry, in the words of `docker run --pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// At each deploy.
    Always,
    /// When it is not there.
    #[default]
    Missing,
    /// By nobody here: it has to be there.
    Never,
}

impl Docker {
    /// What is only known once all of the section is: a container has IP addresses.
    pub(super) fn check(&self, slots: &[Address]) -> Result<(), String> {
        let is_other = |slot: &&Address| match (slot, self.port) {
            (Address::Ip(slot), Some(port)) => slot.port() != port,
            _ => false,
        };
        if self.network.as_deref() == Some("host")
            && let Some(slot) = slots.iter().find(is_other)
        {
            return Err(format!(
                "with network = \"host\" the application listens at the port of its slot, as {slot}: \
                 leave out \"port\", PORT tells it"
            ));
        }
        match slots.iter().find(|slot| matches!(slot, Address::Unix(_))) {
            Some(slot) => Err(format!(
                "slot {slot} is a file: with the runner \"docker\" a slot is an address with a port, \
                 as in \"127.0.0.1:3001\""
            )),
            None => Ok(()),
        }
    }
}

/// The name of a network.
pub(super) fn network<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(d)?;
    // `RestrictedNamePattern` of Docker's.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    match good {
        true => Ok(Some(name)),
        false => Err(de::Error::custom(format!(
            "{name:?} is not the name of a network, which has letters, digits, and \"-_.\""
        ))),
    }
}

/// Volumes as `docker run --volume` takes them, with absolute paths.
pub(super) fn volumes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    let volumes = Vec::<String>::deserialize(d)?;
    let is_good = |volume: &String| {
        let mut parts = volume.splitn(3, ':');
        let (from, to) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let named = from.starts_with(|c: char| c.is_ascii_alphanumeric()) && !from.contains('/');
        (named || from.starts_with('/')) && to.starts_with('/') && !volume.contains('\0')
    };
    match volumes.iter().find(|volume| !is_good(volume)) {
        Some(volume) => Err(de::Error::custom(format!(
            "{volume:?} is not a volume, which is as in \"/srv/web/data:/data\" or \"data:/data:ro\""
        ))),
        None => Ok(Some(volumes)),
    }
}

/// A port.
pub(super) fn port<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(d)? {
        0 => Err(de::Error::custom("must be 1 or more")),
        port => Ok(Some(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Run, Runner};

    const SLOTS: &str = "slots = [\"127.0.0.1:3001\", \"127.0.0.1:3002\"]\n";

    fn parse(text: &str) -> Result<Run, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn an_image_is_run_by_docker_at_addresses() {
        let text = format!("{SLOTS}image = \"registry.example:5000/web\"");
        let run = parse(&text).unwrap();
        let Runner::Docker(docker) = &run.runner else { panic!("{run:?}") };
        assert_eq!(docker.image.to_string(), "registry.example:5000/web");
        assert_eq!((docker.pull, docker.port), (Pull::Missing, None));
        assert_eq!(docker.socket, std::path::Path::new(SOCKET));
        let more = "volumes = [\"/srv/data:/data\", \"cache:/cache:ro\"]\nport = 3000\n\
                    network = \"web_default\"\ncommand = [\"serve\"]\nenv = { A = \"1\" }";
        let run = parse(&format!("{text}\n{more}")).unwrap();
        let Runner::Docker(docker) = &run.runner else { panic!("{run:?}") };
        assert_eq!((docker.port, docker.volumes.len()), (Some(3000), 2));
        let error = parse("image = \"web\"\nslots = [\"unix:/a\", \"unix:/b\"]").unwrap_err();
        assert!(error.contains("slot unix:/a is a file"), "{error}");
        let error = parse("image = \"web\"\nslots = [\"blue:1\", \"green:1\"]").unwrap_err();
        assert!(error.contains("resolve it first"), "{error}");
    }
}
