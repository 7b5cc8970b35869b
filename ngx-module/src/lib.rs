//! The NGINX module of Shunt: a switchable upstream in shared memory, and its admin API.
//!
//! What is switched, and how, is in the crate `shunt-switch`, in plain Rust. Here are NGINX's hooks:
//! a request goes ([`hold`] →) [`balance`] → [`worker`] → [`view`] → NGINX, a change [`admin`] →
//! [`access`] → [`queue`] → [`change`] → `shunt-switch`, and a configuration [`conf`] → [`zone`].

use std::ffi::{c_char, c_void};
use std::ptr;

use nginx_sys::{
    NGX_HTTP_MODULE, NGX_PROCESS_HELPER, ngx_conf_t, ngx_core_conf_t, ngx_core_module, ngx_cycle_t,
    ngx_http_module_t, ngx_int_t, ngx_module_t, ngx_uint_t,
};
use ngx::http::{
    HttpModule, HttpModuleLocationConf, HttpModuleMainConf, HttpModuleServerConf, NgxHttpCoreModule,
};

#[macro_use]
mod log;

mod access;
mod admin;
mod answer;
mod balance;
mod change;
mod claim;
mod client;
mod conf;
mod fallback;
mod hold;
mod lock;
mod masters;
mod metrics;
mod old;
mod queue;
mod respond;
mod variables;
mod version;
mod view;
mod wait;
mod worker;
mod wrap;
mod zone;

use crate::conf::{LocConf, MainConf, NGX_HTTP_SHUNT_COMMANDS, SrvConf};
use crate::hold::Line;
use crate::worker::Worker;
use crate::wrap::{ERROR, OK};

struct HttpShuntModule;

static NGX_HTTP_SHUNT_MODULE_CTX: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(HttpShuntModule::preconfiguration),
    postconfiguration: Some(HttpShuntModule::postconfiguration),
    create_main_conf: Some(HttpShuntModule::create_main_conf),
    init_main_conf: None,
    create_srv_conf: Some(HttpShuntModule::create_srv_conf),
    merge_srv_conf: None,
    create_loc_conf: Some(HttpShuntModule::create_loc_conf),
    merge_loc_conf: Some(merge_loc_conf),
};

#[allow(missing_docs, reason = "the table that NGINX reads from a module's file")]
mod modules {
    use crate::ngx_http_shunt_module;

    ngx::ngx_modules!(ngx_http_shunt_module);
}

#[used]
#[allow(non_upper_case_globals, reason = "NGINX names modules so")]
/// The module, as NGINX knows it.
pub static mut ngx_http_shunt_module: ngx_module_t = ngx_module_t {
    ctx: (&raw const NGX_HTTP_SHUNT_MODULE_CTX).cast_mut().cast(),
    commands: (&raw mut NGX_HTTP_SHUNT_COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,

    init_master: None,
    init_module: Some(init_module),
    init_process: Some(init_process),
    init_thread: None,
    exit_thread: None,
    exit_process: Some(exit_process),
    exit_master: None,

    ..ngx_module_t::default()
};

// SAFETY: `create_main_conf` makes one of these.
unsafe impl HttpModuleMainConf for HttpShuntModule {
    type MainConf = MainConf;
}

// SAFETY: `create_srv_conf` makes one of these.
unsafe impl HttpModuleServerConf for HttpShuntModule {
    type ServerConf = SrvConf;
}

// SAFETY: `create_loc_conf` makes one of these.
unsafe impl HttpModuleLocationConf for HttpShuntModule {
    type LocationConf = LocConf;
}

impl HttpModule for HttpShuntModule {
    fn module() -> &'static ngx_module_t {
        let module = &raw const ngx_http_shunt_module;
        // SAFETY: NGINX sets the module's indexes before it calls any of its functions, and does
        // not change them afterwards.
        unsafe { &*module }
    }

    unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        // SAFETY: NGINX calls this with its configuration.
        variables::preconfiguration(unsafe { &mut *cf })
    }

    unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        // SAFETY: as above.
        let cf = unsafe { &mut *cf };
        let Some(main) = Self::main_conf_mut(cf) else { return ERROR };
        // SAFETY: the cycle is the one that is being made.
        main.processes = core_conf(unsafe { &*cf.cycle }).map_or(1, zone::processes);
        if !conf::upstream::postconfiguration(cf, main)
            || !conf::api::postconfiguration(cf, main)
            || !conf::hold::postconfiguration(cf, main)
        {
            return ERROR;
        }
        respond::add_header_filter();
        OK
    }
}

