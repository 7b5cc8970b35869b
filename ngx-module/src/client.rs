//! A client that leaves while its request waits.

use nginx_sys::{
    ngx_handle_read_event, ngx_http_finalize_request, ngx_http_request_t, ngx_http_test_reading,
    ngx_int_t, ngx_post_event, ngx_posted_events,
};

use crate::wrap::OK;

const CLIENT_CLOSED_REQUEST: ngx_int_t = nginx_sys::NGX_HTTP_CLIENT_CLOSED_REQUEST as ngx_int_t;

/// From now on the request ends when its client leaves, also when it has left already: of that no
/// event is still to come. `false` when events cannot be had.
///
/// A subrequest leaves the reading to its main request.
pub fn watch(r: &mut ngx_http_request_t) -> bool {
    // SAFETY: the request lives, and its connection with its events as long as it. Both handlers
    // take any request that waits.
    unsafe {
        r.write_event_handler = Some(written);
        let write = (*r.connection).write;
        if (*write).error() != 0 {
            ngx_post_event(write, &raw mut ngx_posted_events);
        }
        if !std::ptr::eq(r.main, r) {
            return true;
        }
        r.read_event_handler = Some(ngx_http_test_reading);
        let read = (*r.connection).read;
        if (*read).ready() != 0 {
            ngx_post_event(read, &raw mut ngx_posted_events);
            return true;
        }
        ngx_handle_read_event(read, 0) == OK
    }
}

/// Called when a request that waits could be written to. Of a stream of HTTP/3 that its client gives
/// up after it has sent the whole request, only the writing ends.
unsafe extern "C" fn written(r: *mut ngx_http_request_t) {
    // SAFETY: NGINX gives a request that lives, with its connection; it may be gone afterwards.
    unsafe {
        let connection = (*r).connection;
        if (*(*connection).write).error() != 0 {
            (*connection).set_error(1);
            ngx_http_finalize_request(r, CLIENT_CLOSED_REQUEST);
        }
    }
}
