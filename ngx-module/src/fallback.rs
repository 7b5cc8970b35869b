//! The way to another release when a request's own cannot be connected to.
//!
//! The balancing method's `get` and `free` are wrapped. When all servers of the release have been
//! tried, `free` leaves NGINX one more try, and whether that is taken is NGINX's decision, by
//! `proxy_next_upstream` and its limits. `get` then gives a server of the release to fall back to.

use std::ffi::c_void;
use std::ptr;

use nginx_sys::{
    NGX_HTTP_UPSTREAM_FT_ERROR, NGX_PEER_FAILED, ngx_event_free_peer_pt, ngx_event_get_peer_pt,
    ngx_http_request_t, ngx_http_upstream_t, ngx_int_t, ngx_palloc, ngx_peer_connection_t,
    ngx_uint_t,
};
#[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
use nginx_sys::{ngx_event_save_peer_session_pt, ngx_event_set_peer_session_pt};
use ngx::http::HttpModuleMainConf;

use crate::HttpShuntModule;
use crate::balance::{busy, complain};
use crate::claim::{Claim, states};
use crate::wrap::{BUSY, ERROR, OK};

/// A balancing method's callbacks, as its `peer.init` has set them.
#[derive(Clone, Copy)]
struct Method {
    data: *mut c_void,
    get: ngx_event_get_peer_pt,
    free: ngx_event_free_peer_pt,
    notify: nginx_sys::ngx_event_notify_peer_pt,
    #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
    set_session: ngx_event_set_peer_session_pt,
    #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
    save_session: ngx_event_save_peer_session_pt,
}

impl Method {
    /// # Safety
    ///
    /// `pc` is the peer of an upstream that lives.
    unsafe fn of(pc: *const ngx_peer_connection_t) -> Self {
        // SAFETY: as above; the reference ends here.
        let pc = unsafe { &*pc };
        Self {
            data: pc.data,
            get: pc.get,
            free: pc.free,
            notify: pc.notify,
            #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
            set_session: pc.set_session,
            #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
            save_session: pc.save_session,
        }
    }

    /// # Safety
    ///
    /// As for [`Method::of`].
    unsafe fn put(self, pc: *mut ngx_peer_connection_t) {
        // SAFETY: as above; the reference ends here.
        let pc = unsafe { &mut *pc };
        pc.data = self.data;
        pc.get = self.get;
        pc.free = self.free;
        pc.notify = self.notify;
        #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
        {
            pc.set_session = self.set_session;
            pc.save_session = self.save_session;
        }
    }
}

/// What stands before a balancing method, for one request. It lives in the request's pool.
struct Guard {
    r: *mut ngx_http_request_t,
    index: usize,
    method: Method,
    /// How many servers were tried.
    tries: usize,
    /// The next server is to be one of another release.
    leaving: bool,
}

/// Stands before the balancing method that was just initialised for a request; `false` when there
/// is no memory.
pub fn guard(r: *mut ngx_http_request_t, index: usize) -> bool {
    // SAFETY: NGINX calls `peer.init` for a request that has an upstream; memory of the pool is
    // aligned for any plain structure and lives as long as the request.
    unsafe {
        let pc = &raw mut (*(*r).upstream).peer;
        let guard = ngx_palloc((*r).pool, size_of::<Guard>()).cast::<Guard>();
        if guard.is_null() {
            return false;
        }
        guard.write(Guard { r, index, method: Method::of(pc), tries: 0, leaving: false });
        let pc = &mut *pc;
        pc.data = guard.cast();
        pc.get = Some(get);
        pc.free = Some(free);
        if pc.notify.is_some() {
            pc.notify = Some(notify);
        }
        #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
        {
            pc.set_session = pc.set_session.and(Some(set_session));
            pc.save_session = pc.save_session.and(Some(save_session));
        }
    }
    true
}

impl Guard {
    fn upstream(&self) -> &ngx_http_upstream_t {
        // SAFETY: as in `guard`; the guard is only used through the upstream's callbacks.
        unsafe { &*(*self.r).upstream }
    }

    /// Whether NGINX may try one more server (`proxy_next_upstream`, `proxy_next_upstream_tries`).
    fn may_leave(&self) -> bool {
        // SAFETY: an upstream that connects has its configuration.
        let conf = unsafe { &*self.upstream().conf };
        let limit = conf.next_upstream_tries;
        conf.next_upstream & NGX_HTTP_UPSTREAM_FT_ERROR as ngx_uint_t != 0
            && (limit == 0 || self.tries < limit)
    }

    /// Whether a try that has just failed did so because the server is not there: nothing was sent,
    /// or the connection broke before the response began. One that answers slowly, or with an error,
    /// is there.
    fn is_gone(&self) -> bool {
        let u = self.upstream();
        // SAFETY: while a try is ended, its connection is still there, or null if none was made.
        let timed_out = unsafe {
            u.peer.connection.as_ref().is_some_and(|c| {
                let timed_out = |event: *mut nginx_sys::ngx_event_t| (*event).timedout() != 0;
                timed_out(c.read) || timed_out(c.write)
            })
        };
        u.request_sent() == 0 || (u.headers_in.status_n == 0 && !timed_out)
    }

