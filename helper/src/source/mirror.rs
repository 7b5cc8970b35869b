//! The kept copy of a git repository, and how git is run on it.
//!
//! It is the application's user's: git runs as that user and reads that user's configuration, with the
//! keys and passwords in it. Nothing in the copy is ever run or followed by root.
//!
//! Git asks nobody anything, calls no hook, and runs no transport but the ones that are listed. Two of it
//! do not work on a copy at once: each holds the lock, so that even one that has outlived its daemon is
//! waited for. What such a one has left half done does not disturb the next.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    Dir, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, flock, fstat, openat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use shunt_api::ReleaseName;

use super::git::GitError;
use crate::config;
use crate::held::place;
use crate::program::{Lines, Program};
use crate::user::User;

/// The folder in an application's root.
const FOLDER: &str = "source.git";

/// How often to look whether another git has ended.
const LOOK: Duration = Duration::from_millis(100);

/// The most that git may answer to a question, in bytes.
const ANSWER: u64 = 256 << 20;

/// Git needs no longer than the whole fetch may take; that ends first.
const LIMIT: Duration = Duration::from_secs(86400);

/// An application's git.
pub(super) struct Git<'a> {
    app: &'a config::App,
    release: &'a ReleaseName,
    user: Option<&'a User>,
    /// Where copies are, and the lock on it.
    folder: PathBuf,
    lock: OwnedFd,
    /// The transports that may be used.
    transports: &'static str,
}

impl<'a> Git<'a> {
    /// Waits for the lock. Repositories of this machine are only for whom the configuration sends
    /// there: a submodule must not lead to them.
    pub(super) async fn new(
        app: &'a config::App,
        release: &'a ReleaseName,
        local: bool,
        lines: &mut Lines<'_>,
    ) -> Result<Self, GitError> {
        let user = app.run.user.as_ref().filter(|_| geteuid().is_root());
        let folder = app.root.join(FOLDER);
        let failed = |error| GitError::Folder { path: folder.clone(), error };
        let lock = make(&app.root, user).map_err(failed)?;
        let mut told = false;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(failed(error.into())),
            }
            if !std::mem::replace(&mut told, true) {
                lines(&format!("another git works in {}, waiting for it", folder.display()));
            }
            tokio::time::sleep(LOOK).await;
        }
        let transports = if local { "https:http:ssh:git:file" } else { "https:http:ssh:git" };
        let git = Self { app, release, user, folder, lock, transports };
        git.clear_locks().await?;
        Ok(git)
    }

    /// The folder with everything in it.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes the locks that a git which was killed has left: under our own lock there is no other.
    async fn clear_locks(&self) -> Result<(), GitError> {
        self.find(&["-name", "*.lock", "-type", "f", "-delete"]).await
    }

    /// Removes everything, so that it is fetched anew.
    pub(super) async fn forget(&self) -> Result<(), GitError> {
        self.find(&["-mindepth", "1", "-delete"]).await
    }

    /// As the user, who can put links there: root must not look for something itself.
    async fn find(&self, args: &[&str]) -> Result<(), GitError> {
        let mut command: Vec<OsString> = vec!["find".into(), self.folder.clone().into()];
        command.extend(args.iter().map(OsString::from));
        let program = self.program(command, None).map_err(|e| self.failed("find", e))?;
        program.run(&mut |_| {}).await.map_err(|error| GitError::Program {
            what: format!("find {}", self.folder.display()),
            advice: "",
            error,
        })
    }

    /// Runs git on a copy.
    pub(super) async fn run(
        &self,
        copy: &Path,
        args: &[&str],
        stdout: Option<OwnedFd>,
        lines: &mut Lines<'_>,
    ) -> Result<(), GitError> {
        let mut command: Vec<OsString> = vec!["git".into(), "--git-dir".into(), copy.into()];
        command.push("--literal-pathspecs".into());
        for config in [
            "core.hooksPath=/dev/null",
            // What goes on in the background would outlive the lock and the time limit.
            "gc.autoDetach=false",
            "maintenance.autoDetach=false",
            "init.defaultBranch=main",
            "tar.umask=0022",
        ] {
            command.extend(["-c".into(), config.into()]);
        }
        command.extend(args.iter().map(OsString::from));
        let what = || args.iter().take(1).map(|arg| format!("git {arg}")).collect();
        let program = self.program(command, stdout).map_err(|e| self.failed("git", e))?;
        program.run(lines).await.map_err(|error| GitError::new(what(), error))
    }

    /// Asks git something.
    pub(super) async fn ask(&self, copy: &Path, args: &[&str]) -> Result<Vec<u8>, GitError> {
        let (reader, writer) = io::pipe().map_err(|e| self.failed("git", e))?;
        let read = tokio::task::spawn_blocking(move || {
            let mut answer = Vec::new();
            reader.take(ANSWER).read_to_end(&mut answer).map(|_| answer)
        });
        self.run(copy, args, Some(writer.into()), &mut |_| {}).await?;
        let answer = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        answer.map_err(|e| self.failed("git", e))
    }

    fn program(&self, command: Vec<OsString>, stdout: Option<OwnedFd>) -> io::Result<Program<'_>> {
        let env = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS_REQUIRE", "never"),
            // One that does not answer does not last for ever.
            ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=30 -oServerAliveInterval=15"),
            ("GIT_ALLOW_PROTOCOL", self.transports),
            // Its words are read here, too.
            ("LC_ALL", "C"),
        ];
        Ok(Program {
            app: &self.app.name,
            root: &self.app.root,
            release: self.release,
            step: "fetch",
            command,
            folder: &self.folder,
            user: self.user,
            env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            limit: LIMIT,
            stdout,
            held: vec![self.lock.try_clone()?],
        })
    }

    fn failed(&self, what: &str, error: io::Error) -> GitError {
        GitError::Folder { path: self.folder.join(what), error }
    }
}

/// The folder, which is made if it is missing, for the user.
fn make(root: &Path, user: Option<&User>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(place(root, FOLDER)?, ".", flags, Mode::empty())?;
    let mine = geteuid().as_raw();
    let owner = fstat(&folder)?.st_uid;
    let inside = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
        entry.is_ok_and(|e| !matches!(e.file_name().to_bytes(), b"." | b".."))
    };
    // It was made here, now or by an attempt that was cut off; and if not, it holds nothing.
    if owner == mine && !Dir::read_from(&folder)?.any(inside) {
        if let Some(user) = user {
            fchown(&folder, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        }
        // What is in it may be nobody else's business.
        fchmod(&folder, Mode::RWXU)?;
    } else if owner != user.map_or(mine, |user| user.uid) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it belongs to another user than git runs as; remove it, it is only a copy",
        ));
    }
    Ok(folder)
}
