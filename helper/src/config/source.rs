//! `[source]`: where releases come from, and what all of them share.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::{field, schema};
use crate::origin::checksum::Sha256;
use crate::origin::reference::Reference;
use crate::origin::url::GitUrl;
use crate::origin::{Origin, REVISION};

/// Where releases come from, and what all of them share.
///
/// At most one of `git`, `folder` and `archive` is there; without any, each deploy has to be told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Fields")]
#[schemars(with = "Fields")]
pub struct Source {
    /// What is fetched when a deploy is not told from where.
    pub origin: Option<Origin>,
    /// What is linked from `<root>/shared` into each release.
    pub shared: Vec<Shared>,
    /// How many leading components of each name in an archive are left out, as with the option
    /// `--strip-components` of `tar`.
    pub strip: usize,
    /// The most that a release from git or an archive may hold, in bytes.
    pub max_size: u64,
    /// How long fetching may take.
    pub timeout: Duration,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            origin: None,
            shared: Vec::new(),
            strip: 0,
            max_size: eight_gigabytes(),
            timeout: ten_minutes(),
        }
    }
}

/// A file or folder of `<root>/shared` that each release has as a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Its place, in `shared` and in each release; one or more plain names.
    pub path: PathBuf,
    /// Whether it is a folder: written with a slash at its end. It is made when it is missing.
    pub folder: bool,
}

/// The section as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [source]")]
struct Fields {
    /// A repository: an address or a folder that git can fetch from.
    #[serde(default, deserialize_with = "field::parsed")]
    #[schemars(with = "Option<schema::Text>")]
    git: Option<GitUrl>,
    /// The branch, tag or commit that is deployed when a deploy does not name one.
    #[serde(default, rename = "ref", deserialize_with = "field::parsed")]
    #[schemars(with = "Option<schema::Text>")]
    reference: Option<Reference>,
    /// Whether submodules are fetched, too.
    submodules: Option<bool>,
    /// A folder of this machine.
    #[serde(default, deserialize_with = "field::absolute")]
    #[schemars(with = "Option<schema::AbsolutePath>")]
    folder: Option<PathBuf>,
    /// An archive of this machine: `.tar.gz` or `.tar.zst`.
    #[serde(default, deserialize_with = "field::absolute")]
    #[schemars(with = "Option<schema::AbsolutePath>")]
    archive: Option<PathBuf>,
    /// The archive's checksum.
    #[serde(default, deserialize_with = "field::parsed")]
    #[schemars(with = "Option<String>", extend("pattern" = "^[0-9A-Fa-f]{64}$"))]
    sha256: Option<Sha256>,
    /// How many leading components of each name in an archive are left out.
    #[serde(default)]
    strip: usize,
    /// What is linked from `<root>/shared` into each release; a folder ends in a slash.
    #[serde(default, deserialize_with = "shared")]
    #[schemars(with = "Vec<schema::Text>")]
    shared: Vec<Shared>,
    /// The most that a release from git or an archive may hold.
    #[serde(default = "eight_gigabytes", deserialize_with = "field::size")]
    #[schemars(with = "schema::Size")]
    max_size: u64,
    /// How long fetching may take.
    #[serde(default = "ten_minutes", deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    timeout: Duration,
}

fn eight_gigabytes() -> u64 {
    8 << 30
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

impl TryFrom<Fields> for Source {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { git, reference, submodules, folder, archive, sha256, .. } = fields;
        if git.is_none() && reference.is_some() {
            return Err("\"ref\" goes with \"git\", which is missing");
        }
        if git.is_none() && submodules.is_some() {
            return Err("\"submodules\" goes with \"git\", which is missing");
        }
        if archive.is_none() && sha256.is_some() {
            return Err("\"sha256\" goes with \"archive\", which is missing");
        }
        let origin = match (git, folder, archive) {
            (None, None, None) => None,
            (Some(url), None, None) => Some(Origin::Git {
                url,
                reference: reference.unwrap_or_default(),
                submodules: submodules.unwrap_or_default(),
            }),
            (None, Some(folder), None) => Some(Origin::Folder(folder)),
            (None, None, Some(path)) => Some(Origin::Archive { path, sha256 }),
            _ => return Err("only one of \"git\", \"folder\" and \"archive\" can be there"),
        };
        let Fields { shared, strip, max_size, timeout, .. } = fields;
        Ok(Self { origin, shared, strip, max_size, timeout })
    }
}

fn shared<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Shared>, D::Error> {
    let mut all: Vec<Shared> = Vec::new();
    for text in Vec::<String>::deserialize(d)? {
        let shared = Shared::new(&text).map_err(de::Error::custom)?;
        let inside = |a: &Shared, b: &Shared| a.path.starts_with(&b.path);
        if let Some(other) = all.iter().find(|o| inside(o, &shared) || inside(&shared, o)) {
            let other = other.path.display();
            let why = format!("{text:?} and \"{other}\" are or hold the same");
            return Err(de::Error::custom(why));
        }
        all.push(shared);
    }
    Ok(all)
}

