//! The documents' examples with curl, run one after the other against a module with the document's own
//! configuration.
//!
//! A block `sh run` is run; every command has to succeed, unless a comment at its end begins with the
//! status that it is refused with (`# 409: it is active`). A `json` block after it has the shape
//! of what it printed.

use std::process::Command;

use serde_json::Value;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::free_port;
use shunt_tests::nginx::{Nginx, Setup};

use crate::examples::{adapt, inside_of_http};
use crate::markdown::{Block, documents};

/// Stands between the output of one block and that of the next.
const END: &str = "--- end of block ---";

/// What every script begins with.
const PRELUDE: &str = r#"set -euo pipefail
refused() {
    local status=$1 out
    shift
    if out=$("$@"); then
        echo "this was not refused: $*" >&2
        exit 1
    fi
    if [[ $out != *"\"status\":$status,"* ]]; then
        echo "this was not refused with $status: $*" >&2
        echo "$out" >&2
        exit 1
    fi
    echo "$out"
}
"#;

/// The commands of a block, one in a line.
fn commands(text: &str) -> String {
    let mut commands = String::new();
    for line in text.replace("\\\n", " ").lines() {
        let comment = line.rsplit_once("# ").map(|(_, comment)| comment);
        let status = comment.and_then(|comment| comment.get(..3)?.parse::<u16>().ok());
        if let Some(status) = status {
            commands.push_str(&format!("refused {status} "));
        }
        commands.push_str(line);
        // What comes after an answer begins in a line of its own.
        commands.push_str("\necho\n");
    }
    commands
}

/// Puts the ports and paths of the test in place of the document's.
struct Places {
    replaced: Vec<(String, String)>,
    _backends: Vec<Backend>,
}

impl Places {
    /// Backends for the ports of the examples, free ports for what NGINX listens on.
    fn new() -> Self {
        let releases = [(3000, "default"), (3001, "v1"), (3002, "v2"), (3003, "v3")];
        let backends = releases.map(|(_, release)| Backend::start(release, 1));
        let mut replaced: Vec<_> = releases
            .iter()
            .zip(&backends)
            .map(|((port, _), backend)| (format!("127.0.0.1:{port}"), backend.addresses[0].clone()))
            .collect();
        for port in [8081, 9145] {
            replaced.push((format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_port())));
        }
        Self { replaced, _backends: backends.into() }
    }

    fn of(&self, text: &str) -> String {
        let text = adapt(text);
        self.replaced.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }
}

/// Whether `shown` has the shape of `real`: the same names, and values of the same kind. Of a list the
/// first ones may be shown.
fn is_of_shape(shown: &Value, real: &Value) -> bool {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => {
            shown.len() == real.len()
                && shown.iter().all(|(name, value)| {
                    real.get(name).is_some_and(|real| is_of_shape(value, real))
                })
        }
        (Value::Array(shown), Value::Array(real)) => {
            shown.is_empty() == real.is_empty()
                && shown.len() <= real.len()
                && shown.iter().zip(real).all(|(shown, real)| is_of_shape(shown, real))
        }
        (Value::String(shown), Value::String(real)) => {
            // Addresses are others here.
            shown == real || (shown.contains(':') && real.contains(':'))
        }
        (Value::Number(_), Value::Number(_)) => true,
        (shown, real) => shown == real,
    }
}

/// Runs the blocks of one document and gives what each has printed.
fn run(build: &Build, blocks: &[Block]) -> Vec<String> {
    let places = Places::new();
    let configuration = blocks.iter().find_map(|block| {
        (block.language() == "nginx").then(|| inside_of_http(&block.text)).flatten()
    });
    let configuration = configuration.expect("a whole configuration of NGINX");
    let http = places.of(configuration);
    let nginx = Nginx::start(build, Setup { http, workers: 2 });
    let mut script = PRELUDE.to_owned();
    for block in blocks.iter().filter(|block| block.is("run")) {
        let text =
            places.of(&block.text).replace("%FOLDER%", &nginx.folder().display().to_string());
        let text = text.replace("http://localhost/", &format!("http://127.0.0.1:{}/", nginx.port));
        script.push_str(&commands(&text));
        script.push_str(&format!("echo '{END}'\n"));
    }
    let output = Command::new("bash").arg("-c").arg(&script).output().expect("bash");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n--- printed\n{out}\n--- failed\n{error}");
    out.split(END).map(ToOwned::to_owned).collect()
}

fn every_example_with_curl_does_what_it_says(build: &Build) {
    let mut tested = 0;
    for document in documents() {
        let blocks = document.blocks();
        if !blocks.iter().any(|block| block.is("run")) {
            continue;
        }
        let mut printed = run(build, &blocks).into_iter();
        let mut last = String::new();
        for block in &blocks {
            if block.is("run") {
                last = printed.next().expect("what it printed");
                tested += 1;
            } else if block.language() == "json" {
                let shown: Value = serde_json::from_str(&block.text).expect("JSON");
                let real: Value = serde_json::from_str(&last)
                    .unwrap_or_else(|e| panic!("{}: {e} in {last}", block.place));
                assert!(is_of_shape(&shown, &real), "{}\n{shown:#}\n{real:#}", block.place);
            }
        }
    }
    assert!(tested >= 20, "{tested}");
}

#[test]
fn every_example_with_curl_is_run() {
    for block in documents().iter().flat_map(|document| document.blocks()) {
        let asks = block.text.contains("curl ") || block.text.contains("$shunt");
        let is_shell = block.language() == "sh";
        assert!(!(is_shell && asks) || block.is("run"), "{}: it is not run", block.place);
    }
}

each_nginx!(every_example_with_curl_does_what_it_says);
