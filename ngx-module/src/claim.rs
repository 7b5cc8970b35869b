//! A request's hold on its release: counted in flight until the request's memory is given back.

use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

use nginx_sys::{
    ngx_http_request_t, ngx_http_upstream_state_t, ngx_int_t, ngx_msec_t, ngx_pool_cleanup_add,
};
use shunt_switch::Zone;
use shunt_switch::counters::Ending;
use shunt_switch::follower::{Admitted, Ticket};

use crate::balance::index;
use crate::version;
use crate::view::View;
use crate::wrap::bytes;

type Finalize = Option<unsafe extern "C" fn(*mut ngx_http_request_t, ngx_int_t)>;

/// What NGINX has for a time that is not known yet.
const UNKNOWN: ngx_msec_t = ngx_msec_t::MAX;

/// Made once for a request and an upstream, given back with the request's memory. The log phase has
/// passed then, and a WebSocket's tunnel has ended.
pub struct Claim {
    /// Index of the upstream.
    index: usize,
    admitted: Admitted,
    ticket: Option<Ticket>,
    view: Rc<View>,
    zone: Zone<'static>,
    /// The serials of releases that could not be connected to, with their views: the log phase still
    /// reads the names of their servers.
    left: Vec<(u64, Rc<View>)>,
    /// The request that goes upstream with it: the one that made the claim, or its main request.
    r: *mut ngx_http_request_t,
    /// If a subrequest made the claim: that one, and what NGINX calls when it is done upstream.
    sub: *mut ngx_http_request_t,
    finalize: Finalize,
    /// Whether that was called.
    is_done: bool,
    /// Where its exchanges with this release start in `r->upstream_states`, and where they end if
    /// those with another upstream follow.
    from: usize,
    until: Option<usize>,
}

impl Claim {
    /// Keeps a choice for as long as the request lives. `None` when there is no memory; the choice
    /// is given back then.
    pub fn keep(
        r: *mut ngx_http_request_t,
        index: usize,
        mut admitted: Admitted,
        view: Rc<View>,
        zone: Zone<'static>,
    ) -> Option<&'static mut Self> {
        const { assert!(align_of::<Claim>() <= nginx_sys::NGX_ALIGNMENT) };
        // SAFETY: the request lives.
        let request = unsafe { &*r };
        let from = states(request).len();
        // What follows in this request is the new claim's.
        Self::find(
            request,
            |claim| claim.r == r && claim.until.is_none(),
            |claim| claim.until = Some(from),
        );
        let ticket = admitted.ticket.take();
        let mut claim = Self {
            index,
            admitted,
            ticket,
            view,
            zone,
            left: Vec::new(),
            r,
            sub: ptr::null_mut(),
            finalize: None,
            is_done: false,
            from,
            until: None,
        };
        if r != request.main {
            // SAFETY: NGINX calls `peer.init`, which makes claims, for a request with an upstream.
            let upstream = unsafe { &mut *request.upstream };
            claim.sub = r;
            claim.finalize = upstream.finalize_request.replace(done);
        }
        // SAFETY: the pool is the request's; memory of a cleanup is aligned as asserted above and as
        // large as asked for. Without a handler until then, it does nothing.
        unsafe {
            let cleanup = ngx_pool_cleanup_add(request.pool, size_of::<Self>()).as_mut()?;
            let place = cleanup.data.cast::<Self>();
            place.write(claim);
            cleanup.handler = Some(end_claim);
            place.as_mut()
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
    pub fn respond(r: &ngx_http_request_t, upgraded: bool) {
        let this = ptr::from_ref(r);
        let now = upstream_of(r);
        Self::each(r, |claim| {
            if Some(claim.index) == now {
                if upgraded {
                    claim.upgrade();
                }
            } else if ptr::eq(claim.r, this) || claim.is_done {
                claim.end();
            }
            true
        });
    }

    /// Whether it counts in flight.
    pub fn is_open(&self) -> bool {
        self.ticket.is_some()
    }

    /// Index of the upstream.
    pub fn upstream(&self) -> usize {
        self.index
    }

    /// The choice.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// The servers to balance over.
    pub fn view(&self) -> &Rc<View> {
        &self.view
    }

    /// A request with this claim goes upstream once more: the same one, or one that shares its
    /// memory. What the main request is answered is what counts.
    pub fn again(&mut self, r: &ngx_http_request_t) {
        let this = ptr::from_ref(r).cast_mut();
        if this == r.main && this != self.r {
            self.r = this;
            self.from = states(r).len();
        }
    }

    fn upgrade(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.upgrade(&self.zone);
        }
    }

