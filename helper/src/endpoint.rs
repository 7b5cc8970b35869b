//! Where something listens: an IP literal with a port, or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;
use shunt_api::Address;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
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

/// Why nothing can listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody does.
    #[error("somebody else listens there")]
    Taken,
    /// Where the socket's file has to be, there is another one, which is not ours to remove.
    #[error("{} is {what}, and no socket: move it away, or name another path", path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Whether somebody listens on the socket that is there cannot be told.
    #[error(
        "cannot tell whether somebody listens on {}: {error}; if nobody does, remove it", path.display()
    )]
    Unclear {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system refuses it.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl ListenError {
    /// Whether somebody else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Taken => true,
            Self::System(error) => error.kind() == io::ErrorKind::AddrInUse,
            Self::NoSocket { .. } | Self::Unclear { .. } => false,
        }
    }
}

/// Makes room for a unix socket: removes one that nobody listens on any more, and nothing else.
///
/// # Errors
///
/// [`ListenError`] when anything else is there.
pub async fn make_room(path: &Path) -> Result<(), ListenError> {
    // What a link leads to is somebody else's.
    let kind = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !kind.is_socket() {
        let what = if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_dir() {
            "a folder"
        } else if kind.is_file() {
            "a regular file"
        } else {
            "a device or a pipe"
        };
        return Err(ListenError::NoSocket { path: path.to_owned(), what });
    }
    match UnixStream::connect(path).await {
        // Whoever takes no more connections listens, too: so many wait for it already.
        Ok(_) => return Err(ListenError::Taken),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(ListenError::Taken),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::Unclear { path: path.to_owned(), error }),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Opens the listening socket of a slot.
///
/// A unix socket that nobody listens on any more is replaced; one that somebody does is not.
///
/// # Errors
///
/// [`ListenError`].
pub async fn listen(address: &Address) -> Result<Listener, ListenError> {
    match address {
        Address::Ip(address) => {
            // Sets SO_REUSEADDR: connections of the last release may still be in TIME_WAIT.
            let listener = std::net::TcpListener::bind(address)?;
            rustix::net::listen(&listener, BACKLOG).map_err(io::Error::from)?;
            Ok(Listener { fd: listener.into(), path: None })
        }
        Address::Unix(path) => {
            make_room(path).await?;
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            rustix::net::listen(&listener, BACKLOG).map_err(io::Error::from)?;
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

    /// Waits until a connection waits, and leaves it to whoever accepts it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn connection(&self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, as it also takes what is not borrowed"
        )]
        let fd = AsyncFd::with_interest(self.fd.as_fd(), Interest::READABLE)?;
        fd.readable().await.map(|_| ())
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

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("slot.sock");
        let address = Address::Unix(path.clone());
        // As of a daemon that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = listen(&address).await.unwrap();
        assert!(listen(&address).await.unwrap_err().is_in_use());
        connect(&address).await.unwrap();
        drop(listener);

        std::fs::write(&path, "[source]").unwrap();
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for (path, what) in [
            (&path, "slot.sock is a regular file, and no socket: move it away"),
            (&link, "link is a symbolic link"),
            (&tmp.path().to_owned(), "is a folder"),
        ] {
            let error = listen(&Address::Unix(path.clone())).await.unwrap_err();
            assert!(error.to_string().contains(what) && !error.is_in_use(), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "[source]");

        let datagrams = tmp.path().join("datagrams.sock");
        let _socket = std::os::unix::net::UnixDatagram::bind(&datagrams).unwrap();
        let error = listen(&Address::Unix(datagrams.clone())).await.unwrap_err();
        assert!(matches!(error, ListenError::Unclear { .. }), "{error}");
        assert!(datagrams.exists());
    }

    #[tokio::test]
    async fn a_listener_that_takes_no_more_connections_keeps_its_place() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("slot.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
            assert!(waiting.len() < MANY);
        }
        let error = listen(&Address::Unix(path.clone())).await.unwrap_err();
        assert!(error.is_in_use(), "{error}");
        assert!(path.exists());
    }

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
