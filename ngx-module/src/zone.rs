//! The life of the shared memory: made, taken over by a reload, brought in line, saved.
//!
//! NGINX calls [`init_zone`] while the old workers still run and the new configuration may yet fail,
//! so it never changes a zone that is in use. [`bring_up`] runs once nothing can fail any more.

use std::ffi::c_void;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::slice;

use nginx_sys::{
    ngx_core_conf_t, ngx_cycle_t, ngx_int_t, ngx_log_t, ngx_shm_zone_t, ngx_slab_pool_t,
};
use shunt_api::Problem;
use shunt_switch::carry::{self, Carried};
use shunt_switch::layout::rows_for;
use shunt_switch::reconcile::{Configured, Outcome, Workers, fits, reconcile};
use shunt_switch::service::{ServedZone, Service};
use shunt_switch::size;
use shunt_switch::snapshot::Snapshot;
use shunt_switch::state_file;
use shunt_switch::worker::Identity;
use shunt_switch::{AtomicU64, Zone, ZoneError};

use crate::conf::{MainConf, UpstreamConf, ZoneConf};
use crate::lock::Lock;
use crate::old;
use crate::wrap::{ERROR, OK};

/// The zone in NGINX's shared memory; `None` before [`init_zone`] has made it.
pub fn attach(shm_zone: *const ngx_shm_zone_t) -> Result<Zone<'static>, ZoneError> {
    let words = words(shm_zone).ok_or(ZoneError::Foreign)?;
    Zone::attach(words)
}

/// The slab pool at the start of the shared memory.
pub fn slab_pool(shm_zone: *const ngx_shm_zone_t) -> Option<*mut ngx_slab_pool_t> {
    // SAFETY: a zone of this configuration lives as long as the configuration; its memory is mapped
    // when `addr` is set, and starts with the slab pool that NGINX has put there.
    let addr = unsafe { shm_zone.as_ref()?.shm.addr };
    (!addr.is_null()).then_some(addr.cast())
}

/// The words that [`init_zone`] took from the slab pool; their number stands in their header.
fn words(shm_zone: *const ngx_shm_zone_t) -> Option<&'static [AtomicU64]> {
    let pool = slab_pool(shm_zone)?;
    // SAFETY: as above. `data` is null, or what `init_zone` put there: page-aligned memory inside of
    // the mapping, which only atomics touch. In a zone of another module it is that module's; if it
    // lies inside of the mapping, what it points to can be read, and does not have our mark. The
    // length is checked against the mapping's end. It stays mapped for as long as this
    // configuration, or a later one, has the zone; whoever holds the slice belongs to one of them.
    unsafe {
        let start = (*pool).data.cast::<AtomicU64>();
        let end = (*pool).end as usize;
        if start < pool.cast::<AtomicU64>() || !start.is_aligned() || (start as usize) >= end {
            return None;
        }
        let room = (end - start as usize) / size_of::<AtomicU64>();
        let len = Zone::announced_len(slice::from_raw_parts(start, room.min(16)))?;
        (len <= room).then(|| slice::from_raw_parts(start, len))
    }
}

/// NGINX's callback for a zone: `data` is the old configuration's when the memory is in use already.
pub unsafe extern "C" fn init_zone(shm_zone: *mut ngx_shm_zone_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: `cmd_shunt_zone` set `data` to the main configuration, which lives as long as the zone.
    let Some(main) = (unsafe { (*shm_zone).data.cast::<MainConf>().as_ref() }) else {
        return ERROR;
    };
    let Some(index) = main.zones.iter().position(|z| z.shm_zone == shm_zone) else { return ERROR };
    // SAFETY: NGINX gives the zone with the log of the configuration that it is made for.
    let log = unsafe { (*shm_zone).shm.log };
    let conf = &main.zones[index];
    match prepare(conf, main, index, !data.is_null()) {
        Ok(()) => OK,
        Err(text) => {
            emerg!(log, "{text} in {}", conf.place);
            ERROR
        }
    }
}

