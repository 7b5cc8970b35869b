//! The zones of the configuration that another one takes the place of: what they hold, and which zone
//! has it from now on.
//!
//! They are known by their content: the old configuration may not have had this module, or another
//! file of it.

use nginx_sys::{ngx_cycle_t, ngx_log_t, ngx_shm_zone_t};
use shunt_switch::Zone;
use shunt_switch::carry::Carried;
use shunt_switch::snapshot::Saved;

use crate::conf::MainConf;
use crate::lock::Lock;
use crate::wrap::{bytes, text};
use crate::zone::{attach, slab_pool};

/// A zone of the old configuration.
pub struct OldZone {
    name: String,
    shm_zone: *const ngx_shm_zone_t,
    zone: Zone<'static>,
    /// Whether the new configuration has the same memory.
    is_kept: bool,
    /// What another zone has from now on.
    upstreams: Vec<Carried>,
}

/// Reads the old zones when the new configuration comes into force. The workers that have one which
/// is not kept may change nothing in it any more.
pub fn take(cycle: &ngx_cycle_t, main: &MainConf) -> Vec<OldZone> {
    // SAFETY: while the new configuration comes into force, the old one and its memory are still
    // there.
    let Some(old) = (unsafe { cycle.old_cycle.as_ref() }) else { return Vec::new() };
    let take = |(shm_zone, zone): (*const ngx_shm_zone_t, Zone<'static>)| {
        let pool = slab_pool(shm_zone);
        let kept = main.zones.iter().position(|new| slab_pool(new.shm_zone) == pool);
        // Without the lock a change that is being written may be lost, but none after it.
        let _lock = Lock::take_patiently(shm_zone);
        if kept.is_none() {
            zone.retire();
        }
        // What is damaged is not carried on.
        let mut upstreams = Carried::all(&zone).unwrap_or_default();
        if let Some(kept) = kept {
            upstreams.retain(|u| place(main, &u.saved.name).is_some_and(|now| now != kept));
        }
        // SAFETY: an element of the old cycle's list.
        let name = unsafe { text(&(*shm_zone).shm.name).into_owned() };
        OldZone { name, shm_zone, zone, is_kept: kept.is_some(), upstreams }
    };
    zones_of(old).into_iter().map(take).collect()
}

/// The zone that an upstream has by the new configuration: index into [`MainConf::zones`].
fn place(main: &MainConf, upstream: &str) -> Option<usize> {
    main.upstreams.iter().find(|u| u.name == upstream).map(|u| u.zone)
}

/// What a zone has from now on: what that of its name held, if it is not the same, and its upstreams
/// from others.
pub fn for_zone<'o>(old: &'o [OldZone], main: &MainConf, index: usize) -> Vec<&'o Carried> {
    let (same, others): (Vec<_>, Vec<_>) =
        old.iter().partition(|old| old.name == main.zones[index].name);
    let mut carried: Vec<&Carried> = Vec::new();
    for (old, same) in same.iter().map(|o| (o, true)).chain(others.iter().map(|o| (o, false))) {
        for upstream in &old.upstreams {
            let name = &upstream.saved.name;
            let ours = place(main, name).map_or(same && !old.is_kept, |now| now == index);
            if ours && !carried.iter().any(|c| c.saved.name == *name) {
                carried.push(upstream);
            }
        }
    }
    carried
}

/// The same before the new configuration is in force, when nothing may be changed yet.
pub fn look(cycle: &ngx_cycle_t, main: &MainConf, index: usize, in_use: bool) -> Vec<Saved> {
    let name = main.zones[index].name.as_bytes();
    // SAFETY: an element of the cycle's list.
    let is_same = |shm_zone: *const ngx_shm_zone_t| unsafe { bytes(&(*shm_zone).shm.name) == name };
    let mut zones = zones_of(cycle);
    zones.sort_by_key(|(shm_zone, _)| !is_same(*shm_zone));
    let mut found: Vec<Saved> = Vec::new();
    for (shm_zone, zone) in zones {
        // What is in use knows it itself.
        if in_use && is_same(shm_zone) {
            continue;
        }
        for saved in zone.states().flatten().map(|(_, state)| Saved::of(&state)) {
            let ours = place(main, &saved.name).map_or(is_same(shm_zone), |now| now == index);
            if ours && !found.iter().any(|f| f.name == saved.name) {
                found.push(saved);
            }
        }
    }
    found
}

/// How many workers the old configuration has, and those before it.
pub fn workers(cycle: &ngx_cycle_t) -> usize {
    // Each counts in every zone.
    zones_of(cycle).iter().map(|(_, zone)| zone.living().len()).max().unwrap_or(0)
}

/// Forgets in a zone that is kept what another one has now.
pub fn give_up(log: *mut ngx_log_t, old: &[OldZone]) {
    for old in old.iter().filter(|old| old.is_kept && !old.upstreams.is_empty()) {
        match Lock::take_patiently(old.shm_zone) {
            Ok(_lock) => old.upstreams.iter().for_each(|u| old.zone.give_up(u.record)),
            Err(error) => error!(log, "zone \"{}\": {error} with a reload", old.name),
        }
    }
}

/// The zones of ours of a cycle.
fn zones_of(cycle: &ngx_cycle_t) -> Vec<(*const ngx_shm_zone_t, Zone<'static>)> {
    let mut zones = Vec::new();
    // SAFETY: a list of NGINX's is a chain of parts with `nelts` elements each; those of the first
    // cycle, which has no configuration, are none.
    unsafe {
        let mut part = &raw const cycle.shared_memory.part;
        while let Some(one) = part.as_ref() {
            let elements = one.elts.cast::<ngx_shm_zone_t>();
            for at in 0..one.nelts {
                let shm_zone = elements.add(at).cast_const();
                zones.extend(attach(shm_zone).ok().map(|zone| (shm_zone, zone)));
            }
            part = one.next;
        }
    }
    zones
}
