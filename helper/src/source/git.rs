//! A release from a git repository: the machine's own git fetches what is new into a kept copy
//! (`mirror`), the reference becomes a commit, and what `git archive` makes of the commit is
//! unpacked; `.gitattributes` can leave out files (`export-ignore`).
//!
//! A branch goes before a tag of the same name; a full hash is always the commit, and is not even asked
//! for when it is there already. Submodules have copies of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::archive::{self, ArchiveError};
use super::mirror::Git;
use super::order::Order;
use super::partial::{Held, Partial, Revision};
use super::reference::{Kind, Reference, is_hash};
use super::url::{BadUrl, GitUrl};
use super::{Fetched, SourceError, blocking};
use crate::config;
use crate::program::{Lines, ProgramError, Why};

/// How deep submodules can lie in each other, and how many there can be.
const DEPTH: usize = 10;
const SUBMODULES: usize = 200;

/// How the name of a submodule's copy begins.
const SUBMODULE: &[u8] = b"submodule-";

/// The shortest beginning of a commit's hash.
const SHORTEST: usize = 7;

/// What git leaves here of what was asked for by its full name.
const ASKED: &str = "refs/shunt/asked";

/// Why git did not give a release.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The reference is not known there.
    #[error("{url} has no branch, tag or commit \"{reference}\"")]
    Unknown {
        /// What was asked for.
        reference: String,
        /// Where.
        url: GitUrl,
    },
    /// Git has failed.
    #[error("{what}: {}{advice}", last(error))]
    Program {
        /// What was run.
        what: String,
        /// What to do.
        advice: &'static str,
        /// How it failed, with its own words.
        error: ProgramError,
    },
    /// The kept copy cannot be used.
    #[error("cannot use {path:?}: {error}")]
    Folder {
        /// The copy.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A submodule cannot be fetched.
    #[error("submodule {path:?} cannot be fetched: its address {why}")]
    Submodule {
        /// Where it is in the release.
        path: String,
        /// Why.
        why: BadUrl,
    },
    /// A submodule is not in `.gitmodules`.
    #[error("submodule {path:?} cannot be fetched: .gitmodules does not say from where")]
    NoUrl {
        /// Where it is in the release.
        path: String,
    },
    /// There are too many submodules.
    #[error("there are more than {SUBMODULES} submodules, or they lie more than {DEPTH} deep")]
    Submodules,
    /// What git has packed is refused.
    #[error("what git gives out is refused: {0}")]
    Refused(ArchiveError),
}

impl GitError {
    pub(super) fn new(what: String, error: ProgramError) -> Self {
        let advice = match &error.why {
            Why::Ended(ended) if ended.is_not_found() => "; install git",
            _ => advice(&error.lines.join("\n")),
        };
        Self::Program { what, advice, error }
    }

    /// Git's own words.
    pub(super) fn lines(&self) -> &[String] {
        match self {
            Self::Program { error, .. } => &error.lines,
            _ => &[],
        }
    }
}

/// The line in which git says what is wrong, or how it ended.
fn last(error: &ProgramError) -> String {
    let tells = |line: &&String| line.starts_with("fatal: ") || line.starts_with("error: ");
    match error.lines.iter().rev().find(tells) {
        Some(line) => line.clone(),
        None => error.to_string(),
    }
}

/// What to do about what git says.
fn advice(words: &str) -> &'static str {
    let known = [
        (
            "terminal prompts disabled",
            "; it asks for a user and password: store them for the application's user with `git \
             config --global credential.helper store`",
        ),
        (
            "Host key verification failed",
            "; put the host's key into ~/.ssh/known_hosts of the application's user, as \
             `ssh-keyscan` gives it out",
        ),
        ("Permission denied (publickey", "; allow the ssh key of the application's user there"),
        (
            "dubious ownership",
            "; the repository belongs to another user: allow it with `git config --system --add \
             safe.directory PATH`",
        ),
    ];
    known.iter().find(|(sign, _)| words.contains(sign)).map_or("", |(_, advice)| advice)
}

/// What is wanted.
pub(super) struct Wanted<'a> {
    pub url: &'a GitUrl,
    pub reference: &'a Reference,
    pub submodules: bool,
}

/// Fetches it. When the kept copy turns out to be damaged, as after a loss of power, it is made anew.
pub(super) async fn fetch(
    app: &config::App,
    wanted: &Wanted<'_>,
    order: Order,
    lines: &mut Lines<'_>,
) -> Result<Fetched, SourceError> {
    let release = order.release.clone();
    let git = Git::new(app, &release, wanted.url.is_local(), lines).await?;
    match attempt(&git, wanted, order.clone(), lines).await {
        Err(SourceError::Git(error @ GitError::Program { .. })) if is_damaged(&git).await => {
            lines(&format!("{error}"));
            lines(&format!("{} is damaged and is made anew", git.folder().display()));
            git.forget().await?;
            attempt(&git, wanted, order, lines).await
        }
        done => done,
    }
}

