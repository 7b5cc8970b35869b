use super::*;
use crate::snapshot::testing::{changed, sample, snapshot};
use std::os::unix::fs::{MetadataExt, symlink};

/// A state file in a folder of its own.
struct Fixture {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        Self { folder, path }
    }

    /// Writes the sample whole.
    fn write(&self) -> Mark {
        write(&self.path, &sample(), None).unwrap().mark.unwrap()
    }

    fn append(&self, left: &Mark, generation: u32) -> Result<Mark, NotAppended> {
        append(&self.path, left, &changed("web", generation))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    #[track_caller]
    fn says(&self, generation: u32) {
        let expected = snapshot(&[changed("web", generation)]);
        assert_eq!(read(&self.path).unwrap(), Some(expected));
    }
}

#[test]
fn p5_what_was_written_is_read_and_nothing_else_is_left() {
    let f = Fixture::new();
    assert!(read(&f.path).unwrap().is_none());
    fs::write(f.folder.path().join("state.json.tmp"), "left by a killed writer").unwrap();
    for _ in 0..2 {
        let mut mark = f.write();
        f.says(7);
        for generation in 8..12 {
            mark = f.append(&mark, generation).unwrap();
            f.says(generation);
        }
        assert_eq!(f.text().lines().count(), 5);
        assert_eq!(mark.length, f.text().len() as u64);
    }
    assert_eq!(fs::read_dir(f.folder.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_file_is_kept_under_another_name() {
    let f = Fixture::new();
    for n in 0..2 {
        fs::write(&f.path, format!("{{ damage {n}")).unwrap();
        assert!(matches!(read(&f.path), Err(StateFileError::Damaged { .. })));
        let aside = keep_aside(&f.path).unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), format!("{{ damage {n}"));
        assert!(!f.path.exists());
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_the_file() {
    let error = write(Path::new("/nonexistent/state.json"), &sample(), None).unwrap_err();
    assert!(error.to_string().starts_with("cannot write state file \"/nonexistent/state.json\""));
}

#[test]
#[cfg_attr(miri, ignore = "takes long, and has nothing for Miri")]
fn a_file_that_is_too_long_is_neither_written_nor_taken_for_a_shorter_one() {
    let f = Fixture::new();
    f.write();
    let name = "x".repeat(usize::try_from(MAX_BYTES).unwrap());
    let refused = write(&f.path, &snapshot(&[changed(&name, 1)]), None).unwrap_err();
    assert!(refused.to_string().contains("longer than 67108864 bytes"), "{refused}");
    f.says(7);
    // Cut off, it would be good.
    let mut text = sample().text().unwrap();
    text.resize(usize::try_from(MAX_BYTES).unwrap() + 1, b'x');
    fs::write(&f.path, text).unwrap();
    let damaged = read(&f.path).unwrap_err();
    assert!(damaged.to_string().contains("is damaged: it is longer than"), "{damaged}");
}

#[test]
fn nothing_is_appended_to_a_file_that_somebody_has_had_in_hand() {
    type Meddle = fn(&Path);
    let cases: [(&str, Meddle); 7] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("cut", |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
        ("longer", |path| {
            OpenOptions::new().append(true).open(path).unwrap().write_all(b" ").unwrap();
        }),
        ("edited, and as long as before", |path| {
            let text = fs::read_to_string(path).unwrap().replace("v2", "v3");
            // What tells it is the time, in which the system counts by ticks of its clock.
            std::thread::sleep(std::time::Duration::from_millis(20));
            fs::write(path, text).unwrap();
        }),
        ("replaced by a copy", |path| {
            let copy = sibling(path, "copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        }),
        ("moved, with a link in its place", |path| {
            let moved = sibling(path, "moved");
            fs::rename(path, &moved).unwrap();
            symlink(moved, path).unwrap();
        }),
        ("kept under another name", |path| fs::hard_link(path, sibling(path, "kept")).unwrap()),
    ];
    for (what, meddle) in cases {
        // Miri makes no hard links, tells no files apart, and knows no `O_NOFOLLOW`.
        if cfg!(miri) && !["removed", "cut", "longer"].contains(&what) {
            continue;
        }
        let f = Fixture::new();
        let mark = f.write();
        meddle(&f.path);
        let before = fs::read_to_string(&f.path).ok();
        assert!(f.append(&mark, 8).is_err(), "{what}");
        assert_eq!(fs::read_to_string(&f.path).ok(), before, "{what}");
    }
}

#[test]
fn a_line_that_cannot_be_written_leaves_the_file_as_it_was() {
    let f = Fixture::new();
    let mark = f.write();
    let before = f.text();
    // What has been written by then can be anything.
    let mut file = open_to_append(&f.path).unwrap();
    file.write_all(b"half of a li").unwrap();
    let wrong = append_to(&mut file, &mark, b"another writer's comes between");
    assert!(matches!(wrong, Err(NotAppended::Changed)), "{wrong:?}");
    assert_eq!(f.text(), before);
    assert!(matches!(f.append(&mark, 8), Err(NotAppended::Changed)), "the time is another one");
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no /dev/full")]
fn what_the_system_does_not_let_append_is_said() {
    let f = Fixture::new();
    let mark = f.write();
    let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = append_to(&mut full, &mark, b"a line").unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    // Nor what could not be replaced some day.
    let folder = f.folder.path();
    let mode = |mode| {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(0o555);
    let appended = f.append(&mark, 8);
    mode(0o755);
    assert_eq!(appended.is_ok(), rustix::process::geteuid().is_root());
}

#[test]
#[cfg_attr(miri, ignore = "takes long, and has nothing for Miri")]
fn the_file_is_written_whole_when_it_has_grown_to_twice_its_length() {
    let server = sample().upstreams.remove(0).releases.remove(0).servers.remove(0);
    for servers in [1, 2000] {
        let f = Fixture::new();
        let mut saved = changed("web", 1);
        saved.releases[0].servers = vec![server.clone(); servers];
        let written = write(&f.path, &snapshot(&[saved.clone()]), None).unwrap();
        let (mut mark, mut length) = (written.mark.unwrap(), fs::metadata(&f.path).unwrap().size());
        let most = mark.base + mark.base.max(MIN_APPENDED);
        let line = saved.line().unwrap().len() as u64;
        loop {
            match append(&f.path, &mark, &saved) {
                Ok(next) => mark = next,
                Err(NotAppended::Grown) => break,
                Err(error) => panic!("{error}"),
            }
            length += line;
            assert_eq!((fs::metadata(&f.path).unwrap().size(), mark.length), (length, length));
            assert!(length <= most, "{servers}: {length} of {most}");
        }
        assert!(length + line > most, "{servers}: {length} of {most}");
    }
}
