//! The daemon: applications, jobs, and the API on a unix socket.

pub mod app;
pub mod jobs;
pub mod lock;
pub mod recover;
pub mod reload;
pub mod routes;
pub mod shared;
pub mod state;
pub mod terminal;
