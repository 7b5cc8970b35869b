//! What changes in flight when a response begins: from `101 Switching Protocols` on, a request is an
//! upgraded connection.

use nginx_sys::{
    ngx_http_output_header_filter_pt, ngx_http_request_t, ngx_http_top_header_filter, ngx_int_t,
    ngx_uint_t,
};

use crate::claim::Claim;
use crate::wrap::OK;

/// The status of an upgraded connection (RFC 9110, section 15.2.2).
const SWITCHING_PROTOCOLS: ngx_uint_t = 101;

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
    // SAFETY: NGINX gives a request that lives.
    let request = unsafe { &*r };
    let upgraded = request.headers_out.status == SWITCHING_PROTOCOLS;
    if std::ptr::eq(request.main, r) && Claim::changes(request, upgraded) {
        return respond(r, upgraded);
    }
    next(r)
}

#[cold]
#[inline(never)]
fn respond(r: *mut ngx_http_request_t, upgraded: bool) -> ngx_int_t {
    // SAFETY: as above.
    Claim::respond(unsafe { &*r }, upgraded);
    next(r)
}

#[inline]
fn next(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: the static is only written while a configuration is read; the chain's next filter
    // takes what this one took.
    unsafe { NEXT_HEADER_FILTER.map_or(OK, |next| next(r)) }
}