fn prepare(conf: &ZoneConf, main: &MainConf, index: usize, in_use: bool) -> Result<(), String> {
    let name = &conf.name;
    if !in_use {
        create(conf, main)?;
    }
    let words = words(conf.shm_zone)
        .ok_or_else(|| ZoneError::Foreign.to_string())
        .map_err(|e| format!("{e}; restart NGINX, or give the zone \"{name}\" another name"))?;
    // What it is going to hold besides what is configured, see `bring_up_zone`.
    // SAFETY: the global is set before any zone is made; it is still the old cycle's.
    let cycle = unsafe { nginx_sys::ngx_cycle.as_ref() };
    let carried = cycle.map_or_else(Vec::new, |cycle| old::look(cycle, main, index, in_use));
    let others = match cycle {
        Some(cycle) if !carried.is_empty() => old::workers(cycle),
        _ => 0,
    };
    let workers = Workers { processes: main.processes, others };
    let file = conf.state.as_deref().filter(|_| !in_use && carried.is_empty());
    let saved = match file.and_then(|path| state_file::read(path).ok().flatten()) {
        Some(saved) => saved,
        None => Snapshot::new(carried),
    };
    // The trial copies the words, which must not change meanwhile.
    let _lock = Lock::take_patiently(conf.shm_zone).map_err(|e| format!("zone \"{name}\": {e}"))?;
    fits(words, &configured(main, index), Some(&saved), workers).map_err(|(error, size)| {
        let advice = size
            .map_or(String::new(), |size| format!("; {} would do", size::directive(name, size)));
        match error {
            ZoneError::NoWorker(_) => format!(
                "workers do not fit into zone \"{name}\": {error}{advice}, or wait until old \
                 workers have ended, see worker_shutdown_timeout;"
            ),
            _ => format!("upstreams do not fit into zone \"{name}\": {error}{advice}"),
        }
    })
}

/// Takes all free pages of a new slab pool as one piece and makes a zone of it.
fn create(conf: &ZoneConf, main: &MainConf) -> Result<(), String> {
    let too_small = || format!("zone \"{}\" is too small", conf.name);
    let pool = slab_pool(conf.shm_zone).ok_or_else(too_small)?;
    // SAFETY: the zone is new, so nobody else uses its pool; the pages are ours from here on, for as
    // long as the zone lives. Atomics may have any bits.
    unsafe {
        let size = (*pool).pfree * nginx_sys::ngx_pagesize;
        let start = nginx_sys::ngx_slab_alloc_locked(pool, size);
        if start.is_null() {
            return Err(too_small());
        }
        let words = slice::from_raw_parts(start.cast::<AtomicU64>(), size / size_of::<AtomicU64>());
        Zone::create(words, rows_for(main.processes))
            .map_err(|e| format!("zone \"{}\": {e}", conf.name))?;
        (*pool).data = start;
    }
    Ok(())
}

fn configured(main: &MainConf, zone: usize) -> Vec<Configured> {
    let ours = main.upstreams.iter().filter(|u| u.zone == zone);
    let configured = |u: &UpstreamConf| Configured {
        name: u.name.clone(),
        fallback: u.fallback.unwrap_or(false),
        preview: u.preview.is_some(),
        releases: u.releases.clone(),
    };
    ours.map(configured).collect()
}

/// How many worker processes a configuration starts.
pub fn processes(core: &ngx_core_conf_t) -> usize {
    usize::try_from(core.worker_processes).unwrap_or(1).max(1)
}

/// Brings every zone in line with the configuration that is in force from now on.
pub fn bring_up(cycle: &ngx_cycle_t, core: &ngx_core_conf_t, main: &mut MainConf) {
    // Before anything is read: from then on the other one changes nothing any more.
    let other = main.masters.bring_up(cycle);
    let old = old::take(cycle, main);
    let mut unsaved = Vec::new();
    for index in 0..main.zones.len() {
        let configured = configured(main, index);
        let carried = old::for_zone(&old, main, index);
        let (records, changed) =
            bring_up_zone(cycle.log, main, index, &configured, &carried, other);
        let ours = main.upstreams.iter_mut().filter(|u| u.zone == index);
        for (upstream, record) in ours.zip(records) {
            upstream.record = record;
        }
        unsaved.push(changed);
    }
    old::give_up(cycle.log, &old);
    for (conf, changed) in main.zones.iter().zip(unsaved) {
        let Some(path) = &conf.state else { continue };
        make_folder(cycle.log, core, path);
        // Should the other one go on alone, it finds the file as it has left it.
        if changed && other.is_none() {
            save(cycle.log, core, conf);
        }
    }
    main.served = main.upstreams.iter().map(|upstream| upstream.served(&main.holds)).collect();
}

