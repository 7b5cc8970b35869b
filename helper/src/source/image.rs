//! A release that is an image of Docker's. Its folder has no files of the application, only what it was
//! made of: `REVISION` is the image's ID, which never means another one, and `IMAGE` by which name it
//! can be had again.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use super::order::Order;
use super::partial::{Partial, Revision};
use super::{Fetched, SourceError};
use crate::file;

/// The file of a release that has its image's name.
pub const IMAGE: &str = "IMAGE";

/// What a digest begins with, and how long it is.
const SHA256: &str = "sha256:";
const DIGITS: usize = 64;

/// The longest tag (`ReferenceRegexp` of Docker's).
const LONGEST_TAG: usize = 128;

/// The longest name in a release's folder, in bytes.
const LONGEST: u64 = 1 << 10;

/// How much of a digest is said.
const SHORT: usize = 12;

/// An image: where it is kept, and which one of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// A name is none.
    #[error(
        "{0:?} is not an image, which is as in \"registry.example/web\", \"web:v1\" or \
         \"web@sha256:…\""
    )]
    Name(String),
    /// What was asked for is neither a tag nor a digest.
    #[error(
        "{0:?} is not a tag, which has up to 128 letters, digits and \"_.-\", nor a digest, which is \
         \"sha256:\" and 64 hexadecimal digits"
    )]
    Reference(String),
}

impl Image {
    /// The same image at a tag or a digest.
    ///
    /// # Errors
    ///
    /// [`BadImage`].
    pub fn at(&self, reference: &str) -> Result<Self, BadImage> {
        let repository = self.repository.clone();
        let reference = reference.strip_prefix('@').unwrap_or(reference);
        if is_digest(reference) {
            return Ok(Self { repository, tag: None, digest: Some(reference.to_owned()) });
        }
        match is_tag(reference) {
            true => Ok(Self { repository, tag: Some(reference.to_owned()), digest: None }),
            false => Err(BadImage::Reference(reference.to_owned())),
        }
    }

    /// Where it is kept.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The host of its registry; none of Docker's own.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        let (first, _) = self.repository.split_once('/')?;
        (first.contains(['.', ':']) || first == "localhost").then_some(first)
    }

    /// Whether it says itself which one it is.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        self.tag.is_some() || self.digest.is_some()
    }

    /// Whether it always means the same.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.digest.is_some()
    }

    /// The image by its name and tag, where it has neither tag nor digest the latest, as for Docker.
    #[must_use]
    pub fn or_latest(self) -> Self {
        match self.is_chosen() {
            true => self,
            false => Self { tag: Some("latest".to_owned()), ..self },
        }
    }

    /// It as a part of a release's name: its tag, or the beginning of its digest.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let digest = self.digest.as_deref().and_then(|digest| digest.strip_prefix(SHA256));
        match (digest, &self.tag) {
            (Some(digest), _) => Some(digest.chars().take(SHORT).collect()),
            (None, Some(tag)) => Some(tag.chars().take(super::reference::LABEL).collect()),
            (None, None) => None,
        }
    }
}

/// Whether a text is the ID of an image, or a digest: they look the same.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix(SHA256);
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(is_digit))
}

fn is_tag(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=LONGEST_TAG).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with(['.', '-'])
}

/// A host with a port, maybe, and names in small letters (`ReferenceRegexp` of Docker's).
fn is_repository(text: &str) -> bool {
    let small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_name = |part: &str| {
        part.bytes().all(|b| small(b) || matches!(b, b'_' | b'.' | b'-'))
            && part.bytes().next().is_some_and(small)
            && part.bytes().last().is_some_and(small)
    };
    let is_host = |part: &str| {
        let (host, port) = part.split_once(':').map_or((part, None), |(h, p)| (h, Some(p)));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let good = !host.is_empty() && host.bytes().all(plain) && !host.starts_with(['.', '-']);
        good && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    text.len() < 256
        && match text.split_once('/') {
            Some((first, rest)) => {
                (is_host(first) || is_name(first)) && rest.split('/').all(is_name)
            }
            None => is_name(text),
        }
}

impl FromStr for Image {
    type Err = BadImage;

    fn from_str(text: &str) -> Result<Self, BadImage> {
        let wrong = || BadImage::Name(text.to_owned());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        // What follows a colon before a slash is a host's port.
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag.to_owned())),
            _ => (name, None),
        };
        let good = is_repository(repository) && tag.as_deref().is_none_or(is_tag);
        // That is how an image's ID is written.
        match good && !is_digest(name) {
            true => Ok(Self { repository: repository.to_owned(), tag, digest }),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its ID.
    pub id: String,
    /// By which name it can be had again: with a digest, if it came from a registry.
    pub name: Image,
}

