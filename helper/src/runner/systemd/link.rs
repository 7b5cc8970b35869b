//! A slot's link: `<root>/slots/<instance>` → the release that the units of that instance run.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::held::{path_of, place};

/// Points the link to a release's folder, which lies in a folder beside the link's own. A new link is
/// made beside it and renamed over it, so there is no moment without one.
///
/// # Errors
///
/// What the system says; a folder in its place is left alone.
pub fn set(link: &Path, folder: &Path) -> io::Result<()> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let slots = link.parent().ok_or_else(wrong)?;
    let (name, release) =
        (link.file_name().ok_or_else(wrong)?, folder.file_name().ok_or_else(wrong)?);
    let releases = folder.parent().and_then(Path::file_name).ok_or_else(wrong)?;
    let (root, folder) = (slots.parent(), slots.file_name().and_then(|name| name.to_str()));
    // The root may be the application's user's, who can put a link in place of the folder.
    let held = place(root.ok_or_else(wrong)?, folder.ok_or_else(wrong)?)?;
    let slots = path_of(&held);
    let said = link.display();
    let link = slots.join(name);
    match link.symlink_metadata() {
        Ok(meta) if !meta.file_type().is_symlink() => {
            let why = format!("{said} is not a link, move it away");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        _ => {}
    }
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = slots.join(beside);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // As `current`, it still leads there when the whole root is moved.
    std::os::unix::fs::symlink(Path::new("..").join(releases).join(release), &beside)?;
    std::fs::rename(&beside, &link)?;
    File::open(slots)?.sync_all()
}

/// Whether the link leads to this folder.
#[must_use]
pub fn leads_to(link: &Path, folder: &Path) -> bool {
    match (link.canonicalize(), folder.canonicalize()) {
        (Ok(found), Ok(folder)) => found == folder,
        _ => false,
    }
}

/// The names of the folders that the links in this folder lead to.
pub fn all(slots: &Path) -> impl Iterator<Item = String> + use<> {
    let links = std::fs::read_dir(slots).into_iter().flatten().flatten();
    links.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_a_folder_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        let (link, releases) = (tmp.path().join("slots/3001"), tmp.path().join("releases"));
        for release in ["v1", "v2"] {
            std::fs::create_dir_all(releases.join(release)).unwrap();
            set(&link, &releases.join(release)).unwrap();
            assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("../releases").join(release));
            assert!(leads_to(&link, &releases.join(release)));
        }
        assert!(!leads_to(&link, &releases.join("v1")));
        assert!(!leads_to(&tmp.path().join("slots/3002"), &releases.join("v1")));
        // A half-made one of an earlier daemon is in nobody's way.
        std::os::unix::fs::symlink("nowhere", tmp.path().join("slots/.3001.new")).unwrap();
        set(&link, &releases.join("v1")).unwrap();
        assert_eq!(all(&tmp.path().join("slots")).collect::<Vec<_>>(), ["v1"]);
        assert_eq!(all(&tmp.path().join("none")).count(), 0);
        std::fs::create_dir(tmp.path().join("slots/3002")).unwrap();
        let error = set(&tmp.path().join("slots/3002"), &releases.join("v1")).unwrap_err();
        assert!(error.to_string().contains("is not a link"), "{error}");
    }
}
