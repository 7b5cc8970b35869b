//! Archives as their makers make them, and as nobody should.

use super::*;
use crate::source::order::{Owner, Room, Stop};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use shunt_api::ReleaseName;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tar::{Builder, Header};

/// An entry of a made-up archive.
#[derive(Debug, Clone)]
struct Entry {
    kind: EntryType,
    name: String,
    /// Content or target.
    data: String,
    mode: u32,
}

fn entry(kind: EntryType, name: &str, data: &str) -> Entry {
    Entry { kind, name: name.to_owned(), data: data.to_owned(), mode: 0o644 }
}

fn file(name: &str, data: &str) -> Entry {
    entry(EntryType::Regular, name, data)
}

/// As a hostile one would be made: no name is looked at.
fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        let put =
            |to: &mut [u8; 100], text: &str| to[..text.len()].copy_from_slice(text.as_bytes());
        put(&mut old.name, &entry.name);
        let data = match entry.kind {
            EntryType::Symlink | EntryType::Link => {
                put(&mut old.linkname, &entry.data);
                ""
            }
            _ => &entry.data,
        };
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_mtime(1_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

struct World {
    tmp: tempfile::TempDir,
    n: usize,
}

impl World {
    fn new() -> Self {
        Self { tmp: tempfile::tempdir().unwrap(), n: 0 }
    }

    fn order(&mut self) -> Order {
        self.n += 1;
        Order {
            root: self.tmp.path().join(self.n.to_string()),
            release: ReleaseName::new("v1").unwrap(),
            owner: Owner::Daemon,
            room: Room { bytes: 1 << 20, entries: 100 },
            shared: Vec::new(),
            stop: Stop::default(),
            readers: Default::default(),
        }
    }

    fn put(&self, data: &[u8]) -> PathBuf {
        let path = self.tmp.path().join("web.tar.gz");
        fs::write(&path, data).unwrap();
        path
    }

    fn fetch(&mut self, data: &[u8]) -> Result<Fetched, SourceError> {
        self.strip(data, 0)
    }

    fn strip(&mut self, data: &[u8], strip: usize) -> Result<Fetched, SourceError> {
        let path = self.put(data);
        let order = self.order();
        let releases = order.root.join("releases");
        let fetched = fetch(&path, None, strip, order);
        let left = fs::read_dir(&releases).map_or(0, Iterator::count);
        assert_eq!(left, usize::from(fetched.is_ok()), "whole or not at all");
        fetched
    }

    fn refused(&mut self, entries: &[Entry], why: &str) {
        let error = self.fetch(&gzip(&tar(entries))).unwrap_err().to_string();
        assert!(error.contains(why), "{entries:?}: {error}");
    }
}

#[test]
fn an_archive_becomes_a_release_with_modes_times_and_links() {
    let mut world = World::new();
    let program = Entry { mode: 0o6755, ..file("./bin/server", "program") };
    let entries = [
        entry(EntryType::Directory, "./", ""),
        entry(EntryType::Directory, "./bin/", ""),
        program,
        entry(EntryType::Symlink, "./link", "bin/server"),
        entry(EntryType::Symlink, "./python", "/usr/bin/python3"),
        entry(EntryType::Link, "./same", "./bin/server"),
        file("old/", ""),
        file("twice", "first"),
        file("twice", "second"),
    ];
    let tar = tar(&entries);
    let sum = |data: &[u8]| format!("sha256:{}", checksum::of(data));
    for packed in [gzip(&tar), zstd::encode_all(&tar[..], 0).unwrap()] {
        let Fetched { folder, revision } = world.fetch(&packed).unwrap();
        assert_eq!(revision, sum(&packed));
        let server = folder.join("bin/server").metadata().unwrap();
        assert_eq!(server.permissions().mode() & 0o7777, 0o755);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(server.modified().unwrap(), changed);
        assert_eq!(fs::read_to_string(folder.join("link")).unwrap(), "program");
        assert_eq!(fs::read_to_string(folder.join("same")).unwrap(), "program");
        assert_eq!(fs::read_to_string(folder.join("twice")).unwrap(), "second");
        assert_eq!(fs::read_link(folder.join("python")).unwrap(), Path::new("/usr/bin/python3"));
        assert!(folder.join("old").is_dir());
        // What the folders are read by the daemon's user for.
        assert_eq!(folder.join("bin").metadata().unwrap().permissions().mode() & 0o700, 0o700);
        // The release is as old as it is here (pruning goes by that).
        assert!(folder.metadata().unwrap().modified().unwrap() > changed);
    }
}

#[test]
fn what_gnu_tar_packs_is_unpacked() {
    let mut world = World::new();
    let from = world.tmp.path().join("from");
    let long = "x".repeat(120);
    fs::create_dir_all(from.join("a").join(&long)).unwrap();
    fs::write(from.join("a").join(&long).join(&long), "long").unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    sparse.set_len(500_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 499_997).unwrap();
    for format in ["--format=gnu", "--format=pax"] {
        let pack = std::process::Command::new("tar")
            .args([format, "-cSzf", "-", "-C"])
            .arg(&from)
            .arg(".")
            .output()
            .unwrap();
        assert!(pack.status.success());
        let fetched = world.fetch(&pack.stdout);
        if format == "--format=pax" {
            // Its sparse files are several kinds of entries of its own, which are not known here.
            let Ok(fetched) = fetched else { continue };
            assert!(fetched.folder.join("a").join(&long).join(&long).exists());
            continue;
        }
        let folder = fetched.unwrap().folder;
        let path = folder.join("a").join(&long).join(&long);
        assert_eq!(fs::read_to_string(path).unwrap(), "long");
        assert_eq!(
            fs::read(folder.join("sparse")).unwrap(),
            fs::read(from.join("sparse")).unwrap()
        );
    }
}

#[test]
fn leading_parts_of_names_can_be_left_out() {
    let mut world = World::new();
    let entries = [
        entry(EntryType::Directory, "web-1.2/", ""),
        file("web-1.2/a/b", "b"),
        entry(EntryType::Link, "web-1.2/c", "web-1.2/a/b"),
    ];
    let packed = gzip(&tar(&entries));
    let folder = world.strip(&packed, 1).unwrap().folder;
    assert_eq!(fs::read_to_string(folder.join("a/b")).unwrap(), "b");
    assert_eq!(fs::read_to_string(folder.join("c")).unwrap(), "b");
    let folder = world.fetch(&packed).unwrap().folder;
    assert!(folder.join("web-1.2/a/b").exists());
    let error = world.strip(&packed, 2).unwrap_err().to_string();
    assert!(error.contains("nothing of its name is left without 2"), "{error}");
}

#[test]
fn nothing_is_written_outside() {
    let mut world = World::new();
    let outside = world.tmp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let out = outside.to_str().unwrap();
    let link = |target| entry(EntryType::Symlink, "out", target);
    world.refused(&[file("../x", "")], "has \"..\"");
    world.refused(&[file("a/../../x", "")], "has \"..\"");
    world.refused(&[file(&format!("{out}/x"), "")], "absolute");
    world.refused(&[link(out), file("out/x", "")], "leads through \"out\"");
    world.refused(&[link("../../../outside"), file("out/x", "")], "leads through \"out\"");
    world.refused(&[link(out), entry(EntryType::Directory, "out", "")], "Not a directory");
    world.refused(&[link(out), entry(EntryType::Symlink, "out/x", "y")], "leads through");
    world.refused(&[link("/etc"), entry(EntryType::Link, "x", "out/passwd")], "leads through");
    world.refused(&[entry(EntryType::Link, "x", "/etc/passwd")], "absolute");
    world.refused(&[entry(EntryType::Link, "x", "../../../../etc/passwd")], "has \"..\"");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A file in place of a link replaces the link and not what it leads to.
    fs::write(outside.join("x"), "outside").unwrap();
    let entries = [entry(EntryType::Symlink, "x", &format!("{out}/x")), file("x", "inside")];
    let folder = world.fetch(&gzip(&tar(&entries))).unwrap().folder;
    assert_eq!(fs::read_to_string(folder.join("x")).unwrap(), "inside");
    assert_eq!(fs::read_to_string(outside.join("x")).unwrap(), "outside");
    // The same for another name of a file.
    let entries = [file("a", "1"), entry(EntryType::Link, "b", "a"), file("b", "2")];
    let folder = world.fetch(&gzip(&tar(&entries))).unwrap().folder;
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "1");
}

