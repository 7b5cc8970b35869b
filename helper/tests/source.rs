//! Releases from git repositories, as a deploy fetches them.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use shunt_api::ReleaseName;
use shunt_helper::config::App;
use shunt_helper::origin::Origin;
use shunt_helper::source::{self, Fetched, SourceError};

/// An application whose releases come from repositories in the same folder.
struct World {
    tmp: tempfile::TempDir,
    /// What is said meanwhile.
    said: Vec<String>,
}

impl World {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { tmp, said: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// A repository with a file `name`, which holds the repository's name.
    fn repository(&self, name: &str) -> Repository {
        let repository = Repository { folder: self.path(name) };
        fs::create_dir_all(&repository.folder).unwrap();
        repository.git(&["init", "-q", "-b", "main"]);
        repository.commit("name", name);
        repository
    }

    fn app(&self, source: &str, more: &str) -> App {
        let text = format!(
            r#"
            name = "web-{}"
            root = {:?}
            nginx = "unix:/run/none.sock"
            {more}
            [source]
            {source}
            [run]
            command = ["./server"]
            slots = ["127.0.0.1:3001", "127.0.0.1:3002"]
            "#,
            std::process::id(),
            self.path("web"),
        );
        App::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    async fn fetch(&mut self, app: &App, release: &str) -> Result<Fetched, SourceError> {
        let source = app.source.origin.clone().expect("a source");
        self.fetch_from(app, &source, release).await
    }

    async fn fetch_from(
        &mut self,
        app: &App,
        source: &Origin,
        release: &str,
    ) -> Result<Fetched, SourceError> {
        let release = ReleaseName::new(release).unwrap();
        let mut say = |line: &str| self.said.push(line.to_owned());
        source::fetch(app, source, None, &release, &mut say).await
    }

    /// Fetches the repository `origin` at a reference.
    async fn at(&mut self, reference: &str, release: &str) -> Result<Fetched, SourceError> {
        let app = self.app(&format!("git = {:?}", self.path("origin")), "");
        let source = app.source.origin.clone().unwrap();
        let source = source.with_reference(reference.parse().unwrap()).unwrap();
        self.fetch_from(&app, &source, release).await
    }
}

struct Repository {
    folder: PathBuf,
}

impl Repository {
    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.folder)
            .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes an object of what is given.
    fn made(&self, args: &str, input: &str) -> String {
        let mut child = Command::new("git")
            .arg("-C")
            .arg(&self.folder)
            .args(args.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits a file and gives the commit.
    fn commit(&self, name: &str, content: &str) -> String {
        fs::write(self.folder.join(name), content).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", name]);
        self.git(&["rev-parse", "HEAD"])
    }
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The release's folders that are there, whole or not.
fn releases(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.path("web/releases")).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Processes that were started to fetch something for this test's application.
fn running() -> Vec<PathBuf> {
    let marks = [format!("SHUNT_APP=web-{}", std::process::id()), "SHUNT_STEP=fetch".to_owned()];
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let matches = |process: &PathBuf| {
        // One that has ended has none any more.
        let environ = fs::read(process.join("environ")).unwrap_or_default();
        marks.iter().all(|mark| environ.split(|b| *b == 0).any(|line| line == mark.as_bytes()))
    };
    entries.filter(matches).collect()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_branch_becomes_a_release_with_its_commit_as_revision() {
    let mut world = World::new();
    let origin = world.repository("origin");
    fs::create_dir(origin.folder.join("bin")).unwrap();
    fs::write(origin.folder.join("bin/server"), "program").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(origin.folder.join("bin/server"), mode).unwrap();
    symlink("bin/server", origin.folder.join("link")).unwrap();
    fs::write(origin.folder.join("notes"), "").unwrap();
    fs::write(origin.folder.join("REVISION"), "the repository's own").unwrap();
    let commit = origin.commit(".gitattributes", "notes export-ignore\n");
    let app = world.app(&format!("git = {:?}\nref = \"main\"", origin.folder), "");
    let fetched = world.fetch(&app, "v1").await.unwrap();
    assert_eq!(fetched.folder, world.path("web/releases/v1"));
    assert_eq!(fetched.revision, commit);
    assert_eq!(read(&fetched.folder, "REVISION"), format!("{commit}\n"));
    let server = fetched.folder.join("bin/server").metadata().unwrap();
    assert_eq!(server.permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_link(fetched.folder.join("link")).unwrap(), Path::new("bin/server"));
    assert!(!fetched.folder.join("notes").exists() && !fetched.folder.join(".git").exists());
    assert_eq!(releases(&world), ["v1"]);
    assert!(world.said.iter().any(|line| *line == format!("main is commit {commit}")));
    let copy = world.path("web/source.git").metadata().unwrap();
    assert_eq!(copy.permissions().mode() & 0o777, 0o700, "it is nobody else's business");
}

#[tokio::test]
async fn branches_tags_and_commits_are_found_by_their_names() {
    let mut world = World::new();
    let origin = world.repository("origin");
    let first = origin.git(&["rev-parse", "HEAD"]);
    origin.git(&["tag", "-a", "-m", "one", "v1.0"]);
    origin.git(&["tag", "both"]);
    let second = origin.commit("name", "second");
    origin.git(&["branch", "both"]);
    origin.git(&["update-ref", "refs/pull/7/head", &first]);
    // Somebody gives a branch the name of a commit.
    origin.git(&["update-ref", &format!("refs/heads/{first}"), &second]);
    for (i, (reference, commit)) in [
        ("HEAD", &second),
        ("main", &second),
        ("v1.0", &first),
        ("both", &second),
        ("refs/tags/both", &first),
        ("refs/pull/7/head", &first),
        (first.as_str(), &first),
        (&first[..8], &first),
    ]
    .into_iter()
    .enumerate()
    {
        let fetched = world.at(reference, &format!("r{i}")).await.unwrap();
        assert_eq!(fetched.revision, *commit, "{reference}");
    }
    for missing in ["nothing", "refs/heads/nothing", "0123456", &"1".repeat(40)] {
        let error = world.at(missing, "no").await.unwrap_err().to_string();
        assert!(error.contains(missing), "{error}");
    }
    assert_eq!(releases(&world).len(), 8, "of what is not there, nothing is left");
}

#[tokio::test]
async fn the_kept_copy_follows_what_happens_there() {
    let mut world = World::new();
    let origin = world.repository("origin");
    let lost = origin.commit("name", "lost");
    world.at("main", "r1").await.unwrap();
    // A history that is written anew, and a branch that stands in the way of another.
    origin.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let new = origin.commit("name", "new");
    origin.git(&["branch", "feature"]);
    assert_eq!(world.at("main", "r2").await.unwrap().revision, new);
    origin.git(&["branch", "-D", "feature"]);
    origin.git(&["branch", "feature/a"]);
    assert_eq!(world.at("feature/a", "r3").await.unwrap().revision, new);
    assert!(world.at("feature", "r4").await.is_err());
    // What was there stays, also when nobody can be asked.
    fs::rename(&origin.folder, world.path("away")).unwrap();
    assert_eq!(world.at(&lost, "r4").await.unwrap().revision, lost);
    let error = world.at("main", "r5").await.unwrap_err();
    assert!(error.to_string().starts_with("git fetch: fatal: "), "{error}");
    assert!(!error.lines().is_empty());
}

#[tokio::test]
async fn a_commit_that_no_branch_has_is_asked_for_by_its_hash() {
    let mut world = World::new();
    let origin = world.repository("origin");
    let lost = origin.commit("name", "lost");
    origin.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let fetched = world.at(&lost, "v1").await.unwrap();
    assert_eq!((fetched.revision, read(&fetched.folder, "name")), (lost, "lost".to_owned()));
}

#[tokio::test]
async fn submodules_are_part_of_a_release_if_they_should_be() {
    let mut world = World::new();
    let (origin, lib, deep) =
        (world.repository("origin"), world.repository("lib"), world.repository("deep"));
    lib.git(&["submodule", "add", "-q", "../deep", "in/deep"]);
    lib.commit("more", "");
    origin.git(&["submodule", "add", "-q", "../lib", "vendor/lib"]);
    let commit = origin.commit("more", "");
    deep.commit("name", "later than what lib has");
    let url = format!("git = {:?}", origin.folder);
    let without = world.app(&url, "");
    let fetched = world.fetch(&without, "v1").await.unwrap();
    assert_eq!(fs::read_dir(fetched.folder.join("vendor/lib")).unwrap().count(), 0);
    let with = world.app(&format!("{url}\nsubmodules = true"), "");
    for release in ["v2", "v3"] {
        let fetched = world.fetch(&with, release).await.unwrap();
        assert_eq!(read(&fetched.folder, "vendor/lib/name"), "lib");
        assert_eq!(read(&fetched.folder, "vendor/lib/in/deep/name"), "deep");
        assert_eq!(fetched.revision, commit);
    }
}

#[tokio::test]
async fn a_submodule_runs_no_program_and_leads_nowhere_else() {
    let mut world = World::new();
    let (origin, lib) = (world.repository("origin"), world.repository("lib"));
    origin.git(&["submodule", "add", "-q", "../lib", "lib"]);
    let app = world.app(&format!("git = {:?}\nsubmodules = true", origin.folder), "");
    let proof = world.path("proof");
    for (i, (url, why)) in [
        (format!("ext::touch {}", proof.display()), "transport helper"),
        ("-u./proof".to_owned(), "is not a repository's address"),
        (format!("ssh://-oProxyCommand=touch%20{}/x", proof.display()), "begins with"),
        ("../../../../../../../../etc".to_owned(), "cannot be fetched"),
    ]
    .into_iter()
    .enumerate()
    {
        origin.git(&["config", "-f", ".gitmodules", "submodule.lib.url", &url]);
        origin.commit("n", &i.to_string());
        let error = world.fetch(&app, "v1").await.unwrap_err().to_string();
        let said = error.contains(why) || (i == 3 && error.starts_with("git fetch: "));
        assert!(said, "{url}: {error}");
    }
    origin.git(&["config", "-f", ".gitmodules", "--unset", "submodule.lib.url"]);
    origin.commit("n", "none");
    let error = world.fetch(&app, "v1").await.unwrap_err().to_string();
    assert!(error.contains("does not say from where"), "{error}");
    // As no git would write it: a link and a folder of the same name, with the submodule in it.
    origin.git(&["config", "-f", ".gitmodules", "submodule.lib.url", "../lib"]);
    origin.git(&["config", "-f", ".gitmodules", "submodule.lib.path", "out/lib"]);
    let lib = lib.git(&["rev-parse", "HEAD"]);
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    let modules = origin.git(&["hash-object", "-w", ".gitmodules"]);
    let target = origin.made("hash-object -w --stdin", outside.to_str().unwrap());
    let inner = origin.made("mktree --missing", &format!("160000 commit {lib}\tlib\n"));
    let link = format!("120000 blob {target}\tout\n040000 tree {inner}\tout\n");
    let tree = format!("100644 blob {modules}\t.gitmodules\n{link}");
    let tree = origin.made("mktree --missing", &tree);
    let commit = origin.git(&["commit-tree", "-m", "x", &tree]);
    origin.git(&["update-ref", "refs/heads/hostile", &commit]);
    let source = app.source.origin.clone().unwrap();
    let source = source.with_reference("hostile".parse().unwrap()).unwrap();
    let error = world.fetch_from(&app, &source, "v1").await.unwrap_err().to_string();
    assert!(error.contains("what git gives out is refused"), "{error}");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    assert!(!proof.exists());
    assert_eq!(releases(&world), [""; 0]);
}

/// A program of git's that serves the repositories of a folder on loopback.
struct Daemon {
    child: std::process::Child,
    url: String,
}

impl Daemon {
    async fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Itself, as `git daemon` would be its parent and not pass on a signal.
        let programs = Command::new("git").arg("--exec-path").output().unwrap();
        let programs = String::from_utf8(programs.stdout).unwrap();
        let child = Command::new(Path::new(programs.trim()).join("git-daemon"))
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.display()))
            .arg(folder)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, url: format!("git://127.0.0.1:{port}") };
        until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_repository_elsewhere_has_no_submodules_of_this_machine() {
    let mut world = World::new();
    let (origin, lib) = (world.repository("origin"), world.repository("lib"));
    origin.git(&["submodule", "add", "-q", "../lib", "lib"]);
    origin.commit("more", "");
    let daemon = Daemon::start(world.tmp.path()).await;
    let source = format!("git = \"{}/origin\"\nsubmodules = true", daemon.url);
    let app = world.app(&source, "");
    let fetched = world.fetch(&app, "v1").await.unwrap();
    assert_eq!(read(&fetched.folder, "lib/name"), "lib");
    for url in [lib.folder.display().to_string(), format!("file://{}", lib.folder.display())] {
        origin.git(&["config", "-f", ".gitmodules", "submodule.lib.url", &url]);
        origin.commit("n", &url);
        let error = world.fetch(&app, "v2").await.unwrap_err().to_string();
        assert!(error.contains("transport 'file' not allowed"), "{error}");
    }
    assert_eq!(releases(&world), ["v1"]);
}

#[tokio::test]
async fn nothing_that_a_killed_git_left_disturbs_the_next() {
    let mut world = World::new();
    let origin = world.repository("origin");
    world.at("main", "r1").await.unwrap();
    let mirror = world.path("web/source.git");
    for lock in ["config.lock", "HEAD.lock", "packed-refs.lock", "refs/heads/main.lock"] {
        fs::write(mirror.join(lock), "").unwrap();
    }
    let commit = origin.commit("name", "new");
    assert_eq!(world.at("main", "r2").await.unwrap().revision, commit);
    // Begun, and not gone on with.
    fs::remove_dir_all(&mirror).unwrap();
    fs::create_dir(&mirror).unwrap();
    fs::create_dir(mirror.join("objects")).unwrap();
    assert_eq!(world.at("main", "r3").await.unwrap().revision, commit);
}

#[tokio::test]
async fn a_copy_that_a_loss_of_power_has_damaged_is_made_anew() {
    let mut world = World::new();
    let origin = world.repository("origin");
    world.at("main", "r1").await.unwrap();
    let files = |folder: &Path| -> Vec<PathBuf> {
        let find = Command::new("find").arg(folder).args(["-type", "f"]).output().unwrap();
        String::from_utf8(find.stdout).unwrap().lines().map(PathBuf::from).collect()
    };
    let mut emptied = 0;
    for object in files(&world.path("web/source.git/objects")) {
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&object, "").unwrap();
        emptied += 1;
    }
    assert!(emptied > 0);
    let commit = origin.commit("name", "new");
    let fetched = world.at("main", "r2").await.unwrap();
    assert_eq!((fetched.revision, read(&fetched.folder, "name")), (commit, "new".to_owned()));
    assert!(world.said.iter().any(|line| line.contains("is damaged and is made anew")));
}

#[tokio::test]
async fn the_copy_of_a_submodule_is_made_anew_too() {
    let mut world = World::new();
    let (origin, lib) = (world.repository("origin"), world.repository("lib"));
    origin.git(&["submodule", "add", "-q", "../lib", "lib"]);
    origin.commit("more", "");
    let app = world.app(&format!("git = {:?}\nsubmodules = true", origin.folder), "");
    world.fetch(&app, "v1").await.unwrap();
    let find = |more: &[&str]| {
        let mut find = Command::new("find");
        find.arg(world.path("web/source.git")).args(["-path", "*/submodule-*/objects/*"]);
        find.args(["-type", "f"]).args(more).output().unwrap().stdout
    };
    assert!(!find(&["-print", "-delete"]).is_empty());
    let fetched = world.fetch(&app, "v2").await.unwrap();
    assert_eq!(read(&fetched.folder, "lib/name"), "lib");
    assert!(lib.folder.exists());
}

#[tokio::test]
async fn two_do_not_work_on_a_copy_at_once() {
    let mut world = World::new();
    world.repository("origin");
    world.at("main", "r1").await.unwrap();
    let held = fs::File::open(world.path("web/source.git")).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let app = world.app(&format!("git = {:?}", world.path("origin")), "");
    let (source, release) = (app.source.origin.clone().unwrap(), ReleaseName::new("r2").unwrap());
    let mut tell = move |line: &str| drop(told.send(line.to_owned()));
    let fetch = source::fetch(&app, &source, None, &release, &mut tell);
    tokio::pin!(fetch);
    let line = tokio::select! {
        fetched = &mut fetch => panic!("it does not wait: {fetched:?}"),
        line = heard.recv() => line.unwrap(),
    };
    assert!(line.contains("another git works in"), "{line}");
    drop(held);
    fetch.await.unwrap();
}

/// Somebody that git can connect to, and who says this, or nothing.
fn server(says: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|n| n > 0) {
                    if stream.write_all(says.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_asks_for_a_password_is_not_waited_for() {
    let mut world = World::new();
    let port = server(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
    );
    let app = world.app(&format!("git = \"http://127.0.0.1:{port}/web.git\""), "");
    let error = world.fetch(&app, "v1").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("terminal prompts disabled"), "{text}");
    assert!(text.contains("it asks for a user and password"), "{text}");
    assert_eq!(releases(&world), [""; 0]);
}

#[tokio::test]
async fn a_server_that_never_answers_is_waited_for_up_to_the_limit() {
    let mut world = World::new();
    let port = server("");
    let source = format!("git = \"git://127.0.0.1:{port}/web.git\"\ntimeout = \"700ms\"");
    let app = world.app(&source, "");
    let error = world.fetch(&app, "v1").await.unwrap_err();
    assert!(matches!(error, SourceError::Limit(_)), "{error}");
    until("git is gone", || running().is_empty()).await;
    assert_eq!(releases(&world), [""; 0]);
    // The lock is free again.
    world.repository("origin");
    world.at("main", "v1").await.unwrap();
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_any_more_ends() {
    let mut world = World::new();
    let port = server("");
    let app = world.app(&format!("git = \"git://127.0.0.1:{port}/web.git\""), "");
    let fetch = world.fetch(&app, "v1");
    tokio::select! {
        fetched = fetch => panic!("{fetched:?}"),
        () = until("git runs", || !running().is_empty()) => {}
    }
    until("git is gone", || running().is_empty()).await;
    assert_eq!(releases(&world), [""; 0]);
}

#[tokio::test]
async fn p9_a_git_that_outlives_its_daemon_keeps_the_lock() {
    let mut world = World::new();
    let port = server("");
    let app = world.app(&format!("git = \"git://127.0.0.1:{port}/web.git\""), "");
    let copy = world.path("web/source.git");
    let holds = |process: &PathBuf| {
        let fds = fs::read_dir(process.join("fd")).into_iter().flatten();
        fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|to| to == copy)
    };
    // That which waits for the server, and not one that was before it.
    let fetches = |process: &PathBuf| {
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        command.split(|b| *b == 0).any(|part| part == b"fetch")
    };
    let holder = || running().into_iter().any(|process| fetches(&process) && holds(&process));
    tokio::select! {
        fetched = world.fetch(&app, "v1") => panic!("{fetched:?}"),
        () = until("git holds the lock", holder) => {}
    }
}

#[tokio::test]
async fn a_repository_is_no_larger_than_a_release_may_be() {
    let mut world = World::new();
    let origin = world.repository("origin");
    origin.commit("large", &"x".repeat(100_000));
    let app = world.app(&format!("git = {:?}\nmax_size = \"64k\"", origin.folder), "");
    let error = world.fetch(&app, "v1").await.unwrap_err().to_string();
    assert!(
        error.contains("what git gives out is refused") && error.contains("max_size"),
        "{error}"
    );
    assert_eq!(releases(&world), [""; 0]);
}

#[tokio::test]
async fn hooks_in_the_copy_are_not_run() {
    let mut world = World::new();
    let origin = world.repository("origin");
    world.at("main", "r1").await.unwrap();
    let (hooks, proof) = (world.path("web/source.git/hooks"), world.path("proof"));
    fs::create_dir_all(&hooks).unwrap();
    for name in ["reference-transaction", "post-checkout", "pre-auto-gc", "post-update"] {
        let hook = hooks.join(name);
        fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", proof.display())).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }
    origin.commit("name", "new");
    world.at("main", "r2").await.unwrap();
    assert!(!proof.exists());
    // It is one that git would run.
    let push = Repository { folder: world.path("web/source.git") };
    push.git(&["update-ref", "refs/heads/x", "refs/heads/main"]);
    assert!(proof.exists());
}

#[tokio::test]
async fn git_runs_as_the_applications_user_and_root_owns_the_release() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let mut world = World::new();
    let origin = world.repository("origin");
    let chown = Command::new("chown").args(["-R", "nobody"]).arg(&origin.folder).status();
    assert!(chown.unwrap().success());
    let source = format!("git = {:?}\nshared = [\"storage/\"]", origin.folder);
    let parse = |more: &str| {
        let text = format!("{more}\n{source}");
        let mut app = world.app(&text, "");
        app.run.user = Some(shunt_helper::user::User::find("nobody").unwrap());
        app
    };
    let mut app = parse("");
    let nobody = app.run.user.clone().unwrap();
    let fetched = world.fetch(&app, "v1").await.unwrap();
    let owner = |path: &Path| path.symlink_metadata().unwrap().uid();
    let mirror = world.path("web/source.git");
    let find = Command::new("find").arg(&mirror).args(["!", "-user", "nobody"]).output().unwrap();
    assert_eq!(String::from_utf8(find.stdout).unwrap(), "", "all of the copy is the user's");
    assert_eq!(mirror.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let name = fetched.folder.join("name");
    assert_eq!((owner(&name), name.metadata().unwrap().gid()), (0, nobody.gid));
    assert_eq!(owner(&fetched.folder), 0);
    assert_eq!(owner(&world.path("web/shared/storage")), nobody.uid);
    // One that is to be built is the user's own.
    app.hooks.build =
        Some(shunt_helper::config::hooks::Hook { command: vec!["true".to_owned()], timeout: None });
    let fetched = world.fetch(&app, "v2").await.unwrap();
    for path in ["", "name", "REVISION", "storage"] {
        assert_eq!(owner(&fetched.folder.join(path)), nobody.uid, "{path}");
    }
    // A copy that is somebody else's is not touched.
    let chown = Command::new("chown").arg("-R").arg("daemon").arg(&mirror).status();
    assert!(chown.unwrap().success());
    let error = world.fetch(&app, "v3").await.unwrap_err().to_string();
    assert!(error.contains("belongs to another user"), "{error}");
}
