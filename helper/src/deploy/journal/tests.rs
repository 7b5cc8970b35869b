use std::fs;
use std::sync::Arc;
use std::sync::Mutex;

use super::*;
use crate::config::Strategy;
use crate::runner::leftover::Identity;
use crate::wire::{JobKind, Step, What};

fn name(text: &str) -> ReleaseName {
    ReleaseName::new(text).unwrap()
}

/// What is remembered after the `n`th write.
fn remembered(n: u64) -> Remembered {
    Remembered {
        last_switch: Some(Switch { from: name("v1"), to: name("v2") }),
        slots: vec![Slot {
            slot: "127.0.0.1:3001".parse().unwrap(),
            host: None,
            release: name("v2"),
            process: Some(Identity { pid: 7, start: n }),
            listens: false,
        }],
        underway: Some(Underway {
            kind: JobKind::Deploy,
            release: name("v2"),
            old: None,
            ran: false,
            job: n,
            strategy: Strategy::InPlace,
            step: Step::WarmUp,
            held: true,
            before: None,
        }),
    }
}

fn record(job: u64, app: &str) -> JobRecord {
    JobRecord {
        job,
        app: name(app),
        kind: JobKind::Rollback,
        release: name("v2"),
        since: "2026-01-01T00:00:00Z".to_owned(),
        took: None,
        outcome: None,
        text: None,
    }
}

#[tokio::test]
async fn after_a_flush_all_that_nobody_waited_for_is_on_the_disk() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    for job in 1..=20 {
        journal.begun(&record(job, "web"));
        journal.ended(job, 1, Outcome::Done, "done");
    }
    journal.flush().await.unwrap();
    // As a daemon that leaves at once, and never closes it.
    std::mem::forget(journal);
    let next = Journal::open(state.path()).unwrap();
    let last = next.job(20).await.unwrap().unwrap();
    assert_eq!(last.outcome, Some(Outcome::Done));
}

#[tokio::test]
async fn what_is_written_is_remembered_by_the_next_daemon() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    assert_eq!(journal.remembered(&name("web")).await.unwrap(), Remembered::default());
    for n in 0..3 {
        journal.remember(&name("web"), &remembered(n), Safe::OnDisk).await.unwrap();
    }
    drop(journal);
    let journal = Journal::open(state.path()).unwrap();
    assert_eq!(journal.remembered(&name("web")).await.unwrap(), remembered(2));
    assert_eq!(journal.remembered(&name("shop")).await.unwrap(), Remembered::default());
}

#[tokio::test]
async fn jobs_are_kept_with_their_events() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    assert_eq!(journal.last_job().await.unwrap(), 0);
    for (job, app) in [(1, "web"), (2, "shop"), (3, "web")] {
        journal.begun(&record(job, app));
    }
    let what = What::Step { step: Step::Health, note: "127.0.0.1:3001".to_owned() };
    let event = Event { id: 1, at: 5, what };
    journal.event(3, &event);
    journal.ended(3, 77, Outcome::SwitchedBack, "web is back");
    let history = journal.history(&name("web"), 10).await.unwrap();
    assert_eq!(history.iter().map(|job| job.job).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(history[1], record(1, "web"));
    let ended = JobRecord {
        took: Some(77),
        outcome: Some(Outcome::SwitchedBack),
        text: Some("web is back".to_owned()),
        ..record(3, "web")
    };
    assert_eq!(journal.job(3).await.unwrap(), Some(ended));
    assert_eq!(journal.events(3).await.unwrap(), [event]);
    assert_eq!(journal.job(4).await.unwrap(), None);
    assert_eq!(journal.last_job().await.unwrap(), 3);
    // The oldest go, with their events, but those of other applications stay.
    for job in 4..4 + KEPT {
        journal.begun(&record(job, "web"));
    }
    assert_eq!(journal.job(3).await.unwrap(), None);
    assert_eq!(journal.events(3).await.unwrap(), []);
    assert_eq!(journal.job(2).await.unwrap(), Some(record(2, "shop")));
    let history = journal.history(&name("web"), u32::MAX).await.unwrap();
    assert_eq!(history.len() as u64, KEPT);
    assert_eq!(history.last().map(|job| job.job), Some(4));
}

