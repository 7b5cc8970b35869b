//! What is fuzzed. Each module is a target: it takes any bytes, panics when something is wrong, and
//! tells whether the bytes made sense.
//!
//! `make fuzz` lets libFuzzer look for bytes that break one; `cargo test` runs those of the corpus.

#![forbid(unsafe_code)]

pub mod address;
pub mod body;
pub mod call;
pub mod changes;
pub mod damage;
pub mod duration;
pub mod name;
pub mod state_file;
pub mod table;
pub mod token;

/// A request without any wish.
struct Plain;

impl shunt_switch::follower::Wishes for Plain {
    fn preview(&mut self) -> Option<shunt_api::ReleaseName> {
        None
    }

    fn point(&mut self, canary: &shunt_api::ReleaseName) -> shunt_switch::canary::Point {
        shunt_switch::canary::Point::of(b"", canary.as_str())
    }
}

/// What a worker makes that needs nothing for a release.
fn nothing(_: &shunt_switch::table::Entry) -> Result<(), shunt_switch::ZoneError> {
    Ok(())
}

/// What a target made of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are what is read there, and everything that follows held.
    Accepted,
    /// They are not, and were refused in order.
    Refused,
}

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its program, and of its folder in the corpus.
    pub name: &'static str,
    /// The target.
    pub run: fn(&[u8]) -> Verdict,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "address", run: address::run },
    Target { name: "body", run: body::run },
    Target { name: "call", run: call::run },
    Target { name: "changes", run: changes::run },
    Target { name: "damage", run: damage::run },
    Target { name: "duration", run: duration::run },
    Target { name: "name", run: name::run },
    Target { name: "state_file", run: state_file::run },
    Target { name: "table", run: table::run },
    Target { name: "token", run: token::run },
];

/// Reads a text, checks it, and that an error says something.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(input: &[u8]) -> Option<(T, &str)> {
    let text = std::str::from_utf8(input).ok()?;
    match text.parse() {
        Ok(value) => Some((value, text)),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Checks that a value is written so that it reads the same, as text and in JSON.
fn reads_the_same<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let json = serde_json::to_string(value).expect("everything here can be written as JSON");
    let again: T = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
    assert_eq!(*value, again, "{json}");
}
