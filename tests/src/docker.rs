//! Machines in containers: systemd as PID 1, Debian's NGINX with the module, `shuntd`, an application
//! with its units, and another machine that asks.
//!
//! Most tests want a [`site::Site`], which has all of that:
//!
//! ```no_run
//! use shunt_tests::docker::{Debian, site::Site};
//!
//! let site = Site::start(Debian::Bookworm);
//! site.run_in_slot(3001, "v1");
//! site.server.run(&["systemctl", "is-active", "web@3001.service"]);
//! ```
//!
//! `scripts/images` builds the images. Whatever was started ends with the test, also when that is
//! killed.

pub mod compose;
pub mod container;
mod engine;
pub mod job;
pub mod program;
mod reaper;
pub mod runner;
pub mod site;
pub mod watch;

use crate::build;

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debian {
    /// Debian 12: NGINX 1.22, systemd 252.
    Bookworm,
    /// Debian 13: NGINX 1.26, systemd 257.
    Trixie,
}

impl Debian {
    /// Its image with Shunt.
    ///
    /// # Panics
    ///
    /// When it was not built.
    #[must_use]
    pub fn image(self) -> String {
        self.built("")
    }

    /// Its image without Shunt.
    ///
    /// # Panics
    ///
    /// When it was not built.
    #[must_use]
    pub fn plain_image(self) -> String {
        self.built("plain-")
    }

    /// An image, by the id that it was given when it was last built here: a name may mean another one
    /// meanwhile.
    fn built(self, kind: &str) -> String {
        let release = match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        };
        let path = build::folder().join("docker").join(format!("{kind}{release}.id"));
        std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; run \"make test-docker\"", path.display()))
    }
}
