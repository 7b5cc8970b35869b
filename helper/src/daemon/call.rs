//! The calls of the daemon's API: what the router has, and what the OpenAPI document says of each.

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A page for people.
    Page,
    /// Figures for Prometheus.
    Metrics,
    /// Every application.
    Apps,
    /// One application.
    App,
    /// Begins a deploy.
    Deploy,
    /// Begins a rollback.
    Rollback,
    /// Begins a switch.
    Switch,
    /// The job that runs goes on with its next step.
    Promote,
    /// The job that runs is taken back.
    Abort,
    /// A release gets a share.
    PutCanary,
    /// No release gets a share any more.
    DeleteCanary,
    /// New requests wait.
    PutHold,
    /// They go on.
    DeleteHold,
    /// The releases on disk.
    Releases,
    /// The end of a log.
    Logs,
    /// Removes the oldest releases.
    Prune,
    /// The last jobs.
    Jobs,
    /// One job.
    Job,
    /// Follows a job.
    Events,
}

impl Call {
    /// Every one.
    pub const ALL: [Self; 19] = [
        Self::Page,
        Self::Metrics,
        Self::Apps,
        Self::App,
        Self::Deploy,
        Self::Rollback,
        Self::Switch,
        Self::Promote,
        Self::Abort,
        Self::PutCanary,
        Self::DeleteCanary,
        Self::PutHold,
        Self::DeleteHold,
        Self::Releases,
        Self::Logs,
        Self::Prune,
        Self::Jobs,
        Self::Job,
        Self::Events,
    ];

    /// Its path, with parameters in braces.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Metrics => "/metrics",
            Self::Apps => "/v1/apps",
            Self::App => "/v1/apps/{app}",
            Self::Deploy => "/v1/apps/{app}/deploys",
            Self::Rollback => "/v1/apps/{app}/rollback",
            Self::Switch => "/v1/apps/{app}/switch",
            Self::Promote => "/v1/apps/{app}/promote",
            Self::Abort => "/v1/apps/{app}/abort",
            Self::PutCanary | Self::DeleteCanary => "/v1/apps/{app}/canary",
            Self::PutHold | Self::DeleteHold => "/v1/apps/{app}/hold",
            Self::Releases => "/v1/apps/{app}/releases",
            Self::Logs => "/v1/apps/{app}/logs",
            Self::Prune => "/v1/apps/{app}/prune",
            Self::Jobs => "/v1/apps/{app}/jobs",
            Self::Job => "/v1/jobs/{job}",
            Self::Events => "/v1/jobs/{job}/events",
        }
    }

    /// Its method, as OpenAPI writes it.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Page
            | Self::Metrics
            | Self::Apps
            | Self::App
            | Self::Releases
            | Self::Logs
            | Self::Jobs
            | Self::Job
            | Self::Events => "get",
            Self::Deploy
            | Self::Rollback
            | Self::Switch
            | Self::Promote
            | Self::Abort
            | Self::Prune => "post",
            Self::PutCanary | Self::PutHold => "put",
            Self::DeleteCanary | Self::DeleteHold => "delete",
        }
    }
}
