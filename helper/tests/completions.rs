//! `shunt completions` in a real shell.

use std::process::{Command, Stdio};

fn completions(shell: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_shunt")).args(["completions", shell]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What bash offers for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let [.., before, last] = words else { panic!("two words or more") };
    let script = format!(
        "{}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_shunt shunt '{last}' '{before}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        completions("bash"),
        words.join(" "),
        words.len() - 1,
    );
    let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_their_values() {
    assert_eq!(offered(&["shunt", "de"]), ["deploy"]);
    assert_eq!(offered(&["shunt", "doctor", "--keep"]), ["--keepalive"]);
    assert_eq!(offered(&["shunt", "init", "--runner", "s"]), ["systemd"]);
    assert_eq!(offered(&["shunt", "completions", "f"]), ["fish"]);
}

#[test]
fn each_shell_has_its_own() {
    assert!(completions("zsh").starts_with("#compdef shunt\n"));
    assert!(completions("fish").contains("complete -c shunt "));
}
