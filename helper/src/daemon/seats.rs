//! The daemon's socket, at which nobody takes all the seats: everybody on the machine may look, and
//! each connection is a descriptor that the daemon needs to start a release again, or to ask NGINX.
//!
//! Root and the user of the daemon are always let in. All others have so many connections at once,
//! each of them and together; one more is told so, and closed.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::StatusCode;
use axum::serve::Listener;
use nix::unistd::Uid;
use shunt_api::Problem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many connections one user may have at once.
const OF_ONE: usize = 64;

/// How many all users may have together.
const OF_ALL: usize = 256;

/// How many can be told at once that there is no seat, and how long their request is waited for.
const REFUSED: usize = 32;
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket.
pub struct Seats {
    listener: UnixListener,
    taken: Arc<Mutex<Taken>>,
    refused: Arc<Semaphore>,
}

/// How many connections each user has, who is not let in always.
#[derive(Default)]
struct Taken {
    of: HashMap<Uid, usize>,
}

impl Taken {
    /// One more of this user, if there is room for it.
    fn take(&mut self, user: Uid) -> bool {
        let own = self.of.get(&user).copied().unwrap_or(0);
        let free = own < OF_ONE && self.of.values().sum::<usize>() < OF_ALL;
        if free {
            self.of.insert(user, own + 1);
        }
        free
    }

    fn give_back(&mut self, user: Uid) {
        if let Some(own) = self.of.get_mut(&user) {
            *own -= 1;
            if *own == 0 {
                self.of.remove(&user);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // Nothing is left half done under this lock.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seats {
    /// At this socket.
    #[must_use]
    pub fn new(listener: UnixListener) -> Self {
        Self { listener, taken: Arc::default(), refused: Arc::new(Semaphore::new(REFUSED)) }
    }

    /// A seat for a connection, unless there is none.
    fn seat(&self, stream: &UnixStream) -> Option<Seat> {
        let user = stream.peer_cred().ok().map(|cred| Uid::from_raw(cred.uid()));
        let user = match user {
            Some(user) if user.is_root() || user == Uid::effective() => None,
            // Whoever is not known is one user, too.
            user => Some(user.unwrap_or_else(|| Uid::from_raw(u32::MAX))),
        };
        if let Some(user) = user
            && !lock(&self.taken).take(user)
        {
            return None;
        }
        Some(Seat { user, taken: self.taken.clone() })
    }
}

/// A place among the connections, for as long as it is there.
struct Seat {
    user: Option<Uid>,
    taken: Arc<Mutex<Taken>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(user) = self.user {
            lock(&self.taken).give_back(user);
        }
    }
}

impl Listener for Seats {
    type Io = Seated;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Seated, SocketAddr) {
        loop {
            // It tries again by itself when the system refuses.
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match self.seat(&stream) {
                Some(seat) => return (Seated { stream, _seat: seat }, address),
                None => {
                    // Else it learns by the end of the connection alone.
                    if let Ok(place) = self.refused.clone().try_acquire_owned() {
                        tokio::spawn(refuse(stream, place));
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Tells somebody that there is no seat. What he asks is read first, as who cannot write does not read.
async fn refuse(stream: UnixStream, _place: OwnedSemaphorePermit) {
    if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, stream.readable()).await {
        // Whatever it is, it fits, or is not worth an answer.
        let _ = stream.try_read(&mut [0; 16 << 10]);
    }
    // Into an empty buffer, or not at all.
    let _ = stream.try_write(refusal().as_bytes());
}

/// What is said to who does not get in.
fn refusal() -> String {
    let detail = format!(
        "too many connections to shuntd: a user may have {OF_ONE} at once, and all users but root and \
         shuntd's {OF_ALL}; close some"
    );
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let body = serde_json::to_string(&Problem::new(status.as_u16(), detail)).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        shunt_api::problem::PROBLEM_JSON,
        body.len()
    )
}

/// A connection that has its seat.
pub struct Seated {
    stream: UnixStream,
    _seat: Seat,
}

impl Seated {
    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_seats_and_each_is_given_back() {
        let mut taken = Taken::default();
        let user = Uid::from_raw;
        assert!((0..OF_ONE).all(|_| taken.take(user(1))));
        assert!(!taken.take(user(1)) && taken.take(user(2)));
        taken.give_back(user(1));
        assert!(taken.take(user(1)) && !taken.take(user(1)));
        // Several together get no more than all may have.
        let more = (3..100).map(|n| (0..OF_ONE).filter(|_| taken.take(user(n))).count());
        assert_eq!(more.sum::<usize>(), OF_ALL - OF_ONE - 1);
        taken.give_back(user(2));
        assert!(!taken.of.contains_key(&user(2)) && taken.take(user(2)));
    }
}
