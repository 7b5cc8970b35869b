//! A release's private upstream in one worker.
//!
//! NGINX's own balancers do the balancing. A view is a copy of the upstream whose servers are the
//! release's, initialised by the balancing method that `shunt` wraps, in a pool of its own. No lock
//! is shared with other workers, and what a killed worker counted in it is gone with it.

use std::ptr;

use nginx_sys::{
    NGX_DEFAULT_POOL_SIZE, ngx_addr_t, ngx_array_create, ngx_array_push, ngx_conf_t,
    ngx_create_pool, ngx_destroy_pool, ngx_http_max_module, ngx_http_request_t,
    ngx_http_upstream_init_round_robin, ngx_http_upstream_rr_peers_t, ngx_http_upstream_server_t,
    ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_log_t, ngx_palloc, ngx_parse_url, ngx_pcalloc,
    ngx_pool_t, ngx_url_t,
};
use shunt_switch::table::Member;

use crate::conf::UpstreamConf;
use crate::wrap::{ERROR, OK, bytes, copy_to_pool};

/// Why a release has no view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// There is no memory left.
    #[error("no memory for a view")]
    Memory,
    /// An address that NGINX cannot read; the API and the configuration let none in.
    #[error("address {0:?} cannot be read")]
    Address(String),
    /// The balancing method refused the servers, and has logged why.
    #[error("the balancing method refuses the servers")]
    Method,
}

/// A view. Requests that go to its release hold it; it ends with the last of them.
pub struct View {
    pool: *mut ngx_pool_t,
    uscf: *mut ngx_http_upstream_srv_conf_t,
}

