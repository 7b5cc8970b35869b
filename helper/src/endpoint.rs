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

/// How many connections wait for a release that starts again: as many as with systemd (`Backlog=`); the
/// system's own limit is `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

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
            rustix::net::listen(&listener, BACKLOG)?;
            Ok(Listener { fd: listener.into(), path: None })
        }
        Address::Unix(path) => {
            if path.exists() && UnixStream::connect(path).await.is_err() {
                std::fs::remove_file(path)?;
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            rustix::net::listen(&listener, BACKLOG)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// More than std lets wait.
    const MANY: usize = 500;

    #[tokio::test]
    async fn many_connections_wait_for_a_release_that_starts_again() {
        let tmp = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for address in [Address::Ip(free), Address::Unix(tmp.path().join("slot.sock"))] {
            let _listener = listen(&address).await.unwrap();
            let all = futures_util::future::join_all((0..MANY).map(|_| connect(&address)));
            let limit = std::time::Duration::from_secs(20);
            let all = tokio::time::timeout(limit, all).await.expect("nobody is left out");
            let refused = all.into_iter().filter_map(Result::err).next();
            assert!(refused.is_none(), "{address}: {refused:?}");
        }
    }
}
