//! The daemon: from its start to its end, its configuration, and the API on a unix socket.

pub mod args;
pub mod call;
pub mod ending;
pub mod lock;
pub mod metrics;
pub mod openapi;
pub mod peer;
pub mod recover;
pub mod reload;
pub mod routes;
pub mod seats;
pub mod service;
pub mod shared;
pub mod terminal;
