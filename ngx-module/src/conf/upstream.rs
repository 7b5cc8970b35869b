//! `shunt [zone=name]` and `shunt_release name address [parameters]`

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use nginx_sys::{
    ngx_array_push, ngx_command_t, ngx_conf_t, ngx_http_upstream_server_t,
    ngx_http_upstream_srv_conf_t, ngx_str_t,
};
use ngx::http::{HttpModuleMainConf, HttpModuleServerConf, NgxHttpUpstreamModule};
use shunt_api::{Address, ReleaseName};
use shunt_switch::table::{MAX_RELEASES, Member};

use super::{MainConf, SrvConf, UpstreamConf, parameter, utf8};
use crate::HttpShuntModule;
use crate::balance::init_upstream;
use crate::version;
use crate::wrap::{Complex, ConfError, Directive, args, bytes, conclude, http_module, place, text};

/// The release that the `server` lines of an upstream are.
pub const DEFAULT_RELEASE: &str = "default";

/// The handler of `shunt`.
pub unsafe extern "C" fn cmd_shunt(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &mut *conf.cast::<SrvConf>()) };
    let result = shunt(cf, conf);
    conclude(cf, result)
}

fn shunt(cf: &mut ngx_conf_t, conf: &mut SrvConf) -> Directive {
    if conf.index.is_some() {
        return Err(ConfError::Short(c"is duplicate"));
    }
    let zone_name = match args(cf).get(1) {
        None => None,
        Some(arg) => {
            let arg = utf8(arg)?;
            let name = parameter(&arg, "zone").filter(|name| !name.is_empty());
            let unknown = || format!("invalid parameter \"{arg}\", there is \"zone=name\"");
            Some(name.ok_or_else(unknown)?.to_owned())
        }
    };
    let place = place(cf);
    let main = HttpShuntModule::main_conf_mut(cf).ok_or(ConfError::Logged)?;
    let uscf = NgxHttpUpstreamModule::server_conf_mut(cf).ok_or(ConfError::Logged)?;
    if version::KEEPALIVE_ORDER_MATTERS && has_keepalive(cf, uscf) {
        return Err("\"keepalive\" must come after \"shunt\", move it below".into());
    }
    if !version::is_own_method(uscf.peer.init_upstream) {
        return Err(
            "\"shunt\" works with NGINX's own balancing methods only, and the one above it is \
             another module's: remove that"
                .into(),
        );
    }
    let method_confs = version::METHODS_WITH_STATE
        .iter()
        .filter_map(|(name, size)| Some((http_module(cf, name)?.1, *size)))
        .collect();

    let wrapped = uscf.peer.init_upstream.replace(init_upstream);
    // NGINX refuses a block without servers before it asks whoever balances. A server that is only
    // there until `init_upstream` is called lets it pass.
    // SAFETY: NGINX made `servers` an array of this type before it read the block.
    let place_holder = unsafe { ngx_array_push(uscf.servers).cast::<ngx_http_upstream_server_t>() };
    if place_holder.is_null() {
        return Err(ConfError::Logged);
    }
    // SAFETY: all fields of the structure may be zero; NGINX itself starts it so.
    unsafe { place_holder.write_bytes(0, 1) };

    conf.index = Some(main.upstreams.len());
    main.upstreams.push(UpstreamConf {
        name: utf8(&uscf.host)?,
        zone_name,
        zone: 0,
        place,
        uscf,
        wrapped,
        initialised: false,
        releases: Vec::new(),
        record: None,
        preview: None,
        canary_key: None,
        fallback: None,
        method_confs,
    });
    Ok(())
}

/// Whether `keepalive` was read in this block.
fn has_keepalive(cf: &ngx_conf_t, uscf: &ngx_http_upstream_srv_conf_t) -> bool {
    let Some((_, index)) = http_module(cf, c"ngx_http_upstream_keepalive_module") else {
        return false;
    };
    // SAFETY: every HTTP module with a server configuration has one at its index; the keepalive
    // module's starts with `max_cached`, which is 0 until the directive is read.
    unsafe {
        let conf = (*uscf.srv_conf.add(index)).cast::<usize>();
        !conf.is_null() && *conf != 0
    }
}