impl View {
    /// Makes the view of these servers.
    pub fn new(
        upstream: &UpstreamConf,
        servers: &[Member],
        log: *mut ngx_log_t,
    ) -> Result<Self, ViewError> {
        // SAFETY: the log is the cycle's, or the configuration's while it is read.
        let pool = unsafe { ngx_create_pool(NGX_DEFAULT_POOL_SIZE as usize, log) };
        if pool.is_null() {
            return Err(ViewError::Memory);
        }
        // From here on, dropping the view destroys the pool.
        let mut view = Self { pool, uscf: ptr::null_mut() };
        view.uscf = copy(pool, upstream).ok_or(ViewError::Memory)?;
        fill(pool, view.uscf, servers)?;

        // SAFETY: a configuration may have all fields zero but those that an `init_upstream` uses:
        // its pools, log and cycle.
        let rc = unsafe {
            let mut cf: ngx_conf_t = std::mem::zeroed();
            cf.pool = pool;
            cf.temp_pool = pool;
            cf.log = log;
            cf.cycle = nginx_sys::ngx_cycle;
            match upstream.wrapped {
                Some(init) => init(&raw mut cf, view.uscf),
                None => ngx_http_upstream_init_round_robin(&raw mut cf, view.uscf),
            }
        };
        if rc != OK {
            return Err(ViewError::Method);
        }
        Ok(view)
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &[u8] {
        // SAFETY: the view's copy lives as long as the view, and its name as the configuration.
        unsafe { bytes(&(*self.uscf).host) }
    }

    /// Starts the balancing of requests. Only those that hold the view may be given to it.
    pub fn start(&self) -> Start {
        Start(self.uscf)
    }
}

/// How the balancing of a request starts.
#[derive(Clone, Copy)]
pub struct Start(*mut ngx_http_upstream_srv_conf_t);

impl Start {
    /// Starts it.
    pub fn init_peer(self, r: *mut ngx_http_request_t) -> ngx_int_t {
        // SAFETY: the request holds the view. `init_upstream` has set `peer.init` of our copy, which
        // it expects to be given.
        unsafe {
            match (*self.0).peer.init {
                Some(init) => init(r, self.0),
                None => ERROR,
            }
        }
    }
}

/// Copies the upstream, with private copies of the configuration that methods keep state in.
fn copy(
    pool: *mut ngx_pool_t,
    upstream: &UpstreamConf,
) -> Option<*mut ngx_http_upstream_srv_conf_t> {
    // SAFETY: `uscf` is the configuration's, which lives longer than any view of it. Its `srv_conf`
    // has `ngx_http_max_module` entries; those of `method_confs` point to structures of these sizes.
    // Memory of the pool is aligned for any of NGINX's structures.
    unsafe {
        let uscf = ngx_palloc(pool, size_of::<ngx_http_upstream_srv_conf_t>())
            .cast::<ngx_http_upstream_srv_conf_t>();
        let confs = ngx_palloc(pool, ngx_http_max_module * size_of::<*mut std::ffi::c_void>())
            .cast::<*mut std::ffi::c_void>();
        if uscf.is_null() || confs.is_null() {
            return None;
        }
        uscf.copy_from_nonoverlapping(upstream.uscf, 1);
        confs.copy_from_nonoverlapping((*uscf).srv_conf, ngx_http_max_module);
        for (index, size) in &upstream.method_confs {
            let original = (*confs.add(*index)).cast::<u8>();
            let private = ngx_palloc(pool, *size).cast::<u8>();
            if private.is_null() {
                return None;
            }
            private.copy_from_nonoverlapping(original, *size);
            *confs.add(*index) = private.cast();
        }
        (*uscf).srv_conf = confs;
        (*uscf).peer.data = ptr::null_mut();
        Some(uscf)
    }
}

/// Gives the copy its own servers.
fn fill(
    pool: *mut ngx_pool_t,
    uscf: *mut ngx_http_upstream_srv_conf_t,
    members: &[Member],
) -> Result<(), ViewError> {
    // SAFETY: the pool is the view's. The array's elements are plain data that may be zero.
    unsafe {
        let size = size_of::<ngx_http_upstream_server_t>();
        let servers = ngx_array_create(pool, members.len().max(1), size);
        if servers.is_null() {
            return Err(ViewError::Memory);
        }
        for member in members {
            let server = ngx_array_push(servers).cast::<ngx_http_upstream_server_t>();
            if server.is_null() {
                return Err(ViewError::Memory);
            }
            server.write_bytes(0, 1);
            let server = &mut *server;
            server.name = copy_to_pool(pool, member.address.as_bytes()).ok_or(ViewError::Memory)?;
            (server.addrs, server.naddrs) = addresses(pool, member)?;
            server.weight = member.weight as usize;
            server.max_fails = member.max_fails as usize;
            server.fail_timeout = member.fail_timeout.into();
            server.max_conns = member.max_conns as usize;
            server.down = usize::from(member.down);
            server.set_backup(member.backup.into());
        }
        (*uscf).servers = servers;
    }
    Ok(())
}

/// Reads the literals of a server.
fn addresses(
    pool: *mut ngx_pool_t,
    member: &Member,
) -> Result<(*mut ngx_addr_t, usize), ViewError> {
    let literals: Vec<&str> = member.addresses().collect();
    // SAFETY: the pool is the view's; `ngx_parse_url` reads the text and, for a literal, makes one
    // address in the pool. `no_resolve` keeps it from ever asking a name server.
    unsafe {
        let all = ngx_pcalloc(pool, literals.len() * size_of::<ngx_addr_t>()).cast::<ngx_addr_t>();
        if all.is_null() {
            return Err(ViewError::Memory);
        }
        for (at, literal) in literals.iter().enumerate() {
            let mut url: ngx_url_t = std::mem::zeroed();
            url.url = copy_to_pool(pool, literal.as_bytes()).ok_or(ViewError::Memory)?;
            url.set_no_resolve(1);
            if ngx_parse_url(pool, &raw mut url) != OK || url.naddrs != 1 {
                return Err(ViewError::Address((*literal).to_owned()));
            }
            all.add(at).copy_from_nonoverlapping(url.addrs, 1);
        }
        Ok((all, literals.len()))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: nobody holds the view, so no request uses its peers. TLS sessions are the only
        // thing that peers without a shared zone keep outside of the pool; every one of NGINX's
        // methods starts from round robin's peers, and `shunt` refuses others.
        unsafe {
            if let Some(uscf) = self.uscf.as_ref() {
                let mut peers = uscf.peer.data.cast::<ngx_http_upstream_rr_peers_t>();
                while let Some(group) = peers.as_ref() {
                    free_sessions(group);
                    peers = group.next;
                }
            }
            ngx_destroy_pool(self.pool);
        }
    }
}

/// # Safety
///
/// The peers are in no use.
#[cfg(ngx_feature = "http_ssl")]
unsafe fn free_sessions(peers: &ngx_http_upstream_rr_peers_t) {
    let mut peer = peers.peer;
    // SAFETY: a list of peers ends with a null pointer. A session is ours to free: the peer held
    // the only reference that this worker counts for it.
    unsafe {
        while let Some(one) = peer.as_mut() {
            if !one.ssl_session.is_null() {
                nginx_sys::SSL_SESSION_free(one.ssl_session.cast());
                one.ssl_session = ptr::null_mut();
            }
            peer = one.next;
        }
    }
}

#[cfg(not(ngx_feature = "http_ssl"))]
unsafe fn free_sessions(_peers: &ngx_http_upstream_rr_peers_t) {}
