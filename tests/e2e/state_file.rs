//! P5, P6: whatever stands where the state file should be, NGINX starts; and what cannot be written
//! is refused.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use shunt_tests::admin::problem;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::active;
use shunt_tests::until;

/// Releases `a` and `b` are configured; nothing runs yet.
fn prepare(build: &Build) -> (Nginx, [Backend; 2]) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    (Nginx::prepare(build, Setup::standard(&upstream)), [a, b])
}

/// It serves what the configuration says, can be switched, and keeps that over a restart.
#[track_caller]
fn starts_from_the_configuration(nginx: &mut Nginx) {
    nginx.run();
    assert_eq!(active(nginx), (1, "a".to_owned()));
    nginx.admin().switch("web", "b", None).unwrap();
    nginx.quit();
    nginx.run();
    assert_eq!(active(nginx), (2, "b".to_owned()));
}

/// A state file as this NGINX writes it, with `b` active.
fn good(build: &Build) -> Vec<u8> {
    let (mut nginx, _backends) = prepare(build);
    nginx.run();
    nginx.admin().switch("web", "b", None).unwrap();
    fs::read(nginx.path("state/state.json")).unwrap()
}

fn p5_another_programs_file_is_kept_aside(build: &Build) {
    for (n, text) in [
        r#"{"name":"shop","version":"1.0.0","dependencies":{}}"#,
        r#"{"version":1,"upstreams":[],"more":true}"#,
        r#"{"version":99,"upstreams":[]}"#,
        "upstream web { server 127.0.0.1:1; }",
        "",
        "null",
        "[]",
        "\0\0\0\0",
    ]
    .into_iter()
    .enumerate()
    {
        let (mut nginx, _backends) = prepare(build);
        let path = nginx.path("state/state.json");
        fs::write(&path, text).unwrap();
        let (good, said) = nginx.test();
        assert!(good, "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "a test changes nothing");
        starts_from_the_configuration(&mut nginx);
        let aside = nginx.path("state/state.json.damaged.0");
        assert_eq!(fs::read_to_string(&aside).unwrap(), text, "case {n}");
        let said = "is damaged: ";
        let kept = format!("; it is kept as {aside:?}, and the configuration counts");
        let log = nginx.log();
        assert!(log.lines().any(|l| l.contains(said) && l.contains(&kept)), "{n}: {log}");
    }
}

fn p5_a_file_that_cannot_be_read_is_kept_aside(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    // Root may read everything; this is a file, but to read it is an error of the device.
    symlink("/proc/self/mem", &path).unwrap();
    starts_from_the_configuration(&mut nginx);
    let aside = nginx.path("state/state.json.damaged.0");
    assert_eq!(fs::read_link(&aside).unwrap(), Path::new("/proc/self/mem"));
    assert!(nginx.log().contains("cannot read state file"), "it is logged");
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
}

fn p5_what_is_no_file_is_kept_aside_and_does_not_hold_nginx_up(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    // Nobody will ever write to it, so that whoever reads it waits for ever.
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (good, said) = nginx.test();
    assert!(good, "{said}");
    starts_from_the_configuration(&mut nginx);
    assert!(nginx.log().contains("it is not a file; it is kept as"), "it is logged");
    assert!(nginx.path("state/state.json.damaged.0").exists());
}

fn p6_where_a_folder_is_nothing_can_be_changed(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("something"), "of somebody").unwrap();
    let (good, said) = nginx.test();
    assert!(good && said.contains("is a folder, name a file in it in "), "{said}");
    nginx.run();
    assert!(nginx.log().contains("it is a folder; the configuration counts, and every change"));
    let refused = nginx.admin().switch("web", "b", None).unwrap_err();
    assert_eq!(refused.status, 507);
    assert!(refused.detail.contains("Is a directory"), "{refused}");
    assert_eq!(active(&nginx), (1, "a".to_owned()));
    assert_eq!(fs::read_to_string(path.join("something")).unwrap(), "of somebody");
    fs::remove_dir_all(&path).unwrap();
    nginx.admin().switch("web", "b", None).unwrap();
}

