//! Requests that wait while their upstream is held.
//!
//! NGINX has no wake-up across workers, so a worker that parks requests looks at the route word every
//! few milliseconds, only while it has one. The timer is a plain one: a worker that shuts down after
//! a reload goes on until its last parked request is let go.

use std::collections::VecDeque;
use std::rc::Rc;

use nginx_sys::{
    ngx_current_msec, ngx_cycle_t, ngx_event_t, ngx_http_block_reading, ngx_http_core_run_phases,
    ngx_http_log_ctx_t, ngx_http_request_t, ngx_http_run_posted_requests, ngx_int_t, ngx_msec_t,
    ngx_pcalloc,
};
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf};
use shunt_switch::follower::{Parking, Ticket};

use crate::HttpShuntModule;
use crate::answer::add_header;
use crate::client;
use crate::conf::{HoldConf, LocConf, MainConf};
use crate::worker::Worker;
use crate::wrap::{AGAIN, DECLINED, INTERNAL_SERVER_ERROR, keep};

/// How often to look, in milliseconds.
const INTERVAL: ngx_msec_t = 5;

const SERVICE_UNAVAILABLE: ngx_int_t = nginx_sys::NGX_HTTP_SERVICE_UNAVAILABLE as ngx_int_t;

/// The parked requests of a worker, in the order of their arrival.
#[derive(Default)]
pub struct Line {
    parked: VecDeque<*mut Parked>,
    event: Option<*mut ngx_event_t>,
}

/// A request that waits. It lives in its request's pool, and leaves the line with it.
struct Parked {
    r: *mut ngx_http_request_t,
    conf: Rc<HoldConf>,
    /// The hold that it waits for the end of.
    hold: u32,
    ticket: Option<Ticket<'static>>,
    /// When it has waited long enough.
    deadline: ngx_msec_t,
    main: *const MainConf,
    is_late: bool,
}

impl Parked {
    /// Out of the line, and no longer counted.
    fn leave(&mut self) {
        if self.ticket.take().is_some() {
            let this = std::ptr::from_mut(self);
            // SAFETY: the configuration lives for as long as its requests.
            let line = unsafe { &(*self.main).line };
            line.borrow_mut().parked.retain(|other| *other != this);
        }
    }

    fn is_over(&self) -> bool {
        // SAFETY: the global is set by the event loop, in this thread.
        let now = unsafe { ngx_current_msec };
        self.deadline.wrapping_sub(now).cast_signed() <= 0
    }

