//! The applications' configuration takes effect, at the daemon's start and again at `SIGHUP`: all of
//! it, or nothing.
//!
//! What runs goes on as it was started, a process as well as a job. What the next job could not do
//! right any more is refused: taking away where a release runs, lies, or gets its requests from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shunt_api::ReleaseName;
use tokio::task::JoinSet;

use crate::config::{self, ConfigError};
use crate::daemon::recover::Recovery;
use crate::daemon::shared::{Apps, Shared};
use crate::deploy::app::{App, InUse};
use crate::deploy::journal::JournalError;
use crate::log;

/// Why a configuration does not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What an earlier daemon has written cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Something is in use that would change.
    #[error("{}: {} cannot change while {}; {}", path.display(), used.what, used.why, used.cure)]
    InUse {
        /// The file.
        path: PathBuf,
        /// What it is, and why.
        used: InUse,
    },
    /// An application is in use that has no file any more.
    #[error(
        "{}: is gone, but {why}; put it back, or restart shuntd, which forgets the application",
        path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// Why it is needed.
        why: String,
    },
}

/// What a configuration has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    new: Vec<ReleaseName>,
    changed: Vec<ReleaseName>,
    gone: Vec<ReleaseName>,
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [("new", &self.new), ("changed", &self.changed), ("gone", &self.gone)];
        let names = |names: &[ReleaseName]| {
            names.iter().map(ReleaseName::as_str).collect::<Vec<_>>().join(", ")
        };
        let parts: Vec<_> = kinds
            .iter()
            .filter(|(_, some)| !some.is_empty())
            .map(|(kind, some)| format!("{kind}: {}", names(some)))
            .collect();
        f.write_str(if parts.is_empty() { "nothing has changed" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

/// Reads the folder of applications again.
///
/// # Errors
///
/// [`ReloadError`]; then nothing has changed.
pub async fn reload(shared: &Arc<Shared>, folder: &Path) -> Result<Changes, ReloadError> {
    apply(shared, config::load(folder)?).await
}

/// Lets a configuration take effect. New applications are as at the daemon's start: what is
/// remembered of them in the journal runs again.
///
/// # Errors
///
/// [`ReloadError`]; then nothing has changed.
pub async fn apply(
    shared: &Arc<Shared>,
    configs: Vec<config::App>,
) -> Result<Changes, ReloadError> {
    // Nobody begins a job until it is done: see `routes::begin`.
    let mut apps = shared.apps.write().await;
    let (mut next, mut changes, mut fresh) = (Apps::new(), Changes::default(), Vec::new());
    for config in configs {
        let name = config.name.clone();
        let app = match apps.get(&name) {
            Some(app) if app.config == config => app.clone(),
            Some(app) => {
                let job = shared.jobs.running(&name);
                app.may_become(&config, job.as_ref())
                    .await
                    .map_err(|used| ReloadError::InUse { path: config.file.clone(), used })?;
                changes.changed.push(name.clone());
                Arc::new(app.with(config))
            }
            None => {
                let app = Arc::new(App::new(config, shared.jobs.journal()).await?);
                changes.new.push(name.clone());
                fresh.push(app.clone());
                app
            }
        };
        next.insert(name, app);
    }
    for (name, app) in apps.iter().filter(|(name, _)| !next.contains_key(*name)) {
        if let Some(why) = app.is_needed(shared.jobs.running(name).as_ref()).await {
            return Err(ReloadError::Gone { path: app.config.file.clone(), why });
        }
        changes.gone.push(name.clone());
    }
    let before = std::mem::replace(&mut *apps, next);
    for (name, app) in before {
        match apps.get(&name) {
            // What lies elsewhere could not be started any more.
            Some(now) => now.close(now.config.root != app.config.root).await,
            None => app.close(true).await,
        }
    }
    // All at once: an Engine that hangs keeps each of them waiting for some time.
    let looks = fresh.iter().cloned().map(|app| async move { app.find_containers().await });
    looks.collect::<JoinSet<()>>().join_all().await;
    for app in fresh {
        if let Some(recovery) = Recovery::begin(&app, &shared.jobs).await {
            let all = shared.clone();
            shared.work(async move { recovery.run(&all).await });
        }
    }
    Ok(changes)
}

/// What `systemctl status` shows.
#[must_use]
pub fn status(apps: usize) -> String {
    if apps == 1 { "1 application".to_owned() } else { format!("{apps} applications") }
}

/// Reads the folder of applications again, as a service of systemd does, and tells what came of it.
pub async fn on_hangup(shared: &Arc<Shared>, folder: &Path) {
    use sd_notify::NotifyState;
    let tell = |states: &[NotifyState<'_>]| {
        // If nobody listens, nobody waits.
        let _ = sd_notify::notify(states);
    };
    let mut begun = vec![NotifyState::Reloading];
    // `Type=notify-reload` wants it, which Debian 12's systemd does not know.
    begun.extend(NotifyState::monotonic_usec_now().ok());
    tell(&begun);
    let status = match reload(shared, folder).await {
        Ok(changes) => {
            log::notice(format_args!("configuration read again: {changes}"));
            status(shared.apps.read().await.len())
        }
        Err(error) => {
            let text = format!("configuration not read again, nothing has changed: {error}");
            log::error(&text);
            // It is one line there.
            text.lines().collect::<Vec<_>>().join(" ")
        }
    };
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}