fn p6_where_a_device_is_nothing_can_be_changed(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    // Not the system's own, which would be gone if this failed.
    symlink("/dev/null", &path).unwrap();
    let (good, said) = nginx.test();
    assert!(good && said.contains("is a device and every change will be refused"), "{said}");
    nginx.run();
    let refused = nginx.admin().switch("web", "b", None).unwrap_err();
    assert_eq!(refused.status, 507);
    assert!(refused.detail.contains("it is a device"), "{refused}");
    nginx.reload();
    assert_eq!(active(&nginx), (1, "a".to_owned()));
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
    fs::remove_file(&path).unwrap();
    nginx.admin().switch("web", "b", None).unwrap();
}

fn p5_a_link_is_read_and_then_replaced_by_a_file(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let (path, target) = (nginx.path("state/state.json"), nginx.path("target"));
    let good = good(build);
    fs::write(&target, &good).unwrap();
    symlink(&target, &path).unwrap();
    nginx.run();
    assert_eq!(active(&nginx), (2, "b".to_owned()));
    nginx.admin().switch("web", "a", None).unwrap();
    // Whoever may write into the folder must not choose which file is overwritten.
    assert_eq!(fs::read(&target).unwrap(), good);
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    nginx.quit();
    // One that leads nowhere is no file yet.
    fs::remove_file(&path).unwrap();
    symlink(nginx.path("nowhere"), &path).unwrap();
    starts_from_the_configuration(&mut nginx);
    assert!(!nginx.path("nowhere").exists());
}

