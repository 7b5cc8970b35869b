//! What `make build` has built.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes tests `debian::name`, `trixie::name` and `stable::name` of functions that take a `&Build`.
#[macro_export]
macro_rules! each_nginx {
    ($($name:ident),+ $(,)?) => {
        mod debian {
            $(#[test] fn $name() { super::$name(&$crate::build::Build::debian()); })+
        }
        $crate::each_nginx_with_http3!($($name),+);
    };
}

/// The same, but for Debian 12's NGINX.
#[macro_export]
macro_rules! each_nginx_with_http3 {
    ($($name:ident),+ $(,)?) => {
        mod trixie {
            $(#[test] fn $name() { super::$name(&$crate::build::Build::trixie()); })+
        }
        mod stable {
            $(#[test] fn $name() { super::$name(&$crate::build::Build::stable()); })+
        }
    };
}

/// A server and the module for it.
#[derive(Debug, Clone)]
pub struct Build {
    /// The version.
    pub version: String,
    /// The server.
    pub nginx: PathBuf,
    /// The module.
    pub module: PathBuf,
    /// The command that the server is started under, if any.
    pub under: Vec<String>,
}

/// The folder that `make build` fills.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../build")
}

fn existing(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; run \"make build\"", path.display()))
}

impl Build {
    /// The machine's own NGINX, or the one that `SHUNT_NGINX` names.
    ///
    /// # Panics
    ///
    /// When there is none, or no module for it.
    #[must_use]
    pub fn debian() -> Self {
        let nginx = std::env::var_os("SHUNT_NGINX").unwrap_or_else(|| "/usr/sbin/nginx".into());
        Self::of(PathBuf::from(nginx))
    }

    /// Debian 13's.
    ///
    /// # Panics
    ///
    /// When it was not unpacked, or there is no module for it.
    #[must_use]
    pub fn trixie() -> Self {
        Self::of(existing(folder().join("trixie/nginx")))
    }

    /// Upstream stable.
    ///
    /// # Panics
    ///
    /// When it was not built.
    #[must_use]
    pub fn stable() -> Self {
        Self::of(existing(folder().join("1.28.3/nginx")))
    }

    /// Upstream stable as valgrind wants it, to be started under this command.
    ///
    /// # Panics
    ///
    /// When it was not built.
    #[must_use]
    pub fn memcheck(under: Vec<String>) -> Self {
        let folder = folder().join("memcheck");
        let nginx = existing(folder.join("nginx"));
        let module = existing(folder.join("ngx_http_shunt_module.so"));
        Self { version: "memcheck".to_owned(), nginx, module, under }
    }

    /// A server, which is asked for its version, and the module for that.
    fn of(nginx: PathBuf) -> Self {
        let output = Command::new(&nginx).arg("-v").output();
        let output = output.unwrap_or_else(|e| panic!("{nginx:?}: {e}; run \"make build\""));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let version = text.trim().rsplit('/').next().expect("nginx/1.2.3").to_owned();
        let module = existing(folder().join(&version).join("ngx_http_shunt_module.so"));
        Self { version, nginx, module, under: Vec::new() }
    }
}

/// A program of the helper.
///
/// # Panics
///
/// When it was not built.
#[must_use]
pub fn helper(program: &str) -> PathBuf {
    existing(folder().join("bin").join(program))
}

/// Prometheus' tool, which `scripts/promtool` has unpacked.
///
/// # Panics
///
/// When it was not.
#[must_use]
pub fn promtool() -> PathBuf {
    let path = folder().join("promtool");
    assert!(path.exists(), "{} is missing; run \"scripts/promtool\"", path.display());
    existing(path)
}

/// A program of this crate, beside the one that runs: the demo's, or a test's profile.
///
/// # Panics
///
/// When it was not built.
#[must_use]
pub fn own(program: &str) -> PathBuf {
    existing(folder().join("../target/release").join(program))
}
