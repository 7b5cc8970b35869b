//! The hooks of an upstream: over which servers does NGINX balance this request?

use std::ffi::c_void;
use std::rc::Rc;

use nginx_sys::{
    ngx_conf_t, ngx_http_output_header_filter_pt, ngx_http_request_t, ngx_http_top_header_filter,
    ngx_http_upstream_server_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_peer_connection_t,
    ngx_pool_cleanup_add, ngx_uint_t,
};
use ngx::http::{HttpModule, HttpModuleMainConf};
use shunt_api::ReleaseName;
use shunt_switch::Zone;
use shunt_switch::follower::{Admitted, Ticket};

use crate::HttpShuntModule;
use crate::conf::upstream::{DEFAULT_RELEASE, add, member};
use crate::conf::{MainConf, SrvConf, UpstreamConf};
use crate::view::View;
use crate::wrap::{BUSY, ConfError, Directive, ERROR, OK};

/// The status of an upgraded connection (RFC 9110, section 15.2.2).
const SWITCHING_PROTOCOLS: ngx_uint_t = 101;

/// NGINX's callback for an upstream whose block is read.
pub unsafe extern "C" fn init_upstream(
    cf: *mut ngx_conf_t,
    us: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: NGINX gives its configuration and one of its upstreams, one that `shunt` was read in.
    let (cf, us) = unsafe { (&mut *cf, &mut *us) };
    let Some(main) = HttpShuntModule::main_conf_mut(cf) else { return ERROR };
    let Some(upstream) = index(us).and_then(|index| main.upstreams.get_mut(index)) else {
        return ERROR;
    };
    let result = collect(us, upstream).and_then(|()| try_views(cf, upstream));
    if let Err(error) = result {
        match error {
            ConfError::Said(text) => {
                emerg!(cf.log, "{text} in upstream \"{}\" in {}", upstream.name, upstream.place);
            }
            ConfError::Short(_) | ConfError::Logged => {}
        }
        return ERROR;
    }
    us.peer.init = Some(init_peer);
    upstream.initialised = true;
    OK
}

/// Makes the release "default" of the `server` lines.
fn collect(us: &mut ngx_http_upstream_srv_conf_t, upstream: &mut UpstreamConf) -> Directive {
    if !us.shm_zone.is_null() {
        return Err("\"zone\" does not work with \"shunt\", whose own zone is shared already; \
                    remove it:"
            .into());
    }
    // SAFETY: NGINX made `servers` an array of this type.
    let servers = unsafe { (*us.servers).as_slice::<ngx_http_upstream_server_t>() };
    // The one without addresses is the place holder of `shunt`.
    let servers: Vec<_> = servers.iter().filter(|s| !s.addrs.is_null()).copied().collect();
    if !servers.is_empty() {
        let name = ReleaseName::new(DEFAULT_RELEASE).map_err(|e| e.to_string())?;
        if upstream.releases.iter().any(|(n, _)| *n == name) {
            return Err("duplicate release \"default\": the \"server\" lines are the release of \
                        this name, give \"shunt_release\" another one"
                .into());
        }
        for server in &servers {
            add(upstream, name.clone(), member(server)?)?;
        }
        // Before those of `shunt_release`, wherever the lines stand.
        upstream.releases.rotate_right(1);
    }
    if upstream.releases.is_empty() {
        return Err("no servers: add \"server\" or \"shunt_release\" lines".into());
    }
    Ok(())
}

/// Lets the method look at every release now, so that `nginx -t` shows what it refuses.
fn try_views(cf: &ngx_conf_t, upstream: &UpstreamConf) -> Directive {
    for (name, servers) in &upstream.releases {
        View::new(upstream, servers, cf.log).map_err(|e| format!("release \"{name}\": {e}"))?;
    }
    Ok(())
}

/// Which of the main configuration's upstreams this is.
fn index(us: &ngx_http_upstream_srv_conf_t) -> Option<usize> {
    // SAFETY: an upstream's `srv_conf` has an entry for every HTTP module, ours was made by NGINX
    // with `create_srv_conf`. An upstream that `proxy_pass` defines implicitly has none at all.
    unsafe {
        let confs = us.srv_conf.as_ref()?;
        let confs = std::ptr::from_ref(confs);
        (*confs.add(HttpShuntModule::module().ctx_index)).cast::<SrvConf>().as_ref()?.index
    }
}

/// A request's hold on its release: made once, given back with the request's memory. The log phase
/// has passed then, and a WebSocket's tunnel has ended.
pub struct Claim {
    /// Index of the upstream.
    index: usize,
    /// The choice.
    admitted: Admitted,
    ticket: Option<Ticket>,
    view: Rc<View>,
    zone: Zone<'static>,
}

impl Claim {
    /// Calls `f` with the latest claim of a request and its subrequests that `wanted` says yes to.
    ///
    /// Internal redirects empty `r->ctx`, so the claim is found through the cleanup list, as
    /// `ngx_http_realip_module` does.
    fn find<T>(
        r: &ngx_http_request_t,
        wanted: impl Fn(&Self) -> bool,
        f: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        // SAFETY: the pool's list ends with a null pointer; data with our handler is a claim, which
        // lives as long as the pool. Nobody else holds a reference: the worker has one thread, and
        // none outlives `f`, which does not come back here.
        unsafe {
            let mut cleanup = (*r.pool).cleanup;
            while let Some(one) = cleanup.as_ref() {
                let ours = one.handler.is_some_and(|handler| {
                    std::ptr::fn_addr_eq(handler, end_claim as unsafe extern "C" fn(*mut c_void))
                });
                if ours
                    && let Some(claim) = one.data.cast::<Self>().as_mut()
                    && wanted(claim)
                {
                    return Some(f(claim));
                }
                cleanup = one.next;
            }
        }
        None
    }

