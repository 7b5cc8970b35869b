//! What a container is made of, and by what it is found again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, NetworkingConfig,
    PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use shunt_api::{Address, ReleaseName};

use super::Spec;
use super::place::Place;

/// The label with the application's name.
pub const APP: &str = "shunt.app";
/// The label with its folder: another daemon may have an application of the same name.
pub const ROOT: &str = "shunt.root";
/// The label with the slot.
pub const SLOT: &str = "shunt.slot";
/// The label with the release.
pub const RELEASE: &str = "shunt.release";

impl Spec {
    /// What all containers of the application have.
    pub(super) fn of_app(&self) -> [(&'static str, String); 2] {
        of_app(&self.app, &self.root)
    }

    /// What all containers of the slot have.
    pub(super) fn of_slot(&self) -> [(&'static str, String); 3] {
        let [app, root] = self.of_app();
        [app, root, (SLOT, self.slot.to_string())]
    }

    /// What the container has.
    pub(super) fn of_release(&self) -> [(&'static str, String); 4] {
        let [app, root, slot] = self.of_slot();
        [app, root, slot, (RELEASE, self.release.to_string())]
    }

    /// What `docker ps` calls it: the application, the slot and the release.
    pub(super) fn container_name(&self) -> String {
        let slot = match &self.slot {
            Address::Ip(address) => address.to_string(),
            Address::Unix(path) => path.display().to_string(),
        };
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let slot: String = slot.chars().map(plain).collect();
        format!("shunt-{}-{}-{}", self.app, slot.trim_matches('-'), self.release)
    }

    /// All of it, for a container in this place.
    pub(super) fn body(&self, image: &str, slot: SocketAddr, place: Place) -> ContainerCreateBody {
        let port = place.port(slot);
        let mut env = self.env.clone();
        env.insert("PORT".to_owned(), port.to_string());
        let mut host = HostConfig {
            binds: Some(self.config.volumes.clone()),
            network_mode: self.config.network.clone(),
            // It is to serve on without shuntd, and after the machine has started again.
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        };
        let mut exposed = None;
        let mut networking = None;
        match place {
            Place::Published { port } => {
                let binding = PortBinding {
                    host_ip: Some(slot.ip().to_string()),
                    host_port: Some(slot.port().to_string()),
                };
                let port = format!("{port}/tcp");
                host.port_bindings = Some(HashMap::from([(port.clone(), Some(vec![binding]))]));
                exposed = Some(vec![port]);
            }
            Place::InNetwork => {
                let ip = Some(slot.ip().to_string());
                let own = match slot.ip() {
                    IpAddr::V4(_) => EndpointIpamConfig { ipv4_address: ip, ..Default::default() },
                    IpAddr::V6(_) => EndpointIpamConfig { ipv6_address: ip, ..Default::default() },
                };
                let settings = EndpointSettings { ipam_config: Some(own), ..Default::default() };
                let network = self.config.network.clone().unwrap_or_default();
                networking = Some(NetworkingConfig {
                    endpoints_config: Some(HashMap::from([(network, settings)])),
                });
            }
            Place::Host => {}
        }
        let labels = self.of_release().map(|(name, value)| (name.to_owned(), value));
        ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: self.config.command.clone(),
            env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(HashMap::from(labels)),
            exposed_ports: exposed,
            stop_timeout: i64::try_from(self.config.stop_timeout.as_secs()).ok(),
            host_config: Some(host),
            networking_config: networking,
            ..ContainerCreateBody::default()
        }
    }
}

/// What all containers of an application have.
pub(super) fn of_app(app: &ReleaseName, root: &std::path::Path) -> [(&'static str, String); 2] {
    [(APP, app.to_string()), (ROOT, root.display().to_string())]
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;
    use serde_json::json;

    fn body(slot: &str, place: Place, more: &str) -> serde_json::Value {
        let spec = spec(slot, more);
        serde_json::to_value(spec.body("sha256:12", slot.parse().unwrap(), place)).unwrap()
    }

    #[test]
    fn a_container_is_found_again_by_its_labels() {
        let spec = spec("127.0.0.1:3001", "");
        assert_eq!(spec.container_name(), "shunt-web-127.0.0.1-3001-v1");
        let body = body("127.0.0.1:3001", Place::Published { port: 80 }, "");
        let labels = json!({
            "shunt.app": "web", "shunt.root": "/srv/web", "shunt.slot": "127.0.0.1:3001",
            "shunt.release": "v1",
        });
        assert_eq!(body["Labels"], labels);
        let six = super::super::tests::spec("[::1]:3001", "");
        assert_eq!(six.container_name(), "shunt-web-1--3001-v1");
    }

    #[test]
    fn a_published_port_is_the_slot_s_address() {
        let more = "env = { A = \"1\" }\ncommand = [\"serve\", \"-v\"]\nvolumes = [\"data:/data\"]";
        let body = body("127.0.0.1:3001", Place::Published { port: 80 }, more);
        let bindings = json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "3001" }] });
        assert_eq!(body["HostConfig"]["PortBindings"], bindings);
        assert_eq!(body["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(body["Env"], json!(["A=1", "PORT=80", "RELEASE=v1"]));
        assert_eq!(body["Cmd"], json!(["serve", "-v"]));
        assert_eq!(body["HostConfig"]["Binds"], json!(["data:/data"]));
        assert_eq!(body["HostConfig"]["RestartPolicy"]["Name"], "unless-stopped");
        assert_eq!((&body["Image"], &body["StopTimeout"]), (&json!("sha256:12"), &json!(10)));
    }

    #[test]
    fn in_its_network_a_container_has_the_slot_s_address() {
        let more = "network = \"web\"\nstop_timeout = \"1m\"";
        let body = body("172.20.0.9:3000", Place::InNetwork, more);
        let own = &body["NetworkingConfig"]["EndpointsConfig"]["web"]["IPAMConfig"];
        assert_eq!(own["IPv4Address"], "172.20.0.9");
        assert_eq!(body["HostConfig"]["NetworkMode"], "web");
        assert!(body["HostConfig"].get("PortBindings").is_none(), "{body}");
        assert_eq!((&body["StopTimeout"], &body["Env"][0]), (&json!(60), &json!("PORT=3000")));
    }
}
