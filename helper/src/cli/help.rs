//! What `--help` and the manual pages say beside what the arguments say of themselves: the examples of
//! each command, and the exit codes.

use clap::CommandFactory;

use super::Cli;

/// The exit codes, each with what it means.
pub const EXIT_CODES: [(u8, &str); 11] = [
    (0, "done; abort: the release is taken back"),
    (
        1,
        "failed; abort: it was too late, the release stays; watch: a request failed; doctor: there is a \
         problem",
    ),
    (2, "usage or configuration"),
    (3, "a hook failed"),
    (4, "the release did not become healthy; nothing was switched"),
    (5, "switched back, by the guard or by hand; or somebody else switched meanwhile"),
    (
        6,
        "could not switch back; or NGINX did not answer the order to switch: which release serves is \
         not known, both run",
    ),
    (7, "another job runs for this application, or somebody does something by hand"),
    (8, "shuntd or NGINX cannot be reached"),
    (130, "Ctrl-C; a job goes on in shuntd"),
    (141, "nobody reads the output any more; a job goes on in shuntd"),
];

/// Examples, each with what it does; those of a command begin with its name.
pub const EXAMPLES: [(&str, &str); 40] = [
    ("shunt init shop --command ./server --user shop", "write a configuration to begin with"),
    ("shunt init shop --runner systemd --output /tmp/shop", "with units, to look at first"),
    ("shunt init shop --runner docker --image registry.example/shop --port 8080", "for containers"),
    ("shunt check", "read every application as shuntd does"),
    ("shunt check ./web.toml --json", "one file, for an editor or CI"),
    ("shunt doctor", "what stands in the way of releases without downtime"),
    ("shunt doctor web --keepalive 90s", "also a keep-alive timeout that long"),
    ("shunt deploy web --from ./dist --release v2", "a release from a folder"),
    ("shunt deploy web --from ./dist", "its name is the time"),
    ("shunt deploy web --ref v2.1.0", "a tag of the repository that [source] names"),
    ("shunt deploy web --release v2 --slot 127.0.0.1:3002", "where somebody else has started it"),
    ("shunt deploy web --detach", "leave it to shuntd, and don't wait"),
    ("shunt promote web", "end the canary step, or the guard, that runs, and go on"),
    ("shunt abort web", "take the job back that runs"),
    ("shunt rollback web", "to the release that was active before"),
    ("shunt rollback web --to v1", "to any that is kept"),
    ("shunt switch web v1", "by hand, to a release that runs"),
    ("shunt canary web v2 0.05", "one request of twenty to a release that runs"),
    ("shunt canary web --end", "no release gets a share any more"),
    ("shunt hold web --timeout 30s", "new requests wait"),
    ("shunt resume web", "they go on"),
    ("shunt releases web", "what is on disk"),
    ("shunt history web --limit 5", "the last jobs, and how they ended"),
    ("shunt show 12", "a job, step by step"),
    ("shunt show 12 --follow", "to its end"),
    ("shunt logs web", "what the active release says"),
    ("shunt logs web v2 --hooks", "what its hooks have said"),
    ("shunt prune web", "remove the oldest releases that nothing needs"),
    ("shunt status", "what runs where, and what it has in flight"),
    ("shunt status web --json", "for a program"),
    ("shunt watch http://localhost/ --duration 1m", "ask for a minute, exit 1 on a failure"),
    ("shunt watch http://localhost/ --post /echo --websocket /ws", "until Ctrl-C"),
    ("shunt completions bash > /etc/bash_completion.d/shunt", "for every user's bash"),
    ("shunt completions zsh > ~/.zfunc/_shunt", "a folder of fpath"),
    ("shunt completions fish > ~/.config/fish/completions/shunt.fish", "for one's own fish"),
    ("shunt man | man -l -", "read shunt(1)"),
    ("shunt man /usr/local/share/man", "write every page there, into man1 and man8"),
    ("shunt --socket /tmp/shuntd.sock status", "a shuntd that listens somewhere else"),
    ("shunt help deploy", "what a command takes"),
    ("shunt --version", "which one this is"),
];

/// The command line, with all that its help says.
#[must_use]
pub fn command() -> clap::Command {
    let root = Cli::command().after_help(format!("{}\n\n{}", examples_of(None), exit_codes()));
    let names: Vec<String> = root.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.into_iter().fold(root, |root, name| {
        let examples = examples_of(Some(&name));
        root.mut_subcommand(name, |command| command.after_help(examples))
    })
}

/// The examples of a command; of all, the first of each.
#[must_use]
pub fn examples(command: Option<&str>) -> Vec<(&'static str, &'static str)> {
    let name = |line: &'static str| line.split(' ').nth(1).unwrap_or_default();
    let mut seen = Vec::new();
    EXAMPLES
        .into_iter()
        .filter(|(line, _)| match command {
            Some(command) => name(line) == command,
            None => {
                let is_new = !seen.contains(&name(line));
                seen.push(name(line));
                is_new
            }
        })
        .collect()
}

fn examples_of(command: Option<&str>) -> String {
    let lines = examples(command).into_iter();
    let lines: Vec<_> = lines.map(|(line, what)| format!("  {line}\n      {what}")).collect();
    format!("Examples:\n{}", lines.join("\n"))
}

fn exit_codes() -> String {
    let lines = EXIT_CODES.iter().map(|(code, what)| format!("\n  {code:<4} {what}"));
    format!("Exit codes:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_an_example_and_every_example_is_one() {
        for sub in Cli::command().get_subcommands() {
            assert!(!examples(Some(sub.get_name())).is_empty(), "{}", sub.get_name());
            let help = command().find_subcommand(sub.get_name()).unwrap().clone();
            let help = help.clone().render_help().to_string();
            assert!(help.contains(&format!("shunt {}", sub.get_name())), "{help}");
        }
        for (line, _) in EXAMPLES {
            // What the shell does with the rest is its own business.
            let words = line.split(" > ").next().unwrap().split(" | ").next().unwrap();
            let parsed = command().try_get_matches_from(words.split(' '));
            if let Err(error) = parsed {
                assert!(!error.use_stderr(), "{line}: {error}");
            }
        }
    }

    #[test]
    fn the_help_has_every_exit_code() {
        use crate::wire::exit;
        let help = command().render_help().to_string();
        for code in [
            exit::DONE,
            exit::FAILED,
            exit::USAGE,
            exit::HOOK,
            exit::UNHEALTHY,
            exit::SWITCHED_BACK,
            exit::UNCERTAIN,
            exit::LOCKED,
            exit::UNREACHABLE,
            exit::INTERRUPTED,
            exit::UNREAD,
        ] {
            assert!(help.contains(&format!("\n  {code:<4} ")), "{code}: {help}");
        }
    }
}
