//! A request's hold on its release: counted in flight until the request's memory is given back.

use std::cell::Cell;
use std::ffi::c_void;
use std::mem::{self, MaybeUninit};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use nginx_sys::{
    ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_http_upstream_state_t, ngx_int_t,
    ngx_msec_t, ngx_pool_cleanup_t, ngx_str_t,
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
    /// What hardly any request has.
    rare: Option<Box<Rare>>,
    /// The upstream, and its index.
    us: *const ngx_http_upstream_srv_conf_t,
    index: usize,
    /// Where its exchanges with this release start in `r->upstream_states`, and where they end if
    /// those with another upstream follow.
    from: usize,
    until: usize,
    /// Whether there was none when it was made.
    is_only: bool,
}

#[derive(Default)]
struct Rare {
    /// The subrequest that made the claim, if it was one.
    sub: Option<Sub>,
    /// The releases that could not be connected to, the first one first: the log phase still reads the
    /// names of their servers.
    left: Vec<Rc<Destination<'static, View>>>,
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
    fn follow(r: *mut ngx_http_request_t) -> Self {
        // SAFETY: NGINX calls `peer.init`, which makes claims, for a request with an upstream.
        let upstream = unsafe { &mut *(*r).upstream };
        let finalize = upstream.finalize_request.replace(done);
        Self { r, finalize, is_done: false }
    }
}

/// No exchange with another upstream has followed.
const OPEN: usize = usize::MAX;

/// A claim, with its entry in the list of its request's pool.
#[repr(C)]
struct Kept {
    cleanup: ngx_pool_cleanup_t,
    claim: Claim,
}

/// Room for a claim. `next` is a field of its own, as NGINX reads the entry once more when its handler
/// has returned.
struct Room {
    kept: MaybeUninit<Kept>,
    next: *mut Room,
}

/// The rooms of claims that have ended. There are as many as there ever were claims at a time, until the
/// worker ends.
///
/// The memory could be had from the request's pool instead. But then that is full sooner, and what
/// NGINX itself puts there takes it longer.
struct Rooms(Cell<*mut Room>);

// SAFETY: a worker has one thread that serves requests.
unsafe impl Sync for Rooms {}

static ROOMS: Rooms = Rooms(Cell::new(ptr::null_mut()));

impl Rooms {
    /// Takes one, if there is one.
    #[inline]
    fn take(&self) -> Option<NonNull<Room>> {
        let room = NonNull::new(self.0.get())?;
        // SAFETY: a room in the list lives: `clear` takes it out first.
        self.0.set(unsafe { (*room.as_ptr()).next });
        Some(room)
    }

    /// Takes one, or makes it.
    fn take_or_make(&self) -> NonNull<Room> {
        self.take().unwrap_or_else(|| {
            let (kept, next) = (MaybeUninit::uninit(), ptr::null_mut());
            NonNull::from(Box::leak(Box::new(Room { kept, next })))
        })
    }

    /// Gives one back, which nobody has any more.
    #[inline]
    fn give(&self, room: NonNull<Room>) {
        // SAFETY: whoever gives it back had taken it.
        unsafe { (*room.as_ptr()).next = self.0.get() };
        self.0.set(room.as_ptr());
    }

    /// Gives those that nobody has back to the system.
    fn clear(&self) {
        while let Some(room) = self.take() {
            // SAFETY: `take_or_make` made it of a box, and nobody else has it.
            drop(unsafe { Box::from_raw(room.as_ptr()) });
        }
    }
}

/// Gives back what is kept for claims to come: the worker ends.
pub fn leave() {
    ROOMS.clear();
}