/// By which name the image of a release can be had again, if its folder says so.
#[must_use]
pub fn of(folder: &Path) -> Option<Image> {
    file::read(&folder.join(IMAGE), LONGEST).ok()?.trim().parse().ok()
}

/// Makes the folder of a release.
pub(super) fn fetch(found: &Found, order: Order) -> Result<Fetched, SourceError> {
    let partial = Partial::begin(order)?;
    let write = || {
        let mut file = partial.create(partial.top(), IMAGE.as_ref())?;
        file.write_all(format!("{}\n", found.name).as_bytes())?;
        partial.seal(&file, 0o644, jiff::Timestamp::now().as_second())
    };
    write().map_err(|error| SourceError::Write { path: IMAGE.into(), error })?;
    let (folder, revision) = partial.finish(Revision::Is(found.id.clone()))?;
    Ok(Fetched { folder, revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::order::testing::order;
    use crate::source::revision;

    fn digest() -> String {
        format!("sha256:{}", "0123456789abcdef".repeat(4))
    }

    #[test]
    fn images_are_named_as_docker_names_them() {
        let digest = digest();
        for (text, repository, label) in [
            ("web", "web", None),
            ("web:v1", "web", Some("v1")),
            ("team/web:V_1.2-x", "team/web", Some("V_1.2-x")),
            ("localhost:5000/web", "localhost:5000/web", None),
            ("Registry.example:5000/a/b:latest", "Registry.example:5000/a/b", Some("latest")),
            (&format!("web@{digest}"), "web", Some("0123456789ab")),
            (&format!("web:v1@{digest}"), "web", Some("0123456789ab")),
        ] {
            let image: Image = text.parse().unwrap();
            assert_eq!((image.to_string().as_str(), image.repository()), (text, repository));
            assert_eq!(image.label().as_deref(), label, "{text}");
            assert_eq!(image.is_pinned(), text.contains('@'));
        }
        let latest = "web".parse::<Image>().unwrap().or_latest();
        assert_eq!(latest.to_string(), "web:latest");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let digest = digest();
        for bad in [
            "",
            "-x",
            "We b",
            "Web",
            "web:",
            "web:-1",
            "a//b",
            "/a",
            "a/",
            "web@sha256:12",
            "web:a b",
            "web\n",
            "a:b:c",
            "h:0/web",
            &digest,
        ] {
            assert!(matches!(bad.parse::<Image>(), Err(BadImage::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_deploy_names_a_tag_or_a_digest() {
        let (image, digest) = ("registry.example/web".parse::<Image>().unwrap(), digest());
        for (reference, name) in [
            ("v2", "registry.example/web:v2".to_owned()),
            (&*digest, format!("registry.example/web@{digest}")),
            (&*format!("@{digest}"), format!("registry.example/web@{digest}")),
        ] {
            assert_eq!(image.at(reference).unwrap().to_string(), name);
        }
        for bad in ["", "a/b", "--x", "a:b", "sha256:12"] {
            let error = image.at(bad).unwrap_err().to_string();
            assert!(error.contains("is not a tag"), "{error}");
        }
    }

    #[test]
    fn a_release_s_folder_says_what_it_is_made_of() {
        let tmp = tempfile::tempdir().unwrap();
        let found = Found { id: digest(), name: "web:v1".parse().unwrap() };
        let fetched = fetch(&found, order(tmp.path())).unwrap();
        assert_eq!(fetched.revision, digest());
        assert_eq!(revision::of(&fetched.folder), Some(digest()));
        assert_eq!(of(&fetched.folder), Some(found.name));
        assert_eq!(of(tmp.path()), None);
    }
}
