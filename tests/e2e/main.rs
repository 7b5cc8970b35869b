//! End-to-end tests: real NGINX, real sockets, every version.
//!
//! Each test is a function of a [`shunt_tests::build::Build`]; `each_nginx!` makes a test of it for
//! every NGINX that is supported. Names start with the promise of the design that they show.

#[macro_use]
extern crate shunt_tests;

mod balancers;
mod caching;
mod config;
mod conflict;
mod deploy;
mod drain;
mod fallback;
mod grpc;
mod h2c;
mod hold;
mod http2;
mod kill;
mod lifecycle;
mod metrics;
mod preview;
mod protocols;
mod proxying;
mod refusal;
mod releases;
mod subrequests;
mod switch;
mod tls;
mod variables;
mod wish;