    fn has_next(&self) -> bool {
        self.with_claim(|claim, main| {
            let mut worker = main.worker.try_borrow_mut().ok()?;
            worker.as_mut()?.has_fallback(self.index, &claim.tried()).then_some(())
        })
        .is_some()
    }

    /// Goes on to another release; `false` when there is none.
    ///
    /// `pc` is the upstream's, which the method's `peer.init` finds through the request: so there is
    /// no reference to it meanwhile.
    fn leave(&mut self, pc: *mut ngx_peer_connection_t) -> bool {
        let r = self.r;
        let to = self.with_claim(|claim, main| {
            let conf = main.upstreams.get(self.index)?;
            // SAFETY: the request lives as long as its upstream's callbacks are called.
            let request = unsafe { &*r };
            let mut worker = main.worker.try_borrow_mut().ok()?;
            let next = worker.as_mut()?.fall_back(self.index, conf, &claim.tried());
            let admitted = match next {
                Ok(next) => next?,
                Err(error) => {
                    complain(r, conf, &error);
                    return None;
                }
            };
            // NGINX has begun the record of the exchange that this is.
            let at = states(request).len().saturating_sub(1);
            let to = admitted.to.clone();
            claim.move_on(admitted, at);
            Some(to)
        });
        let Some(to) = to else { return false };
        // SAFETY: the upstream lives as long as its callbacks are called.
        unsafe {
            // Whoever stands before us (`keepalive`) stays there.
            let outer = Method::of(pc);
            // Round robin takes what is there for its own.
            (*pc).data = ptr::null_mut();
            let rc = to.view.start().init_peer(r);
            if rc == OK {
                self.method = Method::of(pc);
            }
            outer.put(pc);
            let limit = (*self.upstream().conf).next_upstream_tries;
            if limit != 0 {
                (*pc).tries = (*pc).tries.min(limit.saturating_sub(self.tries));
            }
            rc == OK
        }
    }

    fn with_claim<T>(
        &self,
        f: impl FnOnce(&mut Claim, &crate::conf::MainConf) -> Option<T>,
    ) -> Option<T> {
        // SAFETY: the request lives as long as its upstream's callbacks are called.
        let request = unsafe { &*self.r };
        let main = HttpShuntModule::main_conf(request)?;
        Claim::find(request, |c| c.upstream() == self.index && c.is_open(), |c| f(c, main))
            .flatten()
    }
}

unsafe extern "C" fn get(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: NGINX, or whoever stands before us, gives what `guard` has set; the peer is the
    // upstream's.
    let guard = unsafe { &mut *data.cast::<Guard>() };
    if std::mem::take(&mut guard.leaving) && !guard.leave(pc) {
        let us = guard.upstream().upstream;
        // SAFETY: as above.
        return unsafe { busy(pc, us) };
    }
    loop {
        let Some(get) = guard.method.get else { return ERROR };
        // SAFETY: the method's own callback with its own data.
        let rc = unsafe { get(pc, guard.method.data) };
        // No server of the release is up.
        if rc == BUSY && guard.may_leave() && guard.leave(pc) {
            continue;
        }
        guard.tries += 1;
        return rc;
    }
}

unsafe extern "C" fn free(pc: *mut ngx_peer_connection_t, data: *mut c_void, state: ngx_uint_t) {
    // SAFETY: as above.
    let guard = unsafe { &mut *data.cast::<Guard>() };
    let gone = state & NGX_PEER_FAILED as ngx_uint_t != 0 && guard.is_gone();
    if let Some(free) = guard.method.free {
        // SAFETY: as above.
        unsafe { free(pc, guard.method.data, state) };
    }
    // A connection that was kept open and is closed by now says nothing about the server: NGINX
    // makes another try by itself.
    // SAFETY: as above.
    let peer = unsafe { &mut *pc };
    if gone && peer.tries == 0 && peer.cached() == 0 && guard.may_leave() && guard.has_next() {
        guard.leaving = true;
        peer.tries = 1;
    }
}

unsafe extern "C" fn notify(pc: *mut ngx_peer_connection_t, data: *mut c_void, kind: ngx_uint_t) {
    // SAFETY: as above.
    unsafe {
        let method = (*data.cast::<Guard>()).method;
        if let Some(notify) = method.notify {
            notify(pc, method.data, kind);
        }
    }
}

#[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
unsafe extern "C" fn set_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: as above.
    unsafe {
        let method = (*data.cast::<Guard>()).method;
        method.set_session.map_or(OK, |set_session| set_session(pc, method.data))
    }
}

#[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
unsafe extern "C" fn save_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) {
    // SAFETY: as above.
    unsafe {
        let method = (*data.cast::<Guard>()).method;
        if let Some(save_session) = method.save_session {
            save_session(pc, method.data);
        }
    }
}
