//! Where a git repository is.

use std::fmt;
use std::str::FromStr;

/// A repository's address: `https://`, `http://`, `ssh://`, `git://`, `file://`, `user@host:path`, or
/// a path of this machine.
///
/// It holds no secret, as git shows it in its messages and to everybody who lists processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl(String);

/// Why a text is no repository's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It is nothing that is known here.
    #[error(
        "is not a repository's address, which is as in \"https://host/web.git\", \
         \"ssh://git@host/web.git\", \"git@host:web.git\" or \"/srv/git/web.git\""
    )]
    Strange,
    /// It is an order to run a program.
    #[error("names a transport helper of git (\"…::\"), which runs a program; that is not allowed")]
    Helper,
    /// It has a user or a password.
    #[error(
        "cannot have a secret in it, as everybody who lists processes would see it; leave user and \
         password out and give them to git of the application's user (`git config --global \
         credential.helper store`), or use ssh with a key"
    )]
    Secret,
    /// Host or path begin as an option does.
    #[error("has a part that begins with \"-\", which a program could take for an option")]
    Option,
}

impl GitUrl {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.0.starts_with('/') || self.0.starts_with("file://")
    }

    /// The address of a submodule: as it is, or relative to this one (`./` or `../` at its beginning,
    /// see `git-submodule(1)`).
    ///
    /// # Errors
    ///
    /// [`BadUrl`].
    pub(crate) fn join(&self, other: &str) -> Result<Self, BadUrl> {
        if !other.starts_with("./") && !other.starts_with("../") {
            return other.parse();
        }
        let mut base = self.0.trim_end_matches('/');
        let mut rest = other;
        let mut between = '/';
        loop {
            if let Some(after) = rest.strip_prefix("./") {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("../") {
                rest = after;
                let at = base.rfind(['/', ':']).ok_or(BadUrl::Strange)?;
                between = if base[at..].starts_with(':') { ':' } else { '/' };
                base = &base[..at];
            } else {
                break;
            }
        }
        let joined: Self = format!("{base}{between}{rest}").parse()?;
        match joined.0.starts_with(self.place()) {
            true => Ok(joined),
            false => Err(BadUrl::Strange),
        }
    }

    /// All that comes before the path.
    fn place(&self) -> &str {
        let text = self.as_str();
        let end = match text.split_once("://") {
            Some((scheme, rest)) => rest.find('/').map(|at| scheme.len() + 3 + at),
            None if text.starts_with('/') => Some(0),
            None => text.find("]:").map(|at| at + 1).or_else(|| text.find(':')),
        };
        &text[..=end.unwrap_or(0)]
    }
}

