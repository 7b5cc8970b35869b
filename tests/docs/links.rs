//! Nothing in the documents points to where there is nothing.

use std::path::Path;

use crate::markdown::{document, documents, root};

#[test]
fn every_link_goes_somewhere() {
    for from in documents() {
        for link in from.links().iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&from.name).parent().expect("a folder");
            let path = if path.is_empty() { from.name.clone().into() } else { folder.join(path) };
            assert!(root().join(&path).exists(), "{}: {link}", from.name);
            if !anchor.is_empty() {
                let anchors = document(&path.display().to_string()).anchors();
                assert!(anchors.iter().any(|a| a == anchor), "{}: {link}", from.name);
            }
        }
    }
}

#[test]
fn every_file_that_is_named_is_there() {
    const ENDS: [&str; 8] = [".c", ".json", ".md", ".rs", ".service", ".socket", ".toml", ".yml"];
    let mut found = 0;
    for document in documents() {
        for name in document.code() {
            // A path of this repository begins with one of its folders.
            let first = name.split('/').next().expect("a part");
            let is_path = name.contains('/') && root().join(first).is_dir() && !first.is_empty();
            if is_path && ENDS.iter().any(|end| name.ends_with(end)) {
                assert!(root().join(&name).exists(), "{}: {name}", document.name);
                found += 1;
            }
        }
    }
    assert!(found >= 3);
}