/// The handler of `shunt_release`.
pub unsafe extern "C" fn cmd_shunt_release(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &mut *conf.cast::<SrvConf>()) };
    let result = shunt_release(cf, conf);
    conclude(cf, result)
}

fn shunt_release(cf: &mut ngx_conf_t, conf: &SrvConf) -> Directive {
    upstream(cf, conf)?;
    let name = ReleaseName::new(&utf8(&args(cf)[1])?).map_err(|e| e.to_string())?;
    let server = server(cf)?;
    let member = member(&server)?;
    add(upstream(cf, conf)?, name, member)
}

/// The handler of `shunt_preview`.
pub unsafe extern "C" fn cmd_shunt_preview(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &*conf.cast::<SrvConf>()) };
    let result = value(cf, conf, |upstream| &mut upstream.preview);
    conclude(cf, result)
}

/// The handler of `shunt_canary_key`.
pub unsafe extern "C" fn cmd_shunt_canary_key(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: as above.
    let (cf, conf) = unsafe { (&mut *cf, &*conf.cast::<SrvConf>()) };
    let result = value(cf, conf, |upstream| &mut upstream.canary_key);
    conclude(cf, result)
}

/// The handler of `shunt_fallback`.
pub unsafe extern "C" fn cmd_shunt_fallback(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: as above.
    let (cf, conf) = unsafe { (&mut *cf, &*conf.cast::<SrvConf>()) };
    let result = shunt_fallback(cf, conf);
    conclude(cf, result)
}

/// Sets a value with variables of the upstream that is being read.
fn value(
    cf: &mut ngx_conf_t,
    conf: &SrvConf,
    place: impl Fn(&mut UpstreamConf) -> &mut Option<Complex>,
) -> Directive {
    if place(upstream(cf, conf)?).is_some() {
        return Err(ConfError::Short(c"is duplicate"));
    }
    let value = Complex::compile(cf, args(cf)[1])?;
    *place(upstream(cf, conf)?) = Some(value);
    Ok(())
}

fn shunt_fallback(cf: &mut ngx_conf_t, conf: &SrvConf) -> Directive {
    let on = match bytes(&args(cf)[1]) {
        b"on" => true,
        b"off" => false,
        _ => return Err(ConfError::Short(c"must be \"on\" or \"off\"")),
    };
    if upstream(cf, conf)?.fallback.replace(on).is_some() {
        return Err(ConfError::Short(c"is duplicate"));
    }
    Ok(())
}

/// The upstream that is being read.
fn upstream<'a>(cf: &'a mut ngx_conf_t, conf: &SrvConf) -> Directive<&'a mut UpstreamConf> {
    let name = args(cf).first().map(|name| text(name).into_owned()).unwrap_or_default();
    let index = conf
        .index
        .ok_or_else(|| format!("\"{name}\" must come after \"shunt\" in its upstream"))?;
    let main = HttpShuntModule::main_conf_mut(cf).ok_or(ConfError::Logged)?;
    main.upstreams.get_mut(index).ok_or(ConfError::Logged)
}

/// Adds a server to a release, which is made if it is new.
pub fn add(upstream: &mut UpstreamConf, name: ReleaseName, member: Member) -> Directive {
    if let Some((_, members)) = upstream.releases.iter_mut().find(|(n, _)| *n == name) {
        if members.iter().any(|m| m.address == member.address) {
            let address = member.address;
            return Err(format!(
                "duplicate server \"{address}\" in release \"{name}\", give it a weight instead"
            )
            .into());
        }
        members.push(member);
    } else {
        if upstream.releases.len() == MAX_RELEASES {
            return Err(format!("more than {MAX_RELEASES} releases in one upstream").into());
        }
        upstream.releases.push((name, vec![member]));
    }
    Ok(())
}