/// Gives the workers another user than root, if that is the master's, and tells whom.
fn workers_user(nginx: &mut Nginx) -> u32 {
    if !geteuid().is_root() {
        return geteuid().as_raw();
    }
    nginx.set_main("user nobody nogroup;");
    mode(nginx.folder(), 0o755);
    65534
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn p6_a_folder_that_workers_may_not_write_to_is_named_at_start(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let user = workers_user(&mut nginx);
    let folder = nginx.path("state");
    nginx.run();
    mode(&folder, 0o555);
    nginx.reload();
    let owner = geteuid().as_raw();
    until("it is logged", || {
        let said = format!("the folder {folder:?} of the state file belongs to user {owner} and");
        nginx.log().contains(&said).then_some(())
    });
    let file = fs::read(nginx.path("state/state.json")).unwrap();
    let servers = ["127.0.0.1:9".to_owned()];
    let refused = [
        nginx.admin().switch("web", "b", None).unwrap_err(),
        problem(&nginx.admin().put("web", "c", &servers)),
    ];
    for refused in refused {
        assert_eq!(refused.status, 507);
        assert!(refused.detail.contains("Permission denied"), "{refused}");
        assert!(refused.detail.contains("nothing was changed"), "{refused}");
    }
    assert_eq!(active(&nginx), (1, "a".to_owned()));
    assert_eq!(fs::read(nginx.path("state/state.json")).unwrap(), file);
    std::os::unix::fs::chown(&folder, Some(user), None).unwrap();
    mode(&folder, 0o755);
    nginx.admin().switch("web", "b", None).unwrap();
    nginx.quit();
    nginx.run();
    assert_eq!(active(&nginx), (2, "b".to_owned()));
}

fn a_folder_that_is_missing_is_made_for_the_workers(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let user = workers_user(&mut nginx);
    let http = nginx.http().replace("%STATE%", "%FOLDER%/var/lib/shunt/state.json");
    nginx.set_http(&http);
    nginx.run();
    let folder = nginx.path("var/lib/shunt");
    assert_eq!(fs::metadata(&folder).unwrap().uid(), user);
    nginx.admin().switch("web", "b", None).unwrap();
    nginx.quit();
    nginx.run();
    assert_eq!(active(&nginx), (2, "b".to_owned()));
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn the_state_file_can_be_in_a_folder_where_each_owns_his_files(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let user = workers_user(&mut nginx);
    // As `/tmp`: whoever may write there may not replace what is somebody else's.
    mode(&nginx.path("state"), 0o1777);
    nginx.run();
    nginx.admin().switch("web", "b", None).unwrap();
    nginx.reload();
    nginx.admin().switch("web", "a", None).unwrap();
    assert_eq!(fs::metadata(nginx.path("state/state.json")).unwrap().uid(), user);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

/// How many lines the file has, and how long it is.
fn size(path: &Path) -> (usize, usize) {
    let text = fs::read_to_string(path).unwrap();
    (text.lines().count(), text.len())
}

fn p5_a_change_is_a_line_more_until_the_file_is_written_whole(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    nginx.run();
    let (admin, base) = (nginx.admin(), size(&path));
    assert_eq!(base.0, 1, "NGINX's start writes it whole");
    let to = |n: usize| if n.is_multiple_of(2) { "b" } else { "a" };
    for n in 0..3 {
        admin.switch("web", to(n), None).unwrap();
        assert_eq!(size(&path).0, n + 2);
    }
    // Whichever worker makes them.
    nginx.reload();
    assert_eq!(size(&path).0, 1, "so does a reload");
    for n in 3..6 {
        admin.switch("web", to(n), None).unwrap();
        assert_eq!(size(&path).0, n - 1);
    }
    // What a worker was writing when it was killed, or the machine was cut off, was never answered.
    nginx.quit();
    let text = fs::read_to_string(&path).unwrap();
    let last = text.lines().last().unwrap().len();
    fs::write(&path, &text[..text.len() - last / 2]).unwrap();
    nginx.run();
    assert_eq!(active(&nginx), (6, "b".to_owned()));
    assert_eq!(nginx.complaints(), [] as [String; 0]);
    assert_eq!(size(&path).0, 1);

    let mut most = 0;
    let server = |n| format!("127.0.0.1:{n}");
    let servers: Vec<_> = (1..=256).map(server).collect();
    assert_eq!(nginx.admin().put("web", "c", &servers).status, 201);
    for n in 0..40 {
        nginx.admin().switch("web", to(n), None).unwrap();
        most = most.max(size(&path).1);
    }
    assert!((48 << 10..96 << 10).contains(&most), "{most}");
    let now = active(&nginx);
    nginx.quit();
    nginx.run();
    assert_eq!(active(&nginx), now);
}

fn p5_what_somebody_did_to_the_file_is_made_good_by_the_next_change(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    nginx.run();
    let deeds: [&dyn Fn(); 5] = [
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::write(&path, "").unwrap(),
        &|| fs::write(&path, r#"{"version":2,"upstreams":[]}"#).unwrap(),
        &|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"{").unwrap();
        },
        &|| {
            let beside = path.with_extension("beside");
            fs::copy(&path, &beside).unwrap();
            fs::rename(beside, &path).unwrap();
        },
    ];
    for deed in deeds {
        let to = if active(&nginx).1 == "a" { ["b", "a"] } else { ["a", "b"] };
        nginx.admin().switch("web", to[0], None).unwrap();
        deed();
        nginx.admin().switch("web", to[1], None).unwrap();
        let now = active(&nginx);
        assert_eq!(size(&path).0, 1);
        nginx.quit();
        nginx.run();
        assert_eq!(active(&nginx), now);
    }
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn p5_a_file_of_version_1_is_taken_over(build: &Build) {
    let (mut nginx, _backends) = prepare(build);
    let path = nginx.path("state/state.json");
    let text = String::from_utf8(good(build)).unwrap();
    // It had no further lines.
    let last = text.lines().last().unwrap();
    fs::write(&path, format!("{{\"version\":1,\"upstreams\":[{last}]}}\n")).unwrap();
    nginx.run();
    assert_eq!(active(&nginx), (2, "b".to_owned()));
    assert!(fs::read_to_string(&path).unwrap().starts_with("{\"version\":2,"));
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

each_nginx!(
    p5_a_change_is_a_line_more_until_the_file_is_written_whole,
    p5_what_somebody_did_to_the_file_is_made_good_by_the_next_change,
    p5_a_file_of_version_1_is_taken_over,
    p5_another_programs_file_is_kept_aside,
    p5_a_file_that_cannot_be_read_is_kept_aside,
    p5_what_is_no_file_is_kept_aside_and_does_not_hold_nginx_up,
    p6_where_a_folder_is_nothing_can_be_changed,
    p6_where_a_device_is_nothing_can_be_changed,
    p5_a_link_is_read_and_then_replaced_by_a_file,
    p6_a_folder_that_workers_may_not_write_to_is_named_at_start,
    a_folder_that_is_missing_is_made_for_the_workers,
    the_state_file_can_be_in_a_folder_where_each_owns_his_files,
);
