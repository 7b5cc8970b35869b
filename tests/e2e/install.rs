//! `make install` and `make uninstall` into a folder, as those who make packages use them. On a whole
//! machine: `tests/docker/install.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use shunt_tests::build;

/// Runs a target of the Makefile; gives whether it succeeded, and what it said.
fn make(target: &str, root: &Path, variables: &[&str]) -> (bool, String) {
    let mut command = Command::new("make");
    command.arg("-s").arg("-C").arg(build::folder().join("..")).arg(target);
    command.arg(format!("DESTDIR={}", root.display())).args(variables);
    // It is not a part of the make that has started the tests.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
    let output = command.output().expect("make runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn must(target: &str, root: &Path, variables: &[&str]) {
    let (ok, said) = make(target, root, variables);
    assert!(ok, "make {target}: {said}");
    assert_eq!(said, "", "it has nothing to say about another machine");
}

/// What is in a folder: files with their mode, links with where they point.
fn list(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "{path:?}");
                folders.push(path);
                continue;
            }
            let what = match fs::read_link(&path) {
                Ok(target) => format!("-> {}", target.display()),
                Err(_) => format!("{:o}", meta.permissions().mode() & 0o7777),
            };
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), what);
        }
    }
    found
}

/// The variables that a package of Debian's would be made with.
const PACKAGE: [&str; 3] =
    ["PREFIX=/usr", "NGINX_VERSION=1.28.3", "MODULESDIR=/usr/lib/nginx/modules"];

