//! How a slot's address leads to the container in it.

use std::net::{IpAddr, SocketAddr};

/// Part of a network: `172.20.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    base: IpAddr,
    bits: u32,
}

impl Subnet {
    /// One as Docker writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits) = (base.parse().ok()?, bits.parse().ok()?);
        let most = if matches!(base, IpAddr::V4(_)) { 32 } else { 128 };
        (bits <= most).then_some(Self { base, bits })
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        // Those bits of both that have to be the same, as the highest of as many as there are.
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                (base.to_bits() ^ ip.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                (base.to_bits() ^ ip.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// How a slot's address leads to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is one of this machine, from which Docker leads to this port of the container.
    Published {
        /// The port in the container.
        port: u16,
    },
    /// It is the container's own in its network.
    InNetwork,
    /// The container has no network of its own, and listens on this machine.
    Host,
}

/// The network without one.
pub const HOST: &str = "host";

/// A container's port that cannot be another one than its slot's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "slot {slot} is the container's own address {}, so the application listens at its port, and not at \
     {port}: leave out `[run] port`, or write it into the slot",
    match place { Place::Host => "on this machine".to_owned(), _ => format!("in network {network:?}") }
)]
pub struct OtherPort {
    /// The slot.
    pub slot: SocketAddr,
    /// What was said of the port.
    pub port: u16,
    /// How the slot leads to the container.
    pub place: Place,
    /// The network.
    pub network: String,
}

/// How a slot leads to a container that is in a network with these parts, and listens at this port.
///
/// # Errors
///
/// [`OtherPort`].
pub fn of(
    slot: SocketAddr,
    port: Option<u16>,
    network: Option<&str>,
    subnets: &[Subnet],
) -> Result<Place, OtherPort> {
    let place = match network {
        Some(HOST) => Place::Host,
        Some(_) if subnets.iter().any(|subnet| subnet.has(slot.ip())) => Place::InNetwork,
        _ => return Ok(Place::Published { port: port.unwrap_or(slot.port()) }),
    };
    match port.filter(|port| *port != slot.port()) {
        None => Ok(place),
        Some(port) => {
            Err(OtherPort { slot, port, place, network: network.unwrap_or_default().to_owned() })
        }
    }
}

impl Place {
    /// The port at which the application listens.
    #[must_use]
    pub fn port(self, slot: SocketAddr) -> u16 {
        match self {
            Self::Published { port } => port,
            Self::InNetwork | Self::Host => slot.port(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_the_addresses_that_begin_as_it_does() {
        let has = |subnet: &str, ip: &str| Subnet::parse(subnet).unwrap().has(ip.parse().unwrap());
        for (subnet, ip) in [
            ("172.20.0.0/16", "172.20.255.1"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("0.0.0.0/0", "192.0.2.1"),
            ("fd00:1::/64", "fd00:1::7"),
            ("::/0", "::1"),
        ] {
            assert!(has(subnet, ip), "{subnet} {ip}");
        }
        for (subnet, ip) in [
            ("172.20.0.0/16", "172.21.0.1"),
            ("10.1.2.3/32", "10.1.2.2"),
            ("fd00:1::/64", "fd00:1:0:1::7"),
            ("0.0.0.0/0", "::1"),
        ] {
            assert!(!has(subnet, ip), "{subnet} {ip}");
        }
        for bad in ["", "172.20.0.0", "172.20.0.0/33", "x/8", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_slot_in_the_network_is_the_container_s_own_address_and_any_other_is_published() {
        let subnets = [Subnet::parse("172.20.0.0/16").unwrap()];
        let slot = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (inside, outside) = (slot("172.20.0.9:3000"), slot("127.0.0.1:3001"));
        for (at, port, network, place) in [
            (outside, None, None, Place::Published { port: 3001 }),
            (outside, Some(80), None, Place::Published { port: 80 }),
            (outside, Some(80), Some("web"), Place::Published { port: 80 }),
            (inside, None, Some("web"), Place::InNetwork),
            (inside, Some(3000), Some("web"), Place::InNetwork),
            (outside, None, Some("host"), Place::Host),
        ] {
            let found = of(at, port, network, if network == Some("web") { &subnets } else { &[] });
            assert_eq!(found.unwrap(), place);
        }
        let error = of(inside, Some(80), Some("web"), &subnets).unwrap_err().to_string();
        assert!(error.contains("own address in network \"web\", so"), "{error}");
        let error = of(outside, Some(80), Some("host"), &[]).unwrap_err().to_string();
        assert!(error.contains("own address on this machine, so"), "{error}");
        assert_eq!(
            (Place::Published { port: 80 }.port(inside), Place::Host.port(inside)),
            (80, 3000)
        );
    }
}
