//! Calls that are answered later: when a release is drained, or the generation changes.
//!
//! NGINX has no wake-up across workers, so the worker that has such a call looks at the shared memory
//! every few milliseconds, only while there is one. The timer is a plain one: a worker that shuts
//! down after a reload still answers.

use nginx_sys::{
    ngx_current_msec, ngx_event_t, ngx_http_finalize_request, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_int_t, ngx_msec_t,
};
use shunt_api::{Call, Wait};
use shunt_switch::record::State;

use crate::admin::{reply_at_once, with_service};
use crate::client;
use crate::wrap::{DONE, keep};

/// How often to look, in milliseconds.
const INTERVAL: ngx_msec_t = 10;

/// A call that waits. It lives in its request's pool, and its timer ends with it.
struct Waiting {
    r: *mut ngx_http_request_t,
    call: Call,
    /// The upstream's state at the last look.
    known: Option<State>,
    deadline: ngx_msec_t,
    event: ngx_event_t,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.event.timer_set() != 0 {
            // SAFETY: the event is in the tree, as its flag says.
            unsafe { nginx_sys::ngx_del_timer(&raw mut self.event) };
        }
    }
}

/// Lets a call wait, if it has to; otherwise it can be answered now.
pub fn pending(r: &mut ngx_http_request_t, call: &Call) -> Option<ngx_int_t> {
    let Call::Upstream { wait: Some(wait), .. } = call else { return None };
    let (Wait::Drained { timeout, .. } | Wait::Change { timeout, .. }) = wait;
    // What cannot be waited for is answered now.
    with_service(r, |service| service.read(call, false)).ok()?;
    let mut known = None;
    if has_come(r, call, &mut known) {
        return None;
    }
    let timeout = ngx_msec_t::try_from(timeout.duration().as_millis()).ok()?;
    // SAFETY: the event is plain data that may be zero; the request and its connection outlive it,
    // as it lives in the request's pool.
    unsafe {
        let waiting = Waiting {
            r,
            call: call.clone(),
            known,
            deadline: ngx_current_msec.wrapping_add(timeout),
            event: std::mem::zeroed(),
        };
        let waiting = &mut *keep(r.pool, waiting)?;
        waiting.event.handler = Some(look);
        waiting.event.data = (&raw mut *waiting).cast();
        waiting.event.log = (*r.connection).log;
        if !client::watch(r) {
            return None;
        }
        nginx_sys::ngx_add_timer(&raw mut waiting.event, INTERVAL.min(timeout));
        let main = &mut *r.main;
        main.set_count(main.count() + 1);
    }
    Some(DONE)
}

fn has_come(r: &ngx_http_request_t, call: &Call, known: &mut Option<State>) -> bool {
    let Call::Upstream { upstream, wait: Some(wait) } = call else { return true };
    // A problem is answered, too.
    with_service(r, |service| service.has_come(upstream, wait, known)).unwrap_or(true)
}

unsafe extern "C" fn look(event: *mut ngx_event_t) {
    // SAFETY: `pending` set `data` to the call that the event is part of; both live until the request
    // is finalized below.
    unsafe {
        let waiting = &mut *(*event).data.cast::<Waiting>();
        let r = &mut *waiting.r;
        let left = waiting.deadline.wrapping_sub(ngx_current_msec).cast_signed();
        if left > 0 && !has_come(r, &waiting.call, &mut waiting.known) {
            nginx_sys::ngx_add_timer(event, INTERVAL.min(left.cast_unsigned()));
            return;
        }
        let call = waiting.call.clone();
        let connection = r.connection;
        let reply = with_service(r, |service| service.read(&call, false));
        // A body is not read before: NGINX would end the request with `lingering_timeout`.
        let rc = reply_at_once(r, reply.into());
        ngx_http_finalize_request(r, rc);
        ngx_http_run_posted_requests(connection);
    }
}
