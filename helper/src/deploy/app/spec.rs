//! What is run of an application, and with which environment.

use std::collections::BTreeMap;

use shunt_api::{Address, ReleaseName};

use crate::config::{self, Runner, Slot};
use crate::deploy::app::App;
use crate::runner::process;
use crate::runner::running::Spec;
use crate::runner::start::StartError;
use crate::runner::{docker, systemd};
use crate::source::image;

impl App {
    /// Its configuration for a job: what its units say is in it, too.
    ///
    /// # Errors
    ///
    /// When systemd cannot be asked for them.
    pub async fn job_config(&self) -> Result<config::App, StartError> {
        let mut config = self.config.clone();
        if let (Runner::Systemd(units), Some(slot)) = (&config.run.runner, config.run.slots.first())
        {
            config.run.user = systemd::user(units, slot).await?;
        }
        Ok(config)
    }

    /// What tells a process, and whoever looks for it, what it is.
    pub(super) fn names(
        &self,
        slot: &Address,
        release: &ReleaseName,
    ) -> [(&'static str, String); 4] {
        [
            ("RELEASE", release.to_string()),
            ("SHUNT_APP", self.config.name.to_string()),
            // Another daemon may have an application of the same name.
            ("SHUNT_ROOT", self.config.root.to_string_lossy().into_owned()),
            ("SHUNT_SLOT", slot.to_string()),
        ]
    }

    /// The environment of a release, beyond the daemon's own and what the runner adds.
    pub fn env(&self, slot: &Address, release: &ReleaseName) -> BTreeMap<String, String> {
        let mut env = self.config.run.env.clone();
        env.extend(self.names(slot, release).map(|(name, value)| (name.to_owned(), value)));
        env
    }

    pub(super) async fn spec(&self, slot: &Address, release: &ReleaseName) -> Spec {
        let name = format!("{}: \"{release}\" in {slot}", self.config.name);
        let (folder, slot) = (self.releases.of(release), slot.clone());
        match &self.config.run.runner {
            Runner::Process { command, stop_timeout } => Spec::Process(process::Spec {
                name,
                command: command.clone(),
                folder,
                env: self.env(&slot, release),
                slot,
                user: self.config.run.user.clone(),
                log: self.releases.log(release),
                stop_timeout: *stop_timeout,
            }),
            Runner::Systemd(units) => {
                let link = self.releases.slot(&config::run::instance(&slot));
                Spec::Systemd(systemd::Spec { name, units: units.clone(), slot, link, folder })
            }
            Runner::Docker(docker) => Spec::Docker(Box::new(docker::Spec {
                name,
                app: self.config.name.clone(),
                root: self.config.root.clone(),
                env: self.env(&slot, release),
                slot,
                release: release.clone(),
                image: self.releases.revision(release),
                again: image::of(&folder),
                group: self.config.run.user.as_ref().map(|user| user.gid),
                config: (**docker).clone(),
            })),
            Runner::External { .. } => {
                let inner = self.inner.lock().await;
                Spec::External(Self::host_at(&inner, &slot).unwrap_or(Slot::Address(slot)))
            }
        }
    }
}
