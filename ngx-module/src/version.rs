//! All differences between NGINX's versions, and what NGINX keeps private.
//!
//! Read from 1.22.1 to 1.31.4. What a header says, `nginx-sys` reads from the headers of the very NGINX
//! that is built for; where the last column says so, nothing else is needed.
//!
//! | since | what changed near an upstream | what we do |
//! | --- | --- | --- |
//! | 1.27.3 | `resolve` of `server`: `host` and `service` in `ngx_http_upstream_server_t` | refuse it |
//! | 1.27.3 | `hash` and `random` have a `config` field, and free what they had computed before | [`METHODS_WITH_STATE`] |
//! | 1.27.3 | a peer counts its users (`refs`) and may be a `zombie`, a list of peers has `config` and `resolve`: all for a `zone`, which `shunt` refuses | headers |
//! | 1.29.3 | `port` before the flags of `ngx_http_request_t`, in the same word: `bindgen` has most of them in another place than C | [`header_only`], [`header_sent`] and whatever else is needed is asked in C; `count` is right |
//! | 1.29.6 | `sticky`: it wraps the method when it stands before `shunt`, and `shunt` when it stands after, and both work: a client's cookie names a server's address (`sid` of a peer), so it holds within a release, and a switch takes the client along | headers |
//! | 1.29.6 | `route=` and `drain` of `server`, for `sticky`: `sid`, and another value of `down` | refuse them: a release's servers have neither |
//! | 1.29.6 | `notify` of a peer is called when the response's header is there; `keepalive` forwards it from 1.29.7 on | we wrap no peer |
//! | 1.29.7 | `keepalive` is on by default; it wraps `peer.init` of every upstream after all were initialised, and no longer `init_upstream` | [`KEEPALIVE_ORDER_MATTERS`] |
//! | 1.29.7 | `max_cached` of `keepalive` starts unset instead of 0 | asked before 1.29.7 only |
//! | 1.31.0 | `least_time`: keeps its measurements in the peers, so each release and worker measures anew | headers |
//! | 1.31.4 | `ngx_http_upstream_state_t` has room for later fields | headers |

use std::ffi::{CStr, c_void};

use nginx_sys::{
    Dl_info, dladdr, ngx_http_complex_value_t, ngx_http_request_t, ngx_http_upstream_init_pt,
    ngx_http_upstream_init_round_robin, ngx_http_upstream_server_t, ngx_uint_t,
};

/// The modules that keep what they computed from `servers` in their own configuration, and its
/// size: a view needs private copies.
pub const METHODS_WITH_STATE: [(&CStr, usize); 2] = [
    (c"ngx_http_upstream_hash_module", size_of::<HashConf>()),
    (c"ngx_http_upstream_random_module", size_of::<RandomConf>()),
];

/// `ngx_http_upstream_hash_srv_conf_t` of `ngx_http_upstream_hash_module.c`.
#[repr(C)]
struct HashConf {
    key: ngx_http_complex_value_t,
    #[cfg(all(nginx1_27_3, ngx_feature = "http_upstream_zone"))]
    config: ngx_uint_t,
    points: *mut std::ffi::c_void,
}

/// `ngx_http_upstream_random_srv_conf_t` of `ngx_http_upstream_random_module.c`.
#[repr(C)]
struct RandomConf {
    two: ngx_uint_t,
    #[cfg(all(nginx1_27_3, ngx_feature = "http_upstream_zone"))]
    config: ngx_uint_t,
    ranges: *mut std::ffi::c_void,
}

/// Whether a balancing method is one of NGINX's own, which all start from round robin's peers: a view
/// counts on that when it ends. They cannot be built as modules to be loaded, so they are in the same
/// file as round robin.
pub fn is_own_method(init: ngx_http_upstream_init_pt) -> bool {
    let Some(init) = init else { return true };
    let own = ngx_http_upstream_init_round_robin as *const c_void;
    matches!((file_of(init as *const c_void), file_of(own)), (Some(a), Some(b)) if a == b)
}

/// The file that a function was loaded from, as the address where it starts.
fn file_of(function: *const c_void) -> Option<*mut c_void> {
    // SAFETY: all fields may be zero, and `dladdr` takes any address.
    unsafe {
        let mut info: Dl_info = std::mem::zeroed();
        (dladdr(function, &raw mut info) != 0).then_some(info.dli_fbase)
    }
}

/// Whether `keepalive` must stand after `shunt`. If so, `max_cached`, the first field of
/// `ngx_http_upstream_keepalive_srv_conf_t`, is 0 until it was read.
pub const KEEPALIVE_ORDER_MATTERS: bool = cfg!(not(nginx1_29_7));

/// What a `server` has that a release's servers cannot have, and what to do instead.
pub fn unsupported(server: &ngx_http_upstream_server_t) -> Option<&'static str> {
    #[cfg(all(nginx1_27_3, ngx_feature = "http_upstream_zone"))]
    if server.host.len != 0 {
        return Some(
            "\"resolve\" does not work in an upstream with \"shunt\", resolve the name outside and \
             switch to the new addresses",
        );
    }
    #[cfg(nginx_sticky)]
    if server.sid.len != 0 {
        return Some(
            "\"route\" does not work in an upstream with \"shunt\", remove it and let \"sticky \
             cookie\" tell the servers apart",
        );
    }
    #[cfg(nginx_sticky)]
    if server.down == nginx_sys::NGX_HTTP_UPSTREAM_DRAINING as ngx_uint_t {
        return Some(
            "\"drain\" does not work in an upstream with \"shunt\", switch to a release without \
             this server",
        );
    }
    let _ = server;
    None
}

// SAFETY: the functions of `request.c`, with their types; they touch one field of the request.
unsafe extern "C" {
    safe fn ngx_http_shunt_header_only(r: &ngx_http_request_t) -> ngx_uint_t;
    safe fn ngx_http_shunt_header_sent(r: &ngx_http_request_t) -> ngx_uint_t;
    safe fn ngx_http_shunt_disable_not_modified(r: &mut ngx_http_request_t);
}

/// Whether the response has no body, as to a `HEAD`.
pub fn header_only(r: &ngx_http_request_t) -> bool {
    ngx_http_shunt_header_only(r) != 0
}

/// Whether the response has begun.
pub fn header_sent(r: &ngx_http_request_t) -> bool {
    ngx_http_shunt_header_sent(r) != 0
}

/// Lets conditions of the request (`If-Match` and the like) alone from now on.
pub fn disable_not_modified(r: &mut ngx_http_request_t) {
    ngx_http_shunt_disable_not_modified(r);
}
