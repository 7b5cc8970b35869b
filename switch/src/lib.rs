//! What is switched, without NGINX.
//!
//! A *zone* is a slice of 64-bit words that several processes share. It holds plain data only: no
//! pointer, no structure of NGINX, no lock. One process at a time changes it, under a lock that the
//! caller brings (the zone's slab mutex, which the NGINX master takes back from a worker that died
//! holding it). Everybody reads it at any time without a lock.
//!
//! Three rules carry the promises:
//!
//! - **One store publishes.** A change writes its data beside the old data and then stores the
//!   [route word](route::Route). A writer that dies before that store has changed nothing (P4, P6).
//! - **Count, then look again.** A request counts itself in flight, then loads the route word again,
//!   and starts over if that changed. A writer stores the route word, then reads the counts. One of
//!   the two sees the other (P1, P2); [`cells`] has the argument, and a model checker goes through it.
//! - **One writer per cell.** Each worker counts in cells of its own, so a dead worker's counts can
//!   be left out as a whole (P4).
//!
//! As a request: [`follower`] → [`route`] → [`canary`] → [`cells`], and [`counters`] when it has ended. As a change: [`service`] → [`change`] →
//! [`snapshot`] → [`state_file`] → [`table`] → [`route`].

#![forbid(unsafe_code)]

pub mod arena;
pub mod canary;
pub mod carry;
pub mod cells;
pub mod change;
pub mod clock;
mod columns;
pub mod counters;
pub mod follower;
pub mod layout;
pub mod mark;
pub mod masters;
pub mod metrics;
mod precondition;
pub mod reconcile;
pub mod record;
mod refusal;
pub mod route;
pub mod served;
pub mod service;
pub mod show;
pub mod size;
pub mod snapshot;
pub mod state_file;
mod sync;
pub mod table;
pub mod worker;
pub mod zone;

pub use sync::AtomicU64;
pub use zone::{Zone, ZoneError};
