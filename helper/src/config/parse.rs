//! Reads an application's file, and finds more than the first mistake.
//!
//! The types check strictly, and stop at what they do not like. What was found is taken out then, and
//! they check the rest. What only follows from something that was taken out is not reported.

use std::ops::Range;
use std::sync::LazyLock;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::App;
use super::mistake::{Mistake, Mistakes};

/// So often the types check a file: more mistakes are not looked for, and a text that is no TOML has no
/// more of them.
const ROUNDS: usize = 50;

const EXAMPLE_OF_EVERY_KEY: &str = include_str!("examples.toml");

static EXAMPLES: LazyLock<toml::Table> =
    LazyLock::new(|| EXAMPLE_OF_EVERY_KEY.parse().unwrap_or_default());

/// A step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

type Way = Vec<Step>;

/// Reads a configuration.
///
/// # Errors
///
/// All that is wrong, as far as it can be told.
pub(super) fn parse(text: &str) -> Result<App, Mistakes> {
    let (root, wrong) = DeTable::parse_recoverable(text);
    if !wrong.is_empty() {
        // What was meant is not known.
        let mistake = |e: &Error| {
            Mistake::at(text, e.span().unwrap_or_default(), String::new(), e.message().to_owned())
        };
        return Err(Mistakes(in_order(wrong.iter().take(ROUNDS).map(mistake).collect())));
    }
    let mut rest = Rest {
        root,
        text,
        touched: Vec::new(),
        put_in: Vec::new(),
        found: Vec::new(),
        last: String::new(),
    };
    for _ in 0..ROUNDS {
        match App::deserialize(Deserializer::from(rest.root.clone())) {
            Ok(app) if rest.found.is_empty() => return Ok(app),
            Ok(_) => break,
            Err(error) => {
                error.message().clone_into(&mut rest.last);
                if !rest.take_out(&error) {
                    break;
                }
            }
        }
    }
    if rest.found.is_empty() {
        // What follows from nothing is a mistake by itself.
        let what = rest.last;
        rest.found.push(Mistake::at(text, 0..0, String::new(), what));
    }
    Err(Mistakes(in_order(rest.found)))
}

fn in_order(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    mistakes.sort_by_key(|m| (m.line, m.column));
    mistakes
}

/// Where a key is, if it is there.
pub(super) fn place_of(text: &str, keys: &[&str]) -> Range<usize> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut table = root.get_ref();
    let mut place = 0..0;
    for key in keys {
        let Some((found, value)) = table.get_key_value(*key) else { break };
        place = found.span();
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    place
}

/// What is still to be checked.
struct Rest<'a> {
    root: Spanned<DeTable<'a>>,
    text: &'a str,
    /// What was taken out or put in.
    touched: Vec<Way>,
    /// What was missing, and has an example in its place.
    put_in: Vec<Way>,
    found: Vec<Mistake>,
    /// The last error, in the types' words.
    last: String,
}