#[tokio::test]
async fn p9_an_intent_is_on_the_disk_whatever_was_written_before() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    // `PRAGMA synchronous`: 1 is "NORMAL", which syncs nothing at a commit, and 2 is "FULL".
    let level = async || {
        let level = |row: &Row<'_>| row.get::<_, u32>(0);
        let asked = move |database: &mut Database| {
            database.connection.pragma_query_value(None, "synchronous", level)
        };
        journal.run(asked).await.unwrap()
    };
    journal.begun(&record(1, "web"));
    assert_eq!(level().await, 1);
    journal.remember(&name("web"), &remembered(1), Safe::OnDisk).await.unwrap();
    assert_eq!(level().await, 2);
    journal.remember(&name("web"), &remembered(1), Safe::Kept).await.unwrap();
    assert_eq!(level().await, 1);
    journal.ended(1, 77, Outcome::Done, "web is on v2");
    assert_eq!(level().await, 2);
}

#[tokio::test]
async fn p9_a_loss_of_power_at_any_byte_leaves_one_of_the_states_that_were_written() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    for n in 0..20 {
        journal.remember(&name("web"), &remembered(n), Safe::OnDisk).await.unwrap();
    }
    // As the disk has it while the daemon runs: the file, and what was written since.
    let (file, wal) = (FILE.to_owned(), format!("{FILE}-wal"));
    let read = |file: &str| fs::read(state.path().join(file)).unwrap();
    let (main, log) = (read(&file), read(&wal));
    assert!(log.len() > 4096, "{}", log.len());
    let mut seen = 0;
    for end in (0..=log.len()).step_by(977).chain([log.len()]) {
        let after = tempfile::tempdir().unwrap();
        fs::write(after.path().join(&file), &main).unwrap();
        fs::write(after.path().join(&wal), &log[..end]).unwrap();
        let journal = Journal::open(after.path()).unwrap();
        let found = journal.remembered(&name("web")).await.unwrap();
        let n = found.underway.as_ref().map_or(0, |job| job.job);
        assert!(found == Remembered::default() || found == remembered(n), "{end}: {found:?}");
        assert!(n >= seen, "{end}: {n} after {seen}");
        seen = n;
    }
    assert_eq!(seen, 19);
}

#[tokio::test]
async fn an_observer_is_told_before_and_after_each_intent() {
    let state = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let theirs = seen.clone();
    let observer = Box::new(move |moment| theirs.lock().unwrap().push(moment));
    let journal = Journal::observed(state.path(), observer).unwrap();
    journal.remember(&name("web"), &remembered(1), Safe::OnDisk).await.unwrap();
    journal.begun(&record(1, "web"));
    assert_eq!(journal.last_job().await.unwrap(), 1);
    assert_eq!(*seen.lock().unwrap(), [Moment::Before, Moment::After]);
}

#[test]
fn a_journal_that_is_none_is_refused_with_its_name() {
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join(FILE), "no database at all, but long enough for one ".repeat(99))
        .unwrap();
    let error = Journal::open(state.path()).err().unwrap().to_string();
    assert!(error.contains("move it away"), "{error}");
    assert!(error.contains(FILE) && error.contains("not a database"), "{error}");
}

#[test]
fn a_journal_of_another_version_is_refused() {
    let state = tempfile::tempdir().unwrap();
    drop(Journal::open(state.path()).unwrap());
    let connection = Connection::open(state.path().join(FILE)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let error = Journal::open(state.path()).err().unwrap();
    assert!(matches!(error, JournalError::Version { found: 99, .. }), "{error}");
}

#[test]
fn nobody_else_reads_the_journal() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    for entry in fs::read_dir(state.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
    }
    drop(journal);
}

#[tokio::test]
async fn the_latest_are_the_last_that_ended_and_the_last_deploy_that_was_done() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    let web = name("web");
    assert_eq!(journal.latest(&web).await.unwrap(), Latest::default());
    for (job, app, kind, took, outcome) in [
        (1, "web", JobKind::Deploy, 10, Some(Outcome::Done)),
        (2, "web", JobKind::Deploy, 20, Some(Outcome::Unhealthy)),
        (3, "web", JobKind::Rollback, 30, Some(Outcome::Done)),
        (4, "shop", JobKind::Deploy, 40, Some(Outcome::Done)),
        (5, "web", JobKind::Deploy, 0, None),
    ] {
        let since = format!("2026-01-01T00:00:0{job}Z");
        journal.begun(&JobRecord { kind, since, ..record(job, app) });
        if let Some(outcome) = outcome {
            journal.ended(job, took, outcome, "so");
        }
    }
    let latest = Latest {
        ended: Some((JobKind::Rollback, 30)),
        successful_deploy: Some(("2026-01-01T00:00:01Z".to_owned(), 10)),
    };
    assert_eq!(journal.latest(&web).await.unwrap(), latest);
}