/// Lets NGINX read `address [parameters]` as if it were a `server`, so that everything means what it
/// means there, with the errors that one knows, in every version.
fn server(cf: &mut ngx_conf_t) -> Directive<ngx_http_upstream_server_t> {
    let (command, uscf) = (server_command(cf)?, NgxHttpUpstreamModule::server_conf_mut(cf));
    let uscf = uscf.ok_or(ConfError::Logged)?;
    // SAFETY: as above, these are NGINX's own arrays; the handler reads its arguments from
    // `cf.args`, the first of which is the directive's name, and pushes one server.
    unsafe {
        let handler = (*command).set.ok_or(ConfError::Logged)?;
        let args = &mut *cf.args;
        let (elts, nelts) = (args.elts, args.nelts);
        args.elts = elts.cast::<ngx_str_t>().add(1).cast();
        args.nelts = nelts - 1;
        let result = handler(cf, command, ptr::from_mut(uscf).cast());
        let args = &mut *cf.args;
        (args.elts, args.nelts) = (elts, nelts);
        let servers = &mut *uscf.servers;
        if result == ngx::core::NGX_CONF_ERROR {
            return Err(ConfError::Logged);
        }
        if !result.is_null() {
            return Err(CStr::from_ptr(result).to_string_lossy().into_owned().into());
        }
        let server =
            *servers.as_slice::<ngx_http_upstream_server_t>().last().ok_or(ConfError::Logged)?;
        servers.nelts -= 1;
        Ok(server)
    }
}

/// NGINX's own `server` directive of an upstream.
fn server_command(cf: &ngx_conf_t) -> Directive<*mut ngx_command_t> {
    let (module, _) = http_module(cf, c"ngx_http_upstream_module").ok_or(ConfError::Logged)?;
    // SAFETY: a module's table of directives ends with one that has an empty name.
    unsafe {
        let mut command = module.commands;
        while (*command).name.len != 0 {
            if crate::wrap::bytes(&(*command).name) == b"server" {
                return Ok(command);
            }
            command = command.add(1);
        }
    }
    Err(ConfError::Logged)
}

/// A server as it goes into the zone.
pub fn member(server: &ngx_http_upstream_server_t) -> Directive<Member> {
    let address = utf8(&server.name)?;
    if let Some(why) = version::unsupported(server) {
        return Err(format!("server \"{address}\": {why}").into());
    }
    let addrs = match server.naddrs {
        0 => &[],
        // SAFETY: NGINX has set `addrs` to as many addresses as `naddrs` says.
        n => unsafe { std::slice::from_raw_parts(server.addrs, n) },
    };
    let literal = address.parse::<Address>().is_ok();
    let resolved = if literal {
        Vec::new()
    } else {
        addrs.iter().map(|a| text(&a.name).into_owned()).collect()
    };
    let number = |n: usize, what: &str| {
        let too_large = || format!("server \"{address}\": {what} is too large");
        u32::try_from(n).map_err(|_| too_large())
    };
    Ok(Member {
        weight: number(server.weight, "weight")?,
        max_fails: number(server.max_fails, "max_fails")?,
        fail_timeout: number(
            usize::try_from(server.fail_timeout).unwrap_or(usize::MAX),
            "fail_timeout",
        )?,
        max_conns: number(server.max_conns, "max_conns")?,
        backup: server.backup() != 0,
        down: server.down != 0,
        resolved,
        address,
    })
}

/// What can only be checked once the whole configuration is read: `false` when something is wrong,
/// which has been logged.
pub fn postconfiguration(cf: &mut ngx_conf_t, main: &mut MainConf) -> bool {
    let MainConf { zones, upstreams, .. } = main;
    for upstream in upstreams {
        let (name, place) = (&upstream.name, &upstream.place);
        if !upstream.initialised {
            emerg!(
                cf.log,
                "the balancing method of upstream \"{name}\" must come before \"shunt\", move it \
                 above in {place}"
            );
            return false;
        }
        let found = match &upstream.zone_name {
            Some(zone) => zones.iter().position(|z| z.name == *zone),
            None if zones.len() > 1 => {
                emerg!(
                    cf.log,
                    "there are several zones, say which with \"shunt zone=name\" in {place}"
                );
                return false;
            }
            None => (!zones.is_empty()).then_some(0),
        };
        let Some(found) = found else {
            let missing = upstream.zone_name.as_deref().unwrap_or("shunt");
            emerg!(
                cf.log,
                "\"shunt\" needs a zone, add \"shunt_zone {missing}:1m;\" to the http block: in \
                 {place}"
            );
            return false;
        };
        upstream.zone = found;
    }
    true
}