impl FromStr for GitUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        // As git finds one: the characters of a scheme, then two colons.
        let scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if text.trim_start_matches(scheme).starts_with("::") {
            return Err(BadUrl::Helper);
        }
        let good = |c: char| !c.is_control() && !c.is_whitespace();
        if text.is_empty() || !text.chars().all(good) || text.starts_with('-') {
            return Err(BadUrl::Strange);
        }
        let path_is_good = |path: &str| !path.trim_matches('/').is_empty();
        if let Some((scheme, rest)) = text.split_once("://") {
            let (authority, path) = rest.split_once('/').ok_or(BadUrl::Strange)?;
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            if user.starts_with('-') || host.starts_with('-') {
                return Err(BadUrl::Option);
            }
            match scheme {
                // A user alone may be a token.
                "https" | "http" if authority.contains('@') || rest.contains(['?', '#']) => {
                    return Err(BadUrl::Secret);
                }
                "ssh" | "git" if user.contains(':') => return Err(BadUrl::Secret),
                "https" | "http" | "ssh" | "git" if host.is_empty() => return Err(BadUrl::Strange),
                "https" | "http" | "ssh" | "git" => {}
                "file" if authority.is_empty() => {}
                _ => return Err(BadUrl::Strange),
            }
            if !path_is_good(path) {
                return Err(BadUrl::Strange);
            }
        } else if !text.starts_with('/') {
            // As scp has it. A path without a colon would be relative to nobody knows what.
            let at = match text.find('[') {
                Some(_) => text.find("]:").map(|at| at + 1),
                None => text.find(':'),
            };
            let (authority, path) = text.split_at(at.ok_or(BadUrl::Strange)?);
            let path = &path[1..];
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            if [user, host, path].iter().any(|part| part.starts_with('-')) {
                return Err(BadUrl::Option);
            }
            if authority.contains('/') || host.is_empty() || !path_is_good(path) {
                return Err(BadUrl::Strange);
            }
        } else if !path_is_good(text) {
            return Err(BadUrl::Strange);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Result<GitUrl, BadUrl> {
        text.parse()
    }

    #[test]
    fn addresses_are_as_git_has_them() {
        for good in [
            "https://git.example/web.git",
            "http://127.0.0.1:8080/web",
            "ssh://git@git.example:2222/~me/web.git",
            "ssh://[::1]/web.git",
            "git://git.example/web.git",
            "git@git.example:org/web.git",
            "git@[::1]:web.git",
            "host:web",
            "/srv/git/web.git",
            "file:///srv/git/web.git",
        ] {
            assert_eq!(url(good).unwrap_or_else(|e| panic!("{good}: {e}")).as_str(), good);
        }
        assert!(url("/srv/a").unwrap().is_local() && url("file:///a").unwrap().is_local());
        assert!(!url("host:web").unwrap().is_local());
    }

    #[test]
    fn what_could_run_a_program_or_show_a_secret_is_refused() {
        for (bad, why) in [
            ("ext::sh -c id", BadUrl::Helper),
            ("ext::sh%20-c%20id", BadUrl::Helper),
            ("fd::17/x", BadUrl::Helper),
            ("ext::a[b]:c", BadUrl::Helper),
            ("::x", BadUrl::Helper),
            ("https::https://a/b", BadUrl::Helper),
            ("-oProxyCommand=id:x", BadUrl::Strange),
            ("ssh://-oProxyCommand=id/x", BadUrl::Option),
            ("ssh://-oProxyCommand=id@host/x", BadUrl::Option),
            ("a@-oProxyCommand=id:x", BadUrl::Option),
            ("host:-x", BadUrl::Option),
            ("https://me:secret@host/web.git", BadUrl::Secret),
            ("https://token@host/web.git", BadUrl::Secret),
            ("https://host/web.git?private_token=x", BadUrl::Secret),
            ("ssh://git:secret@host/web.git", BadUrl::Secret),
            ("ftp://host/web.git", BadUrl::Strange),
            ("file://host/web.git", BadUrl::Strange),
            ("https://host", BadUrl::Strange),
            ("https:///web.git", BadUrl::Strange),
            ("web.git", BadUrl::Strange),
            ("./web.git", BadUrl::Strange),
            ("../x:y", BadUrl::Strange),
            ("host:", BadUrl::Strange),
            ("/", BadUrl::Strange),
            ("", BadUrl::Strange),
            ("/srv/a\nb", BadUrl::Strange),
        ] {
            assert_eq!(url(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_submodules_address_can_be_relative() {
        for (base, relative, whole) in [
            ("https://host/org/web.git", "../lib.git", "https://host/org/lib.git"),
            ("https://host/org/web.git/", "../../other/lib", "https://host/other/lib"),
            ("https://host/org/web.git", "./lib", "https://host/org/web.git/lib"),
            ("git@host:org/web.git", "../lib.git", "git@host:org/lib.git"),
            ("git@host:web.git", "../lib.git", "git@host:lib.git"),
            ("/srv/git/web", "../lib", "/srv/git/lib"),
            ("/srv/git/web", "https://host/lib", "https://host/lib"),
        ] {
            assert_eq!(url(base).unwrap().join(relative).unwrap().as_str(), whole);
        }
        let base = url("https://host/web").unwrap();
        for up in ["../../x", "../../../etc", "../../../../host:x"] {
            assert_eq!(base.join(up), Err(BadUrl::Strange), "{up}");
        }
        assert_eq!(base.join("ext::sh"), Err(BadUrl::Helper));
        assert_eq!(url("host:web").unwrap().join("../-x"), Err(BadUrl::Option));
    }

    proptest! {
        #[test]
        fn nothing_that_is_accepted_begins_as_an_option_or_has_a_helper(
            text in "(ext::|ssh://|https://|file://|)[-a@:/.\\[\\] \n%]{0,12}",
        ) {
            if let Ok(url) = text.parse::<GitUrl>() {
                let text = url.as_str();
                prop_assert!(!text.starts_with('-'));
                prop_assert!(!text.contains(char::is_whitespace));
                prop_assert!(!text.starts_with("ext::"));
                prop_assert_eq!(url.join("./x").is_ok(), true);
            }
        }

        #[test]
        fn nothing_relative_panics(base in "[a:/]{1,8}", relative in "(\\.{1,2}/){1,4}[a:/-]{0,4}") {
            if let Ok(base) = base.parse::<GitUrl>() {
                let _ = base.join(&relative);
            }
        }
    }
}