    /// Serials of the releases that the request was sent to.
    pub fn tried(&self) -> Vec<u64> {
        let left = self.left.iter().map(|(serial, _)| *serial);
        left.chain([self.admitted.release().serial]).collect()
    }

    /// The request goes on to another release, as its exchange number `at` of all.
    pub fn move_on(&mut self, mut admitted: Admitted, view: Rc<View>, at: usize) {
        let ending = self.ending(at);
        if let Some(counters) = self.zone.counters(self.admitted.release().column) {
            counters.fall_back(ending.connect_failures);
        }
        self.leave();
        self.from = at;
        self.ticket = admitted.ticket.take();
        let old = std::mem::replace(&mut self.view, view);
        self.left.push((self.admitted.release().serial, old));
        self.admitted = admitted;
    }

    /// Counts what became of the request, and gives its place in flight back; once.
    fn end(&mut self) {
        // What has no ticket is counted nowhere.
        if let Some(ticket) = &self.ticket
            && let Some(counters) = self.zone.counters(ticket.column())
        {
            counters.end(self.ending(self.until.unwrap_or(usize::MAX)));
        }
        self.leave();
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.give_back(&self.zone);
        }
    }

    /// What the exchanges before number `until` came to.
    fn ending(&self, until: usize) -> Ending {
        // SAFETY: the request's memory is given back after this.
        let states = states(unsafe { &*self.r });
        let exchanges = states.get(self.from..until.min(states.len())).unwrap_or_default();
        let mut ending = Ending::default();
        let mut time = 0;
        for state in exchanges {
            // SAFETY: the name of a server, or the upstream's if none was free, lives with the view.
            let Some(peer) = (unsafe { state.peer.as_ref() }) else { continue };
            if state.connect_time == UNKNOWN && state.status != 0 && self.view_has(bytes(peer)) {
                ending.connect_failures += 1;
            }
            ending.status = u16::try_from(state.status).unwrap_or(0);
            if state.response_time != UNKNOWN {
                time += state.response_time as u64;
            }
        }
        let upgraded = self.ticket.as_ref().is_some_and(Ticket::is_upgraded);
        ending.time = (ending.status != 0 && !upgraded).then_some(time);
        ending
    }

    /// Whether this is the name of a server, not that of the upstream.
    fn view_has(&self, name: &[u8]) -> bool {
        name != self.admitted.table.upstream.as_bytes()
    }
}

/// The index of the switchable upstream that a request, as it is now, goes to.
fn upstream_of(r: &ngx_http_request_t) -> Option<usize> {
    // SAFETY: a request that goes upstream has the structure, and from `peer.init` on NGINX's upstream
    // in it.
    unsafe { index(r.upstream.as_ref()?.upstream.as_ref()?) }
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
    let finalize = Claim::find(request, |claim| claim.sub == r, |claim| claim.finalize).flatten();
    if let Some(finalize) = finalize {
        // SAFETY: what stood there before takes what this one took.
        unsafe { finalize(r, rc) };
    }
    // SAFETY: the main request lives for as long as its subrequests.
    let responding = version::header_sent(unsafe { &*request.main });
    Claim::find(
        request,
        |claim| claim.sub == r,
        |claim| {
            claim.is_done = true;
            // If the main request has not taken the claim over, and can no longer do so.
            if claim.r == r && responding {
                claim.end();
            }
        },
    );
}

unsafe extern "C" fn end_claim(data: *mut c_void) {
    // SAFETY: `keep` wrote a claim there, and NGINX calls a cleanup once.
    unsafe { ptr::drop_in_place(data.cast::<Claim>()) };
}
