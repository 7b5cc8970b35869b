//! A request's hold on its release: counted in flight until the request's memory is given back.

use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

use nginx_sys::{
    ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_http_upstream_state_t, ngx_int_t,
    ngx_msec_t, ngx_palloc, ngx_pool_cleanup_t, ngx_str_t,
};
use shunt_switch::counters::Ending;
use shunt_switch::follower::{Admitted, Destination};

use crate::balance::index;
use crate::version::header_sent;
use crate::view::View;
use crate::wrap::bytes;

type Finalize = Option<unsafe extern "C" fn(*mut ngx_http_request_t, ngx_int_t)>;

/// What NGINX has for a time that is not known yet.
const UNKNOWN: ngx_msec_t = ngx_msec_t::MAX;

/// Made once for a request and an upstream, given back with the request's memory. The log phase has
/// passed then, and a WebSocket's tunnel has ended.
pub struct Claim {
    admitted: Admitted<'static, View>,
    /// The request that goes upstream with it: the one that made the claim, or its main request.
    r: *mut ngx_http_request_t,
    /// The subrequest that made the claim, if it was one.
    sub: Option<Box<Sub>>,
    left: Option<Box<Left>>,
    /// The upstream, and its index.
    us: *const ngx_http_upstream_srv_conf_t,
    index: usize,
    /// Where its exchanges with this release start in `r->upstream_states`, and where they end if
    /// those with another upstream follow.
    from: u32,
    until: u32,
    /// Whether there was none when it was made.
    is_only: bool,
}

/// A subrequest that made a claim.
struct Sub {
    r: *mut ngx_http_request_t,
    /// What NGINX calls when it is done upstream, and whether that was called.
    finalize: Finalize,
    is_done: bool,
}

impl Sub {
    /// Has a subrequest call [`done`] when it is done upstream.
    #[cold]
    fn follow(r: *mut ngx_http_request_t) -> Box<Self> {
        // SAFETY: NGINX calls `peer.init`, which makes claims, for a request with an upstream.
        let upstream = unsafe { &mut *(*r).upstream };
        let finalize = upstream.finalize_request.replace(done);
        Box::new(Self { r, finalize, is_done: false })
    }
}

/// A release that could not be connected to: the log phase still reads the names of its servers.
struct Left {
    to: Rc<Destination<'static, View>>,
    before: Option<Box<Left>>,
}

/// No exchange with another upstream has followed.
const OPEN: u32 = u32::MAX;

/// A claim in its request's pool, with the pool's entry for it: one piece of memory instead of the
/// two that `ngx_pool_cleanup_add` takes.
#[repr(C)]
struct Kept {
    cleanup: ngx_pool_cleanup_t,
    claim: Claim,
}

