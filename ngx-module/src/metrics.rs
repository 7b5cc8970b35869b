//! The location of `shunt_metrics`: the state for Prometheus.

use nginx_sys::{ngx_http_discard_request_body, ngx_http_request_t, ngx_int_t};
use shunt_switch::metrics::CONTENT_TYPE;

use crate::admin::with_service;
use crate::answer::{Answer, send};
use crate::wrap::OK;

/// The handler of a location with `shunt_metrics`.
pub unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives.
    let request = unsafe { &mut *r };
    let method = u32::try_from(request.method).unwrap_or_default();
    if method & (nginx_sys::NGX_HTTP_GET | nginx_sys::NGX_HTTP_HEAD) == 0 {
        return nginx_sys::NGX_HTTP_NOT_ALLOWED as ngx_int_t;
    }
    // SAFETY: as above; a body is of no use.
    let rc = unsafe { ngx_http_discard_request_body(r) };
    if rc != OK {
        return rc;
    }
    match with_service(request, |service| service.metrics()) {
        Ok(page) => send(request, &Answer::text(CONTENT_TYPE, page)),
        Err(problem) => send(request, &Err(problem).into()),
    }
}
