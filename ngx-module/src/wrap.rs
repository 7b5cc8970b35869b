//! The few safe wrappers that the `ngx` crate lacks: texts, arguments, configuration errors.

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use nginx_sys::{
    NGX_ERROR, NGX_OK, ngx_conf_t, ngx_http_compile_complex_value,
    ngx_http_compile_complex_value_t, ngx_http_complex_value, ngx_http_complex_value_t,
    ngx_http_request_t, ngx_int_t, ngx_module_t, ngx_pool_t, ngx_str_t, ngx_uint_t,
};

pub const OK: ngx_int_t = NGX_OK as ngx_int_t;
pub const ERROR: ngx_int_t = NGX_ERROR as ngx_int_t;
pub const BUSY: ngx_int_t = nginx_sys::NGX_BUSY as ngx_int_t;
pub const AGAIN: ngx_int_t = nginx_sys::NGX_AGAIN as ngx_int_t;
pub const DECLINED: ngx_int_t = nginx_sys::NGX_DECLINED as ngx_int_t;
pub const DONE: ngx_int_t = nginx_sys::NGX_DONE as ngx_int_t;

/// What a handler returns when there is no memory, so that the client is told.
pub const INTERNAL_SERVER_ERROR: ngx_int_t = nginx_sys::NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// What a directive's handler returns: nothing, or the error that NGINX completes with the
/// directive's name, file and line.
pub type Directive<T = ()> = Result<T, ConfError>;

/// Why a directive cannot be accepted.
#[derive(Debug)]
pub enum ConfError {
    /// NGINX's own words, which it puts after the directive's name.
    Short(&'static CStr),
    /// A whole sentence.
    Said(String),
    /// Whoever found the error has logged it.
    Logged,
}

impl<T: Into<String>> From<T> for ConfError {
    fn from(text: T) -> Self {
        Self::Said(text.into())
    }
}

/// Ends a directive's handler.
pub fn conclude(cf: &mut ngx_conf_t, result: Directive) -> *mut c_char {
    match result {
        Ok(()) => ptr::null_mut(),
        Err(ConfError::Short(text)) => text.as_ptr().cast_mut(),
        Err(ConfError::Said(text)) => {
            ngx::ngx_conf_log_error!(nginx_sys::NGX_LOG_EMERG, cf, "{text}");
            ngx::core::NGX_CONF_ERROR
        }
        Err(ConfError::Logged) => ngx::core::NGX_CONF_ERROR,
    }
}

/// Logs a warning with the file and line that is being read.
pub fn conf_warn(cf: &mut ngx_conf_t, text: &str) {
    ngx::ngx_conf_log_error!(nginx_sys::NGX_LOG_WARN, cf, "{text}");
}

/// The bytes of a text of NGINX's; it may be empty with a null pointer.
pub fn bytes(s: &ngx_str_t) -> &[u8] {
    if s.data.is_null() || s.len == 0 {
        return &[];
    }
    // SAFETY: a text of NGINX's has `len` readable bytes at `data`, which live as long as it does.
    unsafe { std::slice::from_raw_parts(s.data, s.len) }
}

/// A text of NGINX's as UTF-8; what is not, is replaced.
pub fn text(s: &ngx_str_t) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes(s))
}

/// The arguments of the directive that is being read, its name first.
pub fn args(cf: &ngx_conf_t) -> Vec<ngx_str_t> {
    // SAFETY: NGINX sets `args` to an array of `ngx_str_t` before it calls a directive's handler.
    unsafe { (*cf.args).as_slice::<ngx_str_t>().to_vec() }
}

/// Copies a text into a pool; `None` when there is no memory.
pub fn copy_to_pool(pool: *mut ngx_pool_t, text: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: the pool is one of NGINX's that is in use.
    unsafe { ngx_str_t::from_bytes(pool, text) }
}

/// A text with variables; it lives as long as the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Complex(*mut ngx_http_complex_value_t);

impl Complex {
    /// Reads a text of the directive that is being read.
    pub fn compile(cf: &mut ngx_conf_t, mut text: ngx_str_t) -> Directive<Self> {
        // SAFETY: the value is made in the configuration's pool; all other fields of the structure
        // may be zero. NGINX only reads the text.
        unsafe {
            let value = nginx_sys::ngx_pcalloc(cf.pool, size_of::<ngx_http_complex_value_t>())
                .cast::<ngx_http_complex_value_t>();
            if value.is_null() {
                return Err(ConfError::Logged);
            }
            let mut compile: ngx_http_compile_complex_value_t = std::mem::zeroed();
            compile.cf = cf;
            compile.value = &raw mut text;
            compile.complex_value = value;
            if ngx_http_compile_complex_value(&raw mut compile) != OK {
                return Err(ConfError::Logged);
            }
            Ok(Self(value))
        }
    }

    /// Its text for a request; `None` when there is no memory.
    pub fn of(self, r: *mut ngx_http_request_t) -> Option<ngx_str_t> {
        let mut text = ngx_str_t::empty();
        // SAFETY: the request lives, and the value was compiled for its configuration.
        let rc = unsafe { ngx_http_complex_value(r, self.0, &raw mut text) };
        (rc == OK).then_some(text)
    }
}

/// The file and line that are being read.
pub fn place(cf: &ngx_conf_t) -> Place {
    // SAFETY: while a directive is read, `conf_file` is set. That of `-g` has no name, but `-g` takes
    // no blocks, and all directives of the module stand in one.
    let file = unsafe { &*cf.conf_file };
    Place { file: text(&file.file.name).into_owned(), line: file.line }
}

/// Where something stands in the configuration.
#[derive(Debug, Clone)]
pub struct Place {
    file: String,
    line: ngx_uint_t,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A module that is loaded, by its name, and its index among those of HTTP.
pub fn http_module(cf: &ngx_conf_t, name: &CStr) -> Option<(&'static ngx_module_t, usize)> {
    // SAFETY: `modules` of a cycle is an array that ends with a null pointer, of modules that live
    // as long as the process.
    unsafe {
        let mut at = (*cf.cycle).modules;
        while let Some(module) = (*at).as_ref() {
            if !module.name.is_null()
                && CStr::from_ptr(module.name) == name
                && module.type_ == nginx_sys::NGX_HTTP_MODULE as ngx_uint_t
            {
                return Some((module, module.ctx_index));
            }
            at = at.add(1);
        }
    }
    None
}

/// Puts a value into a pool, to be dropped when the pool is destroyed.
pub fn keep<T>(pool: *mut ngx_pool_t, value: T) -> Option<*mut T> {
    unsafe extern "C" fn drop_value<T>(data: *mut c_void) {
        // SAFETY: `keep` wrote a `T` there, and NGINX calls a cleanup once.
        unsafe { ptr::drop_in_place(data.cast::<T>()) };
    }
    const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
    // SAFETY: the pool is one of NGINX's that is in use; the cleanup's data is as large as asked for
    // and aligned for NGX_ALIGNMENT.
    unsafe {
        let cleanup = nginx_sys::ngx_pool_cleanup_add(pool, size_of::<T>()).as_mut()?;
        let place = cleanup.data.cast::<T>();
        place.write(value);
        cleanup.handler = Some(drop_value::<T>);
        Some(place)
    }
}
