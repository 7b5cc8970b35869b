//! Reads the documents: code blocks, headings, links, tables.

use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd};

/// A document of the repository.
#[derive(Debug)]
pub struct Document {
    /// Relative to the repository.
    pub name: String,
    text: String,
}

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// The document, and the line of the block's first line in it.
    pub place: String,
    /// The words after the fence: the language first.
    pub words: Vec<String>,
    /// What is in it.
    pub text: String,
}

impl Block {
    /// Its language.
    pub fn language(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Whether this word follows the language.
    pub fn is(&self, word: &str) -> bool {
        self.words.iter().skip(1).any(|w| w == word)
    }
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// Every document: those in the repository's folder, and all in `docs/`.
pub fn documents() -> Vec<Document> {
    let mut names = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            if name.ends_with(".md") {
                names.push(Path::new(folder).join(name).display().to_string());
            }
        }
    }
    names.sort();
    names.iter().map(|name| document(name)).collect()
}

/// One of them.
pub fn document(name: &str) -> Document {
    let text = fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    Document { name: name.to_owned(), text }
}

impl Document {
    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn events(&self) -> impl Iterator<Item = (Event<'_>, usize)> {
        let parser = Parser::new_ext(&self.text, Options::ENABLE_TABLES);
        parser.into_offset_iter().map(|(event, range)| (event, range.start))
    }

    fn place(&self, offset: usize) -> String {
        let line = self.text[..offset].lines().count() + 1;
        format!("{}:{line}", self.name)
    }

    /// The fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for (event, offset) in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let CodeBlockKind::Fenced(info) = kind else {
                        panic!("{}: a block without a fence", self.place(offset));
                    };
                    let words = info.split_whitespace().map(ToOwned::to_owned).collect();
                    let place = self.place(offset);
                    blocks.push(Block { place, words, text: String::new() });
                    inside = true;
                }
                Event::End(TagEnd::CodeBlock) => inside = false,
                Event::Text(text) if inside => blocks.last_mut().expect("one").text += &text,
                _ => {}
            }
        }
        blocks
    }

    /// The headings, as GitHub calls them in links.
    pub fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        let mut inside = false;
        for (event, _) in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => {
                    anchors.push(String::new());
                    inside = true;
                }
                Event::End(TagEnd::Heading(_)) => inside = false,
                Event::Text(text) | Event::Code(text) if inside => {
                    *anchors.last_mut().expect("one") += &text;
                }
                _ => {}
            }
        }
        let anchor = |heading: &String| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        };
        anchors.iter().map(anchor).collect()
    }

    /// Where its links go.
    pub fn links(&self) -> Vec<String> {
        let link = |event| match event {
            Event::Start(Tag::Link { link_type: LinkType::Autolink, .. }) => None,
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                Some(dest_url.into_string())
            }
            _ => None,
        };
        self.events().filter_map(|(event, _)| link(event)).collect()
    }

    /// What stands in backticks.
    pub fn code(&self) -> Vec<String> {
        let code = |event| match event {
            Event::Code(text) => Some(CowStr::into_string(text)),
            _ => None,
        };
        self.events().filter_map(|(event, _)| code(event)).collect()
    }

    /// The rows of the tables whose first column has this heading: their cells, without markup.
    pub fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let (mut tables, mut inside): (Vec<Vec<Vec<String>>>, bool) = (Vec::new(), false);
        for (event, _) in self.events() {
            match event {
                Event::Start(Tag::Table(_)) => tables.push(Vec::new()),
                Event::Start(Tag::TableHead | Tag::TableRow) => {
                    tables.last_mut().expect("a table").push(Vec::new());
                }
                Event::Start(Tag::TableCell) => {
                    row(&mut tables).push(String::new());
                    inside = true;
                }
                Event::End(TagEnd::TableCell) => inside = false,
                Event::Text(text) | Event::Code(text) if inside => {
                    *row(&mut tables).last_mut().expect("a cell") += &text;
                }
                _ => {}
            }
        }
        tables.retain(|table| table[0].first().is_some_and(|first| first == heading));
        tables.into_iter().flat_map(|table| table.into_iter().skip(1)).collect()
    }
}

fn row(tables: &mut [Vec<Vec<String>>]) -> &mut Vec<String> {
    tables.last_mut().and_then(|table| table.last_mut()).expect("a row")
}
