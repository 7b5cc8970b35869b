//! A socket behind which a process was stopped: the first connection starts it again.

use tokio::sync::watch;

use super::{
    FIRST_PAUSE, LONGEST_PAUSE, Process, Spec, StartError, listen, open_log, ordered, spawn,
    supervise,
};
use crate::endpoint::Listener;
use crate::log;
use crate::runner::log::Log;
use crate::runner::state::{End, State};

impl Process {
    /// Stops it, and keeps its socket open: the first connection starts it again, as this says. Gives the
    /// slot; none when the socket is lost.
    pub async fn retire(self, spec: Spec) -> (End, Option<Self>) {
        let log = self.log.clone();
        let (end, listener) = self.end().await;
        (end, listener.map(|listener| Self::resting(spec, listener, log)))
    }

    /// Opens the slot's socket as [`Process::retire`] leaves it.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn rest(spec: Spec) -> Result<Self, StartError> {
        let (listener, log) = (listen(&spec).await?, open_log(&spec)?);
        Ok(Self::resting(spec, listener, log))
    }

    /// A socket whose first connection starts the process.
    fn resting(spec: Spec, listener: Listener, log: Log) -> Self {
        let ((publish, state), (stop, stopped)) =
            (watch::channel(State::Listens), watch::channel(false));
        let task = tokio::spawn(rest(spec, listener, log.clone(), publish, stopped));
        Self { state, stop, log, task }
    }
}

/// Waits for a connection, and then for the process that it starts.
async fn rest(
    spec: Spec,
    listener: Listener,
    log: Log,
    publish: watch::Sender<State>,
    mut stop: watch::Receiver<bool>,
) -> (End, Option<Listener>) {
    let mut pause = FIRST_PAUSE;
    let leader = loop {
        let failed = tokio::select! {
            biased;
            () = ordered(&mut stop) => break None,
            came = listener.connection() => match came.and_then(|()| spawn(&spec, &listener, &log)) {
                Ok(leader) => break Some(leader),
                Err(error) => error,
            },
        };
        log::error(format_args!(
            "{} cannot be started by a connection: {failed}; the next attempt is in {pause:?}",
            spec.name
        ));
        tokio::select! {
            () = ordered(&mut stop) => break None,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    let Some(leader) = leader else {
        publish.send_replace(State::Stopped);
        return (End::ByItself, Some(listener));
    };
    let pid = leader.pid();
    log::notice(format_args!("{} was started by a connection, pid {pid}", spec.name));
    publish.send_replace(State::Running { pid: Some(pid), restarts: 0 });
    let (end, listener) = supervise(spec, listener, log, leader, publish, stop).await;
    (end, Some(listener))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, spec, until, until_gone};
    use super::*;

    #[tokio::test]
    async fn a_process_that_was_stopped_is_started_by_the_first_connection() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.01; done";
        let spec = spec(tmp.path(), script);
        let process = Process::start(spec.clone()).await.unwrap();
        lines(&process, 1).await;
        let State::Running { pid: Some(first), .. } = process.state() else {
            panic!("{:?}", process.state())
        };
        let (end, rests) = process.retire(spec.clone()).await;
        let rests = rests.unwrap();
        assert_eq!((end, rests.state()), (End::ByItself, State::Listens));
        until_gone(first).await;
        let _connection = crate::endpoint::connect(&spec.slot).await.unwrap();
        until(&rests, |s| matches!(s, State::Running { restarts: 0, .. })).await;
        lines(&rests, 2).await;
        // It is supervised as any other.
        let State::Running { pid: Some(second), .. } = rests.state() else {
            panic!("{:?}", rests.state())
        };
        let group = rustix::process::Pid::from_raw(i32::try_from(second).unwrap()).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        until(&rests, |s| matches!(s, State::Running { restarts: 1, .. })).await;
        assert_eq!(rests.stop().await, End::ByItself);
        assert!(crate::endpoint::connect(&spec.slot).await.is_err());
    }

    #[tokio::test]
    async fn one_that_rests_gives_its_socket_to_what_takes_its_place_or_closes_it() {
        let tmp = tempfile::tempdir().unwrap();
        let spec = spec(tmp.path(), "echo started; exec sleep 600");
        // As the daemon finds it at its start.
        let rests = Process::rest(spec.clone()).await.unwrap();
        assert_eq!(rests.state(), State::Listens);
        let roused = rests.replace(spec.clone()).await.map_err(|(_, error)| error).unwrap();
        lines(&roused, 1).await;
        assert!(matches!(roused.state(), State::Running { restarts: 0, .. }));
        let (_, rests) = roused.retire(spec.clone()).await;
        assert_eq!(rests.unwrap().stop().await, End::ByItself);
        assert!(crate::endpoint::connect(&spec.slot).await.is_err());
        // What cannot be started by a connection can be stopped all the same.
        let gone = Spec { command: vec!["./nothing".to_owned()], ..spec.clone() };
        let rests = Process::rest(gone).await.unwrap();
        let _connection = crate::endpoint::connect(&spec.slot).await.unwrap();
        assert_eq!(rests.stop().await, End::ByItself);
        assert!(crate::endpoint::connect(&spec.slot).await.is_err());
    }
}
