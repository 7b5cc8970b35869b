//! End-to-end tests: real NGINX, real sockets, every version.
//!
//! Each test is a function of a [`shunt_tests::build::Build`]; `each_nginx!` makes a test of it for
//! every NGINX that is supported. Names start with the promise of the design that they show.

#[macro_use]
extern crate shunt_tests;

/// Makes tests `http2::debian::name` and so on, and `http3::trixie::name` and so on, of functions that
/// take a `&Build` and a `Protocol`.
macro_rules! each_protocol {
    ($($name:ident),+ $(,)?) => {
        mod http2 {
            $(fn $name(build: &shunt_tests::build::Build) {
                super::$name(build, crate::streams::client::Protocol::Http2);
            })+
            each_nginx!($($name),+);
        }
        mod http3 {
            $(fn $name(build: &shunt_tests::build::Build) {
                super::$name(build, crate::streams::client::Protocol::Http3);
            })+
            each_nginx_with_http3!($($name),+);
        }
    };
}

mod balancers;
mod caching;
mod config;
mod conflict;
mod deploy;
mod doctor;
mod drain;
mod external;
mod fallback;
mod full;
mod grpc;
mod guard;
mod h2c;
mod held_streams;
mod hold;
mod hold_time;
mod init;
mod install;
mod kill;
mod lifecycle;
mod loading;
mod metrics;
mod preview;
mod protocols;
mod proxying;
mod quic;
mod refusal;
mod releases;
mod slow_disk;
mod state_file;
mod strategies;
mod streams;
mod subrequests;
mod switch;
mod tls;
mod upgrade;
mod variables;
mod wish;
mod zones;
