//! Whether there is room for another release.

use std::fs;
use std::io;
use std::path::Path;

use super::Finding;
use crate::config::App;

const CHECK: &str = "disk";

/// What shuntd's own folder needs at least.
const STATE: u64 = 16 << 20;

/// What something takes, or what is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Room {
    bytes: u64,
    files: u64,
}

/// The application's root against its newest release.
#[must_use]
pub fn check(app: &App) -> Finding {
    let newest = newest(&app.root.join("releases"));
    judge(&app.root, free(&app.root), newest.unwrap_or_default())
}

/// The state folder.
#[must_use]
pub fn state(folder: &Path) -> Finding {
    judge(folder, free(folder), Room { bytes: STATE / 2, files: 10 })
}

/// Less than another one is a problem, less than two may become one.
fn judge(folder: &Path, free: io::Result<Room>, needed: Room) -> Finding {
    let folder = folder.display();
    let free = match free {
        Ok(free) => free,
        Err(error) => {
            return Finding::warning(CHECK, format!("{folder}: {error}"), "make the folder");
        }
    };
    let saw = format!(
        "{folder}: {} and {} files are free, the next release may take {} and {} files",
        size(free.bytes),
        free.files,
        size(needed.bytes),
        needed.files
    );
    let has = |times: u64| free.bytes > needed.bytes * times && free.files > needed.files * times;
    let cure = "make room, or keep fewer releases ([keep] releases)";
    match (has(1), has(2)) {
        (true, true) => Finding::ok(CHECK, saw),
        (true, false) => Finding::warning(CHECK, saw, cure),
        (false, _) => Finding::problem(CHECK, saw, cure),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x40_0000 => format!("{} kB", bytes >> 10),
        0x40_0000..0x1_0000_0000 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}

/// What is free where a folder is, or will be.
fn free(folder: &Path) -> io::Result<Room> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there)?;
    // Some file systems do not count files.
    let files = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
    Ok(Room { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), files })
}

/// What the newest release takes.
fn newest(releases: &Path) -> Option<Room> {
    let entries = fs::read_dir(releases).ok()?.flatten();
    let newest = entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry)));
    let (_, newest) = newest.max_by_key(|(modified, _)| *modified)?;
    Some(taken(&newest.path()))
}

fn taken(folder: &Path) -> Room {
    use std::os::unix::fs::MetadataExt;
    let mut room = Room::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Links are not followed.
            let Ok(meta) = entry.metadata() else { continue };
            room.files += 1;
            room.bytes += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn room_is_judged_by_the_newest_release() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("releases/old/many");
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("file"), vec![1; 100_000]).unwrap();
        let new = folder.path().join("releases/new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("file"), vec![1; 8192]).unwrap();
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        fs::File::open(&new).unwrap().set_modified(time).unwrap();
        let needed = newest(&folder.path().join("releases")).unwrap();
        assert_eq!(needed.files, 1);
        assert!((8192..100_000).contains(&needed.bytes), "{needed:?}");

        let with = |bytes, files| judge(folder.path(), Ok(Room { bytes, files }), needed).level;
        assert_eq!(with(needed.bytes * 3, 3), Level::Ok);
        assert_eq!(with(needed.bytes * 3 / 2, 100), Level::Warning);
        assert_eq!(with(needed.bytes * 3, 2), Level::Warning);
        assert_eq!(with(needed.bytes - 1, 100), Level::Problem);
        assert_eq!(with(needed.bytes * 3, 1), Level::Problem, "no file more");
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let there = free(folder.path()).unwrap();
        let not_yet = free(&folder.path().join("a/b")).unwrap();
        assert!(there.bytes > 0 && not_yet.bytes > 0 && not_yet.files > 0);
    }
}