impl Room {
    /// Moves a claim in, and puts it at the head of the list of its request's pool, as
    /// `ngx_pool_cleanup_add` does; calls `f` with it.
    #[inline]
    fn let_in<T>(
        this: NonNull<Self>,
        r: &ngx_http_request_t,
        claim: Claim,
        f: impl FnOnce(&mut Claim) -> T,
    ) -> T {
        // SAFETY: whoever has taken a room is alone with it. The pool lives as long as the request,
        // and calls `end_claim` once, before its end.
        unsafe {
            let next = (*r.pool).cleanup;
            let data = this.as_ptr().cast();
            let cleanup = ngx_pool_cleanup_t { handler: Some(end_claim), data, next };
            let kept = (*this.as_ptr()).kept.write(Kept { cleanup, claim });
            (*r.pool).cleanup = &raw mut kept.cleanup;
            f(&mut kept.claim)
        }
    }
}

impl Claim {
    /// Makes a choice and keeps it for as long as the request lives, and calls `f` with it. `None`
    /// when there is none.
    pub fn make<T>(
        r: *mut ngx_http_request_t,
        us: *const ngx_http_upstream_srv_conf_t,
        index: usize,
        choose: impl FnOnce() -> Option<Admitted<'static, View>>,
        f: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        // SAFETY: the request lives.
        let request = unsafe { &*r };
        let from = states(request).len();
        let is_only = !Self::has_any(request);
        if !is_only {
            // What follows in this request is not the old claim's, whatever is chosen.
            Self::find(
                request,
                |claim| claim.r == r && claim.until == OPEN,
                |claim| claim.until = from,
            );
        }
        let admitted = choose()?;
        // Only now: whoever has no claim must keep the callback that was there.
        let is_sub = r != request.main;
        let rare = is_sub.then(|| Box::new(Rare { sub: Some(Sub::follow(r)), left: Vec::new() }));
        let claim = Self { admitted, r, rare, us, index, from, until: OPEN, is_only };
        Some(Room::let_in(ROOMS.take_or_make(), request, claim, f))
    }

    /// The same for a request that has no claim yet, when there is nothing to think about, as for
    /// nearly every one; `None` says nothing.
    #[inline]
    pub fn make_at_once<T>(
        r: &ngx_http_request_t,
        us: *const ngx_http_upstream_srv_conf_t,
        index: usize,
        choose: impl FnOnce() -> Option<Admitted<'static, View>>,
        f: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let this = ptr::from_ref(r).cast_mut();
        if this != r.main || Self::has_any(r) {
            return None;
        }
        let room = ROOMS.take()?;
        let Some(admitted) = choose() else {
            ROOMS.give(room);
            return None;
        };
        let (from, until, is_only) = (states(r).len(), OPEN, true);
        let claim = Self { admitted, r: this, rare: None, us, index, from, until, is_only };
        Some(Room::let_in(room, r, claim, f))
    }

