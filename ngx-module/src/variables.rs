//! `$shunt_upstream`, `$shunt_release`, `$shunt_generation`, `$shunt_reason`

use nginx_sys::{
    NGX_HTTP_VAR_NOCACHEABLE, ngx_conf_t, ngx_http_add_variable, ngx_http_request_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_str_t,
};
use ngx::http::HttpModuleMainConf;
use ngx::ngx_string;

use crate::HttpShuntModule;
use crate::claim::Claim;
use crate::wrap::{ERROR, OK, copy_to_pool};

type Handler = unsafe extern "C" fn(
    *mut ngx_http_request_t,
    *mut ngx_http_variable_value_t,
    usize,
) -> ngx_int_t;

const VARIABLES: [(ngx_str_t, Handler); 4] = [
    (ngx_string!("shunt_upstream"), get_upstream),
    (ngx_string!("shunt_release"), get_release),
    (ngx_string!("shunt_generation"), get_generation),
    (ngx_string!("shunt_reason"), get_reason),
];

/// Adds the variables to a configuration.
pub fn preconfiguration(cf: &mut ngx_conf_t) -> ngx_int_t {
    for (mut name, handler) in VARIABLES {
        // They change when a request goes on to another upstream.
        let flags = NGX_HTTP_VAR_NOCACHEABLE as usize;
        // SAFETY: NGINX copies the name.
        let variable = unsafe { ngx_http_add_variable(cf, &raw mut name, flags).as_mut() };
        let Some(variable) = variable else { return ERROR };
        variable.get_handler = Some(handler);
    }
    OK
}

unsafe extern "C" fn get_upstream(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _data: usize,
) -> ngx_int_t {
    // SAFETY: NGINX gives a request that lives and a value to fill in.
    let (r, value) = unsafe { (&*r, &mut *value) };
    let name = |index: usize| {
        let main = HttpShuntModule::main_conf(r)?;
        main.upstreams.get(index).map(|u| u.name.clone())
    };
    set(r, value, Claim::of(r, Claim::upstream).and_then(name))
}

unsafe extern "C" fn get_release(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _data: usize,
) -> ngx_int_t {
    // SAFETY: as above.
    let (r, value) = unsafe { (&*r, &mut *value) };
    set(r, value, Claim::of(r, |claim| claim.admitted().to.release.name.to_string()))
}

unsafe extern "C" fn get_generation(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _data: usize,
) -> ngx_int_t {
    // SAFETY: as above.
    let (r, value) = unsafe { (&*r, &mut *value) };
    set(r, value, Claim::of(r, |claim| claim.admitted().generation.to_string()))
}

unsafe extern "C" fn get_reason(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _data: usize,
) -> ngx_int_t {
    // SAFETY: as above.
    let (r, value) = unsafe { (&*r, &mut *value) };
    set(r, value, Claim::of(r, |claim| claim.admitted().reason.as_str().to_owned()))
}

/// Fills in a value; without one the variable is "not found", which is empty in a header.
fn set(
    r: &ngx_http_request_t,
    value: &mut ngx_http_variable_value_t,
    text: Option<String>,
) -> ngx_int_t {
    let Some(text) = text else {
        value.set_not_found(1);
        return OK;
    };
    let Some(text) = copy_to_pool(r.pool, text.as_bytes()) else { return ERROR };
    value.set_len(text.len as u32);
    value.data = text.data;
    value.set_valid(1);
    value.set_no_cacheable(0);
    value.set_not_found(0);
    OK
}
