//! `strategy`: how a new release takes the old one's place; `[hold]` is for one of them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{field, schema};

/// How a new release takes the old one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// It runs beside the old one, in another slot, until NGINX has switched.
    #[default]
    BlueGreen,
    /// It is started on the old one's socket once that has ended, as for an application that must not
    /// run twice: NGINX holds new requests meanwhile.
    InPlace,
}

/// What NGINX does with new requests while a release is restarted in place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a section, as in [hold]")]
pub struct Hold {
    /// For how long they are held at most; then they go to the slot's socket, and wait there.
    #[serde(deserialize_with = "field::some_time")]
    #[schemars(with = "schema::Time")]
    pub timeout: Duration,
}

impl Default for Hold {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60) }
    }
}