    fn has_any(r: &ngx_http_request_t) -> bool {
        Self::find(r, |_| true, |_| ()).is_some()
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
        // SAFETY: the pool's list ends with a null pointer; an entry with our handler is a claim's,
        // which lives as long as the pool. Nobody else holds a reference: the worker has one thread, and
        // none outlives `f`, which does not come back here.
        unsafe {
            let mut cleanup = (*r.pool).cleanup;
            while let Some(one) = cleanup.as_ref() {
                let ours = one.handler.is_some_and(|handler| {
                    ptr::fn_addr_eq(handler, end_claim as unsafe extern "C" fn(*mut c_void))
                });
                if ours && !f(&mut (*cleanup.cast::<Kept>()).claim) {
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

    /// Whether [`Claim::respond`] would change anything.
    #[inline]
    pub fn changes(r: &ngx_http_request_t, upgraded: bool) -> bool {
        // As nearly always: the only claim is the one by which the request is answered.
        Self::find(r, |_| true, |claim| upgraded || !claim.is_only || !claim.is_of(r)) == Some(true)
    }

    /// The response of a main request begins: what its subrequests, and the upstreams that it was
    /// redirected away from, had in flight has ended, however long the response lasts.
    #[cold]
    pub fn respond(r: &ngx_http_request_t, upgraded: bool) {
        let now = upstream_of(r);
        Self::each(r, |claim| {
            if Some(claim.index) == now {
                if upgraded {
                    claim.admitted.upgrade();
                }
            } else if ptr::eq(claim.r, r) || claim.sub().is_some_and(|sub| sub.is_done) {
                claim.end_early();
            }
            true
        });
    }

    fn sub(&mut self) -> Option<&mut Sub> {
        self.rare.as_mut()?.sub.as_mut()
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
            self.from = states(r).len();
        }
    }

    /// Serials of the releases that the request was sent to.
    pub fn tried(&self) -> Vec<u64> {
        let left = self.rare.iter().flat_map(|rare| &rare.left);
        left.chain([&self.admitted.to]).map(|to| to.release.serial).collect()
    }

    /// The request goes on to another release, as its exchange number `at` of all.
    pub fn move_on(&mut self, admitted: Admitted<'static, View>, at: usize) {
        let ending = self.sum(at);
        self.admitted.fall_back(ending.connect_failures);
        self.from = at;
        let left = mem::replace(&mut self.admitted, admitted).to.clone();
        self.rare.get_or_insert_default().left.push(left);
    }

    /// The same as [`Claim::end`], before the request's own end.
    #[inline(never)]
    fn end_early(&mut self) {
        self.end();
    }

    /// Counts what became of the request, and gives its place in flight back; once.
    #[inline(always)]
    fn end(&mut self) {
        if !self.is_open() {
            return;
        }
        // SAFETY: the request's memory is given back after this.
        let states = states(unsafe { &*self.r });
        let from = self.from;
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
    #[inline(never)]
    fn end_of_many(&mut self) {
        let ending = self.sum(self.until);
        self.admitted.end(ending);
    }

    /// What the exchanges before number `until` came to.
    fn sum(&self, until: usize) -> Ending {
        // SAFETY: as above.
        let states = states(unsafe { &*self.r });
        let until = states.len().min(until);
        let exchanges = states.get(self.from..until).unwrap_or_default();
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

/// The exchanges of a request with all of its upstreams.
pub fn states(r: &ngx_http_request_t) -> &[ngx_http_upstream_state_t] {
    // SAFETY: NGINX makes the array when a request first goes upstream, in the request's pool.
    unsafe { r.upstream_states.as_ref().map_or(&[], |states| states.as_slice()) }
}

/// NGINX's callback for a subrequest that is done upstream.
unsafe extern "C" fn done(r: *mut ngx_http_request_t, rc: ngx_int_t) {
    // SAFETY: NGINX gives a request that lives, whose upstream `Sub::follow` put this callback into.
    let request = unsafe { &*r };
    let is_its = |claim: &Claim| {
        claim.rare.as_ref().and_then(|rare| rare.sub.as_ref()).is_some_and(|sub| sub.r == r)
    };
    let finalize = |claim: &mut Claim| claim.sub().and_then(|sub| sub.finalize);
    let finalize = Claim::find(request, is_its, finalize).flatten();
    if let Some(finalize) = finalize {
        // SAFETY: what stood there before takes what this one took.
        unsafe { finalize(r, rc) };
    }
    // SAFETY: the main request lives for as long as its subrequests.
    let responding = unsafe { header_sent(&*request.main) };
    Claim::find(request, is_its, |claim| {
        if let Some(sub) = claim.sub() {
            sub.is_done = true;
        }
        // If the main request has not taken the claim over, and can no longer do so.
        if claim.r == r && responding {
            claim.end_early();
        }
    });
}

unsafe extern "C" fn end_claim(data: *mut c_void) {
    // SAFETY: the data is the room that the claim was let into, and NGINX calls a cleanup once.
    let room = unsafe {
        let room = NonNull::new_unchecked(data.cast::<Room>());
        let claim = &raw mut (*(*room.as_ptr()).kept.as_mut_ptr()).claim;
        (*claim).end();
        ptr::drop_in_place(claim);
        room
    };
    ROOMS.give(room);
}
