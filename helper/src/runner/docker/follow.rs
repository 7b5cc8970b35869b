//! Follows a container, as long as it is ours: what happens to it, its Engine tells.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, EventMessage};
use futures_util::stream::StreamExt;
use jiff::Timestamp;
use tokio::sync::watch;

use super::engine::{Engine, EngineError};
use crate::log;
use crate::runner::state::State;

/// The pause before the Engine is asked again that could not be heard.
const RETRY: Duration = Duration::from_secs(1);

/// What an inspection tells of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether it runs.
    pub(super) runs: bool,
    /// Whether it does, or Docker is about to start it again.
    pub(super) is_up: bool,
    /// When it was started.
    started: String,
    /// How often Docker has started it again.
    restarts: u32,
    /// How it ended, if it did.
    how: String,
    /// The status that its process ended with.
    pub(super) exit: Option<i64>,
}

impl Seen {
    pub(super) fn of(container: &ContainerInspectResponse) -> Self {
        let state = container.state.clone().unwrap_or_default();
        let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY);
        let runs =
            matches!(status, ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::PAUSED);
        let exit = state.exit_code.map(|code| code.to_string()).unwrap_or_default();
        let error = state.error.unwrap_or_default();
        let how = match error.is_empty() {
            true => how(&exit, state.oom_killed == Some(true)),
            false => error,
        };
        Self {
            runs,
            is_up: runs || status == ContainerStateStatusEnum::RESTARTING,
            started: state.started_at.unwrap_or_default(),
            restarts: container.restart_count.unwrap_or_default().try_into().unwrap_or(0),
            how,
            exit: state.exit_code,
        }
    }
}

/// How a process ended.
fn how(exit: &str, was_too_large: bool) -> String {
    let exit = if exit.is_empty() { "unknown" } else { exit };
    match was_too_large {
        true => format!("exit status {exit}, killed as there was no memory left for it"),
        false => format!("exit status {exit}"),
    }
}

/// What is remembered of a container from one event to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tracker {
    started: String,
    restarts: u32,
    /// How it ended, while it does not run.
    end: Option<String>,
    /// Whether it was just said that there was no memory left for it.
    was_too_large: bool,
}

impl Tracker {
    /// A container that runs.
    pub(super) fn new(seen: &Seen) -> Self {
        let (started, restarts) = (seen.started.clone(), seen.restarts);
        Self { started, restarts, ..Self::default() }
    }

    pub(super) fn state(&self) -> State {
        let restarts = self.restarts;
        match self.end.clone() {
            Some(how) => State::Ended { how, restarts },
            None => State::Running { pid: None, restarts },
        }
    }

    /// What a look shows after it was not listened to.
    fn look(&mut self, seen: &Seen) {
        let is_another = seen.started != self.started;
        if seen.runs {
            if is_another || self.end.is_some() {
                self.restarts = seen.restarts.max(self.restarts + 1);
            }
            self.end = None;
        } else {
            self.end = Some(seen.how.clone());
        }
        self.started.clone_from(&seen.started);
    }

    /// An event. Tells whether the container was started.
    fn event(&mut self, event: &EventMessage) -> bool {
        let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
        let exit = || attributes.and_then(|all| all.get("exitCode")).cloned().unwrap_or_default();
        match event.action.as_deref() {
            Some("oom") => self.was_too_large = true,
            Some("die") => {
                self.end = Some(how(&exit(), std::mem::take(&mut self.was_too_large)));
            }
            Some("destroy") => self.is_gone(),
            Some("start") => {
                self.restarts += u32::from(self.end.take().is_some());
                return true;
            }
            _ => {}
        }
        false
    }

    fn is_gone(&mut self) {
        self.end = Some("its container removed by somebody".to_owned());
    }
}

/// What is followed.
pub(super) struct Followed {
    /// What it is called in the daemon's log.
    pub(super) name: String,
    /// The Engine's socket.
    pub(super) socket: PathBuf,
    /// The container.
    pub(super) id: String,
    /// From when on events count (seconds since 1970), of one that was just made.
    pub(super) since: Option<i64>,
}

/// Follows it until the order to stop that.
pub(super) async fn follow(
    mut followed: Followed,
    mut tracker: Tracker,
    publish: watch::Sender<State>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let lost = tokio::select! {
            biased;
            // A daemon that forgets it wants no more news, either.
            _ = stop.wait_for(|stop| *stop) => return,
            lost = listen(&followed, &mut tracker, &publish) => lost,
        };
        followed.since = None;
        let why =
            lost.map_or_else(|| "its events have ended".to_owned(), |error| error.to_string());
        log::warning(format_args!("{}: {why}; it is asked again", followed.name));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = again(&followed.socket) => {}
        }
    }
}