#[test]
fn a_package_has_every_file_where_debian_wants_it() {
    let root = tempfile::tempdir().unwrap();
    must("install", root.path(), &PACKAGE);
    let snippet = "/usr/share/nginx/modules-available/mod-http-shunt.conf";
    let expected = [
        ("etc/nginx/modules-enabled/50-mod-http-shunt.conf", &*format!("-> {snippet}")),
        ("usr/bin/shunt", "755"),
        ("usr/bin/shuntd", "755"),
        ("usr/lib/nginx/modules/ngx_http_shunt_module.so", "644"),
        ("usr/lib/systemd/system/shuntd.service", "644"),
        ("usr/lib/systemd/system/shuntd.socket", "644"),
        ("usr/lib/sysusers.d/shunt.conf", "644"),
        ("usr/lib/tmpfiles.d/mod-http-shunt.conf", "644"),
        ("usr/lib/tmpfiles.d/shunt.conf", "644"),
        ("usr/share/bash-completion/completions/shunt", "644"),
        ("usr/share/doc/shunt/CHANGELOG.md", "644"),
        ("usr/share/doc/shunt/LICENSE", "644"),
        ("usr/share/doc/shunt/README.md", "644"),
        ("usr/share/doc/shunt/examples/nginx.conf", "644"),
        ("usr/share/doc/shunt/examples/web-systemd.toml", "644"),
        ("usr/share/doc/shunt/examples/web.toml", "644"),
        ("usr/share/doc/shunt/examples/web@.service", "644"),
        ("usr/share/doc/shunt/examples/web@.socket", "644"),
        ("usr/share/fish/vendor_completions.d/shunt.fish", "644"),
        ("usr/share/man/man8/shuntd.8", "644"),
        ("usr/share/nginx/modules-available/mod-http-shunt.conf", "644"),
        ("usr/share/zsh/vendor-completions/_shunt", "644"),
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|(path, what)| (path.to_owned(), what.to_owned())).collect();
    let (documents, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = list(root.path())
        .into_iter()
        .partition(|(path, _)| path.starts_with("usr/share/doc/shunt/docs/"));
    let (pages, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
        rest.into_iter().partition(|(path, _)| path.starts_with("usr/share/man/man1/"));
    assert_eq!(rest, expected);
    for document in ["guide.md", "helper.md", "openapi/daemon.json", "schema/app.json"] {
        let what = documents.get(&format!("usr/share/doc/shunt/docs/{document}"));
        assert_eq!(what.map(String::as_str), Some("644"), "{document}: {documents:?}");
    }
    // One page for each command, and that of the command line.
    for page in ["shunt", "shunt-deploy", "shunt-rollback", "shunt-status", "shunt-man"] {
        let what = pages.get(&format!("usr/share/man/man1/{page}.1"));
        assert_eq!(what.map(String::as_str), Some("644"), "{page}: {pages:?}");
    }
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert!(read("usr/share/man/man1/shunt.1").contains("EXIT STATUS"));
    assert!(read("usr/share/bash-completion/completions/shunt").contains("complete -F _shunt"));
    assert!(read("usr/share/zsh/vendor-completions/_shunt").starts_with("#compdef shunt\n"));
    assert!(read("usr/share/fish/vendor_completions.d/shunt.fish").contains("complete -c shunt"));
    assert!(root.path().join("etc/shunt/apps").is_dir(), "a place for applications");
    let installed = root.path().join("usr/lib/nginx/modules/ngx_http_shunt_module.so");
    let built = build::folder().join("1.28.3/ngx_http_shunt_module.so");
    assert_eq!(fs::read(installed).unwrap(), fs::read(built).unwrap());

    must("uninstall", root.path(), &PACKAGE);
    assert_eq!(list(root.path()), BTreeMap::new());
    assert!(!root.path().join("etc/shunt").exists(), "an empty folder is no configuration");
}

#[test]
fn places_that_are_named_are_used_and_written_into_the_files() {
    let root = tempfile::tempdir().unwrap();
    let variables = [
        "NGINX_VERSION=1.28.3",
        "BINDIR=/opt/shunt/bin",
        "MODULESDIR=/opt/nginx/modules",
        "SYSTEMDUNITDIR=/etc/systemd/system",
        "NGINX_USER=nginx",
    ];
    must("install", root.path(), &variables);
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert!(
        read("etc/systemd/system/shuntd.service")
            .contains("\nExecStart=/opt/shunt/bin/shuntd --group shunt\n")
    );
    let folders = read("usr/lib/tmpfiles.d/mod-http-shunt.conf");
    assert!(folders.contains("\nd /var/lib/nginx/shunt  0700 nginx root -"), "{folders}");
    assert!(root.path().join("opt/nginx/modules/ngx_http_shunt_module.so").exists());
    // What has no place of its own is below the prefix of what an administrator installs himself.
    for file in ["doc/shunt/README.md", "man/man8/shuntd.8", "zsh/site-functions/_shunt"] {
        assert!(root.path().join("usr/local/share").join(file).exists(), "{file}");
    }
}

#[test]
fn configuration_outlives_upgrade_and_uninstall() {
    let root = tempfile::tempdir().unwrap();
    must("install", root.path(), &PACKAGE);
    let app = root.path().join("etc/shunt/apps/web.toml");
    fs::write(&app, "mine").unwrap();
    // The module is switched off as an administrator of Debian does it.
    fs::remove_file(root.path().join("etc/nginx/modules-enabled/50-mod-http-shunt.conf")).unwrap();
    let before = list(root.path());
    must("install", root.path(), &PACKAGE);
    assert_eq!(list(root.path()), before, "it stays switched off");

    must("uninstall", root.path(), &PACKAGE);
    assert_eq!(fs::read_to_string(&app).unwrap(), "mine");
    assert_eq!(list(root.path()).len(), 1);
}

#[test]
fn somebody_elses_link_is_not_removed() {
    let root = tempfile::tempdir().unwrap();
    let enabled = root.path().join("etc/nginx/modules-enabled");
    fs::create_dir_all(&enabled).unwrap();
    let link = enabled.join("50-mod-http-shunt.conf");
    std::os::unix::fs::symlink("/srv/modules/shunt.conf", &link).unwrap();
    for target in ["install", "uninstall"] {
        must(target, root.path(), &PACKAGE);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/srv/modules/shunt.conf"));
    }
}

#[test]
fn what_was_not_built_is_named_before_anything_is_installed() {
    let root = tempfile::tempdir().unwrap();
    let (ok, said) = make("install", root.path(), &["NGINX_VERSION=1.2.3"]);
    assert!(!ok);
    let file = "build/1.2.3/ngx_http_shunt_module.so";
    assert!(said.contains(&format!("there is no {file}: run \"make build\" first")), "{said}");
    assert_eq!(list(root.path()), BTreeMap::new());
}
