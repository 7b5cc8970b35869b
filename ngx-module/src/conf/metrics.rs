//! `shunt_metrics`

use std::ffi::{c_char, c_void};

use nginx_sys::{ngx_command_t, ngx_conf_t};
use ngx::http::{HttpModuleLocationConf, NgxHttpCoreModule};

use super::LocConf;
use crate::metrics::handler;
use crate::wrap::{ConfError, Directive, conclude};

/// The handler of `shunt_metrics`.
pub unsafe extern "C" fn cmd_shunt_metrics(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &mut *conf.cast::<LocConf>()) };
    let result = shunt_metrics(cf, conf);
    conclude(cf, result)
}

fn shunt_metrics(cf: &mut ngx_conf_t, conf: &mut LocConf) -> Directive {
    if conf.metrics {
        return Err(ConfError::Short(c"is duplicate"));
    }
    if conf.api.is_some() {
        return Err("\"shunt_metrics\" and \"shunt_api\" need a location each".into());
    }
    let location = NgxHttpCoreModule::location_conf_mut(cf).ok_or(ConfError::Logged)?;
    location.handler = Some(handler);
    conf.metrics = true;
    Ok(())
}
