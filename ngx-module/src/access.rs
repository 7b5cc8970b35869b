//! Who may change things.

use std::os::fd::BorrowedFd;

use nginx_sys::{AF_UNIX, ngx_http_request_t};
use nix::sys::socket::sockopt::PeerCredentials;

use crate::conf::ApiConf;
use crate::wrap::bytes;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and change.
    Write,
    /// Read: nobody may change anything here.
    Read,
    /// Read: this user is not among those who may change something.
    ReadAsUser(u32),
    /// Read: to change something, a token is needed.
    ReadWithoutToken,
}

/// Finds out what a caller may do.
pub fn of(r: &ngx_http_request_t, api: &ApiConf) -> Access {
    if !api.write {
        return Access::Read;
    }
    if is_unix(r) {
        // The kernel says who connected (`SO_PEERCRED` in `unix(7)`).
        return match peer_uid(r) {
            Some(uid) if uid == 0 || api.users.contains(&uid) => Access::Write,
            Some(uid) => Access::ReadAsUser(uid),
            None => Access::Read,
        };
    }
    let Some(token) = &api.token else { return Access::Read };
    match authorization(r) {
        Some(header) if token.is_in(header) => Access::Write,
        _ => Access::ReadWithoutToken,
    }
}

fn is_unix(r: &ngx_http_request_t) -> bool {
    // SAFETY: a request has a connection; one that was accepted has its listening socket, with the
    // address that it was made for.
    unsafe {
        let listening = (*r.connection).listening.as_ref();
        let address = listening.and_then(|l| l.sockaddr.as_ref());
        address.is_some_and(|a| u32::from(a.sa_family) == AF_UNIX)
    }
}

fn peer_uid(r: &ngx_http_request_t) -> Option<u32> {
    // SAFETY: the connection's descriptor is open for as long as the request lives; -1 would be a
    // connection without one, which `borrow_raw` forbids.
    let fd = unsafe {
        let fd = (*r.connection).fd;
        (fd >= 0).then(|| BorrowedFd::borrow_raw(fd))
    }?;
    // Not by `rustix`, whose type has no room for the process number of a caller in another
    // namespace of processes, as in another container: the kernel says 0 there.
    Some(nix::sys::socket::getsockopt(&fd, PeerCredentials).ok()?.uid())
}

fn authorization(r: &ngx_http_request_t) -> Option<&[u8]> {
    // SAFETY: a header that NGINX has found lives as long as the request.
    let header = unsafe { r.headers_in.authorization.as_ref() }?;
    Some(bytes(&header.value))
}
