//! `docs/directives.md` against the module: every directive with its contexts and its default, every
//! variable, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};

use crate::markdown::{document, root};

/// What the reference says of a directive.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    syntax: Vec<String>,
    default: Option<String>,
    contexts: BTreeSet<String>,
    appeared: bool,
}

/// What stands in backticks in a line.
fn quoted(line: &str) -> Vec<String> {
    line.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// The directives of the reference, by their headings.
fn reference() -> BTreeMap<String, Entry> {
    let document = document("docs/directives.md");
    let (_, text) = document.text().split_once("\n## Directives\n").expect("the directives");
    let (text, _) = text.split_once("\n## Variables\n").expect("the variables");
    let mut entries = BTreeMap::new();
    for section in text.split("\n### ").skip(1) {
        let (name, text) = section.split_once('\n').expect("a heading");
        let mut entry = Entry::default();
        let mut in_syntax = false;
        for line in text.lines() {
            in_syntax = line.starts_with("**Syntax:**") || (in_syntax && line.starts_with('`'));
            if in_syntax {
                entry.syntax.extend(quoted(line));
            } else if let Some(default) = line.strip_prefix("**Default:** ") {
                entry.default = quoted(default).pop();
            } else if let Some(contexts) = line.strip_prefix("**Context:** ") {
                entry.contexts = quoted(contexts).into_iter().collect();
            }
            entry.appeared |= line.starts_with("This directive appeared in version ");
        }
        assert!(entries.insert(name.to_owned(), entry).is_none(), "{name} is there twice");
    }
    entries
}

fn source(name: &str) -> String {
    fs::read_to_string(root().join("ngx-module/src").join(name)).expect("the module's source")
}

/// The names in `ngx_string!("…")` of a text, each with what follows it.
fn names(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("ngx_string!(\"").skip(1).filter_map(|rest| rest.split_once("\")"))
}

/// The directives of the module's table, with their contexts.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    const CONTEXTS: [(&str, &str); 6] = [
        ("NGX_HTTP_MAIN_CONF", "http"),
        ("NGX_HTTP_SRV_CONF", "server"),
        ("NGX_HTTP_LOC_CONF", "location"),
        ("NGX_HTTP_UPS_CONF", "upstream"),
        ("NGX_HTTP_SIF_CONF", "if in server"),
        ("NGX_HTTP_LIF_CONF", "if in location"),
    ];
    let source = source("conf.rs");
    let (_, table) = source.split_once("NGX_HTTP_SHUNT_COMMANDS").expect("the table");
    let (table, _) = table.split_once("ngx_command_t::empty()").expect("its end");
    let contexts = |rest: &str| {
        let (_, flags) = rest.split_once("type_:").expect("the flags");
        let (flags, _) = flags.split_once(" as ngx_uint_t").expect("their end");
        let words: Vec<&str> = flags.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let known = CONTEXTS.iter().filter(|(flag, _)| words.contains(flag));
        known.map(|(_, context)| (*context).to_owned()).collect()
    };
    names(table).map(|(name, rest)| (name.to_owned(), contexts(rest))).collect()
}

#[test]
fn every_directive_of_the_module_is_in_the_reference_with_its_contexts_and_no_other() {
    let table = table();
    assert!(table.len() >= 9, "{table:?}");
    let reference = reference();
    let described: BTreeMap<_, _> =
        reference.iter().map(|(name, entry)| (name.clone(), entry.contexts.clone())).collect();
    assert_eq!(described, table);
    for (name, entry) in &reference {
        assert!(entry.appeared, "{name} does not say in which version it appeared");
        assert!(!entry.syntax.is_empty(), "{name}");
        for syntax in &entry.syntax {
            let rest = syntax.strip_prefix(name.as_str()).unwrap_or_default();
            assert!(rest.starts_with([' ', ';']) && rest.ends_with(';'), "{name}: {syntax}");
        }
    }
}

