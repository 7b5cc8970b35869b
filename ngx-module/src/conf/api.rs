//! `shunt_api [write=on|off] [user=name…] [token_file=path]`

use std::ffi::{CString, OsStr, c_char, c_void};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nginx_sys::{
    AF_UNIX, getpwnam, ngx_command_t, ngx_conf_full_name, ngx_conf_t, ngx_http_conf_addr_t,
    ngx_http_conf_port_t, ngx_http_core_main_conf_t, ngx_http_core_srv_conf_t,
};
use ngx::http::{
    HttpModuleLocationConf, HttpModuleMainConf, HttpModuleServerConf, NgxHttpCoreModule,
};
use shunt_api::Token;

use super::{ApiConf, LocConf, MainConf, WriterPlace, parameter, utf8};
use crate::HttpShuntModule;
use crate::admin::handler;
use crate::wrap::{ConfError, Directive, args, bytes, conclude, conf_warn, copy_to_pool, place};

/// A token that fits into a header is never longer (`large_client_header_buffers`).
const MAX_TOKEN_FILE: u64 = 8192;

/// The handler of `shunt_api`.
pub unsafe extern "C" fn cmd_shunt_api(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &mut *conf.cast::<LocConf>()) };
    let result = shunt_api(cf, conf);
    conclude(cf, result)
}

fn shunt_api(cf: &mut ngx_conf_t, conf: &mut LocConf) -> Directive {
    if conf.api.is_some() {
        return Err(ConfError::Short(c"is duplicate"));
    }
    if conf.metrics {
        return Err("\"shunt_metrics\" and \"shunt_api\" need a location each".into());
    }
    let (mut write, mut users, mut token) = (None, Vec::new(), None);
    for arg in &args(cf)[1..] {
        let arg = utf8(arg)?;
        if let Some(value) = parameter(&arg, "write") {
            let value = match value {
                "on" => true,
                "off" => false,
                _ => {
                    return Err(format!(
                        "invalid value \"{value}\" of \"write\", it is \"on\" or \"off\""
                    )
                    .into());
                }
            };
            if write.replace(value).is_some() {
                return Err("duplicate \"write\"".into());
            }
        } else if let Some(name) = parameter(&arg, "user") {
            users.push(user_id(name)?);
        } else if let Some(path) = parameter(&arg, "token_file") {
            if token.replace(read_token(cf, path)?).is_some() {
                return Err("duplicate \"token_file\"".into());
            }
        } else {
            return Err(format!(
                "invalid parameter \"{arg}\", there are \"write=on|off\", \"user=name\" and \
                 \"token_file=path\""
            )
            .into());
        }
    }
    let write = write.unwrap_or(false);
    if !write && (!users.is_empty() || token.is_some()) {
        return Err("\"user\" and \"token_file\" have no effect without \"write=on\"".into());
    }
    let place = place(cf);
    if write {
        let server = NgxHttpCoreModule::server_conf(cf).ok_or(ConfError::Logged)?;
        let main = HttpShuntModule::main_conf_mut(cf).ok_or(ConfError::Logged)?;
        main.writers.push(WriterPlace { server, place, has_token: token.is_some() });
    }
    let location = NgxHttpCoreModule::location_conf_mut(cf).ok_or(ConfError::Logged)?;
    location.handler = Some(handler);
    conf.api = Some(ApiConf { write, users, token });
    Ok(())
}

/// The id of a user, by name or number.
fn user_id(name: &str) -> Directive<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let unknown = || format!("user \"{name}\" does not exist");
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: the configuration is read by one thread, and the answer is used at once.
    let entry = unsafe { getpwnam(c_name.as_ptr()).as_ref() };
    Ok(entry.ok_or_else(unknown)?.pw_uid)
}

/// Reads the token.
fn read_token(cf: &mut ngx_conf_t, path: &str) -> Directive<Token> {
    if path.is_empty() {
        return Err("\"token_file=\" needs the path of a file".into());
    }
    let mut name = copy_to_pool(cf.pool, path.as_bytes()).ok_or(ConfError::Logged)?;
    // SAFETY: `ngx_conf_full_name` replaces the text by one in the cycle's pool; 1 makes it relative
    // to the configuration, as for NGINX's other secrets.
    if unsafe { ngx_conf_full_name(cf.cycle, &raw mut name, 1) } != crate::wrap::OK {
        return Err(ConfError::Logged);
    }
    let path = Path::new(OsStr::from_bytes(bytes(&name)));
    let (content, mode) =
        read_short(path).map_err(|e| format!("cannot read token file {path:?}: {e}"))?;
    let token = Token::from_file(&content)
        .map_err(|e| format!("token file {path:?} does not hold a token: {e}"))?;
    if mode & 0o007 != 0 {
        conf_warn(cf, &format!("token file {path:?} is open to everybody, chmod it to 0600"));
    }
    Ok(token)
}

/// Reads a short file and its mode. What is no file (a pipe, a device) must not hold NGINX up.
fn read_short(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut content = Vec::new();
    file.take(MAX_TOKEN_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_TOKEN_FILE {
        let text = format!("it has more than {MAX_TOKEN_FILE} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok((content, metadata.permissions().mode()))
}

/// `write=on` without a token is only for unix sockets, and a token only for TCP: `false` when
/// something is wrong, which has been logged.
pub fn postconfiguration(cf: &mut ngx_conf_t, main: &MainConf) -> bool {
    let Some(core) = NgxHttpCoreModule::main_conf(cf) else { return true };
    for writer in &main.writers {
        let place = &writer.place;
        match (listens_on_tcp(core, writer.server), writer.has_token) {
            (true, true) | (false, false) => {}
            (true, false) => {
                emerg!(
                    cf.log,
                    "\"shunt_api write=on\" on a TCP port needs \"token_file=\", or \"listen \
                     unix:/path\" as the only one of its server in {place}"
                );
                return false;
            }
            (false, true) => warn!(
                cf.log,
                "\"token_file=\" has no effect: its server listens on unix sockets only, where root \
                 and those whom \"user=\" names may write, in {place}"
            ),
        }
    }
    true
}

fn listens_on_tcp(
    core: &ngx_http_core_main_conf_t,
    server: *const ngx_http_core_srv_conf_t,
) -> bool {
    // SAFETY: `ports` is null or an array of these structures until the configuration is complete,
    // with nested arrays of the types that `ngx_http_add_listen` in `ngx_http.c` gives them.
    unsafe {
        let Some(ports) = core.ports.as_ref() else { return false };
        ports
            .as_slice::<ngx_http_conf_port_t>()
            .iter()
            .filter(|port| port.family != AF_UNIX as nginx_sys::ngx_int_t)
            .flat_map(|port| port.addrs.as_slice::<ngx_http_conf_addr_t>())
            .flat_map(|addr| addr.servers.as_slice::<*const ngx_http_core_srv_conf_t>())
            .any(|other| *other == server)
    }
}
