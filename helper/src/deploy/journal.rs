//! The journal: what the daemon remembers, in SQLite, so that it is there after a crash or a loss of
//! power.
//!
//! Of each application the journal has what runs where and the intent of the job that is under way
//! ([`Remembered`]): written, and on the disk, before the job does anything. Of each job it has the
//! events. One thread has the database and does everything in the order in which it is asked. A job does
//! not wait for the disk but for its intents: what else is written is there when the daemon is killed, and
//! on the disk with the next intent.

mod remembered;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::{Connection, OptionalExtension, Row, params};
use shunt_api::ReleaseName;
use tokio::sync::oneshot;

use crate::log;
use crate::wire::{Event, JobKind, JobRecord, Outcome};

pub use remembered::{Remembered, Slot, Switch, Underway};

/// The file in the state folder.
pub const FILE: &str = "journal.db";

/// How many jobs of each application are kept, with their events: one that deploys often takes nothing
/// from the others.
const KEPT: u64 = 1000;

/// What the database looks like. A change of it raises [`VERSION`].
const SCHEMA: &str = "
    CREATE TABLE apps (
        app        TEXT PRIMARY KEY,
        remembered TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE jobs (
        job     INTEGER PRIMARY KEY,
        app     TEXT NOT NULL,
        kind    TEXT NOT NULL,
        release TEXT NOT NULL,
        since   TEXT NOT NULL,
        took    INTEGER,
        outcome TEXT,
        text    TEXT
    );
    CREATE INDEX jobs_of_app ON jobs (app, job);
    CREATE TABLE events (
        job   INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
        id    INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (job, id)
    ) WITHOUT ROWID;
";

/// Which of the schemas it is (`PRAGMA user_version`).
const VERSION: u32 = 1;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database says so.
    #[error("the journal {}: {error}{}", path.display(), advice(error))]
    Database {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: rusqlite::Error,
    },
    /// Another version of shuntd has written it.
    #[error(
        "the journal {}: it is of version {found}, and this shuntd knows {VERSION}; start the shuntd \
         that has written it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Something in it cannot be understood.
    #[error("the journal {}: {what}: {error}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it is about.
        what: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// Its thread has ended.
    #[error("the journal {}: it is closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

/// What to do about what the database says.
fn advice(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            "; put a copy of it in its place, or move it away with what lies beside it (-wal, -shm): without \
             it shuntd has no history and knows of no release that runs, so deploy one then"
        }
        _ => "",
    }
}

/// The last jobs of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latest {
    /// The last one that has ended: what it was, and how long it took, in milliseconds.
    pub ended: Option<(JobKind, u64)>,
    /// The last deploy that was done: when it began, in RFC 3339, and how long it took.
    pub successful_deploy: Option<(String, u64)>,
}

/// When an observer is called: before an intent is written, and when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// What came before has been done, and is not written down yet.
    Before,
    /// It is written down, and what it is about has not been done yet.
    After,
}

/// How safe it is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safe {
    /// It outlives a loss of power, and so does all that was written before.
    OnDisk,
    /// It outlives the daemon.
    Kept,
}

impl Safe {
    /// From here on what is written is so safe.
    fn apply(self, connection: &Connection) -> rusqlite::Result<()> {
        // With a log: synced at each commit, or not.
        let level = match self {
            Self::OnDisk => "FULL",
            Self::Kept => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", level)
    }
}

/// Is told of each intent.
pub type Observer = Box<dyn FnMut(Moment) + Send>;

type Work = Box<dyn FnOnce(&mut Database) + Send>;

/// The journal.
pub struct Journal {
    path: PathBuf,
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

struct Database {
    connection: Connection,
    observer: Observer,
}

impl Journal {
    /// Opens the journal in a state folder, or makes one.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        Self::observed(state, Box::new(|_| {}))
    }

    /// As [`Journal::open`], with somebody who is told of each intent: a test that lets the daemon die
    /// there.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub fn observed(state: &Path, observer: Observer) -> Result<Self, JournalError> {
        let path = state.join(FILE);
        let connection = connect(&path)?;
        let mut database = Database { connection, observer };
        let (work, works) = mpsc::channel::<Work>();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let thread = thread.spawn(move || works.iter().for_each(|work| work(&mut database)));
        let thread = thread.map_err(|_| JournalError::Closed { path: path.clone() })?;
        Ok(Self { path, work: Some(work), thread: Some(thread) })
    }