#[test]
fn every_variable_of_the_module_is_in_the_reference_and_no_other() {
    let source = source("variables.rs");
    let (_, table) = source.split_once("const VARIABLES").expect("the table");
    let (table, _) = table.split_once("];").expect("its end");
    let known: BTreeSet<String> = names(table).map(|(name, _)| format!("${name}")).collect();
    assert!(known.len() >= 4, "{known:?}");
    let document = document("docs/directives.md");
    let (_, text) = document.text().split_once("\n## Variables\n").expect("the variables");
    let described = text.lines().filter_map(|line| line.strip_prefix("- `$")?.split('`').next());
    assert_eq!(described.map(|name| format!("${name}")).collect::<BTreeSet<_>>(), known);
}

/// Puts a directive into a context.
fn placed(directive: &str, context: &str) -> String {
    let server = |inner: &str| format!("server {{ listen 127.0.0.1:%PORT%; {inner} }}");
    match context {
        "http" => directive.to_owned(),
        "server" => server(directive),
        "location" => server(&format!("location / {{ {directive} }}")),
        "upstream" => format!("upstream u {{ {directive} }}"),
        "if in server" => server(&format!("if ($arg_x) {{ {directive} }}")),
        "if in location" => server(&format!("location / {{ if ($arg_x) {{ {directive} }} }}")),
        "limit_except" => server(&format!("location / {{ limit_except GET {{ {directive} }} }}")),
        other => panic!("{other} is no context"),
    }
}

fn nginx_allows_each_directive_where_the_reference_says_so(build: &Build) {
    const CONTEXTS: [&str; 7] = [
        "http",
        "server",
        "location",
        "upstream",
        "if in server",
        "if in location",
        "limit_except",
    ];
    for (name, entry) in reference() {
        for context in CONTEXTS {
            // With as many words as it may have; what they say is looked at later than where they are.
            let words = if entry.syntax[0] == format!("{name};") { "" } else { " a b" };
            let words = if entry.syntax[0].matches([' ']).count() == 1 { " a" } else { words };
            let http = placed(&format!("{name}{words};"), context);
            let nginx = Nginx::prepare(build, Setup { http, workers: 1 });
            let (_, said) = nginx.test();
            assert!(!said.contains("unknown directive"), "{said}");
            let refused = said.contains(&format!("\"{name}\" directive is not allowed here"));
            assert_eq!(!refused, entry.contexts.contains(context), "{name} in {context}: {said}");
        }
    }
}

fn each_default_is_accepted(build: &Build) {
    let mut tried = 0;
    for (name, entry) in reference() {
        let Some(default) = &entry.default else { continue };
        for context in &entry.contexts {
            let before = if context == "upstream" { "shunt; server 127.0.0.1:1;" } else { "" };
            let http = placed(&format!("{before} {default}"), context);
            let http = format!("shunt_zone shunt:1m; {http}");
            let nginx = Nginx::prepare(build, Setup { http, workers: 1 });
            let (good, said) = nginx.test();
            assert!(good, "{name} in {context}: {said}");
            tried += 1;
        }
    }
    assert!(tried >= 4);
}

fn a_zone_has_the_room_that_the_reference_names(build: &Build) {
    let text = document("docs/directives.md").text().replace('\n', " ");
    for (workers, says) in [
        (
            4,
            "A megabyte has room for # upstreams with four releases each while NGINX has up to four workers",
        ),
        (8, "for # with eight"),
        (16, "for # with sixteen"),
    ] {
        let http = "shunt_zone shunt:1m; server { listen unix:%FOLDER%/api.sock; \
            location / { shunt_api; } } server { listen 127.0.0.1:%PORT%; }";
        let nginx = Nginx::start(build, Setup { http: http.to_owned(), workers });
        let zone = nginx.admin().index().zones.remove(0);
        assert_eq!(zone.releases.capacity, 4 * zone.upstreams.capacity);
        let says = says.replace('#', &zone.upstreams.capacity.to_string());
        assert!(text.contains(&says), "{says}");
    }
}

each_nginx!(
    nginx_allows_each_directive_where_the_reference_says_so,
    each_default_is_accepted,
    a_zone_has_the_room_that_the_reference_names,
);