fn save(log: *mut ngx_log_t, core: &ngx_core_conf_t, conf: &ZoneConf) {
    let name = &conf.name;
    let Ok(zone) = attach(conf.shm_zone) else { return };
    let saved = Lock::take_patiently(conf.shm_zone)
        .map(|_lock| served(conf, zone).save(workers_user(core)));
    match saved {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(error)) | Err(error)) => error!(log, "zone \"{name}\": {error}"),
        Err(error) => error!(log, "zone \"{name}\": {error} with a reload; it is not saved"),
    }
}

/// A zone as the API serves it.
pub fn served<'z>(conf: &'z ZoneConf, zone: Zone<'z>) -> ServedZone<'z> {
    let state_file = conf.state.as_deref();
    ServedZone { zone, name: &conf.name, size: conf.size as u64, state_file }
}

/// Calls `f` with the API of a configuration.
pub fn with_service<T>(
    main: &MainConf,
    f: impl FnOnce(&Service<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let zones = main.zones.iter().map(|conf| {
        let zone = attach(conf.shm_zone)
            .map_err(|e| Problem::new(500, format!("zone {:?}: {e}", conf.name)))?;
        Ok(served(conf, zone))
    });
    let zones = zones.collect::<Result<Vec<_>, Problem>>()?;
    let nginx = nginx_sys::NGINX_VERSION.to_str().unwrap_or_default();
    f(&Service { zones: &zones, upstreams: &main.served, nginx })
}

/// Gives the records of the upstreams, and whether the state file does not say what the zone does.
fn bring_up_zone(
    log: *mut ngx_log_t,
    main: &MainConf,
    index: usize,
    configured: &[Configured],
    carried: &[&Carried],
    other: Option<Identity>,
) -> (Vec<Option<usize>>, bool) {
    let conf = &main.zones[index];
    let name = &conf.name;
    let zone = match attach(conf.shm_zone) {
        Ok(zone) => zone,
        Err(error) => {
            emerg!(log, "zone \"{name}\": {error}");
            return (Vec::new(), false);
        }
    };
    let _lock = match Lock::take_patiently(conf.shm_zone) {
        Ok(lock) => lock,
        Err(error) => {
            emerg!(log, "zone \"{name}\": {error} with a reload; until then it stays as it was");
            return (as_it_is(&zone, configured), false);
        }
    };
    let known: Vec<String> =
        zone.states().flatten().map(|(_, s)| s.table.upstream.clone()).collect();
    let start = Start { fresh: known.is_empty(), carried, other };
    let file = start.file(log, conf);
    let in_file = file.is_some();
    let saved =
        file.unwrap_or_else(|| Snapshot::new(carried.iter().map(|c| c.saved.clone()).collect()));
    let outcome = match start.reconcile(log, name, &zone, configured, &saved) {
        Ok(outcome) => outcome,
        Err(error) => {
            emerg!(log, "zone \"{name}\": {error}; new upstreams in it do not work");
            return (as_it_is(&zone, configured), false);
        }
    };
    let new = carried.iter().filter(|c| !known.contains(&c.saved.name)).filter_map(|carried| {
        let at = configured.iter().position(|c| c.name == carried.saved.name)?;
        Some((*carried, *outcome.records.get(at)?))
    });
    start.hand_over(log, name, &zone, new);
    if let Err(error) = zone.make_room(main.processes) {
        emerg!(log, "zone \"{name}\": {error}");
    }
    for notice in &outcome.notices {
        warn!(log, "zone \"{name}\": {notice}");
    }
    let changed = outcome.changed || !in_file;
    (outcome.records.into_iter().map(Some).collect(), changed)
}

/// From what a zone starts.
struct Start<'a> {
    /// It has no upstream yet.
    fresh: bool,
    /// What old zones held.
    carried: &'a [&'a Carried],
    /// The other NGINX master.
    other: Option<Identity>,
}

