//! Whether shuntd may write where it has to, and the application's user read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, getgrouplist};
use rustix::fs::{Access, access};

use super::Finding;
use crate::config::App;
use crate::user::User;

const CHECK: &str = "rights";

/// The folder in which shuntd remembers.
#[must_use]
pub fn state(folder: &Path) -> Finding {
    match write(folder) {
        Ok(()) => Finding::ok(CHECK, format!("{} can be written to", folder.display())),
        Err(error) => Finding::problem(
            CHECK,
            format!("{} cannot be written to: {error}", folder.display()),
            "make it for shuntd's user, or run this as that user: install -d /var/lib/shunt",
        ),
    }
}

/// The application's folder.
#[must_use]
pub fn check(app: &App) -> Vec<Finding> {
    let root = &app.root;
    if !root.is_dir() {
        return vec![missing(root, app.run.user.as_ref())];
    }
    let mut found = Vec::new();
    for name in ["", "releases", "log", "shared"] {
        let folder = if name.is_empty() { root.clone() } else { root.join(name) };
        // shuntd makes what is missing.
        if folder.symlink_metadata().is_err() {
            continue;
        }
        if let Err(error) = write(&folder) {
            let saw = format!("{} cannot be written to: {error}", folder.display());
            found.push(Finding::problem(
                CHECK,
                saw,
                "give it to shuntd's user, or run this as that user",
            ));
        }
    }
    found.extend(current(root));
    if let Some(user) = &app.run.user {
        found.extend(unreadable(root, user));
    }
    if found.is_empty() {
        let user =
            app.run.user.as_ref().map_or(String::new(), |u| format!(", and read by {}", u.name));
        found.push(Finding::ok(CHECK, format!("{} can be written to{user}", root.display())));
    }
    found
}

/// A root that is no folder. The first deploy makes it, if it can.
fn missing(root: &Path, user: Option<&User>) -> Finding {
    let there = root.ancestors().find(|path| path.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("/"));
    if !there.is_dir() {
        let saw = format!("{} is no folder", there.display());
        return Finding::problem(
            CHECK,
            saw,
            format!("move it away, then: install -d {}", root.display()),
        );
    }
    if let Err(error) = write(there) {
        let saw = format!(
            "{} is not there, and cannot be made: {} cannot be written to: {error}",
            root.display(),
            there.display()
        );
        let cure =
            format!("install -d {}, for shuntd's user; or run this as that user", root.display());
        return Finding::problem(CHECK, saw, cure);
    }
    user.and_then(|user| unreadable(root, user)).unwrap_or_else(|| {
        Finding::ok(
            CHECK,
            format!("{} is not there yet, the first deploy makes it", root.display()),
        )
    })
}

fn write(folder: &Path) -> Result<(), rustix::io::Errno> {
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
}

/// `current` is a link that is renamed over; a folder cannot be.
fn current(root: &Path) -> Option<Finding> {
    let current = root.join("current");
    let meta = current.symlink_metadata().ok()?;
    (!meta.file_type().is_symlink()).then(|| {
        let saw = format!("{} is no link", current.display());
        let cure = format!("move it away: mv {0} {0}.old", current.display());
        Finding::problem(CHECK, saw, cure)
    })
}

/// What the application's user cannot enter on the way to its releases.
fn unreadable(root: &Path, user: &User) -> Option<Finding> {
    if user.uid == 0 {
        return None;
    }
    let groups = std::ffi::CString::new(user.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, Gid::from_raw(user.gid)).ok())
        .unwrap_or_default();
    let may_enter = |path: &PathBuf| {
        let Ok(meta) = fs::metadata(path) else { return true };
        let of_group = meta.gid() == user.gid || groups.iter().any(|g| g.as_raw() == meta.gid());
        let shift = match (meta.uid() == user.uid, of_group) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        meta.mode() >> shift & 0o1 == 1
    };
    let mut way: Vec<PathBuf> = root.ancestors().map(Path::to_owned).collect();
    way.reverse();
    way.push(root.join("releases"));
    let newest = fs::canonicalize(root.join("current")).ok();
    way.extend(newest);
    let blocked = way.iter().find(|path| !may_enter(path))?;
    let saw = format!("{} cannot be entered by {}", blocked.display(), user.name);
    Some(Finding::problem(CHECK, saw, format!("chmod o+x {}", blocked.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use std::os::unix::fs::PermissionsExt;

    fn app(root: &Path) -> App {
        App::parse(&format!(
            "name = \"web\"\nroot = {root:?}\nnginx = \"unix:/n\"\n[run]\ncommand = [\"x\"]\n\
             slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n",
        ))
        .unwrap()
    }

    #[test]
    fn a_root_is_a_folder_with_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("web");
        let found = check(&app(&root));
        assert_eq!((found.len(), found[0].level), (1, Level::Ok), "{found:?}");
        assert!(found[0].saw.ends_with("the first deploy makes it"), "{found:?}");
        fs::write(&root, "").unwrap();
        let found = check(&app(&root));
        assert!(
            found[0].level == Level::Problem && found[0].saw.ends_with("is no folder"),
            "{found:?}"
        );
        // Also root cannot make anything here.
        let found = check(&app(Path::new("/proc/self/web")));
        assert!(
            found[0].level == Level::Problem
                && found[0].saw.contains("cannot be made: /proc/self "),
            "{found:?}"
        );
        fs::remove_file(&root).unwrap();
        fs::create_dir_all(root.join("releases/v1")).unwrap();
        assert_eq!(check(&app(&root))[0].level, Level::Ok);
        std::os::unix::fs::symlink("releases/v1", root.join("current")).unwrap();
        assert_eq!(check(&app(&root))[0].level, Level::Ok);
        fs::remove_file(root.join("current")).unwrap();
        fs::create_dir(root.join("current")).unwrap();
        let found = check(&app(&root));
        assert!(
            found[0].level == Level::Problem && found[0].saw.ends_with("is no link"),
            "{found:?}"
        );
    }

    #[test]
    fn what_cannot_be_written_to_is_named() {
        // Also root cannot write here.
        let found = state(Path::new("/proc/self"));
        assert_eq!(found.level, Level::Problem, "{found:?}");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(state(folder.path()).level, Level::Ok);
        assert_eq!(state(&folder.path().join("missing")).level, Level::Problem);
        let root = folder.path().join("web");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/proc/self", root.join("shared")).unwrap();
        let found = check(&app(&root));
        assert!(found[0].saw.contains("web/shared cannot be written to"), "{found:?}");
    }

    #[test]
    fn a_user_must_come_to_the_releases() {
        let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else { return };
        let user = User {
            name: nobody.name,
            uid: nobody.uid.as_raw(),
            gid: nobody.gid.as_raw(),
            home: nobody.dir,
        };
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(folder.path(), 0o755);
        let releases = folder.path().join("releases");
        fs::create_dir(&releases).unwrap();
        mode(&releases, 0o755);
        assert_eq!(unreadable(folder.path(), &user), None);
        mode(&releases, 0o700);
        let found = unreadable(folder.path(), &user).unwrap();
        assert!(found.saw.contains("releases cannot be entered by nobody"), "{found:?}");
        // Whoever owns it may do what its owner may.
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&releases, Some(nobody.uid), None).unwrap();
            assert_eq!(unreadable(folder.path(), &user), None);
        }
    }
}
