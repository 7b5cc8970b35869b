//! Fields that their types alone cannot check. Each mistake is found while the file is read, so that
//! the error names line and column.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use shunt_api::NginxTime;

use super::run::Slot;
use crate::user::User;

/// Reads a value and gives it on, unless there is something wrong with it.
fn checked<'de, D: Deserializer<'de>, T: Deserialize<'de>, E: Display>(
    d: D,
    check: impl FnOnce(&T) -> Result<(), E>,
) -> Result<T, D::Error> {
    let value = T::deserialize(d)?;
    check(&value).map_err(de::Error::custom)?;
    Ok(value)
}

fn ensure(good: bool, why: &'static str) -> Result<(), &'static str> {
    if good { Ok(()) } else { Err(why) }
}

pub(super) fn root<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
    checked(d, |path: &PathBuf| ensure(path.is_absolute(), "must be an absolute path"))
}

/// As [`root`], for what may be left out.
pub(super) fn absolute<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
    root(d).map(Some)
}

/// What its type reads from a text, and may be left out.
pub(super) fn parsed<'de, D: Deserializer<'de>, T>(d: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: Display>,
{
    String::deserialize(d)?.parse().map(Some).map_err(de::Error::custom)
}

pub(super) fn command<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    checked(d, |command: &Vec<String>| {
        let program = command.first().is_some_and(|program| !program.is_empty());
        ensure(program, "needs a program, as in [\"./server\"]")?;
        ensure(!command.iter().any(|part| part.contains('\0')), "cannot have a NUL character")
    })
}

pub(super) fn slots<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Slot>, D::Error> {
    checked(d, |slots: &Vec<Slot>| {
        if slots.is_empty() {
            return Err("needs a slot".to_owned());
        }
        match slots.iter().enumerate().find(|(i, slot)| slots[..*i].contains(slot)) {
            Some((_, slot)) => Err(format!("{slot} is there twice")),
            None => Ok(()),
        }
    })
}

/// The name of a template of systemd's, before the `@`.
pub(super) fn some_unit<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let name = checked(d, |name: &String| {
        if let Some((stem, _)) = name.split_once('@') {
            return Err(format!(
                "write {stem:?}, for the templates {stem}@.service and {stem}@.socket"
            ));
        }
        // `unit_name_is_valid` of systemd's, and of its length what an instance leaves.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.');
        match !name.is_empty() && name.len() <= 128 && name.bytes().all(plain) {
            true => Ok(()),
            false => Err(format!(
                "{name:?} is not the name of a unit, which has letters, digits, and \":-_.\""
            )),
        }
    })?;
    Ok(Some(name))
}

pub(super) fn user<'de, D: Deserializer<'de>>(d: D) -> Result<Option<User>, D::Error> {
    User::find(&String::deserialize(d)?).map(Some).map_err(de::Error::custom)
}

pub(super) fn env<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, String>, D::Error> {
    checked(d, |env: &BTreeMap<String, String>| {
        // What the runner itself tells the application (see `App::spec` and `sd_listen_fds(3)`), and
        // all that applications and hooks are told under the own name.
        const OURS: [&str; 5] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "PORT", "RELEASE"];
        for (name, value) in env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("{name:?} cannot be set"));
            }
            if OURS.contains(&name.as_str()) || name.starts_with("SHUNT_") {
                return Err(format!("{name:?} is set by shuntd itself"));
            }
        }
        Ok(())
    })
}

/// As [`env`], for one that can be left out.
pub(super) fn some_env<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    env(d).map(Some)
}

pub(super) fn passes<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    checked(d, |passes: &u32| ensure(*passes > 0, "must be 1 or more"))
}

pub(super) fn at_least_one<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    checked(d, |n: &u64| ensure(*n > 0, "must be 1 or more"))
}

/// As [`command`], for one that can be left out.
pub(super) fn some_command<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Vec<String>>, D::Error> {
    command(d).map(Some)
}

/// A text that is not empty, and that can be left out.
pub(super) fn some_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = checked(d, |text: &String| ensure(!text.is_empty(), "needs a text"))?;
    Ok(Some(text))
}

/// What is only written to say yes.
pub(super) fn yes<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    checked(d, |yes: &bool| ensure(*yes, "can only be true, else leave it out"))
}

pub(super) fn kept<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    checked(d, |kept: &usize| ensure(*kept >= 2, "must be 2 or more, to be able to roll back"))
}

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    text.parse::<NginxTime>().map(NginxTime::duration).map_err(de::Error::custom)
}

/// As [`duration`], for one that can be left out.
pub(super) fn some_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

/// As [`duration`], for what goes on for ever when it is zero.
pub(super) fn some_time<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let time = duration(d)?;
    ensure(!time.is_zero(), "must be longer than nothing").map_err(de::Error::custom)?;
    Ok(time)
}

/// As [`some_time`], for what may be left out.
pub(super) fn some_optional_time<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Duration>, D::Error> {
    some_time(d).map(Some)
}

/// A size in bytes as NGINX writes it, and with `g` as in its offsets: `"512m"`, `"8g"`.
pub(super) fn size<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let text = String::deserialize(d)?;
    let (digits, shift) = match text.as_bytes() {
        [digits @ .., b'k' | b'K'] => (digits, 10),
        [digits @ .., b'm' | b'M'] => (digits, 20),
        [digits @ .., b'g' | b'G'] => (digits, 30),
        digits => (digits, 0),
    };
    let number = std::str::from_utf8(digits).ok().filter(|d| !d.starts_with('+'));
    let number = number.and_then(|d| d.parse::<u64>().ok()?.checked_mul(1 << shift));
    let number = number.filter(|size| *size > 0);
    number.ok_or_else(|| {
        de::Error::custom(format!("{text:?} is not a size, which is as in \"512m\" or \"8g\""))
    })
}
