//! Where something listens: an IP literal with a port, or a unix socket.

use std::io;
use std::path::PathBuf;

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
    pub fd: std::os::fd::OwnedFd,
    path: Option<PathBuf>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nothing is lost if somebody was faster.
            let _ = std::fs::remove_file(path);
        }
    }
}