/// Whether something is missing in a kept copy, or in that of a submodule.
async fn is_damaged(git: &Git<'_>) -> bool {
    let args = ["fsck", "--connectivity-only", "--no-dangling", "--no-progress"];
    let inner = std::fs::read_dir(git.folder()).into_iter().flatten();
    let inner = inner.filter_map(|entry| Some(entry.ok()?.path()));
    let inner = inner.filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(SUBMODULE))
    });
    for copy in std::iter::once(git.folder().to_owned()).chain(inner) {
        if git.run(&copy, &args, None, &mut |_| {}).await.is_err() {
            return true;
        }
    }
    false
}

async fn attempt(
    git: &Git<'_>,
    wanted: &Wanted<'_>,
    order: Order,
    lines: &mut Lines<'_>,
) -> Result<Fetched, SourceError> {
    let main = Copy { git, folder: git.folder().to_owned(), url: wanted.url.clone() };
    main.init().await?;
    let commit = main.commit(wanted.reference, lines).await?;
    lines(&format!("{} is commit {commit}", wanted.reference));
    let mut held = Held::new(blocking(move || Partial::begin(order)).await?);
    if let Err(error) = unpack(main, commit.clone(), wanted, &mut held, lines).await {
        // Whoever tries again finds nothing of it.
        held.discard().await;
        return Err(error);
    }
    let partial = held.take()?;
    let (folder, revision) = blocking(move || partial.finish(Revision::Is(commit))).await?;
    Ok(Fetched { folder, revision })
}

/// Unpacks a commit, with its submodules if they are wanted.
async fn unpack(
    main: Copy<'_>,
    commit: String,
    wanted: &Wanted<'_>,
    held: &mut Held,
    lines: &mut Lines<'_>,
) -> Result<(), SourceError> {
    let mut left = vec![Part { copy: main, commit, path: String::new(), depth: 0 }];
    let mut submodules = 0;
    while let Some(part) = left.pop() {
        part.unpack(held, lines).await?;
        if wanted.submodules {
            let inner = part.submodules(lines).await?;
            submodules += inner.len();
            if submodules > SUBMODULES || part.depth == DEPTH {
                return Err(GitError::Submodules.into());
            }
            left.extend(inner);
        }
    }
    Ok(())
}

/// A kept copy of a repository.
struct Copy<'a> {
    git: &'a Git<'a>,
    folder: PathBuf,
    url: GitUrl,
}

