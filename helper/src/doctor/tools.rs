//! Programs that the configuration needs.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use super::Finding;
use crate::config::App;
use crate::origin::Origin;

const CHECK: &str = "programs";

/// Looks for each in the search path.
#[must_use]
pub fn check(app: &App, path: Option<&OsStr>) -> Vec<Finding> {
    let mut needed = vec![("sh", "starts applications", "install dash or bash")];
    if let Some(Origin::Git { url, .. }) = &app.source.origin {
        needed.push(("git", "[source] git needs it", "install git"));
        let url = url.as_str();
        let is_ssh = url.starts_with("ssh://") || (!url.contains("://") && !url.starts_with('/'));
        if is_ssh {
            needed.push(("ssh", "the repository is reached by it", "install openssh-client"));
        }
    }
    if app.run.user.is_some() && rustix::process::geteuid().is_root() {
        needed.push(("setpriv", "[run] user needs it", "install util-linux"));
    }
    let has = |program: &str| {
        let folders = path.map(std::env::split_paths).into_iter().flatten();
        let is_program = |meta: std::fs::Metadata| meta.permissions().mode() & 0o111 != 0;
        folders.map(|folder| folder.join(program)).any(|p| p.metadata().is_ok_and(is_program))
    };
    let (there, missing): (Vec<_>, Vec<_>) = needed.into_iter().partition(|(name, ..)| has(name));
    let mut found: Vec<_> = missing
        .into_iter()
        .map(|(name, why, cure)| {
            Finding::problem(CHECK, format!("there is no {name} in PATH, and {why}"), cure)
        })
        .collect();
    if found.is_empty() {
        let names: Vec<_> = there.iter().map(|(name, ..)| *name).collect();
        found.push(Finding::ok(CHECK, format!("there are {}", names.join(", "))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn what_the_source_needs_is_looked_for() {
        let app = App::parse(
            "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:/n\"\n[source]\n\
             git = \"git@git.example:web.git\"\n[run]\ncommand = [\"x\"]\n\
             slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nuser = \"root\"\n",
        );
        // Only root may name somebody.
        let Ok(app) = app else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        let said = |found: &[Finding]| found.iter().map(ToString::to_string).collect::<String>();
        let found = check(&app, path);
        assert!(found.iter().all(|f| f.level == Level::Problem), "{found:?}");
        for name in ["sh", "git", "ssh", "setpriv"] {
            assert!(said(&found).contains(&format!("there is no {name} in PATH")), "{found:?}");
            let program = folder.path().join(name);
            std::fs::write(&program, "").unwrap();
            // A file alone is no program.
            let found = check(&app, path);
            assert!(said(&found).contains(&format!("there is no {name} in PATH")), "{found:?}");
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let found = check(&app, path);
        assert_eq!(found, [Finding::ok(CHECK, "there are sh, git, ssh, setpriv")]);
    }
}
