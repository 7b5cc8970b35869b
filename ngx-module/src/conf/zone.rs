//! `shunt_zone name:size [state=path]`

use std::ffi::{OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use nginx_sys::{
    ngx_command_t, ngx_conf_full_name, ngx_conf_t, ngx_parse_size, ngx_shared_memory_add, ngx_str_t,
};
use shunt_switch::state_file;

use super::{MainConf, ZoneConf, parameter, utf8};
use crate::wrap::{ConfError, Directive, args, bytes, conclude, conf_warn, copy_to_pool, place};
use crate::zone::init_zone;

/// NGINX itself wants at least eight pages for a zone (`ngx_http_upstream_zone_module.c`).
const MIN_PAGES: usize = 8;

/// The handler of `shunt_zone`.
pub unsafe extern "C" fn cmd_shunt_zone(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls a directive's handler with its own configuration and the module's.
    let (cf, conf) = unsafe { (&mut *cf, &mut *conf.cast::<MainConf>()) };
    let result = shunt_zone(cf, conf);
    conclude(cf, result)
}

fn shunt_zone(cf: &mut ngx_conf_t, conf: &mut MainConf) -> Directive {
    let args = args(cf);
    let spec = utf8(&args[1])?;
    let invalid = || format!("invalid zone \"{spec}\", write it as \"shunt:1m\"");
    let (name, size) = spec.split_once(':').ok_or_else(invalid)?;
    if name.is_empty() {
        return Err(invalid().into());
    }
    if conf.zones.iter().any(|z| z.name == name) {
        return Err(format!("duplicate zone \"{name}\"").into());
    }
    let mut size_text = copy_to_pool(cf.pool, size.as_bytes()).ok_or(ConfError::Logged)?;
    // SAFETY: the text lives in the configuration's pool; `ngx_parse_size` only reads it.
    let size = usize::try_from(unsafe { ngx_parse_size(&raw mut size_text) });
    let size = size.map_err(|_| invalid())?;
    // SAFETY: set once when NGINX starts.
    let page = unsafe { nginx_sys::ngx_pagesize };
    if size < MIN_PAGES * page {
        return Err(
            format!("zone \"{spec}\" is too small, give it {}k", MIN_PAGES * page / 1024).into()
        );
    }
    let state = match args.get(2) {
        None => None,
        Some(arg) => {
            let arg = utf8(arg)?;
            let unknown = || format!("invalid parameter \"{arg}\", there is \"state=path\"");
            let path = parameter(&arg, "state").ok_or_else(unknown)?;
            if path.is_empty() || path.ends_with('/') {
                return Err("\"state=\" needs the path of a file".into());
            }
            let path = full_name(cf, path)?;
            if path.is_dir() {
                let text = format!("state file {path:?} is a folder, name a file in it");
                conf_warn(cf, &text);
            } else if state_file::is_device(&path) {
                let text = format!(
                    "state file {path:?} is a device and every change will be refused, name a file \
                     or leave \"state=\" out"
                );
                conf_warn(cf, &text);
            }
            Some(path)
        }
    };
    let place_of_state = state.as_deref().map(place_of);
    let is_same = |z: &&ZoneConf| z.state.as_deref().map(place_of) == place_of_state;
    if let Some(other) = conf.zones.iter().filter(|z| z.state.is_some()).find(is_same) {
        return Err(format!("zone \"{}\" has the same state file", other.name).into());
    }

    let mut name_text = copy_to_pool(cf.pool, name.as_bytes()).ok_or(ConfError::Logged)?;
    let tag = (&raw mut crate::ngx_http_shunt_module).cast();
    // SAFETY: NGINX copies the name and keeps the zone as long as the configuration.
    let shm_zone = unsafe { ngx_shared_memory_add(cf, &raw mut name_text, size, tag) };
    // SAFETY: what NGINX returned is null or a zone of this configuration.
    let zone = unsafe { shm_zone.as_mut() }.ok_or(ConfError::Logged)?;
    zone.init = Some(init_zone);
    zone.data = ptr::from_mut(conf).cast();
    let (name, place) = (name.to_owned(), place(cf));
    conf.zones.push(ZoneConf { name, size, state, place, shm_zone });
    Ok(())
}

/// Where a file is, whatever way its path takes there.
fn place_of(path: &Path) -> PathBuf {
    match (state_file::folder(path).canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// A path relative to NGINX's prefix, as for all of NGINX's files that are written.
fn full_name(cf: &mut ngx_conf_t, path: &str) -> Directive<PathBuf> {
    let mut name: ngx_str_t = copy_to_pool(cf.pool, path.as_bytes()).ok_or(ConfError::Logged)?;
    // SAFETY: `ngx_conf_full_name` replaces the text by one in the cycle's pool.
    if unsafe { ngx_conf_full_name(cf.cycle, &raw mut name, 0) } != crate::wrap::OK {
        return Err(ConfError::Logged);
    }
    Ok(PathBuf::from(OsStr::from_bytes(bytes(&name))))
}