unsafe extern "C" fn merge_loc_conf(
    cf: *mut ngx_conf_t,
    parent: *mut c_void,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: NGINX calls this with its configuration and two locations' of ours.
    let (cf, parent, conf) =
        unsafe { (&*cf, &*parent.cast::<LocConf>(), &mut *conf.cast::<LocConf>()) };
    let Some(location) = NgxHttpCoreModule::location_conf_mut(cf) else {
        return ptr::null_mut();
    };
    // `if` and `limit_except` are locations of their own, which stand for the one around them.
    if (location.noname() != 0 || location.lmt_excpt() != 0) && location.handler.is_none() {
        if parent.api.is_some() {
            conf.api.clone_from(&parent.api);
            location.handler = Some(admin::handler);
        } else if parent.metrics {
            conf.metrics = true;
            location.handler = Some(metrics::handler);
        }
    }
    if conf.holds.is_none() {
        conf.holds.clone_from(&parent.holds);
    }
    if conf.api.is_some() {
        // The API limits bodies itself, with an answer in its own format, and reads them in memory.
        location.client_max_body_size = 0;
        location.client_body_buffer_size = shunt_api::MAX_BODY;
        location.client_body_in_file_only = 0;
    }
    ptr::null_mut()
}

/// The core's configuration of a cycle.
fn core_conf(cycle: &ngx_cycle_t) -> Option<&ngx_core_conf_t> {
    let core = &raw const ngx_core_module;
    // SAFETY: every cycle whose configuration has been read has one at the core module's index.
    unsafe {
        let conf = *cycle.conf_ctx.add((*core).index);
        conf.cast::<ngx_core_conf_t>().as_ref()
    }
}

/// In the master, once a configuration is in force; must not fail, which would end NGINX.
unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: NGINX calls this with the new cycle; the global is set when it starts.
    let (cycle, test) = unsafe { (&*cycle, nginx_sys::ngx_test_config != 0) };
    // A configuration test writes nothing, and brings nothing into force.
    if !test
        && let Some(main) = HttpShuntModule::main_conf_mut(cycle)
        && let Some(core) = core_conf(cycle)
    {
        zone::bring_up(cycle, core, main);
    }
    OK
}

/// In each worker, when it starts.
unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: as above.
    let (cycle, process, number) =
        unsafe { (&*cycle, nginx_sys::ngx_process, nginx_sys::ngx_worker) };
    // Cache manager and loader serve no requests.
    if process != NGX_PROCESS_HELPER as ngx_uint_t
        && let Some(main) = HttpShuntModule::main_conf(cycle)
    {
        main.masters.start(cycle.log);
        main.worker.replace(Some(Worker::new(main, cycle.log)));
        main.line.replace(Line::new(cycle, main));
        if number == 0 {
            for path in main.zones.iter().filter_map(|z| z.state.as_deref()) {
                zone::check_writable(cycle.log, path);
            }
        }
    }
    OK
}

/// In each worker, when it ends in order.
unsafe extern "C" fn exit_process(cycle: *mut ngx_cycle_t) {
    // SAFETY: as above.
    let cycle = unsafe { &*cycle };
    if let Some(main) = HttpShuntModule::main_conf(cycle) {
        queue::leave(main);
        if let Some(worker) = main.worker.borrow().as_ref() {
            worker.leave();
        }
    }
    claim::leave();
}