    /// Does something with the database, and waits for it.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.send(Box::new(move |database| {
            // Whoever asked may have gone.
            let _ = answer.send(f(database));
        }));
        let answered = answered.await.map_err(|_| JournalError::Closed { path: self.path.clone() });
        answered?.map_err(|error| JournalError::Database { path: self.path.clone(), error })
    }

    /// Writes something, and nobody waits for it.
    fn later(
        &self,
        safe: Safe,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<()> + Send + 'static,
    ) {
        let path = self.path.clone();
        self.send(Box::new(move |database| {
            let connection = &mut database.connection;
            if let Err(error) = safe.apply(connection).and_then(|()| f(connection)) {
                log::error(JournalError::Database { path, error });
            }
        }));
    }

    fn send(&self, work: Work) {
        if let Some(sender) = &self.work {
            // Its thread ends with the journal only; should it have panicked, `run` tells.
            let _ = sender.send(work);
        }
    }

    /// Waits until all that was written so far is on the disk.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.run(|_| Ok(())).await
    }

    /// What is remembered of an application; nothing of a new one.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn remembered(&self, app: &ReleaseName) -> Result<Remembered, JournalError> {
        let name = app.to_string();
        let text: Option<String> = self
            .run(move |database| {
                let sql = "SELECT remembered FROM apps WHERE app = ?1";
                database.connection.query_row(sql, [name], |row| row.get(0)).optional()
            })
            .await?;
        let Some(text) = text else { return Ok(Remembered::default()) };
        serde_json::from_str(&text)
            .map_err(|error| self.content(format!("what runs of {app}"), error))
    }

    /// Remembers something of an application. When this returns, it is safe.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn remember(
        &self,
        app: &ReleaseName,
        remembered: &Remembered,
        safe: Safe,
    ) -> Result<(), JournalError> {
        let name = app.to_string();
        let text = serde_json::to_string(remembered)
            .map_err(|error| self.content(format!("what runs of {app}"), error))?;
        self.run(move |database| {
            (database.observer)(Moment::Before);
            safe.apply(&database.connection)?;
            let sql = "INSERT INTO apps (app, remembered) VALUES (?1, ?2)
                       ON CONFLICT (app) DO UPDATE SET remembered = ?2";
            database.connection.execute(sql, params![name, text])?;
            (database.observer)(Moment::After);
            Ok(())
        })
        .await
    }

    /// The number of the last job; 0 when there was none.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn last_job(&self) -> Result<u64, JournalError> {
        let sql = "SELECT coalesce(max(job), 0) FROM jobs";
        self.run(move |database| database.connection.query_row(sql, [], |row| row.get(0))).await
    }

    /// A job has begun.
    pub fn begun(&self, job: &JobRecord) {
        let job = job.clone();
        self.later(Safe::Kept, move |connection| {
            let sql =
                "INSERT INTO jobs (job, app, kind, release, since) VALUES (?1, ?2, ?3, ?4, ?5)";
            let kind = job.kind.to_string();
            let (app, release) = (job.app.as_str(), job.release.as_str());
            connection.execute(sql, params![job.job, app, kind, release, job.since])?;
            let sql = "DELETE FROM jobs WHERE app = ?1 AND job <=
                           (SELECT job FROM jobs WHERE app = ?1 ORDER BY job DESC LIMIT 1 OFFSET ?2)";
            connection.execute(sql, params![app, KEPT])?;
            Ok(())
        });
    }

    /// Something has happened in a job.
    pub fn event(&self, job: u64, event: &Event) {
        let (id, text) = (event.id, serde_json::to_string(event).unwrap_or_default());
        self.later(Safe::Kept, move |connection| {
            let sql = "INSERT INTO events (job, id, event) VALUES (?1, ?2, ?3)";
            connection.execute(sql, params![job, id, text]).map(|_| ())
        });
    }

    /// A job has ended, after so many milliseconds.
    pub fn ended(&self, job: u64, took: u64, outcome: Outcome, text: &str) {
        let (outcome, text) = (outcome.name(), text.to_owned());
        self.later(Safe::OnDisk, move |connection| {
            let sql = "UPDATE jobs SET took = ?2, outcome = ?3, text = ?4 WHERE job = ?1";
            connection.execute(sql, params![job, took, outcome, text]).map(|_| ())
        });
    }

    /// The last jobs of an application, the latest first.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn history(
        &self,
        app: &ReleaseName,
        limit: u32,
    ) -> Result<Vec<JobRecord>, JournalError> {
        let app = app.to_string();
        self.run(move |database| {
            let sql = "SELECT * FROM jobs WHERE app = ?1 ORDER BY job DESC LIMIT ?2";
            let mut statement = database.connection.prepare(sql)?;
            let rows = statement.query_map(params![app, limit], record)?;
            rows.collect()
        })
        .await
    }

    /// The last jobs of an application that have ended.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn latest(&self, app: &ReleaseName) -> Result<Latest, JournalError> {
        let app = app.to_string();
        self.run(move |database| {
            let last = |and: &str, params: &[&str]| {
                let sql = format!(
                    "SELECT * FROM jobs WHERE app = ?1 AND took IS NOT NULL {and}
                     ORDER BY job DESC LIMIT 1"
                );
                let params = rusqlite::params_from_iter(params);
                database.connection.query_row(&sql, params, record).optional()
            };
            let ended = last("", &[&app])?.and_then(|job| Some((job.kind, job.took?)));
            let (kind, outcome) = (JobKind::Deploy.to_string(), Outcome::Done.name());
            let deploy = last("AND kind = ?2 AND outcome = ?3", &[&app, &kind, &outcome])?;
            let successful_deploy = deploy.and_then(|job| Some((job.since, job.took?)));
            Ok(Latest { ended, successful_deploy })
        })
        .await
    }

    /// A job; none when it is not known, or not any more.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn job(&self, job: u64) -> Result<Option<JobRecord>, JournalError> {
        // SQLite's numbers end there.
        let Ok(job) = i64::try_from(job) else { return Ok(None) };
        self.run(move |database| {
            let sql = "SELECT * FROM jobs WHERE job = ?1";
            database.connection.query_row(sql, [job], record).optional()
        })
        .await
    }

    /// The events of a job, in their order.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn events(&self, job: u64) -> Result<Vec<Event>, JournalError> {
        let texts: Vec<String> = self
            .run(move |database| {
                let sql = "SELECT event FROM events WHERE job = ?1 ORDER BY id";
                let mut statement = database.connection.prepare(sql)?;
                statement.query_map([job], |row| row.get(0))?.collect()
            })
            .await?;
        let parse = |text: &String| {
            serde_json::from_str(text)
                .map_err(|error| self.content(format!("the events of job {job}"), error))
        };
        texts.iter().map(parse).collect()
    }

    fn content(&self, what: String, error: serde_json::Error) -> JournalError {
        JournalError::Content { path: self.path.clone(), what, error }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The thread ends when it has done all that it was asked for.
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // Should it have panicked, there is nothing left to do.
            let _ = thread.join();
        }
    }
}