    fn is_held(&self, worker: &mut Option<Worker>) -> bool {
        let held = |index| worker.as_mut().is_some_and(|worker| worker.is_held(index, self.hold));
        self.conf.upstream.get().is_some_and(held)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The handler in the phase before the content.
pub unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives.
    let request = unsafe { &mut *r };
    let Some(LocConf { api: None, metrics: false, holds: Some(holds) }) =
        HttpShuntModule::location_conf(request)
    else {
        return DECLINED;
    };
    if holds.is_empty() {
        return DECLINED;
    }
    let Some(main) = HttpShuntModule::main_conf(request) else { return INTERNAL_SERVER_ERROR };
    // SAFETY: the context of a request is ours; what is there, `park` has kept in the request's pool.
    let known = unsafe { context(request).cast::<Parked>().as_ref() };
    if let Some(known) = known
        && known.is_late
    {
        return refuse(request, main, &known.conf);
    }
    let waited_for = known.map(|known| &known.conf.name);
    for conf in holds.iter().filter(|conf| Some(&conf.name) != waited_for) {
        let Some(index) = conf.upstream.get() else { continue };
        let parking = {
            let Ok(mut worker) = main.worker.try_borrow_mut() else { return INTERNAL_SERVER_ERROR };
            let Some(worker) = worker.as_mut() else { return INTERNAL_SERVER_ERROR };
            worker.park(index, conf.max)
        };
        match parking {
            Ok(Parking::Parked(ticket, hold)) => {
                // SAFETY: the global is set by the event loop, in this thread.
                let now = unsafe { ngx_current_msec };
                let timeout = ngx_msec_t::try_from(conf.timeout.as_millis());
                let parked = Parked {
                    r,
                    conf: conf.clone(),
                    hold,
                    ticket: Some(ticket),
                    deadline: known.map_or_else(
                        || now.wrapping_add(timeout.unwrap_or(ngx_msec_t::MAX / 4)),
                        |known| known.deadline,
                    ),
                    main,
                    is_late: false,
                };
                return park(request, main, parked);
            }
            Ok(Parking::Full) => return refuse(request, main, conf),
            // A request that cannot be parked goes on: its upstream says what is wrong.
            Ok(Parking::Free) | Err(_) => {}
        }
    }
    DECLINED
}

fn context(r: &ngx_http_request_t) -> *mut std::ffi::c_void {
    // SAFETY: every request has a place for the context of each module.
    unsafe { *r.ctx.add(HttpShuntModule::module().ctx_index) }
}

fn park(r: &mut ngx_http_request_t, main: &MainConf, parked: Parked) -> ngx_int_t {
    // Nobody would ever look. Here as below, what is dropped gives the ticket back.
    if main.line.borrow().event.is_none() {
        return INTERNAL_SERVER_ERROR;
    }
    let Some(place) = keep(r.pool, parked) else { return INTERNAL_SERVER_ERROR };
    // SAFETY: as in `context`.
    unsafe { *r.ctx.add(HttpShuntModule::module().ctx_index) = place.cast() };
    if !client::watch(r) {
        // SAFETY: it lives in the request's pool.
        unsafe { (*place).leave() };
        return INTERNAL_SERVER_ERROR;
    }
    let mut line = main.line.borrow_mut();
    line.parked.push_back(place);
    line.look_again();
    AGAIN
}

/// 503 with the time after which it is worth asking again.
fn refuse(r: &mut ngx_http_request_t, main: &MainConf, conf: &HoldConf) -> ngx_int_t {
    let left = conf.upstream.get().map_or(0, |index| {
        let mut worker = main.worker.borrow_mut();
        worker.as_mut().map_or(0, |worker| worker.hold_ends_in(index))
    });
    let seconds = left.div_ceil(1000).max(1);
    match add_header(r, ngx::ngx_string!("Retry-After"), &seconds.to_string()) {
        Some(_) => SERVICE_UNAVAILABLE,
        None => INTERNAL_SERVER_ERROR,
    }
}

impl Line {
    /// Makes a worker's line.
    pub fn new(cycle: &ngx_cycle_t, main: &MainConf) -> Self {
        // SAFETY: the cycle's pool lives as long as the process; an event may be zero but for what
        // is set here.
        let event = unsafe {
            let event = ngx_pcalloc(cycle.pool, size_of::<ngx_event_t>()).cast::<ngx_event_t>();
            event.as_mut().map(|event| {
                event.handler = Some(look);
                event.data = std::ptr::from_ref(main).cast_mut().cast();
                event.log = cycle.log;
                std::ptr::from_mut(event)
            })
        };
        Self { parked: VecDeque::new(), event }
    }

    fn look_again(&self) {
        if let Some(event) = self.event
            && !self.parked.is_empty()
        {
            // SAFETY: the event lives as long as the process, and this is its only thread.
            unsafe {
                if (*event).timer_set() == 0 {
                    nginx_sys::ngx_add_timer(event, INTERVAL);
                }
            }
        }
    }

    /// The first request that need not wait any longer. It stays in the line.
    fn next(&self, main: &MainConf) -> Option<*mut Parked> {
        let mut worker = main.worker.borrow_mut();
        self.parked.iter().copied().find(|parked| {
            // SAFETY: what is in the line lives: it leaves it before its request ends.
            let parked = unsafe { &**parked };
            parked.is_over() || !parked.is_held(&mut worker)
        })
    }
}

unsafe extern "C" fn look(event: *mut ngx_event_t) {
    // SAFETY: `Line::new` set `data` to the configuration, which lives as long as the process.
    let main = unsafe { &*(*event).data.cast::<MainConf>() };
    loop {
        let next = main.line.borrow().next(main);
        let Some(next) = next else { break };
        // SAFETY: as in `next`. The request may end while its phases run, with what was parked.
        unsafe {
            let parked = &mut *next;
            parked.is_late = parked.is_held(&mut main.worker.borrow_mut());
            parked.leave();
            let r = parked.r;
            let connection = (*r).connection;
            // As `ngx_http_set_log_request`: another one of this connection's may have run meanwhile.
            (*(*(*connection).log).data.cast::<ngx_http_log_ctx_t>()).current_request = r;
            if (*r).main == r {
                (*r).read_event_handler = Some(ngx_http_block_reading);
            }
            (*r).write_event_handler = Some(ngx_http_core_run_phases);
            ngx_http_core_run_phases(r);
            ngx_http_run_posted_requests(connection);
        }
    }
    main.line.borrow().look_again();
}
