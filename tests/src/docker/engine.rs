//! The `docker` command.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::helper::Output;

/// Runs it with this input; gives what became of it.
#[track_caller]
pub(super) fn try_docker(args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new("docker");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("docker: {e}; is it installed?"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let output = std::thread::scope(|scope| {
        // Whoever does not read it has no use for it.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("docker ends")
    });
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs it; gives what it printed.
#[track_caller]
pub(super) fn docker(args: &[&str]) -> String {
    let Output { code, stdout, stderr } = try_docker(args, b"");
    assert!(code == 0, "docker {}: {}", args.join(" "), stderr.trim());
    stdout.trim().to_owned()
}
