//! Tests in containers: systemd as PID 1, Debian's NGINX with the module, `shuntd` under its units.
//!
//! Each test is a function of a [`shunt_tests::docker::Debian`]; `each_debian!` makes a test of it for
//! every release that is supported. `make test-docker` builds the images first.

/// Makes tests `bookworm::name` and `trixie::name` of functions that take a `Debian`.
macro_rules! each_debian {
    ($($name:ident),+ $(,)?) => {
        mod bookworm {
            $(#[test] fn $name() { super::$name(shunt_tests::docker::Debian::Bookworm); })+
        }
        mod trixie {
            $(#[test] fn $name() { super::$name(shunt_tests::docker::Debian::Trixie); })+
        }
    };
}

mod faults;
mod image;
mod install;
mod machine;
mod nginx;
mod packages;
mod runner;
mod shuntd;
mod steps;
mod systemd;
mod units;
