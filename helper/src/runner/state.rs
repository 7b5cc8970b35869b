//! What a release in a slot is doing, whatever runs it.

use std::fmt;

use tokio::sync::watch;

/// What a release in a slot is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running {
        /// The pid of its process; none in a container, and when somebody else runs it.
        pid: Option<u32>,
        /// How often it had to be started again.
        restarts: u32,
    },
    /// It ended by itself and will be started again, unless systemd or Docker has been told otherwise.
    Ended {
        /// How it ended.
        how: String,
        /// How often it had to be started again.
        restarts: u32,
    },
    /// It was stopped, and its socket listens: the first connection starts it.
    Listens,
    /// It was stopped.
    Stopped,
}

impl State {
    /// How often it had to be started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        match self {
            Self::Running { restarts, .. } | Self::Ended { restarts, .. } => *restarts,
            Self::Listens | Self::Stopped => 0,
        }
    }

    /// Whether it was stopped, and nobody but a connection will start it again.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self, Self::Listens | Self::Stopped)
    }
}

/// Waits for the end of a release that was started again `restarts` times, which may be over already,
/// and tells how it came; one more restart is an end, too.
pub async fn ended(mut release: watch::Receiver<State>, restarts: u32) -> String {
    let as_it_was =
        |s: &State| matches!(s, State::Running { restarts: now, .. } if *now == restarts);
    match release.wait_for(|s| !as_it_was(s)).await.as_deref() {
        Ok(State::Ended { how, .. }) => how.clone(),
        Ok(State::Running { .. }) => "a restart".to_owned(),
        Ok(State::Listens | State::Stopped) | Err(_) => "an order to stop".to_owned(),
    }
}

/// How a release ended that was told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// In its grace time, or it ran no more.
    ByItself,
    /// It took longer than that.
    Killed,
    /// Somebody else runs it, and it does so still.
    NotOurs,
    /// It is not known whether it has ended.
    Unknown(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByItself => f.write_str("ended by itself"),
            Self::Killed => f.write_str("killed after its grace time"),
            Self::NotOurs => f.write_str("not ours to stop"),
            Self::Unknown(why) => write!(f, "it is not known whether it has ended: {why}"),
        }
    }
}
