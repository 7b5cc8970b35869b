//! Build script of `ngx-module`: tells the compiler which NGINX it builds for.
//!
//! `nginx-sys` has read NGINX's headers by then and passes on what it found as `DEP_NGINX_…`, to
//! direct dependents only.

use std::env;

/// Versions of NGINX that changed what the module has to know; `version.rs` says what they did.
const VERSIONS: [(&str, u64); 2] = [("nginx1_27_3", 1_027_003), ("nginx1_29_7", 1_029_007)];

fn main() {
    for variable in ["DEP_NGINX_FEATURES", "DEP_NGINX_FEATURES_CHECK", "DEP_NGINX_VERSION_NUMBER"] {
        println!("cargo::rerun-if-env-changed={variable}");
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
}
