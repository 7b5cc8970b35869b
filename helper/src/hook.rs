//! The programs of `[hooks]`: a deploy runs each at its moment ([`When`]).
//!
//! A hook runs as the application's user, in the release's folder; see [`crate::program`] for how it is
//! run and how it ends. Its environment is the application's (that of the daemon, and `[run] env`), and:
//!
//! | variable | what |
//! | --- | --- |
//! | `SHUNT_APP` | the application |
//! | `SHUNT_HOOK` | which hook it is, as `before_switch` |
//! | `SHUNT_ROOT` | the application's folder |
//! | `RELEASE` | the release |
//! | `SHUNT_RELEASE_DIR` | its folder |
//! | `SHUNT_REVISION` | what it was made of: a commit, as a rule |
//! | `SHUNT_PREVIOUS_RELEASE` | the release that was active when the job began, if there was one |
//! | `SHUNT_SLOT` | where the release runs, once it does: an address or `unix:/path` |
//! | `SHUNT_FAILURE` | in `on_failure`: why the job has failed |
//!
//! What hooks say is kept in `<root>/log/<release>+hooks.log`, which the application's group may read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shunt_api::{Address, ReleaseName};

use crate::clock;
use crate::config;
use crate::config::hooks::When;
use crate::program::{Lines, Program, ProgramError};
use crate::runner::log::{self, Log};

/// The most that is kept of what one hook says, in bytes.
const KEPT: usize = 16 << 20;

/// How many lines of one hook are passed on; all others are in the log.
const PASSED_ON: usize = 2000;

/// A hook at its moment.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The application.
    pub app: &'a config::App,
    /// The moment.
    pub when: When,
    /// The release that the job is about.
    pub release: &'a ReleaseName,
    /// What it was made of, if that is known.
    pub revision: Option<&'a str>,
    /// The release that was active before, if there was one.
    pub previous: Option<&'a ReleaseName>,
    /// Where it runs, if it does.
    pub slot: Option<&'a Address>,
    /// Why the job has failed, if it has.
    pub failure: Option<&'a str>,
}

/// Why a hook has failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It did not end well.
    #[error("hook {when}: {error}; what it said is in {}", log.display())]
    Program {
        /// Which.
        when: When,
        /// How it failed, and the last that it said.
        error: ProgramError,
        /// Where the rest is.
        log: PathBuf,
    },
    /// What it says could not be kept; it was not run.
    #[error("hook {when}: cannot open its log {}: {error}", path.display())]
    Log {
        /// Which.
        when: When,
        /// The log.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl HookError {
    /// The last lines that it said.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Program { error, .. } => &error.lines,
            Self::Log { .. } => &[],
        }
    }
}

/// Where the hooks of a release say what they say. No release's own log can have this name.
#[must_use]
pub fn log(root: &Path, release: &ReleaseName) -> PathBuf {
    root.join(log::FOLDER).join(format!("{release}{SUFFIX}"))
}

/// How the name of a log of hooks ends.
pub(crate) const SUFFIX: &str = "+hooks.log";

impl Call<'_> {
    /// Runs the hook to its end, if there is one for this moment. Each line that it says is passed on.
    /// When nobody waits for it any more, it is killed.
    ///
    /// # Errors
    ///
    /// [`HookError`].
    pub async fn run(&self, lines: &mut Lines<'_>) -> Result<(), HookError> {
        let Some(hook) = self.app.hooks.at(self.when) else { return Ok(()) };
        let (when, user) = (self.when, self.app.run.user.as_ref());
        let path = log(&self.app.root, self.release);
        let file = Log::open(&path, user.map(|user| user.gid)).and_then(|log| log.writer());
        let file = file.map_err(|error| HookError::Log { when, path: path.clone(), error })?;
        let folder = self.folder();
        let program = Program {
            app: &self.app.name,
            root: &self.app.root,
            release: self.release,
            step: when.as_str(),
            command: hook.command.iter().map(OsString::from).collect(),
            folder: self.place(&folder),
            user,
            env: self.env(&folder),
            limit: hook.timeout.unwrap_or(self.app.hooks.timeout),
            stdout: None,
            held: Vec::new(),
        };
        let mut kept = Kept { file: Some(file), left: KEPT };
        kept.line(&format!("== {when}: {:?} at {}", hook.command, clock::now()));
        let mut passed_on = 0;
        let ended = program
            .run(&mut |line: &str| {
                kept.line(line);
                passed_on += 1;
                if passed_on <= PASSED_ON {
                    lines(line);
                } else if passed_on == PASSED_ON + 1 {
                    lines(&format!("… all else that it says is in {}", path.display()));
                }
            })
            .await;
        kept.left = KEPT;
        match ended {
            Ok(()) => {
                kept.line(&format!("== {when} is done at {}", clock::now()));
                Ok(())
            }
            Err(error) => {
                kept.line(&format!("== {when}: {error}, at {}", clock::now()));
                Err(HookError::Program { when, error, log: path })
            }
        }
    }

    /// The release's folder.
    fn folder(&self) -> PathBuf {
        self.app.root.join("releases").join(self.release.as_str())
    }

    /// Where it runs. When a job has failed, its release may be gone.
    fn place<'f>(&'f self, folder: &'f Path) -> &'f Path {
        match self.when == When::OnFailure && !folder.is_dir() {
            true => &self.app.root,
            false => folder,
        }
    }

    fn env(&self, folder: &Path) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = Vec::new();
        env.extend(self.app.run.env.iter().map(|(name, value)| (name.into(), value.into())));
        let mut set = |name: &str, value: OsString| env.push((name.into(), value));
        set("SHUNT_HOOK", self.when.as_str().into());
        set("SHUNT_RELEASE_DIR", folder.into());
        if let Some(revision) = self.revision {
            set("SHUNT_REVISION", revision.into());
        }
        if let Some(previous) = self.previous {
            set("SHUNT_PREVIOUS_RELEASE", previous.as_str().into());
        }
        if let Some(slot) = self.slot {
            set("SHUNT_SLOT", slot.to_string().into());
        }
        if let Some(failure) = self.failure {
            // No variable can have it.
            set("SHUNT_FAILURE", failure.replace('\0', " ").into());
        }
        env
    }
}