impl Rest<'_> {
    /// Notes an error and takes out what it is about; tells whether there is something left to check.
    fn take_out(&mut self, error: &Error) -> bool {
        let span = error.span().unwrap_or_default();
        // Of the whole file there is no span, and the first key would be found there.
        let way = match span.is_empty() {
            true => Way::new(),
            false => locate(self.root.get_ref(), &span),
        };
        let message = error.message();
        // What more is said is one of our own.
        let missing = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`'));
        if let Some(key) = missing {
            return self.put_in(way, key, span);
        }
        let follows = self.touched.iter().any(|touched| touched.starts_with(&way));
        if !follows {
            let (what, cure) = explain(message, &way);
            // What was meant is there, under another name.
            if let Some(meant) = meant(message, &way) {
                let mut there = way.clone();
                there.pop();
                there.push(Step::Key(meant.to_owned()));
                self.touched.push(there);
            }
            let mistake = Mistake::at(self.text, span, name(&way), what);
            self.found.push(Mistake { cure, ..mistake });
        }
        self.remove(way)
    }

    /// Something is missing; an example takes its place.
    fn put_in(&mut self, way: Way, key: &str, span: Range<usize>) -> bool {
        let missing: Way = [way.clone(), vec![Step::Key(key.to_owned())]].concat();
        if self.put_in.contains(&missing) {
            // The example was taken out again, as it does not do by itself. All else was seen by now:
            // what is missing comes last.
            return false;
        }
        let example = example(&missing);
        let is_table = matches!(example, Some(toml::Value::Table(_)));
        if !self.touched.iter().any(|touched| missing.starts_with(touched)) {
            let mistake = Mistake::at(self.text, span, name(&way), format!("{key:?} is missing"));
            let cure = match example {
                Some(_) if is_table => format!("add a section [{key}]"),
                Some(value) => format!("add it, as in {key} = {value}"),
                None => "add it".to_owned(),
            };
            // The whole file is no place.
            self.found.push(mistake.cure(cure));
        }
        // Of a section nothing, as what is missing in it is not reported, too.
        let value = match is_table {
            true => Some(DeValue::Table(DeTable::new())),
            false => example_of(&missing),
        };
        match (value, table_at(self.root.get_mut(), &way)) {
            (Some(value), Some(table)) => {
                self.put_in.push(missing.clone());
                self.touched.push(missing);
                // Nothing of the text is there, so that it is not taken for something else.
                let at = self.text.len() + self.touched.len();
                let key = Spanned::new(at..at, key.to_owned().into());
                table.insert(key, Spanned::new(at..at + 1, value)).is_none()
            }
            _ => self.remove(way),
        }
    }

    fn remove(&mut self, mut way: Way) -> bool {
        // An item goes alone if it is a table; else the whole list does.
        while let Some(Step::Item(_)) = way.last()
            && table_at(self.root.get_mut(), &way).is_none()
        {
            way.pop();
        }
        let Some(last) = way.pop() else { return false };
        let is_gone = match &last {
            Step::Key(key) => table_at(self.root.get_mut(), &way)
                .is_some_and(|table| table.remove(key.as_str()).is_some()),
            Step::Item(at) => match value_at(self.root.get_mut(), &way) {
                Some(DeValue::Array(items)) => {
                    let mut others = DeArray::new();
                    for (_, item) in items.iter().enumerate().filter(|(other, _)| other != at) {
                        others.push(item.clone());
                    }
                    *items = others;
                    true
                }
                _ => false,
            },
        };
        way.push(last);
        self.touched.push(way);
        is_gone
    }
}

/// The innermost key or item that an error is about; the file itself if there is none.
fn locate(root: &DeTable<'_>, span: &Range<usize>) -> Way {
    let mut best: (usize, Way) = (usize::MAX, Vec::new());
    let holds = |place: Range<usize>| {
        !place.is_empty() && place.start <= span.start && span.end <= place.end
    };
    look(root, &mut Vec::new(), &mut |place, way| {
        if holds(place.clone()) && place.len() <= best.0 {
            best = (place.len(), way.clone());
        }
    });
    best.1
}

fn look(table: &DeTable<'_>, way: &mut Way, see: &mut impl FnMut(Range<usize>, &Way)) {
    for (key, value) in table {
        way.push(Step::Key(key.get_ref().to_string()));
        see(key.span(), way);
        look_into(value, way, see);
        way.pop();
    }
}

fn look_into(
    value: &Spanned<DeValue<'_>>,
    way: &mut Way,
    see: &mut impl FnMut(Range<usize>, &Way),
) {
    see(value.span(), way);
    match value.get_ref() {
        DeValue::Table(table) => look(table, way, see),
        DeValue::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                way.push(Step::Item(at));
                look_into(item, way, see);
                way.pop();
            }
        }
        _ => {}
    }
}

fn value_at<'t, 'a>(root: &'t mut DeTable<'a>, way: &[Step]) -> Option<&'t mut DeValue<'a>> {
    let (first, rest) = way.split_first()?;
    let Step::Key(key) = first else { return None };
    let mut value = root.get_mut(key.as_str())?.get_mut();
    for step in rest {
        value = match (step, value) {
            (Step::Key(key), DeValue::Table(table)) => table.get_mut(key.as_str())?.get_mut(),
            (Step::Item(at), DeValue::Array(items)) => items.get_mut(*at)?.get_mut(),
            _ => return None,
        };
    }
    Some(value)
}

fn table_at<'t, 'a>(root: &'t mut DeTable<'a>, way: &[Step]) -> Option<&'t mut DeTable<'a>> {
    if way.is_empty() {
        return Some(root);
    }
    match value_at(root, way)? {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// As it is written in messages: `run.slots`, `notify[1].url`.
fn name(way: &[Step]) -> String {
    way.iter().fold(String::new(), |name, step| match step {
        Step::Key(key) if name.is_empty() => key.clone(),
        Step::Key(key) => format!("{name}.{key}"),
        // As people count.
        Step::Item(at) => format!("{name}[{}]", at + 1),
    })
}

/// The example of what stands there.
fn example(way: &[Step]) -> Option<&'static toml::Value> {
    let mut keys = way.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key),
        Step::Item(_) => None,
    });
    let mut value = EXAMPLES.get(keys.next()?)?;
    for key in keys {
        let table = match value {
            toml::Value::Array(items) => items.first()?,
            other => other,
        };
        value = table.get(key)?;
    }
    Some(value)
}

/// The same, to be put in.
fn example_of(way: &[Step]) -> Option<DeValue<'static>> {
    let mut root = DeTable::parse(EXAMPLE_OF_EVERY_KEY).ok()?.into_inner();
    let first = |step: &Step| match step {
        Step::Item(_) => Step::Item(0),
        key => key.clone(),
    };
    let way: Way = way.iter().map(first).collect();
    value_at(&mut root, &way).cloned()
}

/// What is wrong, in our words, and what to do.
fn explain(message: &str, way: &[Step]) -> (String, Option<String>) {
    // A regular expression's error draws where it is, which does not fit into a line.
    if let Some((_, why)) = message.rsplit_once("\nerror: ") {
        return (format!("is no regular expression: {why}"), None);
    }
    if let Some((what, unknown, known)) = unknown(message) {
        let here = nearest(unknown, known.iter().copied());
        let elsewhere = if what == "key" { in_another_section(unknown, way) } else { None };
        let cure = match (here, elsewhere) {
            (Some((far, _)), Some((near, section, key))) if near < far => {
                there(section, key, unknown)
            }
            (None, Some((_, section, key))) => there(section, key, unknown),
            (Some((_, key)), _) => format!("did you mean {key:?}?"),
            (None, None) => format!("here may stand: {}", known.join(", ")),
        };
        return (format!("there is no such {what} as {unknown:?}"), Some(cure));
    }
    let key = way.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key),
        Step::Item(_) => None,
    });
    let says_how = ["as in", "; "].iter().any(|words| message.contains(words));
    let cure = match (key, example(way)) {
        (Some(key), Some(value)) if !says_how && !value.is_table() => {
            Some(format!("as in {key} = {value}"))
        }
        _ => None,
    };
    // As TOML calls them, and not Rust.
    let what = message.replace("expected a sequence", "expected a list");
    (what.replace("expected a map", "expected keys and values"), cure)
}

/// What is not known, by its kind, and what is, if that is the error.
fn unknown(message: &str) -> Option<(&'static str, &str, Vec<&str>)> {
    let kinds = [("unknown field `", "key"), ("unknown variant `", "choice")];
    kinds.into_iter().find_map(|(begin, what)| {
        let mut words = message.strip_prefix(begin)?.split('`');
        let unknown = words.next()?;
        // Between the words that may stand there is a comma or "or".
        Some((what, unknown, words.skip(1).step_by(2).collect()))
    })
}

