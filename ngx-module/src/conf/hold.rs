//! `shunt_hold upstream [timeout=time] [max=number]` and `shunt_hold off`

use std::ffi::{c_char, c_void};
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::{
    ngx_array_push, ngx_command_t, ngx_conf_t, ngx_http_handler_pt,
    ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};
use shunt_api::NginxTime;

use super::{HoldConf, LocConf, MainConf, parameter, utf8};
use crate::HttpShuntModule;
use crate::wrap::{ConfError, Directive, args, conclude, place};

/// How long a request waits if nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How many requests wait if nothing else is said.
const MAX: u64 = 1000;

const BESIDE_OFF: &str = "\"shunt_hold off\" stands beside another \"shunt_hold\"";

/// The handler of `shunt_hold`.
pub unsafe extern "C" fn cmd_shunt_hold(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &mut *conf.cast::<LocConf>()) };
    let result = shunt_hold(cf, conf);
    conclude(cf, result)
}

fn shunt_hold(cf: &mut ngx_conf_t, conf: &mut LocConf) -> Directive {
    let args = args(cf);
    let name = utf8(&args[1])?;
    if name == "off" {
        if args.len() > 2 {
            return Err("\"shunt_hold off\" has no parameters".into());
        }
        if conf.holds.is_some() {
            return Err(BESIDE_OFF.into());
        }
        conf.holds = Some(Vec::new());
        return Ok(());
    }
    if conf.holds.as_ref().is_some_and(Vec::is_empty) {
        return Err(BESIDE_OFF.into());
    }
    let (mut timeout, mut max) = (None, None);
    for arg in &args[2..] {
        let arg = utf8(arg)?;
        let invalid = |value: &str, what| ConfError::Said(format!("invalid {what} \"{value}\""));
        let twice = if let Some(value) = parameter(&arg, "timeout") {
            let time = value.parse::<NginxTime>().map_err(|e| e.to_string())?.duration();
            if time.is_zero() {
                return Err(invalid(value, "timeout"));
            }
            timeout.replace(time).is_some()
        } else if let Some(value) = parameter(&arg, "max") {
            let number = value.parse::<u64>().ok().filter(|n| *n > 0);
            max.replace(number.ok_or_else(|| invalid(value, "max"))?).is_some()
        } else {
            return Err(format!(
                "invalid parameter \"{arg}\", there are \"timeout=time\" and \"max=number\""
            )
            .into());
        };
        if twice {
            return Err(format!("duplicate parameter \"{arg}\"").into());
        }
    }
    let holds = conf.holds.get_or_insert_default();
    if holds.iter().any(|h| h.name == name) {
        return Err(ConfError::Short(c"is duplicate"));
    }
    let hold = Rc::new(HoldConf {
        name,
        timeout: timeout.unwrap_or(TIMEOUT),
        max: max.unwrap_or(MAX),
        place: place(cf),
        upstream: std::cell::Cell::new(None),
    });
    holds.push(hold.clone());
    HttpShuntModule::main_conf_mut(cf).ok_or(ConfError::Logged)?.holds.push(hold);
    Ok(())
}

/// Finds the upstreams that are named, and puts the handler into its phase if there is any: `false`
/// when something is wrong, which has been logged.
pub fn postconfiguration(cf: &mut ngx_conf_t, main: &MainConf) -> bool {
    for hold in &main.holds {
        let found = main.upstreams.iter().position(|u| u.name == hold.name);
        let Some(index) = found else {
            emerg!(
                cf.log,
                "\"shunt_hold {name}\": there is no upstream \"{name}\" with \"shunt\" in {place}",
                name = hold.name,
                place = hold.place
            );
            return false;
        };
        hold.upstream.set(Some(index));
    }
    if main.holds.is_empty() {
        return true;
    }
    let Some(core) = NgxHttpCoreModule::main_conf_mut(cf) else { return false };
    let phase = &mut core.phases[ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE as usize];
    // SAFETY: NGINX has made the array of handlers of every phase before `postconfiguration`.
    let place = unsafe { ngx_array_push(&raw mut phase.handlers).cast::<ngx_http_handler_pt>() };
    if place.is_null() {
        return false;
    }
    // SAFETY: the array has room for one more now.
    unsafe { place.write(Some(crate::hold::handler)) };
    true
}