impl Claim {
    /// Makes a choice and keeps it for as long as the request lives. `None` when there is none, or no
    /// memory.
    pub fn make(
        r: *mut ngx_http_request_t,
        us: *const ngx_http_upstream_srv_conf_t,
        index: usize,
        choose: impl FnOnce() -> Option<Admitted<'static, View>>,
    ) -> Option<&'static mut Self> {
        const { assert!(align_of::<Kept>() <= nginx_sys::NGX_ALIGNMENT) };
        // SAFETY: the request lives, and so does its pool, whose memory is aligned as asserted above.
        let (request, place) = unsafe {
            let request = &*r;
            (request, ngx_palloc(request.pool, size_of::<Kept>()).cast::<Kept>())
        };
        if place.is_null() {
            return None;
        }
        let from = position(states(request).len());
        let is_only = Self::find(request, |_| true, |_| ()).is_none();
        if !is_only {
            // What follows in this request is the new claim's.
            Self::find(
                request,
                |claim| claim.r == r && claim.until == OPEN,
                |claim| claim.until = from,
            );
        }
        let sub = if r == request.main { None } else { Some(Sub::follow(r)) };
        let admitted = choose()?;
        let left = None;
        let claim = Self { admitted, r, sub, left, us, index, from, until: OPEN, is_only };
        // SAFETY: the place is as large as asked for, and lives until the pool has called all of its
        // list, to which this is added at the head, as `ngx_pool_cleanup_add` does.
        unsafe {
            let pool = request.pool;
            let data = (&raw mut (*place).claim).cast();
            let cleanup =
                ngx_pool_cleanup_t { handler: Some(end_claim), data, next: (*pool).cleanup };
            place.write(Kept { cleanup, claim });
            (*pool).cleanup = &raw mut (*place).cleanup;
            Some(&mut (*place).claim)
        }
    }

    /// Calls `f` with the latest claim that `wanted` says yes to, of a request and all that share its
    /// memory: its main request and its subrequests.
    ///
    /// Internal redirects empty `r->ctx`, so the claim is found through the cleanup list, as
    /// `ngx_http_realip_module` does.
    pub fn find<T>(
        r: &ngx_http_request_t,
        wanted: impl Fn(&Self) -> bool,
        f: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let mut f = Some(f);
        let mut found = None;
        Self::each(r, |claim| {
            if wanted(claim) {
                found = f.take().map(|f| f(claim));
            }
            found.is_none()
        });
        found
    }

    /// Calls `f` with the claims, the latest first, for as long as it says yes.
    fn each(r: &ngx_http_request_t, mut f: impl FnMut(&mut Self) -> bool) {
        // SAFETY: the pool's list ends with a null pointer; data with our handler is a claim, which
        // lives as long as the pool. Nobody else holds a reference: the worker has one thread, and
        // none outlives `f`, which does not come back here.
        unsafe {
            let mut cleanup = (*r.pool).cleanup;
            while let Some(one) = cleanup.as_ref() {
                let ours = one.handler.is_some_and(|handler| {
                    ptr::fn_addr_eq(handler, end_claim as unsafe extern "C" fn(*mut c_void))
                });
                if ours
                    && let Some(claim) = one.data.cast::<Self>().as_mut()
                    && !f(claim)
                {
                    return;
                }
                cleanup = one.next;
            }
        }
    }

    /// Calls `f` with the claim by which a request, as it is now, goes upstream; for a subrequest
    /// without one of its own, with that of its main request.
    pub fn of<T>(r: &ngx_http_request_t, f: impl FnOnce(&Self) -> T) -> Option<T> {
        // SAFETY: the main request lives for as long as its subrequests.
        let index = upstream_of(r).or_else(|| upstream_of(unsafe { &*r.main }))?;
        Self::find(r, |claim| claim.index == index, |claim| f(claim))
    }

    /// The response of a main request begins: what its subrequests, and the upstreams that it was
    /// redirected away from, had in flight has ended, however long the response lasts.
    #[inline]
    pub fn respond(r: &ngx_http_request_t, upgraded: bool) {
        let changes = Self::find(
            r,
            |_| true,
            |claim| {
                // As nearly always: the only claim is the one by which the request is answered.
                upgraded || !claim.is_only || !claim.is_of(r)
            },
        );
        if changes == Some(true) {
            Self::respond_with_many(r, upgraded);
        }
    }

    #[cold]
    fn respond_with_many(r: &ngx_http_request_t, upgraded: bool) {
        let now = upstream_of(r);
        Self::each(r, |claim| {
            if Some(claim.index) == now {
                if upgraded {
                    claim.admitted.upgrade();
                }
            } else if ptr::eq(claim.r, r) || claim.sub.as_ref().is_some_and(|sub| sub.is_done) {
                claim.end();
            }
            true
        });
    }

    /// Whether it is this request that goes upstream with it, and still does.
    fn is_of(&self, r: &ngx_http_request_t) -> bool {
        // SAFETY: a request that goes upstream has the structure.
        let us = unsafe { r.upstream.as_ref() }.map(|u| u.upstream.cast_const());
        ptr::eq(self.r, r) && us == Some(self.us)
    }

    /// Whether it counts in flight.
    pub fn is_open(&self) -> bool {
        self.admitted.is_open()
    }

    /// Index of the upstream.
    pub fn upstream(&self) -> usize {
        self.index
    }

    /// The choice.
    pub fn admitted(&self) -> &Admitted<'static, View> {
        &self.admitted
    }

    /// A request with this claim goes upstream once more: the same one, or one that shares its
    /// memory. What the main request is answered is what counts.
    pub fn again(&mut self, r: &ngx_http_request_t) {
        let this = ptr::from_ref(r).cast_mut();
        if this == r.main && this != self.r {
            self.r = this;
            self.from = position(states(r).len());
        }
    }

    /// Serials of the releases that the request was sent to.
    pub fn tried(&self) -> Vec<u64> {
        let left = std::iter::successors(self.left.as_deref(), |left| left.before.as_deref());
        let left = left.map(|left| left.to.release.serial);
        left.chain([self.admitted.to.release.serial]).collect()
    }

    /// The request goes on to another release, as its exchange number `at` of all.
    pub fn move_on(&mut self, admitted: Admitted<'static, View>, at: usize) {
        let at = position(at);
        let ending = self.sum(at);
        self.admitted.fall_back(ending.connect_failures);
        self.from = at;
        let (to, before) = (self.admitted.to.clone(), self.left.take());
        self.left = Some(Box::new(Left { to, before }));
        self.admitted = admitted;
    }

    /// Counts what became of the request, and gives its place in flight back; once.
    #[inline]
    fn end(&mut self) {
        if !self.is_open() {
            return;
        }
        // SAFETY: the request's memory is given back after this.
        let states = states(unsafe { &*self.r });
        let from = self.from as usize;
        // As nearly always: one exchange, which was answered.
        if self.until == OPEN
            && let Some(one) = states.get(from)
            && states.len() == from + 1
            && one.connect_time != UNKNOWN
            && one.response_time != UNKNOWN
        {
            let ending = self.ending(one.status, 0, one.response_time as u64);
            self.admitted.end(ending);
        } else {
            self.end_of_many();
        }
    }

    #[cold]
    fn end_of_many(&mut self) {
        let ending = self.sum(self.until);
        self.admitted.end(ending);
    }

    /// What the exchanges before number `until` came to.
    fn sum(&self, until: u32) -> Ending {
        // SAFETY: as above.
        let states = states(unsafe { &*self.r });
        let until = states.len().min(until as usize);
        let exchanges = states.get(self.from as usize..until).unwrap_or_default();
        let (mut status, mut failures, mut time) = (0, 0, 0);
        for state in exchanges {
            if state.peer.is_null() {
                continue;
            }
            if state.connect_time == UNKNOWN && state.status != 0 && self.is_server(state.peer) {
                failures += 1;
            }
            status = state.status;
            if state.response_time != UNKNOWN {
                time += state.response_time as u64;
            }
        }
        self.ending(status, failures, time)
    }

    fn ending(&self, status: usize, connect_failures: u64, time: u64) -> Ending {
        let status = u16::try_from(status).unwrap_or(0);
        let timed = status != 0 && !self.admitted.is_upgraded();
        Ending { status, connect_failures, time: timed.then_some(time) }
    }

    /// Whether this is the name of a server, not that of the upstream, which an exchange has for
    /// which none was free.
    fn is_server(&self, name: *const ngx_str_t) -> bool {
        // SAFETY: the name of a server, or the upstream's, lives with the view.
        unsafe { bytes(&*name) != self.admitted.to.view.upstream() }
    }
}

