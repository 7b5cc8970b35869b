//! Addresses of servers.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a server of a release listens: an IP literal with a port, or the path of a unix socket.
///
/// Host names are not addresses: the module never resolves one while it serves traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(
    feature = "openapi",
    derive(schemars::JsonSchema),
    schemars(extend(
        "pattern" = r"^([0-9.]+:[0-9]+|\[[0-9A-Fa-f:.]+\]:[0-9]+|unix:/.{0,106})$"
    ))
)]
pub enum Address {
    /// `127.0.0.1:3000` or `[::1]:3000`.
    Ip(SocketAddr),
    /// `unix:/run/web/3000.sock`.
    Unix(PathBuf),
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// An IP literal without a port.
    #[error("address {0:?} has no port, write it as \"127.0.0.1:3000\" or \"[::1]:3000\"")]
    NoPort(String),
    /// Port 0 cannot be connected to.
    #[error("address {0:?} has port 0, which cannot be connected to")]
    PortZero(String),
    /// The address of all machines, which NGINX takes for a name.
    #[error("address {0:?} is the broadcast address, give that of one machine")]
    Broadcast(String),
    /// A name that would have to be looked up.
    #[error(
        "address {0:?} has a host name, resolve it first and give an IP literal with a port \
         (as in \"127.0.0.1:3000\") or \"unix:/path\""
    )]
    HostName(String),
    /// A unix path that is not absolute, empty, or has a NUL byte.
    #[error("address {0:?} needs an absolute path after \"unix:\"")]
    UnixPath(String),
    /// A unix path that `sockaddr_un` cannot hold (`unix(7)`).
    #[error("address {0:?} has a path of more than {max} bytes", max = Address::MAX_UNIX_PATH)]
    UnixLong(String),
    /// Anything else.
    #[error("{0:?} is not an address, write \"127.0.0.1:3000\", \"[::1]:3000\" or \"unix:/path\"")]
    Syntax(String),
}

impl Address {
    /// The longest path of a unix socket: `sun_path` of `unix(7)` less its closing NUL.
    pub const MAX_UNIX_PATH: usize = 107;
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let owned = || text.to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.bytes().any(|b| b < b' ' || b == 0x7f) {
                return Err(AddressError::UnixPath(owned()));
            }
            if path.len() > Self::MAX_UNIX_PATH {
                return Err(AddressError::UnixLong(owned()));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            // A scope id would be lost on the way to NGINX, which cannot parse one.
            if matches!(addr, SocketAddr::V6(v6) if v6.scope_id() != 0) {
                return Err(AddressError::Syntax(owned()));
            }
            if addr.port() == 0 {
                return Err(AddressError::PortZero(owned()));
            }
            // `ngx_inet_addr` in `ngx_inet.c` says "none" with these bits.
            if addr.ip() == std::net::Ipv4Addr::BROADCAST {
                return Err(AddressError::Broadcast(owned()));
            }
            return Ok(Self::Ip(addr));
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<std::net::IpAddr>().is_ok() {
            return Err(AddressError::NoPort(owned()));
        }
        let host = text.split(':').next().unwrap_or_default();
        let looks_like_a_name = host.bytes().any(|b| b.is_ascii_alphabetic())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if looks_like_a_name {
            return Err(AddressError::HostName(owned()));
        }
        Err(AddressError::Syntax(owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(s: String) -> Result<Self, AddressError> {
        s.parse()
    }
}

impl From<Address> for String {
    fn from(a: Address) -> String {
        a.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            // The path came from a `str`, so nothing is lost here.
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_addresses_and_are_written_back_unchanged() {
        for good in ["127.0.0.1:3000", "[::1]:3000", "unix:/run/web/a b.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn each_mistake_has_its_own_advice() {
        type E = fn(String) -> AddressError;
        let cases: [(&str, E); 15] = [
            ("localhost:3000", AddressError::HostName),
            ("app", AddressError::HostName),
            ("example.com:80", AddressError::HostName),
            ("127.0.0.1", AddressError::NoPort),
            ("::1", AddressError::NoPort),
            ("[::1]", AddressError::NoPort),
            ("127.0.0.1:0", AddressError::PortZero),
            ("255.255.255.255:80", AddressError::Broadcast),
            ("unix:", AddressError::UnixPath),
            ("unix:run/a.sock", AddressError::UnixPath),
            ("unix:/a\nb", AddressError::UnixPath),
            ("127.0.0.1:70000", AddressError::Syntax),
            ("", AddressError::Syntax),
            ("127.0.0.1:3000 weight=2", AddressError::Syntax),
            ("[fe80::1%1]:80", AddressError::Syntax),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Address>(), Err(error(text.to_owned())), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(long.parse::<Address>(), Err(AddressError::UnixLong(long.clone())));
    }
}
