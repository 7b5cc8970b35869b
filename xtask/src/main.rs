//! What the build does in Rust: compiles upstream's NGINX from the `nginx-src` crate, writes the
//! OpenAPI document of the module's API.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["nginx", version, folder] => nginx(version, Path::new(folder)),
        ["openapi", file] => openapi(Path::new(file)),
        _ => Err("usage: xtask nginx VERSION FOLDER | xtask openapi FILE".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Compiles NGINX into a folder, which does nothing when that is done already, and leaves a link
/// `source` to its sources there.
fn nginx(version: &str, folder: &Path) -> Result<(), String> {
    let (source, folder) = nginx_src::build(folder).map_err(|e| e.to_string())?;
    let header = source.join("src/core/nginx.h");
    let header = fs::read_to_string(&header).map_err(|e| format!("{}: {e}", header.display()))?;
    if !header.contains(&format!("\"{version}\"")) {
        return Err(format!("the nginx-src crate does not hold NGINX {version}"));
    }
    let link = folder.join("source");
    let link_error = |e| format!("{}: {e}", link.display());
    if fs::read_link(&link).ok().as_deref() != Some(&source) {
        // Another one may be left from another version of the crate.
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&source, &link).map_err(link_error)?;
    }
    Ok(())
}

/// Writes the OpenAPI document of the module's API.
fn openapi(file: &Path) -> Result<(), String> {
    let document = shunt_api::openapi::document()?;
    let text = serde_json::to_string_pretty(&document).map_err(|e| e.to_string())?;
    fs::write(file, text + "\n").map_err(|e| format!("{}: {e}", file.display()))
}
