//! Who shuntd is for a registry: what `docker login` has written down for its user.

use std::collections::HashMap;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bollard::auth::DockerCredentials;
use nix::unistd::{User, geteuid};
use serde::Deserialize;

use crate::file;
use crate::source::image::Image;

/// What Docker calls its own registry in that file.
const HUB: &str = "https://index.docker.io/v1/";

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The file, as far as it is of use here. Programs that keep passwords are not asked.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Debug, Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    token: Option<String>,
}

/// Where `docker login` writes.
fn path() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        // A service of systemd's has no HOME.
        None => User::from_uid(geteuid()).ok()??.dir.join(".docker"),
    };
    Some(folder.join("config.json"))
}

/// What there is for the registry of an image; nothing, if nobody has logged in there.
#[must_use]
pub fn of(image: &Image) -> Option<DockerCredentials> {
    found(&file::read(&path()?, LONGEST).ok()?, image)
}

fn found(config: &str, image: &Image) -> Option<DockerCredentials> {
    let config: Config = serde_json::from_str(config).ok()?;
    let registry = image.registry();
    let is_it = |key: &String| match registry {
        Some(registry) => host(key) == registry,
        None => key == HUB,
    };
    let (server, auth) = config.auths.into_iter().find(|(key, _)| is_it(key))?;
    let serveraddress = Some(server);
    if auth.token.is_some() {
        let identitytoken = auth.token;
        return Some(DockerCredentials { identitytoken, serveraddress, ..Default::default() });
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(auth.auth).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some(DockerCredentials {
        username: Some(name.to_owned()),
        password: Some(password.to_owned()),
        serveraddress,
        ..Default::default()
    })
}

/// The host of a registry, which may be written as an address.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_logged_in_to_the_image_s_registry_is_found() {
        let auth = |text: &str| BASE64_STANDARD.encode(text);
        let config = serde_json::json!({
            "auths": {
                HUB: { "auth": auth("hub:a:b") },
                "registry.example:5000": { "auth": auth("own:secret") },
                "https://old.example/v2/": { "auth": "", "identitytoken": "token" },
                "kept.example": {},
            },
            "credsStore": "pass",
        })
        .to_string();
        let of = |image: &str| found(&config, &image.parse().unwrap());
        let own = of("registry.example:5000/team/web:v1").unwrap();
        assert_eq!(
            (own.username.as_deref(), own.password.as_deref()),
            (Some("own"), Some("secret"))
        );
        let hub = of("team/web").unwrap();
        assert_eq!((hub.username.as_deref(), hub.password.as_deref()), (Some("hub"), Some("a:b")));
        assert_eq!(of("old.example/web").unwrap().identitytoken.as_deref(), Some("token"));
        // Somewhere else, with a program that keeps it, and without any.
        for image in ["registry.example/web", "kept.example/web", "localhost/web"] {
            assert!(of(image).is_none(), "{image}");
        }
        assert!(found("{", &"web".parse().unwrap()).is_none());
    }
}