/// The index of the switchable upstream that a request, as it is now, goes to.
fn upstream_of(r: &ngx_http_request_t) -> Option<usize> {
    // SAFETY: a request that goes upstream has the structure, and from `peer.init` on NGINX's upstream
    // in it.
    unsafe { index(r.upstream.as_ref()?.upstream.as_ref()?) }
}

/// A place in the exchanges, of which there are never so many.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(OPEN)
}

/// The exchanges of a request with all of its upstreams.
pub fn states(r: &ngx_http_request_t) -> &[ngx_http_upstream_state_t] {
    // SAFETY: NGINX makes the array when a request first goes upstream, in the request's pool.
    unsafe { r.upstream_states.as_ref().map_or(&[], |states| states.as_slice()) }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end();
    }
}

/// NGINX's callback for a subrequest that is done upstream.
unsafe extern "C" fn done(r: *mut ngx_http_request_t, rc: ngx_int_t) {
    // SAFETY: NGINX gives a request that lives, whose upstream `keep` put this callback into.
    let request = unsafe { &*r };
    let is_its = |claim: &Claim| claim.sub.as_ref().is_some_and(|sub| sub.r == r);
    let finalize = |claim: &mut Claim| claim.sub.as_ref().and_then(|sub| sub.finalize);
    let finalize = Claim::find(request, is_its, finalize).flatten();
    if let Some(finalize) = finalize {
        // SAFETY: what stood there before takes what this one took.
        unsafe { finalize(r, rc) };
    }
    // SAFETY: the main request lives for as long as its subrequests.
    let responding = unsafe { header_sent(&*request.main) };
    Claim::find(request, is_its, |claim| {
        if let Some(sub) = &mut claim.sub {
            sub.is_done = true;
        }
        // If the main request has not taken the claim over, and can no longer do so.
        if claim.r == r && responding {
            claim.end();
        }
    });
}

unsafe extern "C" fn end_claim(data: *mut c_void) {
    // SAFETY: `keep` wrote a claim there, and NGINX calls a cleanup once.
    unsafe { ptr::drop_in_place(data.cast::<Claim>()) };
}
