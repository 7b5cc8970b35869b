//! All differences between NGINX's versions, and what NGINX keeps private.
//!
//! | since | what |
//! | --- | --- |
//! | 1.27.3 | servers can be resolved at run time (`resolve`), and `hash` and `random` have a `config` field for it |
//! | 1.29.7 | `keepalive` is on by default, and wraps every upstream after its `init_upstream` |

use std::ffi::CStr;

use nginx_sys::{ngx_http_complex_value_t, ngx_http_upstream_server_t, ngx_uint_t};

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

/// The first field of `ngx_http_upstream_keepalive_srv_conf_t`; not 0 once `keepalive` was read.
/// From 1.29.7 on the order of `keepalive` and `shunt` does not matter.
pub const KEEPALIVE_ORDER_MATTERS: bool = cfg!(not(nginx1_29_7));

/// Whether NGINX would look this server's name up while it runs (`resolve`).
pub fn resolves_at_run_time(server: &ngx_http_upstream_server_t) -> bool {
    #[cfg(all(nginx1_27_3, ngx_feature = "http_upstream_zone"))]
    return server.host.len != 0;
    #[cfg(not(all(nginx1_27_3, ngx_feature = "http_upstream_zone")))]
    {
        let _ = server;
        false
    }
}
