//! Build script of `ngx-module`: tells the compiler which NGINX it builds for, and compiles what has to
//! be asked in C.
//!
//! `nginx-sys` has read NGINX's headers by then and passes on what it found as `DEP_NGINX_…`, to
//! direct dependents only.

use std::path::Path;
use std::{env, fs};

/// Versions of NGINX that changed what the module has to know; `version.rs` says what they did.
const VERSIONS: [(&str, u64); 2] = [("nginx1_27_3", 1_027_003), ("nginx1_29_7", 1_029_007)];

fn main() {
    for variable in
        ["BUILD_DIR", "FEATURES", "FEATURES_CHECK", "INCLUDE", "METADATA", "VERSION_NUMBER"]
    {
        println!("cargo::rerun-if-env-changed=DEP_NGINX_{variable}");
    }

    let known = env::var("DEP_NGINX_FEATURES_CHECK").unwrap_or_else(|_| "any()".to_owned());
    println!("cargo::rustc-check-cfg=cfg(ngx_feature, values({known}))");
    for feature in env::var("DEP_NGINX_FEATURES").unwrap_or_default().split(',').map(str::trim) {
        println!("cargo::rustc-cfg=ngx_feature=\"{feature}\"");
    }

    let version = env::var("DEP_NGINX_VERSION_NUMBER").ok().and_then(|v| v.parse::<u64>().ok());
    let version = version.expect("nginx-sys tells the version of the NGINX headers");
    for (cfg, since) in VERSIONS {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        if version >= since {
            println!("cargo::rustc-cfg={cfg}");
        }
    }

    // The one feature that matters and that `nginx-sys` does not know.
    println!("cargo::rustc-check-cfg=cfg(nginx_sticky)");
    let folder =
        env::var("DEP_NGINX_BUILD_DIR").expect("nginx-sys tells where NGINX was configured");
    let header = Path::new(&folder).join("ngx_auto_config.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let header = fs::read_to_string(header).expect("configure has written ngx_auto_config.h");
    if header.lines().any(|line| line.split_whitespace().nth(1) == Some("NGX_HTTP_UPSTREAM_STICKY"))
    {
        println!("cargo::rustc-cfg=nginx_sticky");
    }

    println!("cargo::rerun-if-changed=src/request.c");
    let include = env::var("DEP_NGINX_INCLUDE").expect("nginx-sys tells where the headers are");
    let mut c = cc::Build::new();
    c.file("src/request.c").includes(env::split_paths(&include)).warnings(false);
    // `nginx-sys` passes NGINX's own definitions on under this name.
    let definitions = env::var("DEP_NGINX_METADATA").unwrap_or_default();
    for flag in definitions.strip_prefix("cflags=").unwrap_or_default().split_whitespace() {
        c.flag(flag);
    }
    c.compile("shunt_request");
}
