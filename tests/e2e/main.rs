//! End-to-end tests: real NGINX, real sockets, every version.
//!
//! Each test is a function of a [`shunt_tests::build::Build`]; `each_nginx!` makes a test of it for
//! every NGINX that is supported. Names start with the promise of the design that they show.

/// Makes tests `debian::name`, `trixie::name` and `stable::name` of functions that take a `&Build`.
macro_rules! each_nginx {
    ($($name:ident),+ $(,)?) => {
        mod debian {
            $(#[test] fn $name() { super::$name(&shunt_tests::build::Build::debian()); })+
        }
        mod trixie {
            $(#[test] fn $name() { super::$name(&shunt_tests::build::Build::trixie()); })+
        }
        mod stable {
            $(#[test] fn $name() { super::$name(&shunt_tests::build::Build::stable()); })+
        }
    };
}

mod balancers;
mod caching;
mod config;
mod conflict;
mod deploy;
mod drain;
mod fallback;
mod full;
mod grpc;
mod h2c;
mod hold;
mod http2;
mod kill;
mod lifecycle;
mod loading;
mod metrics;
mod preview;
mod protocols;
mod proxying;
mod refusal;
mod releases;
mod state_file;
mod subrequests;
mod switch;
mod tls;
mod upgrade;
mod variables;
mod wish;
mod zones;
