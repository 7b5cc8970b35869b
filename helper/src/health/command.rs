//! The check by a program of the release: it runs in the release's folder, as the application's user,
//! and is good when it ends with exit status 0.
//!
//! Its environment is the application's: `[run] env`, `RELEASE`, `SHUNT_APP`, `SHUNT_ROOT`, `SHUNT_SLOT`, and `PORT`
//! unless the slot is a unix socket; and `SHUNT_STEP`, which is `health`. It gets no socket of its own.

use std::ffi::OsString;
use std::time::Duration;

use shunt_api::Address;

use super::Target;
use crate::program::Program;

/// How many of its last lines are shown.
const LINES: usize = 10;

/// Runs it once; the error is what was wrong.
pub(super) async fn check(
    command: &[String],
    target: Target<'_>,
    limit: Duration,
) -> Result<(), String> {
    let mut env: Vec<(OsString, OsString)> =
        target.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    if let Address::Ip(address) = target.slot {
        env.push(("PORT".into(), address.port().to_string().into()));
    }
    let program = Program {
        app: target.app,
        root: target.root,
        release: target.release,
        step: "health",
        command: command.iter().map(OsString::from).collect(),
        folder: target.folder,
        user: target.user,
        env,
        limit,
        stdout: None,
        held: Vec::new(),
    };
    program.run(&mut |_| {}).await.map_err(|error| {
        let name = command.first().map_or("", String::as_str);
        let lines = &error.lines[error.lines.len().saturating_sub(LINES)..];
        let why = format!("{name:?}: {}", error.why);
        std::iter::once(why.as_str())
            .chain(lines.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::v1;
    use crate::runner::leftover::Identity;
    use crate::runner::user::User;
    use std::collections::BTreeMap;
    use std::path::Path;

    async fn run_as(
        user: Option<&User>,
        folder: &Path,
        command: &[&str],
        limit: Duration,
    ) -> Result<(), String> {
        let command: Vec<_> = command.iter().map(|part| (*part).to_owned()).collect();
        let env = BTreeMap::from([("RELEASE".to_owned(), "v1".to_owned())]);
        let (slot, release) = ("127.0.0.1:3001".parse().unwrap(), v1());
        let app = release.clone();
        let target = Target {
            app: &app,
            root: folder,
            slot: &slot,
            release: &release,
            folder,
            user,
            env: &env,
        };
        check(&command, target, limit).await
    }

    async fn run(folder: &Path, script: &str) -> Result<(), String> {
        run_as(None, folder, &["/bin/sh", "-c", script], Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn it_runs_in_the_folder_with_the_environment_of_the_release() {
        let tmp = tempfile::tempdir().unwrap();
        run(tmp.path(), "test -z \"$LISTEN_FDS\" && echo $RELEASE $PORT > said").await.unwrap();
        assert_eq!(std::fs::read_to_string(tmp.path().join("said")).unwrap(), "v1 3001\n");
        // A program of the release itself.
        std::fs::write(tmp.path().join("check"), "#!/bin/sh\ntest -e said\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(tmp.path().join("check"), mode).unwrap();
        run_as(None, tmp.path(), &["./check"], Duration::from_secs(20)).await.unwrap();
    }

    #[tokio::test]
    async fn p9_a_check_that_is_left_running_is_not_taken_for_the_release() {
        let tmp = tempfile::tempdir().unwrap();
        // The next daemon finds the release by its environment, and ends what were steps.
        run(tmp.path(), "test \"$SHUNT_STEP\" = health").await.unwrap();
    }

    #[tokio::test]
    async fn what_fails_is_shown_with_the_end_of_its_output() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "seq 100000; echo no database >&2; exit 3";
        let error = run(tmp.path(), script).await.unwrap_err();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines[0], "\"/bin/sh\": it ended with exit status 3");
        assert_eq!(lines.len(), 1 + LINES, "{error}");
        assert_eq!(lines[LINES - 1..], ["100000", "no database"]);
        let error = run_as(None, tmp.path(), &["./none"], Duration::from_secs(20)).await;
        assert!(error.unwrap_err().starts_with("\"./none\": cannot start"));
    }

    #[tokio::test]
    async fn what_does_not_end_is_killed_with_all_that_it_has_started() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $!; touch said; wait";
        let command = ["/bin/sh", "-c", script];
        let limit = Duration::from_secs(3600);
        let time_passes = async {
            until_there(&tmp.path().join("said")).await;
            tokio::time::pause();
            tokio::time::advance(limit).await;
            tokio::time::resume();
        };
        let (ended, ()) = tokio::join!(run_as(None, tmp.path(), &command, limit), time_passes);
        let error = ended.unwrap_err();
        assert!(
            error.starts_with("\"/bin/sh\": it was ended as it took longer than 1h\n"),
            "{error}"
        );
        until_gone(error.lines().last().unwrap().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn what_it_leaves_behind_ends_with_it_and_is_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        run(tmp.path(), "sleep 600 & echo $! > pid").await.unwrap();
        let pid = std::fs::read_to_string(tmp.path().join("pid")).unwrap();
        until_gone(pid.trim().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn a_check_that_is_given_up_ends() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("pid");
        let script = "echo $$ > pid.new; mv pid.new pid; exec sleep 600";
        let pid = tokio::select! {
            ended = run(tmp.path(), script) => panic!("{ended:?}"),
            pid = async {
                until_there(&path).await;
                std::fs::read_to_string(&path).unwrap()
            } => pid,
        };
        until_gone(pid.trim().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn it_runs_as_the_applications_user() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return;
        }
        let user = User::find("nobody").unwrap();
        let command = ["/bin/sh", "-c", "echo \"$(id -u) $USER\"; exit 1"];
        let limit = Duration::from_secs(20);
        let error = run_as(Some(&user), Path::new("/"), &command, limit).await.unwrap_err();
        assert_eq!(error.lines().last(), Some(format!("{} nobody", user.uid).as_str()));
    }

    async fn until_there(path: &Path) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !path.exists() {
            assert!(std::time::Instant::now() < end, "{} is not there", path.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_gone(pid: u32) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while Identity::of(pid).is_some() {
            assert!(std::time::Instant::now() < end, "{pid} still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
