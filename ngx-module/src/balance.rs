//! The hooks of an upstream: over which servers does NGINX balance this request?

use std::ffi::c_void;

use nginx_sys::{
    ngx_conf_t, ngx_http_request_t, ngx_http_upstream_server_t, ngx_http_upstream_srv_conf_t,
    ngx_int_t, ngx_peer_connection_t, ngx_uint_t,
};
use ngx::http::{HttpModule, HttpModuleMainConf};
use shunt_api::ReleaseName;
use shunt_switch::canary::Point;
use shunt_switch::follower::Wishes;

use crate::HttpShuntModule;
use crate::claim::Claim;
use crate::conf::upstream::{DEFAULT_RELEASE, add, member};
use crate::conf::{MainConf, SrvConf, UpstreamConf};
use crate::fallback;
use crate::view::{Start, View};
use crate::worker::AdmitError;
use crate::wrap::{BUSY, ConfError, Directive, ERROR, OK, bytes};

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
pub fn index(us: &ngx_http_upstream_srv_conf_t) -> Option<usize> {
    // SAFETY: an upstream's `srv_conf` has an entry for every HTTP module, ours was made by NGINX
    // with `create_srv_conf`. An upstream that `proxy_pass` defines implicitly has none at all.
    unsafe {
        let confs = us.srv_conf.as_ref()?;
        let confs = std::ptr::from_ref(confs);
        (*confs.add(HttpShuntModule::module().ctx_index)).cast::<SrvConf>().as_ref()?.index
    }
}

/// NGINX's callback for a request that goes upstream.
unsafe extern "C" fn init_peer(
    r: *mut ngx_http_request_t,
    us: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives, and its upstream.
    let (request, upstream) = unsafe { (&*r, &*us) };
    let Some(index) = index(upstream) else { return ERROR };
    let Some(main) = HttpShuntModule::main_conf(request) else { return ERROR };
    // SAFETY: what this leads to borrows nothing else of the worker, and keeps no reference.
    let worker = || unsafe { main.worker.try_borrow_unguarded() };
    let choose = || worker().ok()?.as_ref()?.admit_at_once(index);
    match Claim::make_at_once(request, us, index, choose, way) {
        Some((start, false)) => start.init_peer(r),
        Some((start, true)) => guarded(start, r, index),
        None => think(r, us, main, index),
    }
}

/// Where a request goes, and whether it may go on from there.
type Way = (Start, bool);

fn way(claim: &mut Claim) -> Way {
    let admitted = claim.admitted();
    (admitted.to.view.start(), admitted.may_fall_back)
}

/// For a request that has a claim already, or that there is something to choose for.
#[cold]
fn think(
    r: *mut ngx_http_request_t,
    us: *mut ngx_http_upstream_srv_conf_t,
    main: &MainConf,
    index: usize,
) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives.
    let request = unsafe { &*r };
    let known = Claim::find(
        request,
        |claim| claim.upstream() == index && claim.is_open(),
        |claim| {
            claim.again(request);
            way(claim)
        },
    );
    match known.or_else(|| claim(r, us, main, index)) {
        Some((start, false)) => start.init_peer(r),
        Some((start, true)) => guarded(start, r, index),
        None => refuse(r, us),
    }
}

/// Starts the balancing of a request that may fall back.
#[cold]
fn guarded(start: Start, r: *mut ngx_http_request_t, index: usize) -> ngx_int_t {
    let rc = start.init_peer(r);
    if rc == OK && !fallback::guard(r, index) {
        return ERROR;
    }
    rc
}

/// Chooses the request's release and keeps the choice for as long as the request lives.
fn claim(
    r: *mut ngx_http_request_t,
    us: *const ngx_http_upstream_srv_conf_t,
    main: &MainConf,
    index: usize,
) -> Option<Way> {
    let conf = main.upstreams.get(index)?;
    let choose = || {
        let mut wishes = RequestWishes { r, conf };
        let chosen = main.worker.try_borrow_mut().ok()?.as_mut()?.admit(index, conf, &mut wishes);
        chosen.inspect_err(|error| complain(r, conf, error)).ok()
    };
    Claim::make(r, us, index, choose, way)
}

/// Logs why a request has no release, with the request.
#[cold]
pub fn complain(r: *mut ngx_http_request_t, conf: &UpstreamConf, error: &AdmitError) {
    // SAFETY: a request has a connection, which has a log.
    let log = unsafe { (*(*r).connection).log };
    error!(log, "upstream \"{}\": {error}", conf.name);
}

/// What a request says about its release, by `shunt_preview` and `shunt_canary_key`.
struct RequestWishes<'a> {
    r: *mut ngx_http_request_t,
    conf: &'a UpstreamConf,
}

impl Wishes for RequestWishes<'_> {
    fn preview(&mut self) -> Option<ReleaseName> {
        let value = self.conf.preview?.of(self.r)?;
        std::str::from_utf8(bytes(&value)).ok().and_then(|name| ReleaseName::new(name).ok())
    }

    fn point(&mut self, canary: &ReleaseName) -> Point {
        let key = self.conf.canary_key.and_then(|key| key.of(self.r));
        match key.as_ref().map(bytes) {
            // Those without a key would all be on one side.
            None | Some([]) => Point::random(),
            Some(key) => Point::of(key, canary.as_str()),
        }
    }
}

/// What a method's `get` returns when no server of its upstream is up: the exchange has the upstream's
/// name then, and not that of the server before.
///
/// # Safety
///
/// `pc` is the peer of a request that goes to this upstream; nobody has a reference to it.
pub unsafe fn busy(
    pc: *mut ngx_peer_connection_t,
    us: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: as above; the upstream lives as long as the configuration.
    unsafe { (*pc).name = &raw mut (*us).host };
    BUSY
}

/// Lets NGINX answer as when no server of an upstream is up: 502, with its usual log line.
fn refuse(r: *mut ngx_http_request_t, us: *mut ngx_http_upstream_srv_conf_t) -> ngx_int_t {
    unsafe extern "C" fn get(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
        // SAFETY: NGINX, or whoever stands before us, gives the peer with what is set below.
        unsafe { busy(pc, data.cast()) }
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
        peer.data = us.cast();
        peer.get = Some(get);
        peer.free = Some(free);
        peer.tries = 0;
    }
    OK
}