fn connect(path: &Path) -> Result<Connection, JournalError> {
    let failed = |error| JournalError::Database { path: path.to_owned(), error };
    let connection = Connection::open(path).map_err(failed)?;
    // Applications' names and reasons are nobody else's business. What SQLite writes beside it gets
    // the same mode.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let _ = std::fs::set_permissions(path, mode);
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    Safe::OnDisk.apply(&connection).map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    let version = |row: &Row<'_>| row.get(0);
    let found: u32 =
        connection.pragma_query_value(None, "user_version", version).map_err(failed)?;
    match found {
        0 => {
            let schema = format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;");
            connection.execute_batch(&schema).map_err(failed)?;
        }
        VERSION => {}
        found => return Err(JournalError::Version { path: path.to_owned(), found }),
    }
    Ok(connection)
}

/// A row of `jobs`.
fn record(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    Ok(JobRecord {
        job: row.get("job")?,
        app: name_in(row, "app")?,
        kind: enum_in(row, "kind")?.ok_or(rusqlite::Error::InvalidQuery)?,
        release: name_in(row, "release")?,
        since: row.get("since")?,
        took: row.get("took")?,
        outcome: enum_in(row, "outcome")?,
        text: row.get("text")?,
    })
}

fn name_in(row: &Row<'_>, column: &str) -> rusqlite::Result<ReleaseName> {
    let text: String = row.get(column)?;
    ReleaseName::new(&text).map_err(|_| unknown(column, &text))
}

fn enum_in<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    let Some(text) = text else { return Ok(None) };
    let value = serde_json::Value::String(text.clone());
    serde_json::from_value(value).map(Some).map_err(|_| unknown(column, &text))
}

fn unknown(column: &str, text: &str) -> rusqlite::Error {
    let why = format!("{column} {text:?} is not known");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, why.into())
}

#[cfg(test)]
mod tests;
