//! The helper of Shunt: a daemon that deploys releases, and its command line.
//!
//! A deploy goes one way: [`cli`] → [`wire`] → [`daemon`] → [`deploy`] → [`source`], [`runner`],
//! [`health`] → [`nginx`]. All of these know [`config`], and that knows [`origin`]. What is decided stands
//! in [`deploy::plan`], a pure state machine; what is done stands in [`deploy::engine`].

#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod deploy;
pub mod doctor;
pub mod endpoint;
pub mod file;
pub mod health;
pub mod held;
pub mod hook;
pub mod init;
pub mod leftover;
pub mod log;
pub mod nginx;
pub mod notify;
pub mod origin;
pub mod plain;
pub mod program;
pub mod request;
pub mod runner;
pub mod source;
pub mod url;
pub mod user;
pub mod watch;
pub mod wire;