#[test]
fn devices_and_what_is_no_archive_are_refused() {
    let mut world = World::new();
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::new(b'Z')] {
        world.refused(&[file("a", ""), entry(kind, "dev", "")], "\"dev\" in it: it is neither");
    }
    world.refused(&[entry(EntryType::Directory, "a", ""), file("a", "")], "there is a folder");
    world.refused(&[file("a", ""), file("a/b", "")], "leads through \"a\"");
    for (data, why) in [
        (&b"PK\x03\x04"[..], "neither gzip nor Zstandard"),
        (b"", "neither gzip nor Zstandard"),
        (b"\x1f\x8bxxxxxxxxxxxxxxxx", "cannot be read"),
        (b"\x28\xb5\x2f\xfdxxxxxxxxx", "cannot be read"),
        (&gzip(&[b'x'; 1024]), "cannot be read"),
    ] {
        let error = world.fetch(data).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn an_archive_without_its_end_is_refused() {
    let mut world = World::new();
    let tar = tar(&[file("a", &"x".repeat(2000)), file("b", "y")]);
    for packed in [gzip(&tar), zstd::encode_all(&tar[..], 0).unwrap()] {
        assert!(world.fetch(&packed).is_ok());
        for cut in [1, 8, packed.len() / 2] {
            let error = world.fetch(&packed[..packed.len() - cut]).unwrap_err().to_string();
            assert!(error.contains("cannot be read") || error.contains("in it"), "{error}");
        }
    }
    // Cut before it was packed: within a file.
    let error = world.fetch(&gzip(&tar[..1500])).unwrap_err().to_string();
    assert!(error.contains("\"a\" in it"), "{error}");
}

#[test]
fn what_it_unpacks_to_is_bounded() {
    let mut world = World::new();
    let zeros = "\0".repeat(1 << 20);
    world.refused(&[file("a", &zeros), file("b", "x")], "\"b\" in it: the release becomes larger");
    let many: Vec<_> = (0..101).map(|i| file(&i.to_string(), "")).collect();
    world.refused(&many, "too many files");
    // One that says that it is large is refused before anything of it is written.
    let mut header = Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(1 << 50);
    header.set_mode(0o644);
    header.set_cksum();
    let error = world.fetch(&gzip(header.as_bytes())).unwrap_err().to_string();
    assert!(error.contains("becomes larger"), "{error}");
    // Nor is memory filled with a name.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_path("././@LongLink").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let mut data = header.as_bytes().to_vec();
    data.resize(4 << 20, b'x');
    let error = world.fetch(&gzip(&data)).unwrap_err().to_string();
    assert!(error.contains("too much of a header"), "{error}");
    // Nor does what follows after the end go on for ever.
    let mut data = tar(&[file("a", "")]);
    data.resize(data.len() + usize::try_from(PADDING).unwrap() + 1, 0);
    assert!(world.fetch(&gzip(&data)).is_err());
    let deep = format!("{}x", "a/".repeat(49));
    let mut entries = vec![file(&deep, "")];
    assert!(world.fetch(&gzip(&tar(&entries))).is_ok());
    entries[0].kind = EntryType::Directory;
    assert!(world.fetch(&gzip(&tar(&entries))).is_ok());
}

#[test]
fn nothing_of_an_archive_with_another_checksum_is_unpacked() {
    let mut world = World::new();
    let packed = gzip(&tar(&[file("a", "x")]));
    let right = checksum::of(&packed);
    let path = world.put(&packed);
    fetch(&path, Some(right), 0, world.order()).unwrap();
    let error = fetch(&path, Some(checksum::of(b"")), 0, world.order()).unwrap_err().to_string();
    assert!(error.contains(&format!("its SHA-256 is {right}")), "{error}");
    // The file beside it is as good.
    let beside = world.tmp.path().join("web.tar.gz.sha256");
    fs::write(&beside, format!("{right}  web.tar.gz\n")).unwrap();
    fetch(&path, None, 0, world.order()).unwrap();
    fs::write(&path, gzip(&tar(&[file("a", "y")]))).unwrap();
    let error = fetch(&path, None, 0, world.order()).unwrap_err();
    let is = |e: &SourceError| {
        matches!(e, SourceError::Archive { error: ArchiveError::Checksum { .. }, .. })
    };
    assert!(is(&error), "{error}");
    fs::write(&beside, "").unwrap();
    let error = fetch(&path, None, 0, world.order()).unwrap_err().to_string();
    assert!(error.contains("web.tar.gz.sha256 has no SHA-256 of web.tar.gz"), "{error}");
}

#[test]
fn an_archive_of_git_tells_its_commit() {
    let mut world = World::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let about =
        entry(EntryType::XGlobalHeader, "pax_global_header", &format!("52 comment={commit}\n"));
    let packed = gzip(&tar(&[about, file("a", "x")]));
    let fetched = world.fetch(&packed).unwrap();
    assert_eq!(fetched.revision, commit);
    assert!(!fetched.folder.join("pax_global_header").exists());
    let own = gzip(&tar(&[file("REVISION", "r7\n")]));
    assert_eq!(world.fetch(&own).unwrap().revision, "r7");
}

#[test]
fn nobody_waits_for_it_any_more() {
    let mut world = World::new();
    let path = world.put(&gzip(&tar(&[file("a", "x")])));
    let order = world.order();
    drop(order.stop.guard());
    let error = fetch(&path, None, 0, order).unwrap_err().to_string();
    assert!(error.contains("nobody waits"), "{error}");
}

/// Everything below a folder, without following links: neither device nor set-user-ID.
fn is_harmless(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().all(|entry| {
        let entry = entry.unwrap();
        let meta = entry.path().symlink_metadata().unwrap();
        let kind = meta.file_type();
        let plain = kind.is_file() || kind.is_dir() || kind.is_symlink();
        let strange = kind.is_fifo() || kind.is_char_device() || kind.is_block_device();
        plain
            && !strange
            && (kind.is_symlink() || meta.permissions().mode() & 0o7000 == 0)
            && (!kind.is_dir() || is_harmless(&entry.path()))
    })
}

fn kind() -> impl Strategy<Value = EntryType> {
    prop_oneof![
        8 => Just(EntryType::Regular),
        8 => Just(EntryType::Symlink),
        2 => Just(EntryType::Directory),
        2 => Just(EntryType::Link),
        1 => any::<u8>().prop_map(EntryType::new),
    ]
}

prop_compose! {
    fn any_entry()(
        kind in kind(),
        // Few names, so that they meet, and lead to what must not be touched.
        name in prop_oneof![
            8 => Just("a"),
            8 => Just("a/canary"),
            4 => Just("a/new"),
            4 => Just("b/a"),
            4 => Just("b/a/canary"),
            2 => Just("./b/"),
            1 => Just("."),
            1 => Just("b/.."),
            1 => Just("../../../outside/canary"),
            1 => Just("a/../canary"),
            1 => Just("/a"),
        ],
        data in prop_oneof![
            3 => Just("../../../outside"),
            2 => Just("../../../../outside"),
            1 => Just("../../../outside/canary"),
            1 => Just("a"),
            1 => Just("a/canary"),
            1 => Just("."),
            1 => Just(""),
        ],
        mode in 0u32..0o10000,
    ) -> Entry {
        Entry { kind, name: name.to_owned(), data: data.to_owned(), mode }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn no_archive_changes_anything_outside_of_its_release(
        entries in prop::collection::vec(any_entry(), 1..12),
        strip in 0usize..2,
    ) {
        let mut world = World::new();
        let outside = world.tmp.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "alive").unwrap();
        let order = world.order();
        let root = order.root.clone();
        let mut partial = Partial::begin(order).unwrap();
        if unpack(&tar(&entries)[..], strip, &mut partial).is_ok() {
            let folder = partial.finish(Revision::Is("abc".to_owned())).unwrap().0;
            prop_assert!(is_harmless(&folder));
        } else {
            drop(partial);
            prop_assert_eq!(fs::read_dir(root.join("releases")).unwrap().count(), 0);
        }
        prop_assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), "alive");
        for (folder, n) in [(outside.as_path(), 1), (world.tmp.path(), 2), (root.as_path(), 1)] {
            prop_assert_eq!(fs::read_dir(folder).unwrap().count(), n, "{:?}", folder);
        }
    }

    #[test]
    fn no_bytes_break_it(mut data: Vec<u8>, at: usize, xor in 1u8.., cut: usize) {
        let mut world = World::new();
        let mut damaged = tar(&[file("a", "x"), entry(EntryType::Symlink, "b", "a"), file("c/d", "y")]);
        let (at, cut) = (at % damaged.len(), cut % damaged.len());
        damaged[at] ^= xor;
        data.extend(&damaged[..cut]);
        for data in [&data, &damaged] {
            let mut partial = Partial::begin(world.order()).unwrap();
            let _ = unpack(&data[..], 0, &mut partial);
        }
    }
}