impl Start<'_> {
    /// What the state file says, if that counts.
    fn file(&self, log: *mut ngx_log_t, conf: &ZoneConf) -> Option<Snapshot> {
        // What an old zone held is newer than its file, or the only thing there is.
        if !self.fresh || !self.carried.is_empty() {
            return None;
        }
        if conf.state.is_none() && self.other.is_some() {
            warn!(
                log,
                "zone \"{}\" has no state file: this binary starts from the configuration, whatever \
                 was switched in the one before",
                conf.name
            );
        }
        read(log, conf.state.as_deref()?)
    }

    fn reconcile(
        &self,
        log: *mut ngx_log_t,
        name: &str,
        zone: &Zone<'_>,
        configured: &[Configured],
        saved: &Snapshot,
    ) -> Result<Outcome, ZoneError> {
        let outcome = reconcile(zone, configured, Some(saved));
        if let Err(error) = &outcome
            && self.fresh
            && !saved.upstreams.is_empty()
        {
            // Better without what was switched than without the upstreams.
            emerg!(log, "zone \"{name}\": {error}; the configuration counts");
            return zone.start_over().and_then(|zone| reconcile(&zone, configured, None));
        }
        outcome
    }

    /// Lets the upstreams that are new here go on from the counters of their old zones.
    fn hand_over<'c>(
        &self,
        log: *mut ngx_log_t,
        name: &str,
        zone: &Zone<'_>,
        new: impl Iterator<Item = (&'c Carried, usize)>,
    ) {
        for (carried, record) in new {
            if let Err(error) = carried.hand_over(zone, record, self.fresh) {
                error!(
                    log,
                    "zone \"{name}\": {error}; what it had in flight or had counted is not known any more"
                );
            }
        }
        if let Some(other) = self.other.filter(|_| self.fresh)
            && let Err(error) = carry::count_master(zone, other)
        {
            error!(log, "zone \"{name}\": {error}");
        }
    }
}

/// The records that the upstreams have already.
fn as_it_is(zone: &Zone<'_>, configured: &[Configured]) -> Vec<Option<usize>> {
    let known: Vec<_> = zone.states().flatten().collect();
    let find = |c: &Configured| known.iter().find(|(_, s)| s.table.upstream == c.name).map(|k| k.0);
    configured.iter().map(find).collect()
}

/// Reads the state file. One that is damaged, or cannot be read, is kept under another name: it never
/// stops NGINX.
fn read(log: *mut ngx_log_t, path: &Path) -> Option<Snapshot> {
    let error = match state_file::read(path) {
        Ok(saved) => return saved,
        Err(error) => error,
    };
    if path.is_dir() || state_file::is_device(path) {
        // Whose folder it is nobody knows, and a device is the system's.
        error!(log, "{error}; the configuration counts, and every change will be refused");
        return None;
    }
    match state_file::keep_aside(path) {
        Ok(aside) => {
            error!(log, "{error}; it is kept as {aside:?}, and the configuration counts");
        }
        Err(other) => error!(log, "{error}; it cannot be put aside either: {other}"),
    }
    None
}

/// Makes the state file's folder, if it is not there, for the user whom the workers run as: they
/// write the file. So does NGINX with its own (`ngx_create_paths` in `ngx_file.c`).
fn make_folder(log: *mut ngx_log_t, core: &ngx_core_conf_t, path: &Path) {
    let folder = state_file::folder(path);
    if folder.exists() {
        return;
    }
    if let Err(error) = std::fs::create_dir_all(folder) {
        error!(log, "cannot make folder {folder:?} for the state file: {error}");
        return;
    }
    let user = workers_user(core);
    if user.is_some()
        && let Err(error) = rustix::fs::chown(folder, user, None)
    {
        error!(log, "cannot give folder {folder:?} to the workers' user: {error}");
    }
}

/// The user whom the workers run as, if it is another one than the master's.
fn workers_user(core: &ngx_core_conf_t) -> Option<rustix::fs::Uid> {
    let known = rustix::process::geteuid().is_root() && core.user != nginx_sys::uid_t::MAX;
    known.then(|| rustix::fs::Uid::from_raw(core.user))
}

/// Whether this process can write the state file; a worker asks, as the one who has to.
pub fn check_writable(log: *mut ngx_log_t, path: &Path) {
    let folder = state_file::folder(path);
    if let Err(error) = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        let owner = std::fs::metadata(folder).map(|m| m.uid());
        let owner = owner.map_or_else(|_| "nobody".to_owned(), |uid| format!("user {uid}"));
        error!(
            log,
            "the folder {folder:?} of the state file belongs to {owner} and cannot be written to by \
             the workers ({error}): every change will be refused; chown it to their user"
        );
    }
}
