//! The versions of NGINX that documents name are those that the tests run with. Debian 12's is the
//! machine's own, which may be another one.

use shunt_tests::build::Build;

use crate::markdown::{document, root};

#[test]
fn the_guide_names_the_versions_that_are_tested() {
    let guide = std::fs::read_to_string(root().join("docs/guide.md")).unwrap();
    let (trixie, stable) = (Build::trixie().version, Build::stable().version);
    for named in [
        format!("| protocol | 1.22.1 | {trixie} | {stable} |"),
        format!("Debian 13's {trixie}\n  and upstream's {stable}"),
    ] {
        assert!(guide.contains(&named), "{named}");
    }
}

#[test]
fn what_the_guide_says_of_protocols_is_tested_with_every_nginx() {
    let rows = document("docs/guide.md").rows("between");
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows.iter().filter(|row| row[5] != "the same") {
        for test in row[5].split(", ") {
            let file = root().join(format!("tests/e2e/{test}.rs"));
            let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
            let with_each = ["each_nginx!(", "each_protocol!("];
            assert!(with_each.iter().any(|each| text.contains(each)), "{file:?}");
        }
    }
}
