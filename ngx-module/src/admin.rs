//! The API's location: from NGINX's request to a call, and what it comes to.

use nginx_sys::{
    ngx_http_discard_request_body, ngx_http_finalize_request, ngx_http_read_client_request_body,
    ngx_http_request_t, ngx_int_t, ngx_table_elt_t,
};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, NgxHttpCoreModule};
use shunt_api::{Call, CallError, MAX_BODY, Method, Problem};
use shunt_switch::service::Service;

use crate::HttpShuntModule;
use crate::access::{self, Access};
use crate::answer::{Answer, send};
use crate::change::Change;
use crate::conf::{LocConf, MainConf};
use crate::wrap::{DONE, INTERNAL_SERVER_ERROR, OK, bytes, text};
use crate::{queue, version, wait, zone};

/// The first status that a body's reader returns in place of reading.
const SPECIAL_RESPONSE: ngx_int_t = nginx_sys::NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t;

/// The handler of a location with `shunt_api`.
pub unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives.
    let request = unsafe { &mut *r };
    if request.main != r {
        // Its request line is that of the page which includes it.
        return nginx_sys::NGX_HTTP_FORBIDDEN as ngx_int_t;
    }
    let call = match call(request) {
        Ok(call) => call,
        Err(answer) => return reply_at_once(request, answer),
    };
    let access = match HttpShuntModule::location_conf(request) {
        Some(LocConf { api: Some(api), .. }) => access::of(request, api),
        _ => return INTERNAL_SERVER_ERROR,
    };
    if !call.is_change() {
        return match wait::pending(request, &call) {
            Some(rc) => rc,
            None => {
                let reply = with_service(request, |s| s.read(&call, access == Access::Write));
                reply_at_once(request, reply.into())
            }
        };
    }
    if let Some(answer) = unless_writer(access) {
        return reply_at_once(request, answer);
    }
    let length = request.headers_in.content_length_n;
    if length > MAX_BODY as i64 {
        let detail = format!("the body has {length} bytes, at most {MAX_BODY} are read");
        return reply_at_once(request, Answer::problem(413, detail));
    }
    if length < 0 && (call.has_body() || request.headers_in.chunked() != 0) {
        return reply_at_once(
            request,
            Answer::problem(411, "send the body's length in \"Content-Length\""),
        );
    }
    // SAFETY: the handler is called once, now or when the body is there.
    let rc = unsafe { ngx_http_read_client_request_body(request, Some(change)) };
    if rc >= SPECIAL_RESPONSE { rc } else { DONE }
}

/// What a caller is told who may change nothing.
fn unless_writer(access: Access) -> Option<Answer> {
    match access {
        Access::Write => None,
        Access::Read => Some(Answer::problem(403, "you may read here, but change nothing")),
        Access::ReadAsUser(uid) => Some(Answer::problem(
            403,
            format!(
                "user {uid} may read here, but change nothing; root and those whom \"user=\" of \
                 \"shunt_api\" names may"
            ),
        )),
        Access::ReadWithoutToken => Some(Answer::unauthorized(
            "to change something, send \"Authorization: Bearer\" with the token",
        )),
    }
}

/// Answers without looking at the body.
pub fn reply_at_once(r: &mut ngx_http_request_t, answer: Answer) -> ngx_int_t {
    // SAFETY: the request lives.
    let rc = unsafe { ngx_http_discard_request_body(r) };
    if rc == OK { send(r, &answer) } else { rc }
}

/// Called by NGINX when the body is there.
unsafe extern "C" fn change(r: *mut ngx_http_request_t) {
    // SAFETY: NGINX gives the request whose body it has read.
    let request = unsafe { &mut *r };
    let asked = call(request).and_then(|call| {
        let body = body(request).map_err(|problem| Answer::from(Err(problem)))?;
        let main = main_conf(request).map_err(|problem| Answer::from(Err(problem)))?;
        Ok((Change { call, if_match: if_match(request), body }, main))
    });
    match asked {
        Ok((change, main)) => queue::take(request, main, change),
        Err(answer) => reply_to_change(request, &answer),
    }
}