    /// Calls `f` with the claim by which a request, as it is now, goes upstream.
    ///
    /// Not the latest: a request shares its pool with its subrequests, and a mirror or an include may
    /// have gone to another upstream meanwhile.
    pub fn of<T>(r: &ngx_http_request_t, f: impl FnOnce(&mut Self) -> T) -> Option<T> {
        // SAFETY: NGINX's own of this request; both are null until it goes upstream.
        let us = unsafe { r.upstream.as_ref()?.upstream.as_ref()? };
        let index = index(us)?;
        Self::find(r, |claim| claim.index == index, f)
    }

    /// Index of the upstream.
    pub fn upstream(&self) -> usize {
        self.index
    }

    /// The choice.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.give_back(&self.zone);
        }
    }
}

unsafe extern "C" fn end_claim(data: *mut c_void) {
    // SAFETY: `claim` wrote a claim there, and NGINX calls a cleanup once.
    unsafe { std::ptr::drop_in_place(data.cast::<Claim>()) };
}

/// NGINX's callback for a request that goes upstream.
unsafe extern "C" fn init_peer(
    r: *mut ngx_http_request_t,
    us: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives, and its upstream.
    let (request, us) = unsafe { (&*r, &*us) };
    let Some(index) = index(us) else { return ERROR };
    let Some(main) = HttpShuntModule::main_conf(request) else { return ERROR };
    let known = Claim::find(request, |claim| claim.index == index, |claim| claim.view.clone());
    let view = match known {
        Some(view) => view,
        None => match claim(request, main, index) {
            Some(view) => view,
            None => return refuse(r),
        },
    };
    view.init_peer(r)
}

/// Chooses the request's release and keeps the choice for as long as the request lives.
fn claim(r: &ngx_http_request_t, main: &MainConf, index: usize) -> Option<Rc<View>> {
    // SAFETY: a request has a connection, which has a log.
    let log = unsafe { (*r.connection).log };
    let conf = main.upstreams.get(index)?;
    // SAFETY: as above; memory of the cleanup is aligned and large enough, see `ngx::keep`.
    let cleanup = unsafe { ngx_pool_cleanup_add(r.pool, size_of::<Claim>()).as_mut() }?;
    // A view outlives the request that makes it, and its pool keeps this log.
    let cycle_log = ngx::log::ngx_cycle_log().as_ptr();
    let chosen = main.worker.try_borrow_mut().ok()?.as_mut()?.admit(index, conf, cycle_log);
    let (mut admitted, view, zone) = match chosen {
        Ok(chosen) => chosen,
        Err(error) => {
            error!(log, "upstream \"{}\": {error}", conf.name);
            return None;
        }
    };
    let ticket = admitted.ticket.take();
    let claim = Claim { index, admitted, ticket, view: view.clone(), zone };
    // SAFETY: the data is as large as asked for; without a handler until now, the cleanup does
    // nothing when the request ends early.
    unsafe { cleanup.data.cast::<Claim>().write(claim) };
    cleanup.handler = Some(end_claim);
    Some(view)
}

/// Lets NGINX answer as when no server of an upstream is up: 502, with its usual log line.
fn refuse(r: *mut ngx_http_request_t) -> ngx_int_t {
    unsafe extern "C" fn get(_pc: *mut ngx_peer_connection_t, _data: *mut c_void) -> ngx_int_t {
        BUSY
    }
    unsafe extern "C" fn free(
        _pc: *mut ngx_peer_connection_t,
        _data: *mut c_void,
        _state: ngx_uint_t,
    ) {
    }
    // SAFETY: NGINX calls `peer.init` only for a request that has an upstream.
    unsafe {
        let peer = &mut (*(*r).upstream).peer;
        peer.get = Some(get);
        peer.free = Some(free);
        peer.tries = 0;
    }
    OK
}

static mut NEXT_HEADER_FILTER: ngx_http_output_header_filter_pt = None;

/// Puts the header filter before those that are there.
pub fn add_header_filter() {
    // SAFETY: NGINX calls `postconfiguration` in its only thread, once for each configuration, after
    // the chain was built anew.
    unsafe {
        NEXT_HEADER_FILTER = ngx_http_top_header_filter;
        ngx_http_top_header_filter = Some(header_filter);
    }
}

/// From `101 Switching Protocols` on a request is an upgraded connection.
unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives; the static is only written while a configuration is
    // read.
    let (request, next) = unsafe { (&*r, NEXT_HEADER_FILTER) };
    if request.headers_out.status == SWITCHING_PROTOCOLS {
        let upgrade = |claim: &mut Claim| {
            if let Some(ticket) = &mut claim.ticket {
                ticket.upgrade(&claim.zone);
            }
        };
        Claim::of(request, upgrade);
    }
    match next {
        // SAFETY: the chain's next filter takes what this one took.
        Some(next) => unsafe { next(r) },
        None => OK,
    }
}