/// The key of the same section that was meant by another one.
fn meant<'a>(message: &'a str, way: &[Step]) -> Option<&'a str> {
    let (_, unknown, known) = unknown(message).filter(|(what, ..)| *what == "key")?;
    let (far, key) = nearest(unknown, known.into_iter())?;
    let elsewhere = in_another_section(unknown, way);
    elsewhere.is_none_or(|(near, ..)| near >= far).then_some(key)
}

/// The word that somebody may have meant, and how far it is from what is written.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    let written = word.to_lowercase();
    let far = |other: &'a str| (strsim::damerau_levenshtein(&written, other), other);
    known.map(far).min().filter(|(far, _)| *far <= (word.len() / 3).max(1))
}

/// The key that somebody may have meant, if it is only in one other section.
fn in_another_section(word: &str, way: &[Step]) -> Option<(usize, &'static str, &'static str)> {
    let is_here =
        |section: &str| way.len() > 1 && way.first() == Some(&Step::Key(section.to_owned()));
    let mut found = Vec::new();
    for (section, value) in EXAMPLES.iter().filter(|(section, _)| !is_here(section)) {
        let toml::Value::Table(table) = value else { continue };
        if let Some((far, key)) = nearest(word, table.keys().map(String::as_str)) {
            found.push((far, section.as_str(), key));
        }
    }
    let best = *found.iter().min()?;
    let others = found.iter().filter(|(far, ..)| *far == best.0).count();
    (others == 1).then_some(best)
}