/// Answers a call whose body has been read, which is then over.
pub fn reply_to_change(r: &mut ngx_http_request_t, answer: &Answer) {
    // The not-modified filter would compare `If-Match` with the generation after the change.
    version::disable_not_modified(r);
    let rc = send(r, answer);
    // SAFETY: the body's reader has kept the request for us; this gives it back.
    unsafe { ngx_http_finalize_request(r, rc) };
}

/// Reads which call a request makes.
///
/// From the request line as it came, less the location's prefix: a name may have an escaped `/`.
fn call(r: &ngx_http_request_t) -> Result<Call, Answer> {
    let method = match u32::try_from(r.method).unwrap_or_default() {
        nginx_sys::NGX_HTTP_GET | nginx_sys::NGX_HTTP_HEAD => Method::Get,
        nginx_sys::NGX_HTTP_PUT => Method::Put,
        nginx_sys::NGX_HTTP_POST => Method::Post,
        nginx_sys::NGX_HTTP_DELETE => Method::Delete,
        _ => Method::Other,
    };
    let target = text(&r.unparsed_uri);
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let location = NgxHttpCoreModule::location_conf(r).map(|l| text(&l.name).into_owned());
    let prefix = location.as_deref().unwrap_or_default().trim_end_matches('/');
    let inner = path.strip_prefix(prefix).unwrap_or(path);
    match Call::parse(method, inner, query) {
        // `location /v1/` is part of the path itself.
        Err(CallError::NotFound(_)) => Call::parse(method, path, query).map_err(Answer::from),
        known => known.map_err(Answer::from),
    }
}

/// Every line of `If-Match` together (RFC 9110, section 5.3).
fn if_match(r: &ngx_http_request_t) -> Option<String> {
    let mut found: Option<String> = None;
    // SAFETY: a list of NGINX's is a chain of parts with `nelts` elements each; the headers live as
    // long as the request.
    unsafe {
        let mut part = &raw const r.headers_in.headers.part;
        while let Some(one) = part.as_ref() {
            for at in 0..one.nelts {
                let header = &*one.elts.cast::<ngx_table_elt_t>().add(at);
                if bytes(&header.key).eq_ignore_ascii_case(b"if-match") {
                    let value = text(&header.value);
                    found = Some(found.map_or(value.to_string(), |f| format!("{f}, {value}")));
                }
            }
            part = one.next;
        }
    }
    found
}

/// The body, which `merge_loc_conf` keeps in memory; what came with the head and what came later are
/// two pieces.
fn body(r: &ngx_http_request_t) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    // SAFETY: the body has been read; its buffers live as long as the request, and `pos..last` of a
    // buffer in memory is initialised.
    unsafe {
        let mut chain = r.request_body.as_ref().map_or(std::ptr::null_mut(), |b| b.bufs);
        while let Some(link) = chain.as_ref() {
            if let Some(buf) = link.buf.as_ref() {
                if buf.in_file() != 0 {
                    return Err(Problem::new(500, "NGINX has put the request body into a file"));
                }
                if !buf.pos.is_null() && buf.last > buf.pos {
                    let len = buf.last.offset_from(buf.pos) as usize;
                    body.extend_from_slice(std::slice::from_raw_parts(buf.pos, len));
                }
            }
            chain = link.next;
        }
    }
    if i64::try_from(body.len()).is_ok_and(|len| len == r.headers_in.content_length_n.max(0)) {
        Ok(body)
    } else {
        Err(Problem::new(400, "the request body is not as long as \"Content-Length\" says"))
    }
}

/// Calls `f` with the API of the request's configuration.
pub fn with_service<T>(
    r: &ngx_http_request_t,
    f: impl FnOnce(&Service<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    zone::with_service(main_conf(r)?, f)
}

fn main_conf(r: &ngx_http_request_t) -> Result<&'static MainConf, Problem> {
    let main = HttpShuntModule::main_conf(r);
    main.ok_or_else(|| Problem::new(500, "the module has no configuration"))
}