impl Shared {
    /// One as it is written: with a slash at its end it is a folder.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, String> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        let name = text.trim_end_matches('/');
        let path = Path::new(name);
        // Path's own components leave out what is empty and ".".
        let good = !name.is_empty()
            && !name.contains(['\0', '\n'])
            && name.split('/').all(|part| !part.is_empty() && part != ".")
            && path.components().all(plain);
        if !good {
            return Err(format!(
                "{text:?} is not a name in the release, which is as in \".env\" or \"storage/\""
            ));
        }
        if path == Path::new(REVISION) {
            return Err(format!("{name:?} is the release's own, it cannot be shared"));
        }
        Ok(Self { path: path.to_owned(), folder: text.ends_with('/') })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        source: Source,
    }

    fn parse(text: &str) -> Result<Source, String> {
        let file: Result<File, _> = toml::from_str(&format!("[source]\n{text}"));
        file.map(|file| file.source).map_err(|e| e.to_string())
    }

    #[test]
    fn each_kind_of_source_is_read() {
        let git = parse("git = \"https://git.example/web.git\"\nsubmodules = true").unwrap();
        let Some(Origin::Git { url, reference, submodules }) = git.origin else {
            panic!("{git:?}")
        };
        assert_eq!((url.as_str(), reference.as_str()), ("https://git.example/web.git", "HEAD"));
        assert!(submodules);
        let folder = parse("folder = \"/srv/build/web\"").unwrap().origin;
        assert_eq!(folder, Some(Origin::Folder("/srv/build/web".into())));
        let sum = "0".repeat(64);
        let archive = format!("archive = \"/srv/web.tar.zst\"\nsha256 = \"{sum}\"\nstrip = 1");
        let archive = parse(&archive).unwrap();
        let path = PathBuf::from("/srv/web.tar.zst");
        let sha256 = Some(sum.parse().unwrap());
        assert_eq!(archive.origin, Some(Origin::Archive { path, sha256 }));
        assert_eq!((archive.strip, archive.max_size), (1, 8 << 30));
        assert_eq!(parse("").unwrap(), Source::default());
        for (text, size) in [("64m", 64 << 20), ("2G", 2 << 30), ("7k", 7 << 10), ("99", 99)] {
            assert_eq!(parse(&format!("max_size = {text:?}")).unwrap().max_size, size);
        }
    }

    #[test]
    fn shared_names_say_whether_they_are_folders() {
        let source = parse("shared = [\"storage/\", \"config/.env\"]").unwrap();
        let shared = |path: &str, folder| Shared { path: path.into(), folder };
        assert_eq!(source.shared, [shared("storage", true), shared("config/.env", false)]);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("git = \"ext::sh -c id\"", 2, "transport helper"),
            ("git = \"/srv/a\"\nref = \"-x\"", 3, "cannot begin with"),
            ("git = \"/srv/a\"\nfolder = \"/srv/b\"", 1, "only one of"),
            ("folder = \"srv\"", 2, "absolute"),
            ("archive = \"/a.tar.gz\"\nsha256 = \"12\"", 3, "64 hexadecimal"),
            ("ref = \"main\"", 1, "\"ref\" goes with \"git\""),
            ("submodules = true", 1, "\"submodules\" goes with \"git\""),
            ("shared = [\"../x\"]", 2, "is not a name in the release"),
            ("shared = [\"/x\"]", 2, "is not a name in the release"),
            ("shared = [\"a//b\"]", 2, "is not a name in the release"),
            ("shared = [\"./a\"]", 2, "is not a name in the release"),
            ("shared = [\"/\"]", 2, "is not a name in the release"),
            ("shared = [\"REVISION\"]", 2, "the release's own"),
            ("shared = [\"a/\", \"a/b\"]", 2, "\"a/b\" and \"a\" are or hold the same"),
            ("shared = [\"a/b\", \"a/\"]", 2, "are or hold the same"),
            ("max_size = \"big\"", 2, "is not a size"),
            ("max_size = \"\"", 2, "is not a size"),
            ("max_size = \"g\"", 2, "is not a size"),
            ("max_size = \"+1g\"", 2, "is not a size"),
            ("max_size = \"0\"", 2, "is not a size"),
            ("max_size = \"99999999999g\"", 2, "is not a size"),
            ("timeout = \"0s\"", 2, "longer than nothing"),
            ("branch = \"main\"", 2, "unknown field `branch`, expected one of `git`, `ref`"),
        ];
        for (text, line, said) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.contains(&format!("line {line},")), "{text}: {error}");
        }
    }
}