/// The log of a hook. A disk that is full is no reason to end it.
struct Kept {
    /// None once it cannot be written to.
    file: Option<File>,
    left: usize,
}

impl Kept {
    fn line(&mut self, line: &str) {
        if self.left == 0 {
            return;
        }
        let mut text = format!("{line}\n");
        if text.len() >= self.left {
            text = "== it says too much, all else is left out\n".to_owned();
            self.left = text.len();
        }
        self.left -= text.len();
        if let Some(file) = &mut self.file
            && file.write_all(text.as_bytes()).is_err()
        {
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::hooks::Hook;
    use crate::program::Why;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    /// An application with one hook, and a release of it.
    struct World {
        tmp: tempfile::TempDir,
        app: config::App,
        release: ReleaseName,
        when: When,
    }

    impl World {
        fn new(when: When, sh: &str) -> Self {
            let tmp = tempfile::tempdir().unwrap();
            fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let text = format!(
                "name = \"web\"\nroot = {:?}\nnginx = \"unix:/n\"\n[hooks]\n{when} = \
                 [\"/bin/sh\", \"-c\", {sh:?}]\n[run]\ncommand = [\"a\"]\nslots = [\"unix:/a\", \
                 \"unix:/b\"]\nenv = {{ MODE = \"test\", SECRET = \"s\" }}",
                tmp.path().join("web")
            );
            let app = config::App::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            fs::create_dir_all(app.root.join("releases/v2")).unwrap();
            Self { tmp, app, release: ReleaseName::new("v2").unwrap(), when }
        }

        fn call(&self) -> Call<'_> {
            let (app, release) = (&self.app, &self.release);
            let (revision, previous, slot, failure) = (None, None, None, None);
            Call { app, when: self.when, release, revision, previous, slot, failure }
        }

        async fn run(&self, call: Call<'_>) -> (Result<(), HookError>, Vec<String>) {
            let mut said = Vec::new();
            let result = call.run(&mut |line: &str| said.push(line.to_owned())).await;
            (result, said)
        }

        fn kept(&self) -> String {
            fs::read_to_string(log(&self.app.root, &self.release)).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn a_hook_knows_what_it_is_about() {
        let sh = "pwd; env | grep -E '^(SHUNT_|RELEASE|MODE)' | grep -v STEP | sort";
        let world = World::new(When::AfterSwitch, sh);
        let (previous, slot) = (ReleaseName::new("v1").unwrap(), "127.0.0.1:3001".parse().unwrap());
        let call = Call {
            revision: Some("abc"),
            previous: Some(&previous),
            slot: Some(&slot),
            ..world.call()
        };
        let (result, said) = world.run(call).await;
        result.unwrap();
        let root = world.app.root.canonicalize().unwrap();
        let root = root.to_str().unwrap();
        let wanted = [
            format!("{root}/releases/v2"),
            "MODE=test".to_owned(),
            "RELEASE=v2".to_owned(),
            "SHUNT_APP=web".to_owned(),
            "SHUNT_HOOK=after_switch".to_owned(),
            "SHUNT_PREVIOUS_RELEASE=v1".to_owned(),
            format!("SHUNT_RELEASE_DIR={root}/releases/v2"),
            "SHUNT_REVISION=abc".to_owned(),
            format!("SHUNT_ROOT={root}"),
            "SHUNT_SLOT=127.0.0.1:3001".to_owned(),
        ];
        assert_eq!(said, wanted);
    }

    #[tokio::test]
    async fn what_it_says_is_kept_and_its_failure_explained() {
        let world = World::new(When::Migrate, "echo one; echo two >&2; exit 4");
        let (result, said) = world.run(world.call()).await;
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("hook migrate: it ended with exit status 4; what it said"),
            "{text}"
        );
        assert_eq!(
            (said.as_slice(), error.lines()),
            (&["one".into(), "two".into()][..], &said[..])
        );
        let kept = world.kept();
        assert!(kept.contains("\none\ntwo\n== migrate: it ended with exit status 4"), "{kept}");
        assert!(kept.starts_with("== migrate: [\"/bin/sh\""), "{kept}");
        assert!(!kept.contains("SECRET"), "{kept}");
        let mode = log(&world.app.root, &world.release).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o037, 0);
        // The next hook's words follow.
        world.run(world.call()).await.0.unwrap_err();
        assert_eq!(world.kept().matches("two").count(), kept.matches("two").count() * 2);
    }

    #[tokio::test]
    async fn without_a_hook_for_the_moment_nothing_happens() {
        let world = World::new(When::Build, "exit 1");
        let call = Call { when: When::Migrate, ..world.call() };
        world.run(call).await.0.unwrap();
        assert_eq!(world.kept(), "");
    }

    #[tokio::test]
    async fn a_hook_has_its_own_limit_or_that_of_all() {
        let mut world = World::new(When::Build, "exec sleep 60");
        world.app.hooks.timeout = Duration::from_millis(50);
        let error = world.run(world.call()).await.0.unwrap_err();
        assert!(error.to_string().contains("longer than 50ms"), "{error}");
        world.app.hooks.timeout = Duration::from_secs(60);
        let Some(Hook { timeout, .. }) = &mut world.app.hooks.build else { panic!() };
        *timeout = Some(Duration::from_millis(70));
        let error = world.run(world.call()).await.0.unwrap_err();
        assert!(error.to_string().contains("longer than 70ms"), "{error}");
        assert!(world.kept().contains("longer than 70ms"));
    }

    #[tokio::test]
    async fn a_failure_can_be_told_when_the_release_is_gone() {
        let world = World::new(When::OnFailure, "pwd; echo $SHUNT_FAILURE");
        fs::remove_dir(world.app.root.join("releases/v2")).unwrap();
        let call = Call { failure: Some("it is\0ill"), ..world.call() };
        let (result, said) = world.run(call).await;
        result.unwrap();
        let root = world.app.root.canonicalize().unwrap();
        assert_eq!(said, [root.to_str().unwrap(), "it is ill"]);
        // Any other hook has its folder or does not run.
        let world = World::new(When::Build, "pwd");
        fs::remove_dir(world.app.root.join("releases/v2")).unwrap();
        let error = world.run(world.call()).await.0.unwrap_err();
        let HookError::Program { error, .. } = error else { panic!("{error}") };
        assert!(matches!(error.why, Why::Start { .. }), "{error}");
    }

    #[tokio::test]
    async fn who_says_too_much_is_heard_in_part() {
        let world = World::new(When::Build, "seq 3000; exit 1");
        let (result, said) = world.run(world.call()).await;
        assert_eq!(said.len(), PASSED_ON + 1);
        assert!(said[PASSED_ON].contains("+hooks.log"), "{}", said[PASSED_ON]);
        assert!(world.kept().contains("\n3000\n"));
        assert_eq!(result.unwrap_err().lines().last().unwrap(), "3000");
        // Of the log, too, there is an end.
        let file = File::create(world.tmp.path().join("kept")).unwrap();
        let mut kept = Kept { file: Some(file), left: 100 };
        (0..50).for_each(|_| kept.line("0123456789"));
        let kept = fs::read_to_string(world.tmp.path().join("kept")).unwrap();
        assert!(kept.len() < 150 && kept.ends_with("all else is left out\n"), "{kept}");
    }

    #[tokio::test]
    async fn without_its_log_a_hook_is_not_run() {
        let world = World::new(When::Build, "touch ../../ran");
        let path = log(&world.app.root, &world.release);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let error = world.run(world.call()).await.0.unwrap_err();
        assert!(matches!(error, HookError::Log { .. }), "{error}");
        assert!(!world.app.root.join("ran").exists());
    }
}
