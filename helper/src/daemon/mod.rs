//! The daemon: applications, jobs, and the API on a unix socket.

pub mod app;
pub mod jobs;
pub mod recover;
pub mod routes;
pub mod state;
