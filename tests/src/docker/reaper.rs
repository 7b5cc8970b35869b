//! Removes what a test has made in the Docker Engine when the test ends, however it ends.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Waits for its standard input to end, which it also does when this process is killed. What a command
/// was just making then may be there a moment later. A network can only go after all that is in it.
const SCRIPT: &str = r#"
remove() {
    for label; do
        docker ps --all --quiet --filter "label=$label" | xargs -r docker rm --force --volumes
    done
    docker network ls --quiet --filter "label=$1" | xargs -r docker network rm
    docker volume ls --quiet --filter "label=$1" | xargs -r docker volume rm
}
read -r word
remove "$@"
[ "$word" = done ] || { sleep 2; remove "$@"; }
"#;

/// A process that outlives this one for a moment.
#[derive(Debug)]
pub(super) struct Reaper {
    /// What has this label is removed.
    pub(super) label: String,
    child: Child,
}

impl Reaper {
    /// Starts it for a label of the test's own.
    pub(super) fn start() -> Self {
        Self::of("shunt-test", "")
    }

    /// Starts it for a label of this name, whose value begins so and is the test's own.
    pub(super) fn of(name: &str, value: &str) -> Self {
        Self::with(name, value, |_| Vec::new())
    }

    /// The same, and containers with other labels go, too, which follow from that value.
    pub(super) fn with(name: &str, value: &str, more: impl Fn(&str) -> Vec<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set");
        let value = format!("{value}{}-{}", std::process::id(), now.as_nanos());
        let (label, more) = (format!("{name}={value}"), more(&value));
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "reaper", &label]).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C is for the tests.
        command.process_group(0);
        Self { label, child: command.spawn().expect("sh starts") }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        // It is a child of this process, so this ends.
        let _ = self.child.wait();
    }
}