/// Waits until the Engine answers again.
async fn again(socket: &Path) {
    loop {
        tokio::time::sleep(RETRY).await;
        if Engine::connect(socket).await.is_ok() {
            return;
        }
    }
}

/// Follows it until the Engine cannot be heard any more.
async fn listen(
    followed: &Followed,
    tracker: &mut Tracker,
    publish: &watch::Sender<State>,
) -> Option<EngineError> {
    let mut follow = async || -> Result<(), EngineError> {
        let engine = Engine::connect(&followed.socket).await?;
        // The Engine tells again what came in between.
        let since = followed.since.unwrap_or_else(|| Timestamp::now().as_second());
        let mut events = std::pin::pin!(engine.events(&followed.id, Some(since)));
        if followed.since.is_none() {
            match engine.inspect(&followed.id).await {
                Ok(container) => tracker.look(&Seen::of(&container)),
                Err(error) if error.is_not_found() => tracker.is_gone(),
                Err(error) => return Err(error),
            }
            tell(&followed.name, tracker, publish);
        }
        while let Some(event) = events.next().await {
            let started = tracker.event(&event?);
            tell(&followed.name, tracker, publish);
            if started && let Ok(container) = engine.inspect(&followed.id).await {
                tracker.started = Seen::of(&container).started;
            }
        }
        Ok(())
    };
    follow().await.err()
}

/// What others are told, and the daemon's log has of it.
fn tell(name: &str, tracker: &Tracker, publish: &watch::Sender<State>) {
    let now = tracker.state();
    if *publish.borrow() == now {
        return;
    }
    match &now {
        State::Ended { how, .. } => log::error(format_args!("{name} ended with {how}")),
        _ => log::notice(format_args!("{name} runs again")),
    }
    publish.send_replace(now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(status: &str, started: &str, restarts: i64, exit: i64) -> Seen {
        Seen::of(
            &serde_json::from_value(json!({
                "RestartCount": restarts,
                "State": { "Status": status, "StartedAt": started, "ExitCode": exit },
            }))
            .unwrap(),
        )
    }

    fn event(action: &str, exit: &str) -> EventMessage {
        let actor = json!({ "ID": "1", "Attributes": { "exitCode": exit } });
        serde_json::from_value(json!({ "Type": "container", "Action": action, "Actor": actor }))
            .unwrap()
    }

    fn running(restarts: u32) -> State {
        State::Running { pid: None, restarts }
    }

    fn ended(how: &str, restarts: u32) -> State {
        State::Ended { how: how.to_owned(), restarts }
    }

    #[test]
    fn each_start_after_an_end_is_a_restart() {
        let mut tracker = Tracker::default();
        for (action, exit, state) in [
            ("create", "", running(0)),
            ("start", "", running(0)),
            ("exec_create: sh", "", running(0)),
            ("die", "7", ended("exit status 7", 0)),
            ("start", "", running(1)),
            ("oom", "", running(1)),
            ("die", "137", ended("exit status 137, killed as there was no memory left for it", 1)),
            ("start", "", running(2)),
            ("die", "0", ended("exit status 0", 2)),
            ("destroy", "", ended("its container removed by somebody", 2)),
        ] {
            let started = tracker.event(&event(action, exit));
            assert_eq!((tracker.state(), started), (state, action == "start"), "{action}");
        }
    }

    #[test]
    fn what_nobody_listened_to_a_look_shows() {
        let mut tracker = Tracker::new(&seen("running", "a", 3, 0));
        assert_eq!(tracker.state(), running(3));
        tracker.look(&seen("running", "a", 3, 0));
        assert_eq!(tracker.state(), running(3));
        tracker.look(&seen("running", "b", 0, 0));
        assert_eq!(tracker.state(), running(4), "the whole Engine has started again");
        tracker.look(&seen("restarting", "b", 9, 1));
        assert_eq!(tracker.state(), ended("exit status 1", 4));
        tracker.look(&seen("running", "c", 9, 0));
        assert_eq!(tracker.state(), running(9));
        tracker.look(&seen("exited", "c", 9, 143));
        assert_eq!(tracker.state(), ended("exit status 143", 9));
    }

    #[test]
    fn one_that_is_being_started_again_is_up_but_does_not_run() {
        for (status, runs, is_up) in [
            ("running", true, true),
            ("paused", true, true),
            ("restarting", false, true),
            ("created", false, false),
            ("exited", false, false),
        ] {
            let seen = seen(status, "a", 0, 0);
            assert_eq!((seen.runs, seen.is_up), (runs, is_up), "{status}");
        }
    }
}
