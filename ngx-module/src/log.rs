//! Log lines at NGINX's levels, written as the standard library's `format!`.

macro_rules! emerg {
    ($log:expr, $($arg:tt)+) => {{
        ngx::ngx_log_error!(nginx_sys::NGX_LOG_EMERG, $log, $($arg)+);
    }};
}

macro_rules! alert {
    ($log:expr, $($arg:tt)+) => {{
        ngx::ngx_log_error!(nginx_sys::NGX_LOG_ALERT, $log, $($arg)+);
    }};
}

macro_rules! error {
    ($log:expr, $($arg:tt)+) => {{
        ngx::ngx_log_error!(nginx_sys::NGX_LOG_ERR, $log, $($arg)+);
    }};
}

macro_rules! warn {
    ($log:expr, $($arg:tt)+) => {{
        ngx::ngx_log_error!(nginx_sys::NGX_LOG_WARN, $log, $($arg)+);
    }};
}
