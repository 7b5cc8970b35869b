//! What all of the daemon shares: the applications, their jobs, and who may change something.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shunt_api::ReleaseName;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

use crate::daemon::peer::Rights;
use crate::deploy::app::App;
use crate::deploy::jobs::Jobs;

/// The applications by name.
pub type Apps = BTreeMap<ReleaseName, Arc<App>>;

/// Applications, jobs, and rights.
pub struct Shared {
    /// The applications as they are configured now. Another configuration is another [`App`]; what has
    /// begun with an older one goes on with that.
    pub apps: RwLock<Apps>,
    /// Their jobs.
    pub jobs: Jobs,
    /// Who may change something.
    pub rights: Rights,
    /// What works for jobs; none once the daemon ends.
    work: Mutex<Option<JoinSet<()>>>,
    /// Whether the daemon ends.
    ends: watch::Sender<bool>,
}

impl Shared {
    /// No applications yet, these jobs, and these rights.
    #[must_use]
    pub fn new(jobs: Jobs, rights: Rights) -> Self {
        let work = Mutex::new(Some(JoinSet::new()));
        let ends = watch::Sender::new(false);
        Self { apps: RwLock::default(), jobs, rights, work, ends }
    }

    /// The daemon ends: whoever follows something is let go.
    pub fn end(&self) {
        self.ends.send_replace(true);
    }

    /// Waits until the daemon ends.
    pub async fn ends(&self) {
        // The sender is our own.
        let _ = self.ends.subscribe().wait_for(|ends| *ends).await;
    }

    /// Lets something work for a job until it is done, or the daemon ends, in which nothing begins.
    pub fn work(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(all) = &mut *self.lock() {
            while all.try_join_next().is_some() {}
            all.spawn(work);
        }
    }

    /// Cuts off all jobs, as a kill does. What they have done is written down, and nothing of it is judged
    /// by what happens to releases when the daemon ends.
    pub async fn cut_off(&self) {
        let all = self.lock().take();
        if let Some(mut all) = all {
            all.shutdown().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        // Nothing is left half done under this lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application with this name.
    pub async fn app(&self, name: &str) -> Option<Arc<App>> {
        self.apps.read().await.get(name).cloned()
    }

    /// All applications.
    pub async fn all(&self) -> Vec<Arc<App>> {
        self.apps.read().await.values().cloned().collect()
    }
}
