//! The manual pages, made of what the command lines say of themselves.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::help;
use crate::daemon::args::{Args as Shuntd, DEFAULT_STATE, SIGNALS};
use crate::{config, wire};

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its name, as `shunt-deploy`.
    pub name: String,
    /// Its section.
    pub section: u8,
    /// What is in it, for `man`.
    pub text: String,
}

impl Page {
    /// The name of its file.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }
}

/// `shunt(1)`.
#[must_use]
pub fn shunt() -> Page {
    // clap's own command `help` would only say that it exists.
    let root = help::command().disable_help_subcommand(true);
    let commands: Vec<_> = root.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let see = commands.iter().map(|name| (format!("shunt-{name}"), 1));
    let see: Vec<_> = see.chain([("shuntd".to_owned(), 8)]).collect();
    let examples = help::examples(None);
    page(root.after_help(None::<&str>), 1, |roff| {
        exit_status(roff);
        list(roff, "EXAMPLES", examples);
        list(roff, "FILES", [(wire::DEFAULT_SOCKET, "Where shuntd listens.")]);
        see_also(roff, &see);
    })
}

/// Every page: `shunt(1)`, one for each of its commands, and `shuntd(8)`.
#[must_use]
pub fn all() -> Vec<Page> {
    let mut pages = vec![shunt()];
    let mut root = help::command().disable_help_subcommand(true);
    root.build();
    for command in root.get_subcommands() {
        let name = command.get_name().to_owned();
        let examples = help::examples(Some(&name));
        pages.push(page(command.clone().after_help(None::<&str>), 1, |roff| {
            roff.control("SH", ["EXIT STATUS"]);
            roff.text([roman("As in "), bold("shunt"), roman("(1).")]);
            list(roff, "EXAMPLES", examples);
            see_also(roff, &[("shunt".to_owned(), 1), ("shuntd".to_owned(), 8)]);
        }));
    }
    pages.push(page(Shuntd::command().after_help(None::<&str>), 8, |roff| {
        let places = [
            (config::DEFAULT_FOLDER, "One file for each application."),
            (wire::DEFAULT_SOCKET, "Where it listens."),
            (DEFAULT_STATE, "What it remembers."),
        ];
        list(roff, "SIGNALS", SIGNALS);
        list(roff, "FILES", places);
        see_also(roff, &[("shunt".to_owned(), 1), ("systemd.socket".to_owned(), 5)]);
    }));
    pages
}

fn page(command: Command, section: u8, more: impl FnOnce(&mut Roff)) -> Page {
    // A command's is that of its page, once `build` has given it one.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let has_commands = command.has_subcommands();
    let man = Man::new(command)
        .section(section.to_string())
        .source(format!("shunt {}", env!("CARGO_PKG_VERSION")))
        .manual("Shunt");
    let mut text = Vec::new();
    // A vector takes all that is written.
    let _ = man.render_title(&mut text);
    let _ = man.render_name_section(&mut text);
    let _ = man.render_synopsis_section(&mut text);
    let _ = man.render_description_section(&mut text);
    let _ = man.render_options_section(&mut text);
    if has_commands {
        let _ = man.render_subcommands_section(&mut text);
    }
    let mut roff = Roff::new();
    more(&mut roff);
    let _ = roff.to_writer(&mut text);
    Page { name, section, text: String::from_utf8_lossy(&text).into_owned() }
}

fn exit_status(roff: &mut Roff) {
    let codes = help::EXIT_CODES.map(|(code, what)| (code.to_string(), what));
    list(roff, "EXIT STATUS", codes.iter().map(|(code, what)| (code.as_str(), *what)));
}

/// A section with one paragraph for each word that it explains.
fn list<'a>(roff: &mut Roff, title: &str, words: impl IntoIterator<Item = (&'a str, &'a str)>) {
    roff.control("SH", [title]);
    for (word, what) in words {
        roff.control("TP", []);
        roff.text([bold(word)]);
        roff.text([roman(what)]);
    }
}

fn see_also(roff: &mut Roff, pages: &[(String, u8)]) {
    roff.control("SH", ["SEE ALSO"]);
    for (at, (name, section)) in pages.iter().enumerate() {
        let sep = if at + 1 < pages.len() { "," } else { "" };
        roff.text([bold(name), roman(format!("({section}){sep}"))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_and_for_the_daemon() {
        let pages = all();
        let names: Vec<_> = pages.iter().map(Page::file).collect();
        for name in ["shunt.1", "shunt-deploy.1", "shunt-check.1", "shunt-man.1", "shuntd.8"] {
            assert!(names.contains(&name.to_owned()), "{names:?}");
        }
        assert!(!names.contains(&"shunt-help.1".to_owned()), "{names:?}");
        for page in &pages {
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"SEE ALSO\""] {
                assert!(page.text.contains(&format!(".SH {section}\n")), "{}", page.text);
            }
        }
    }

    #[test]
    fn shunt_1_has_every_exit_code_and_names_every_other_page() {
        let text = shunt().text.replace("\\-", "-");
        for (code, what) in help::EXIT_CODES {
            assert!(text.contains(&format!("\\fB{code}\\fR\n{what}\n")), "{code}: {text}");
        }
        for page in all().iter().skip(1) {
            let name = format!("\\fB{}\\fR({})", page.name, page.section);
            assert!(text.contains(&name), "{name}: {text}");
        }
    }
}
