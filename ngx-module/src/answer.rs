//! Answers that the module makes itself, and how they become NGINX's response.

use std::ffi::c_void;

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_http_output_filter, ngx_http_request_t, ngx_http_send_header,
    ngx_int_t, ngx_list_push, ngx_palloc, ngx_pcalloc, ngx_str_t, ngx_table_elt_t,
};
use ngx::ngx_string;
use shunt_api::problem::PROBLEM_JSON;
use shunt_api::{CallError, Problem};
use shunt_switch::service::Reply;

use crate::version;
use crate::wrap::{ERROR, INTERNAL_SERVER_ERROR, OK, copy_to_pool};

const JSON: &str = "application/json";

/// An answer to be sent.
pub struct Answer {
    status: u16,
    content_type: &'static str,
    generation: Option<u32>,
    header: Option<(ngx_str_t, &'static str)>,
    body: Vec<u8>,
}

impl From<Result<Reply, Problem>> for Answer {
    fn from(result: Result<Reply, Problem>) -> Self {
        match result {
            Ok(Reply { status, generation, body, .. }) => {
                Self { status, content_type: JSON, generation, header: None, body }
            }
            Err(problem) => Self {
                status: problem.status,
                content_type: PROBLEM_JSON,
                generation: problem.upstream.as_ref().map(|u| u.generation),
                // Whatever is not there now will be soon: a lock, another worker.
                header: (problem.status == 503).then_some((ngx_string!("Retry-After"), "1")),
                body: serde_json::to_vec(&problem).unwrap_or_default(),
            },
        }
    }
}

impl Answer {
    /// A page of text.
    pub fn text(content_type: &'static str, page: String) -> Self {
        let (generation, header) = (None, None);
        Self { status: 200, content_type, generation, header, body: page.into_bytes() }
    }

    /// What went wrong.
    pub fn problem(status: u16, detail: impl Into<String>) -> Self {
        Err(Problem::new(status, detail)).into()
    }

    /// The same with one more header.
    fn with(self, name: ngx_str_t, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// Whoever has a token is to send it.
    pub fn unauthorized(detail: &str) -> Self {
        Self::problem(401, detail).with(ngx_string!("WWW-Authenticate"), "Bearer")
    }
}

impl From<CallError> for Answer {
    fn from(error: CallError) -> Self {
        let answer = Self::problem(error.status(), error.to_string());
        match error {
            CallError::Method { allow } => answer.with(ngx_string!("Allow"), allow),
            _ => answer,
        }
    }
}

/// Sends an answer.
pub fn send(r: &mut ngx_http_request_t, answer: &Answer) -> ngx_int_t {
    match response(r, answer) {
        Some(rc) => rc,
        None => INTERNAL_SERVER_ERROR,
    }
}

/// `None` when there is no memory.
fn response(r: &mut ngx_http_request_t, answer: &Answer) -> Option<ngx_int_t> {
    let out = &mut r.headers_out;
    out.status = usize::from(answer.status);
    out.content_length_n = i64::try_from(answer.body.len()).ok()?;
    out.content_type = copy_to_pool(r.pool, answer.content_type.as_bytes())?;
    out.content_type_len = out.content_type.len;
    if let Some(generation) = answer.generation {
        let etag = add_header(r, ngx_string!("ETag"), &format!("\"{generation}\""))?;
        r.headers_out.etag = etag;
    }
    add_header(r, ngx_string!("Cache-Control"), "no-store")?;
    if let Some((name, value)) = answer.header {
        add_header(r, name, value)?;
    }
    // SAFETY: the request lives, and its response starts here.
    let rc = unsafe { ngx_http_send_header(r) };
    if rc == ERROR || rc > OK || version::header_only(r) {
        return Some(rc);
    }
    // SAFETY: the buffer and its chain link live in the request's pool until the response is sent;
    // `start..end` is the memory that was just taken.
    unsafe {
        let buf = ngx_pcalloc(r.pool, size_of::<ngx_buf_t>()).cast::<ngx_buf_t>();
        let memory = ngx_palloc(r.pool, answer.body.len().max(1)).cast::<u8>();
        if buf.is_null() || memory.is_null() {
            return None;
        }
        memory.copy_from_nonoverlapping(answer.body.as_ptr(), answer.body.len());
        let b = &mut *buf;
        (b.start, b.pos) = (memory, memory);
        b.last = memory.add(answer.body.len());
        b.end = b.last;
        b.set_memory(u32::from(!answer.body.is_empty()));
        b.set_last_buf(1);
        b.set_last_in_chain(1);
        let mut chain = ngx_chain_t { buf, next: std::ptr::null_mut() };
        Some(ngx_http_output_filter(r, &raw mut chain))
    }
}

/// Adds a header to a response; `None` when there is no memory.
pub fn add_header(
    r: &mut ngx_http_request_t,
    name: ngx_str_t,
    value: &str,
) -> Option<*mut ngx_table_elt_t> {
    let value = copy_to_pool(r.pool, value.as_bytes())?;
    // SAFETY: NGINX has initialised the list of headers; the element may be zero but for its texts,
    // and has to be: a later NGINX links headers of one name.
    unsafe {
        let header = ngx_list_push(&raw mut r.headers_out.headers).cast::<ngx_table_elt_t>();
        let element = header.as_mut()?;
        header.cast::<c_void>().write_bytes(0, size_of::<ngx_table_elt_t>());
        element.hash = 1;
        element.key = name;
        element.value = value;
        Some(header)
    }
}
