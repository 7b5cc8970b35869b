//! Every example of the documents: NGINX's configuration by `nginx -t`, the helper's by its parser.
//!
//! The language of a block says what it is. `nginx` is a whole configuration or what stands in its
//! `http` block; `nginx refused` is one that `nginx -t` refuses, and the next block is what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use shunt_helper::config::App;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};

use crate::markdown::{Block, documents};

/// Languages that are tested, here or elsewhere, and those of which nothing can be.
const LANGUAGES: [&str; 9] =
    ["js", "json", "nginx", "promql", "rust", "sh", "text", "toml", "yaml"];

pub fn blocks(language: &str) -> Vec<Block> {
    let all = documents().into_iter().flat_map(|document| document.blocks());
    all.filter(|block| block.language() == language).collect()
}

/// What a fragment leaves out because it has been said before.
fn complete(text: &str) -> String {
    let mut text = text.to_owned();
    if !text.contains("shunt_zone") {
        text.insert_str(0, "shunt_zone shunt:1m;");
    }
    for name in ["web", "shop"] {
        let is_used = text.contains(&format!("http://{name}"));
        if is_used && !text.contains(&format!("upstream {name} {{")) {
            text.insert_str(0, &format!("upstream {name} {{ shunt; server 127.0.0.1:1; }} "));
        }
    }
    text
}

/// Puts the ports, sockets, files and users of the test in place of those of the document.
pub fn adapt(text: &str) -> String {
    let replaced = [
        ("/var/lib/nginx/shunt/", "%FOLDER%/state/"),
        ("/var/log/nginx/", "%FOLDER%/"),
        ("/etc/nginx/shunt.token", "%FOLDER%/token"),
        ("/run/shunt-nginx.sock", "%FOLDER%/api.sock"),
        ("user=deploy", "user=nobody"),
        ("listen 80;", "listen 127.0.0.1:%PORT%;"),
    ];
    replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What is in the `http` block of a whole configuration.
pub fn inside_of_http(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("\nhttp {")?;
    let (inside, _) = rest.rsplit_once('}')?;
    Some(inside)
}

/// Runs `nginx -t` over a block, and tells whether it is good, what it says, and the line of the
/// configuration that is the block's first.
fn test(build: &Build, block: &Block, as_it_is: bool) -> (bool, String, usize) {
    const MARK: &str = "# here the example begins";
    let text = inside_of_http(&block.text).unwrap_or(&block.text);
    let text = if as_it_is { text.to_owned() } else { complete(text) };
    let http = format!("{MARK}\n{}", adapt(&text));
    let nginx = Nginx::prepare(build, Setup { http, workers: 1 });
    let token = nginx.path("token");
    fs::write(&token, "correct-horse-battery\n").expect("its folder");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("it is there");
    let (good, said) = nginx.test();
    let conf = nginx.path("nginx.conf");
    let text = fs::read_to_string(&conf).expect("its configuration");
    let first = text.lines().position(|line| line == MARK).expect("the mark") + 2;
    (good, said.replace(&conf.display().to_string(), "nginx.conf"), first)
}

#[test]
fn every_block_says_what_it_is() {
    for block in documents().iter().flat_map(|document| document.blocks()) {
        let known = LANGUAGES.contains(&block.language());
        assert!(known, "{}: {:?} is not tested", block.place, block.words);
    }
}

fn every_nginx_example_is_accepted(build: &Build) {
    let mut tested = 0;
    for block in blocks("nginx").iter().filter(|block| !block.is("refused")) {
        let (good, said, _) = test(build, block, false);
        assert!(good && !said.contains("[warn]"), "{}\n{}\n{said}", block.place, block.text);
        tested += 1;
    }
    assert!(tested >= 10);
}

fn every_refusal_is_what_nginx_says(build: &Build) {
    let mut tested = 0;
    for document in documents() {
        let blocks = document.blocks();
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.is("refused")) {
            let (good, said, first) = test(build, block, true);
            assert!(!good, "{} is accepted\n{}", block.place, block.text);
            let message = blocks.get(at + 1).filter(|next| next.language() == "text");
            let message = message.unwrap_or_else(|| panic!("{}: no message", block.place));
            let (message, line) = message.text.trim_end().rsplit_once(':').expect("a line");
            let line = line.parse::<usize>().expect("a line's number") + first - 1;
            let message = format!("nginx: [emerg] {message}:{line}\n");
            assert!(said.contains(&message), "{}\n{message}{said}", block.place);
            tested += 1;
        }
    }
    assert!(tested >= 8);
}

/// The user of an example need not exist here.
fn nobody(line: &str) -> String {
    match line.split_once('=') {
        Some((name, _)) if name.trim() == "user" => "user = \"nobody\"\n".to_owned(),
        _ => format!("{line}\n"),
    }
}

/// A whole file of an application, with what an example leaves out because it has been said before.
pub fn application(text: &str) -> String {
    let text: String = text.lines().map(nobody).collect();
    let at = text.find("[").filter(|_| text.starts_with('[')).or_else(|| text.find("\n["));
    let (root, sections) = text.split_at(at.unwrap_or(text.len()));
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let missing = |text: &str, lines: &[&str]| -> String {
        let there: Vec<_> = text.lines().map(key).collect();
        let missing = lines.iter().filter(|line| !there.contains(&key(line)));
        missing.map(|line| format!("{line}\n")).collect()
    };
    let base = ["name = \"web\"", "root = \"/srv/web\"", "nginx = \"unix:/run/n.sock\""];
    let run = ["command = [\"./server\"]", "slots = [\"127.0.0.1:3001\", \"127.0.0.1:3002\"]"];
    // Of other runners there is no command, or need be none.
    let is_other =
        |line: &str| ["unit", "image"].contains(&&*key(line)) || line.contains("\"external\"");
    let run = if text.lines().any(is_other) { &run[1..] } else { &run };
    let root = format!("{}{root}", missing(root, &base));
    match sections.split_once("[run]\n") {
        Some((before, after)) => {
            let end = after.find("\n[").unwrap_or(after.len());
            format!("{root}{before}[run]\n{}{after}", missing(&after[..end], run))
        }
        None => format!("{root}{sections}\n[run]\n{}", missing("", run)),
    }
}

#[test]
fn every_configuration_of_the_helper_is_accepted() {
    let blocks = blocks("toml");
    assert!(blocks.len() > 60);
    for block in blocks {
        if let Err(error) = App::parse(&application(&block.text)) {
            panic!("{}\n{error}", block.place);
        }
    }
}

each_nginx!(every_nginx_example_is_accepted, every_refusal_is_what_nginx_says);
