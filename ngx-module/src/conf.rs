//! The module's configuration: its types and its table of directives.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::{
    NGX_CONF_1MORE, NGX_CONF_2MORE, NGX_CONF_ANY, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE12,
    NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF,
    NGX_HTTP_SRV_CONF_OFFSET, NGX_HTTP_UPS_CONF, NGX_HTTP_UPSTREAM_BACKUP, ngx_command_t,
    ngx_http_core_srv_conf_t, ngx_http_upstream_init_pt, ngx_http_upstream_srv_conf_t,
    ngx_shm_zone_t, ngx_str_t, ngx_uint_t,
};
use ngx::ngx_string;
use shunt_api::{ReleaseName, Token};
use shunt_switch::served::{Served, ServedUpstreams};
use shunt_switch::table::Member;

use crate::hold::Line;
use crate::masters::Known;
use crate::queue::Queue;
use crate::worker::Worker;
use crate::wrap::{Complex, Place};

pub mod api;
pub mod hold;
pub mod metrics;
pub mod upstream;
pub mod zone;

/// The table of directives.
pub static mut NGX_HTTP_SHUNT_COMMANDS: [ngx_command_t; 10] = [
    ngx_command_t {
        name: ngx_string!("shunt_zone"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE12) as ngx_uint_t,
        set: Some(zone::cmd_shunt_zone),
        conf: nginx_sys::NGX_HTTP_MAIN_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt"),
        type_: (NGX_HTTP_UPS_CONF | NGX_CONF_NOARGS | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(upstream::cmd_shunt),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_release"),
        type_: (NGX_HTTP_UPS_CONF | NGX_CONF_2MORE) as ngx_uint_t,
        set: Some(upstream::cmd_shunt_release),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_api"),
        type_: (NGX_HTTP_LOC_CONF | NGX_CONF_ANY) as ngx_uint_t,
        set: Some(api::cmd_shunt_api),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_preview"),
        type_: (NGX_HTTP_UPS_CONF | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(upstream::cmd_shunt_preview),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_canary_key"),
        type_: (NGX_HTTP_UPS_CONF | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(upstream::cmd_shunt_canary_key),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_fallback"),
        type_: (NGX_HTTP_UPS_CONF | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(upstream::cmd_shunt_fallback),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_hold"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_CONF_1MORE)
            as ngx_uint_t,
        set: Some(hold::cmd_shunt_hold),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("shunt_metrics"),
        type_: (NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS) as ngx_uint_t,
        set: Some(metrics::cmd_shunt_metrics),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: std::ptr::null_mut(),
    },
    ngx_command_t::empty(),
];

/// `http`: everything that the module knows of one configuration.
#[derive(Default)]
pub struct MainConf {
    /// The zones, in their order.
    pub zones: Vec<ZoneConf>,
    /// The switchable upstreams, in their order.
    pub upstreams: Vec<UpstreamConf>,
    /// How many worker processes there are.
    pub processes: usize,
    /// The locations that may write.
    pub writers: Vec<WriterPlace>,
    /// Every `shunt_hold`.
    pub holds: Vec<Rc<HoldConf>>,
    /// The upstreams as the API serves them; known once the configuration is in force.
    pub served: ServedUpstreams,
    /// Whether another NGINX master runs.
    pub masters: Known,
    /// What a worker has of its own; made when it starts.
    pub worker: RefCell<Option<Worker>>,
    /// The requests that a worker has parked.
    pub line: RefCell<Line>,
    /// The changes that a worker is asked for.
    pub queue: RefCell<Queue>,
}

/// `upstream`: which of the main configuration's upstreams this block is.
#[derive(Default)]
pub struct SrvConf {
    /// Index into [`MainConf::upstreams`].
    pub index: Option<usize>,
}

/// `location`.
#[derive(Default)]
pub struct LocConf {
    /// Set by `shunt_api`.
    pub api: Option<ApiConf>,
    /// Set by `shunt_metrics`.
    pub metrics: bool,
    /// Set by `shunt_hold`.
    pub holds: Option<Vec<Rc<HoldConf>>>,
}

/// A `shunt_zone`.
pub struct ZoneConf {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: usize,
    /// Its state file.
    pub state: Option<PathBuf>,
    /// Where it stands.
    pub place: Place,
    /// NGINX's zone.
    pub shm_zone: *mut ngx_shm_zone_t,
}

/// An `upstream` with `shunt`.
pub struct UpstreamConf {
    /// Its name.
    pub name: String,
    /// The zone that `shunt zone=` names.
    pub zone_name: Option<String>,
    /// Index into [`MainConf::zones`]; known once all are read.
    pub zone: usize,
    /// Where `shunt` stands.
    pub place: Place,
    /// NGINX's upstream.
    pub uscf: *mut ngx_http_upstream_srv_conf_t,
    /// The balancing method's, which `shunt` wraps.
    pub wrapped: ngx_http_upstream_init_pt,
    /// Whether NGINX has called ours. If not, a method after `shunt` has replaced it.
    pub initialised: bool,
    /// Its releases, the first of which is active at first.
    pub releases: Vec<(ReleaseName, Vec<Member>)>,
    /// Its record in the zone; known once the configuration is in force.
    pub record: Option<usize>,
    /// `shunt_preview`
    pub preview: Option<Complex>,
    /// `shunt_canary_key`
    pub canary_key: Option<Complex>,
    /// `shunt_fallback`
    pub fallback: Option<bool>,
    /// Where the private configuration of methods lies that keep state there, and its size.
    pub method_confs: Vec<(usize, usize)>,
}

impl UpstreamConf {
    /// As the API serves it, where these are all `shunt_hold`.
    pub fn served(&self, holds: &[Rc<HoldConf>]) -> Served {
        // SAFETY: the upstream lives as long as the configuration.
        let flags = unsafe { (*self.uscf).flags };
        let backup = flags & NGX_HTTP_UPSTREAM_BACKUP as ngx_uint_t != 0;
        let holdable = holds.iter().any(|hold| hold.name == self.name);
        Served { name: self.name.clone(), zone: self.zone, record: self.record, backup, holdable }
    }
}

/// A `shunt_api`.
#[derive(Debug, Clone)]
pub struct ApiConf {
    /// `write=on`.
    pub write: bool,
    /// The users of `user=`, by their ids.
    pub users: Vec<u32>,
    /// The content of `token_file=`.
    pub token: Option<Token>,
}

/// A `shunt_hold`.
#[derive(Debug)]
pub struct HoldConf {
    /// The upstream's name.
    pub name: String,
    /// How long a request waits at most.
    pub timeout: Duration,
    /// How many requests wait at most, in all workers.
    pub max: u64,
    /// Where it stands.
    pub place: Place,
    /// Index of the upstream; known once all are read.
    pub upstream: Cell<Option<usize>>,
}

/// A location with `shunt_api write=on`.
pub struct WriterPlace {
    /// The server that it belongs to.
    pub server: *const ngx_http_core_srv_conf_t,
    /// Where it stands.
    pub place: Place,
    /// Whether it has `token_file=`.
    pub has_token: bool,
}

/// Splits `name=value`.
pub(crate) fn parameter<'a>(arg: &'a str, name: &str) -> Option<&'a str> {
    arg.strip_prefix(name)?.strip_prefix('=')
}

/// A configuration text must be UTF-8 to become part of JSON.
pub(crate) fn utf8(s: &ngx_str_t) -> Result<String, crate::wrap::ConfError> {
    String::from_utf8(crate::wrap::bytes(s).to_vec())
        .map_err(|_| format!("\"{}\" is not valid UTF-8", crate::wrap::text(s)).into())
}
