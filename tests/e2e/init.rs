//! `shunt init`: what it writes is good as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use shunt_tests::build::{self, Build};
use shunt_tests::nginx::{Nginx, Setup};

/// Runs `shunt`; gives its exit code and what it said.
fn shunt(args: &[&str]) -> (i32, String) {
    let output = Command::new(build::helper("shunt")).args(args).output().expect("shunt runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// Writes everything into a folder.
#[track_caller]
fn init(folder: &Path, more: &[&str]) -> String {
    let output = folder.display().to_string();
    let args = [&["init", "shop", "--output", &output], more].concat();
    let (code, said) = shunt(&args);
    assert_eq!(code, 0, "{said}");
    said
}

/// What `nginx -t` says to the snippet, in the places of a test.
fn test(build: &Build, folder: &Path) -> (bool, String) {
    let http = fs::read_to_string(folder.join("shop.conf")).expect("the snippet");
    let http = http
        .replace("/var/lib/nginx/shunt/", "%FOLDER%/state/")
        .replace("unix:/run/", "unix:%FOLDER%/")
        .replace(" 80;", " 127.0.0.1:%PORT%;");
    Nginx::prepare(build, Setup { http, workers: 1 }).test()
}

fn what_init_writes_is_accepted_by_nginx_and_by_check(build: &Build) {
    for runner in ["process", "systemd", "docker"] {
        let folder = tempfile::tempdir().expect("a folder");
        let said = init(folder.path(), &["--runner", runner]);
        assert!(said.contains("wrote ") && said.contains("shunt doctor shop"), "{said}");
        let (good, said) = test(build, folder.path());
        assert!(good && !said.contains("[warn]"), "{runner}: {said}");
        let file = folder.path().join("shop.toml").display().to_string();
        let (code, said) = shunt(&["check", &file]);
        assert_eq!((code, said.as_str()), (0, format!("{file}: \"shop\" is good\n").as_str()));
    }
}

fn two_applications_of_init_can_stand_beside_each_other(build: &Build) {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path(), &["--slots", "127.0.0.1:3001,127.0.0.1:3002"]);
    let output = folder.path().display().to_string();
    let (code, said) =
        shunt(&["init", "blog", "--output", &output, "--slots", "127.0.0.1:3003,127.0.0.1:3004"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = shunt(&["check", &output]);
    assert_eq!(code, 0, "{said}");
    let both = ["shop.conf", "blog.conf"].map(|name| folder.path().join(name));
    let both = both.map(|path| fs::read_to_string(path).expect("a snippet")).concat();
    fs::write(folder.path().join("shop.conf"), both).expect("its folder");
    let (good, said) = test(build, folder.path());
    assert!(good && !said.contains("[warn]"), "{said}");
}

#[test]
fn systemd_accepts_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path(), &["--runner", "systemd", "--command", "/bin/sleep 5"]);
    let units = ["socket", "service"].map(|kind| {
        let unit = folder.path().join(format!("shop@3001.{kind}"));
        fs::rename(folder.path().join(format!("shop@.{kind}")), &unit).expect("the template");
        unit
    });
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("shop@"), "{said}");
}

each_nginx!(
    what_init_writes_is_accepted_by_nginx_and_by_check,
    two_applications_of_init_can_stand_beside_each_other,
);