fn there(section: &str, key: &str, written: &str) -> String {
    match key == written {
        true => format!("it belongs into [{section}]"),
        false => format!("did you mean {key:?}, which belongs into [{section}]?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:/run/n.sock\"\n[run]\n\
                        command = [\"./server\"]\nslots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";

    #[track_caller]
    fn wrong(text: &str) -> Vec<String> {
        parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_mistakes_of_a_file_are_found_in_their_order() {
        let text = "nam = \"web\"\nroot = \"srv\"\nnginx = \"unix:/run/n.sock\"\n[run]\n\
                    comand = [\"./server\"]\nslots = []\n[health]\npasses = 0\n\
                    interval = 5\n[guards]\n";
        assert_eq!(
            wrong(text),
            [
                "1:1: nam: there is no such key as \"nam\"; did you mean \"name\"?",
                "2:8: root: must be an absolute path; as in root = \"/srv/web\"",
                "5:1: run.comand: there is no such key as \"comand\"; did you mean \"command\"?",
                "6:9: run.slots: needs a slot; as in slots = [\"127.0.0.1:3001\", \
                 \"127.0.0.1:3002\"]",
                "8:10: health.passes: must be 1 or more; as in passes = 2",
                "9:12: health.interval: invalid type: integer `5`, expected a string; as in interval \
                 = \"200ms\"",
                "10:2: guards: there is no such key as \"guards\"; did you mean \"guard\"?",
            ]
        );
    }

    #[test]
    fn what_follows_from_another_mistake_is_not_reported() {
        for (more, said) in [
            // Without `git`, `ref` would be wrong, too.
            ("[source]\ngit = \"ext::sh\"\nref = \"main\"", &["source.git: "] as &[_]),
            ("[preview]\nurl = 5", &["preview.url: "]),
            ("[canary]\nsteps = [{ share = 2, time = \"1s\" }]", &["canary.steps[1].share: "]),
            ("[canary]\nstep = []", &["canary.step: "]),
            ("[canary]\n", &["canary: \"steps\" is missing; add it, as in steps = [{ "]),
            (
                "[[notify]]\nurl = \"x\"\n[[notify]]\nurl = \"https://a/\"\nevent = []",
                &["notify[1].url: ", "notify[2].event: "],
            ),
        ] {
            let found = wrong(&format!("{GOOD}{more}"));
            assert_eq!(found.len(), said.len(), "{more}: {found:?}");
            for said in said {
                assert!(found.iter().any(|f| f.contains(said)), "{more}: {found:?}");
            }
        }
        // A section that is wrong is not missing.
        for (right, bad, said) in [
            ("command = [", "comand = [", "5:1: run.comand: there is no such key"),
            ("[\"./server\"]", "\"./server\"", "5:11: run.command: invalid type"),
            ("[run]\n", "[run]\nport = \"80\"\n", "5:8: run.port: invalid type"),
            ("[run]\n", "[run]\nrunner = \"docker\"\n", "4:1: run: "),
            (
                "command = [\"./server\"]",
                "image = \"web\"\nnetwork = \"host\"\nport = 9",
                "4:1: run: with network = \"host\" the application listens at the port of its slot",
            ),
        ] {
            let found = wrong(&GOOD.replace(right, bad));
            assert!(found.len() == 1 && found[0].starts_with(said), "{bad}: {found:?}");
        }
        // Nothing is there at all: not the keys of the section that is missing.
        assert_eq!(
            wrong(""),
            [
                "1:1: \"name\" is missing; add it, as in name = \"web\"",
                "1:1: \"root\" is missing; add it, as in root = \"/srv/web\"",
                "1:1: \"nginx\" is missing; add it, as in nginx = \"unix:/run/shunt-nginx.sock\"",
                "1:1: \"run\" is missing; add a section [run]",
            ]
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_sent_to_its_own() {
        let found = wrong(&GOOD.replace("[run]", "stop_timeout = \"1s\"\n[run]"));
        let said =
            "4:1: stop_timeout: there is no such key as \"stop_timeout\"; it belongs into [run]";
        assert_eq!(found, [said]);
        let found = wrong(&format!("{GOOD}[guard]\ninconclusive = \"procede\"\n"));
        assert!(found[0].ends_with("such choice as \"procede\"; did you mean \"proceed\"?"));
        let found = wrong(&format!("{GOOD}[keep]\nx = 1\n"));
        assert!(
            found[0].ends_with("\"x\"; here may stand: releases, running, socket"),
            "{found:?}"
        );
    }

    #[test]
    fn no_mistake_is_said_in_rusts_words() {
        fn ways(value: &toml::Value, way: &Way, found: &mut Vec<Way>) {
            found.push(way.clone());
            let longer = |step| [way.as_slice(), &[step]].concat();
            match value {
                toml::Value::Table(table) => {
                    table.iter().for_each(|(k, v)| ways(v, &longer(Step::Key(k.clone())), found));
                }
                toml::Value::Array(list) => {
                    list.iter().take(1).for_each(|v| ways(v, &longer(Step::Item(0)), found));
                }
                _ => {}
            }
        }
        let (examples, mut all) = (toml::Value::Table(EXAMPLES.clone()), Vec::new());
        ways(&examples, &Way::new(), &mut all);
        let mut seen = 0;
        // In the place of everything stands what it cannot be.
        for (way, what) in all.iter().skip(1).flat_map(|way| [(way, "2026-01-01"), (way, "[]")]) {
            let mut file = examples.clone();
            let place = way.iter().fold(&mut file, |place, step| match step {
                Step::Key(key) => &mut place[key.as_str()],
                Step::Item(at) => &mut place[*at],
            });
            *place = toml::from_str::<toml::Table>(&format!("x = {what}")).unwrap()["x"].clone();
            let Err(Mistakes(found)) = parse(&file.to_string()) else { continue };
            for found in found.iter().map(ToString::to_string) {
                seen += 1;
                for word in ["struct", "enum", "variant", "tuple", "sequence", " map"] {
                    assert!(!found.contains(word), "{way:?} = {what}: {found}");
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn what_is_no_toml_is_named_with_every_place() {
        let found = wrong("name = \nroot = [1\n[run]\nslots = 'a\n");
        assert!(found.len() >= 2, "{found:?}");
        assert!(found[0].starts_with("1:8: "), "{found:?}");
    }

    #[test]
    fn many_mistakes_end_some_time() {
        let keys: String = (0..1000).map(|n| format!("key_{n} = 1\n")).collect();
        let found = wrong(&format!("{keys}{GOOD}"));
        assert!(found.len() > ROUNDS / 2 && found.len() <= ROUNDS, "{}", found.len());
        let found = wrong(&format!("a = {}", "[".repeat(10_000)));
        assert!(!found.is_empty() && found.len() <= ROUNDS, "{}", found.len());
    }

    #[test]
    fn columns_are_characters() {
        let found = wrong(&GOOD.replace("[run]", "upstream = \"ä\" ; x\n[run]"));
        assert!(found[0].starts_with("4:16: "), "{found:?}");
    }
}