impl Copy<'_> {
    async fn init(&self) -> Result<(), GitError> {
        self.run(&["init", "--quiet", "--bare", "--template="]).await
    }

    async fn run(&self, args: &[&str]) -> Result<(), GitError> {
        self.git.run(&self.folder, args, None, &mut |_| {}).await
    }

    /// Fetches all branches and tags, and something else.
    async fn fetch(&self, other: Option<&str>, lines: &mut Lines<'_>) -> Result<(), GitError> {
        lines(&format!("fetching {}", self.url));
        let other = other.map(|name| format!("+{name}:{ASKED}"));
        let mut args = vec!["fetch", "--quiet", "--force", "--prune", "--no-tags"];
        args.extend(["--no-write-fetch-head", "--", self.url.as_str()]);
        args.extend(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
        args.extend(other.as_deref());
        self.git.run(&self.folder, &args, None, lines).await
    }

    /// The commit that a reference is.
    async fn commit(
        &self,
        reference: &Reference,
        lines: &mut Lines<'_>,
    ) -> Result<String, GitError> {
        let found = match reference.kind() {
            Kind::Commit(hash) => match self.known(hash).await? {
                Some(commit) => Some(commit),
                None => {
                    self.fetch(None, lines).await?;
                    match self.known(hash).await? {
                        Some(commit) => Some(commit),
                        // One that no branch has any more may be had by its hash.
                        None => {
                            self.fetch(Some(hash), lines).await?;
                            self.known(hash).await?
                        }
                    }
                }
            },
            Kind::Full(name) => {
                self.fetch(Some(name), lines).await?;
                self.known(ASKED).await?
            }
            Kind::Name(name) => {
                self.fetch(None, lines).await?;
                let mut found = self.known(&format!("refs/heads/{name}")).await?;
                if found.is_none() {
                    found = self.known(&format!("refs/tags/{name}")).await?;
                }
                let short = name.len() >= SHORTEST && name.bytes().all(|b| b.is_ascii_hexdigit());
                match found {
                    None if short => self.known(name).await?,
                    found => found,
                }
            }
        };
        found.ok_or_else(|| GitError::Unknown {
            reference: reference.to_string(),
            url: self.url.clone(),
        })
    }

    /// The commit of this name, if it is here.
    async fn known(&self, name: &str) -> Result<Option<String>, GitError> {
        let name = format!("{name}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", &name];
        match self.git.ask(&self.folder, &args).await {
            Ok(answer) => {
                let commit = String::from_utf8_lossy(answer.trim_ascii()).into_owned();
                Ok(Some(commit).filter(|commit| is_hash(commit)))
            }
            Err(GitError::Program { error, .. }) if matches!(error.why, Why::Ended(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A repository in a release, or a submodule.
struct Part<'a> {
    copy: Copy<'a>,
    commit: String,
    /// Where it is in the release: empty, or with a slash at its end.
    path: String,
    depth: usize,
}

impl<'a> Part<'a> {
    /// Unpacks it into its place.
    async fn unpack(&self, held: &mut Held, lines: &mut Lines<'_>) -> Result<(), SourceError> {
        let pipe = std::io::pipe();
        let path = self.copy.folder.clone();
        let (reader, writer) = pipe.map_err(|error| GitError::Folder { path, error })?;
        // When git is killed, this reads an archive without its end, and is done.
        let unpacking = held.with(move |partial| archive::unpack(reader, 0, partial));
        let prefix = format!("--prefix={}", self.path);
        let args = ["archive", "--format=tar", &prefix, &self.commit];
        let folder = &self.copy.folder;
        let packing = self.copy.git.run(folder, &args, Some(writer.into()), lines);
        let (packed, unpacked) = tokio::join!(packing, unpacking);
        match (packed, unpacked?) {
            (Ok(()), Ok(_)) => Ok(()),
            // Git that cannot give out what is refused says so, too.
            (Err(error), Ok(_) | Err(ArchiveError::Broken(_))) => Err(error.into()),
            (_, Err(error)) => Err(GitError::Refused(error).into()),
        }
    }

    /// The submodules in it, fetched.
    async fn submodules(&self, lines: &mut Lines<'_>) -> Result<Vec<Part<'a>>, SourceError> {
        let copy = &self.copy;
        let args = ["ls-tree", "-r", "-z", "--full-tree", &self.commit];
        let links = links(&copy.git.ask(&copy.folder, &args).await?);
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let blob = format!("{}:.gitmodules", self.commit);
        let args =
            ["config", "--blob", &blob, "-z", "--get-regexp", "^submodule[.].*[.](path|url)$"];
        let urls = match copy.git.ask(&copy.folder, &args).await {
            Ok(answer) => urls(&answer),
            Err(GitError::Program { error, .. }) if matches!(error.why, Why::Ended(_)) => {
                BTreeMap::new()
            }
            Err(error) => return Err(error.into()),
        };
        let mut parts = Vec::new();
        for (path, commit) in links {
            let whole = format!("{}{path}", self.path);
            let url = urls.get(&path).ok_or_else(|| GitError::NoUrl { path: whole.clone() })?;
            let url = copy.url.join(url);
            let url = url.map_err(|why| GitError::Submodule { path: whole.clone(), why })?;
            let folder = copy.git.folder().join(folder_of(&url));
            let inner = Copy { git: copy.git, folder, url };
            inner.init().await?;
            let commit = commit.parse::<Reference>().map_err(|_| GitError::Submodules)?;
            let commit = inner.commit(&commit, lines).await?;
            let path = format!("{whole}/");
            parts.push(Part { copy: inner, commit, path, depth: self.depth + 1 });
        }
        Ok(parts)
    }
}

/// The submodules in what `ls-tree -z` says: where they are, and their commits.
fn links(answer: &[u8]) -> Vec<(String, String)> {
    let entry = |entry: &[u8]| {
        let text = std::str::from_utf8(entry).ok()?;
        let (about, path) = text.split_once('\t')?;
        let commit = about.strip_prefix("160000 commit ")?;
        Some((path.to_owned(), commit.to_owned()))
    };
    answer.split(|b| *b == 0).filter_map(entry).collect()
}

/// From where submodules come, by where they are, in what `config -z` says of `.gitmodules`.
fn urls(answer: &[u8]) -> BTreeMap<String, String> {
    let (mut paths, mut urls) = (BTreeMap::new(), BTreeMap::new());
    for entry in answer.split(|b| *b == 0) {
        let Ok(text) = std::str::from_utf8(entry) else { continue };
        let Some((key, value)) = text.split_once('\n') else { continue };
        if let Some(name) = key.strip_suffix(".path") {
            paths.insert(name.to_owned(), value.to_owned());
        } else if let Some(name) = key.strip_suffix(".url") {
            urls.insert(name.to_owned(), value.to_owned());
        }
    }
    paths.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?))).collect()
}

/// A name for the copy of a submodule, which lies in that of the main repository.
fn folder_of(url: &GitUrl) -> String {
    let sum = super::checksum::Sha256::of(url.as_str().as_bytes());
    format!("{}{sum}.git", SUBMODULE.escape_ascii())
}
