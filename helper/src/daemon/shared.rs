//! What all of the daemon shares: the applications, and their jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use shunt_api::ReleaseName;
use tokio::sync::RwLock;

use crate::daemon::app::App;
use crate::daemon::jobs::Jobs;

/// The applications by name.
pub type Apps = BTreeMap<ReleaseName, Arc<App>>;

/// Applications and jobs.
#[derive(Default)]
pub struct Shared {
    /// The applications as they are configured now. Another configuration is another [`App`]; what has
    /// begun with an older one goes on with that.
    pub apps: RwLock<Apps>,
    /// Their jobs.
    pub jobs: Jobs,
}

impl Shared {
    /// The application with this name.
    pub async fn app(&self, name: &str) -> Option<Arc<App>> {
        self.apps.read().await.get(name).cloned()
    }

    /// All applications.
    pub async fn all(&self) -> Vec<Arc<App>> {
        self.apps.read().await.values().cloned().collect()
    }
}
