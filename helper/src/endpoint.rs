//! Where something listens: an IP literal with a port, or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::net::SocketAddrUnix;
use shunt_api::Address;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A connection of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects.
///
/// # Errors
///
/// What the system says.
pub async fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Ip(address) => {
            let stream = TcpStream::connect(address).await?;
            // Requests are small and wait for their answers.
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Opens the listening socket of a slot.
///
/// A unix socket that nobody listens on any more is replaced; one that somebody does is not.
///
/// # Errors
///
/// What the system says.
pub async fn listen(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Ip(address) => {
            // Sets SO_REUSEADDR: connections of the last release may still be in TIME_WAIT.
            let listener = std::net::TcpListener::bind(address)?;
            Ok(Listener { fd: listener.into(), path: None })
        }
        Address::Unix(path) => {
            if path.exists() && UnixStream::connect(path).await.is_err() {
                std::fs::remove_file(path)?;
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            // NGINX's workers run as another user.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(path, mode)?;
            Ok(Listener { fd: listener.into(), path: Some(path.clone()) })
        }
    }
}

/// A listening socket; a unix socket's file goes with it.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    path: Option<PathBuf>,
}

impl Listener {
    /// The socket of a slot that another process had open.
    ///
    /// # Errors
    ///
    /// When it is not the socket that listens there.
    pub fn adopt(fd: OwnedFd, address: &Address) -> io::Result<Self> {
        let found = rustix::net::getsockname(&fd)?;
        let (is_there, path) = match address {
            Address::Ip(ip) => (SocketAddr::try_from(found).is_ok_and(|found| found == *ip), None),
            Address::Unix(path) => {
                let found = SocketAddrUnix::try_from(found)?;
                let bytes = path.as_os_str().as_bytes();
                (found.path_bytes() == Some(bytes), Some(path.clone()))
            }
        };
        if is_there && rustix::net::sockopt::socket_acceptconn(&fd)? {
            return Ok(Self { fd, path });
        }
        Err(io::Error::other(format!("descriptor 3 of the process does not listen on {address}")))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nothing is lost if somebody was faster.
            let _ = std::fs::remove_file(path);
        }
    }
}
