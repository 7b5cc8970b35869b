//! The user that a release runs as.

use std::path::PathBuf;

use nix::unistd;
use tokio::process::Command;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Its home folder.
    pub home: PathBuf,
}

/// Why a release cannot run as a user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is not known.
    #[error("there is no user {0:?} on this machine")]
    Unknown(String),
    /// The user database cannot be read.
    #[error("cannot look up user {name:?}: {error}")]
    Lookup {
        /// The name.
        name: String,
        /// What the system said.
        error: nix::Error,
    },
    /// Only root can become somebody else.
    #[error("user {0:?} is somebody else than shuntd runs as; only root can start it as that")]
    Right(String),
}

impl User {
    /// Looks a user up, by name or, as `User=` of systemd's may have it, by number.
    ///
    /// # Errors
    ///
    /// [`UserError`]; also when this process may not become that user.
    pub fn find(name: &str) -> Result<Self, UserError> {
        let found = match name.parse() {
            Ok(uid) => unistd::User::from_uid(unistd::Uid::from_raw(uid)),
            Err(_) => unistd::User::from_name(name),
        };
        let found = found.map_err(|error| UserError::Lookup { name: name.to_owned(), error })?;
        let found = found.ok_or_else(|| UserError::Unknown(name.to_owned()))?;
        let me = unistd::geteuid();
        if !me.is_root() && me != found.uid {
            return Err(UserError::Right(name.to_owned()));
        }
        let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
        Ok(Self { name: found.name, uid, gid, home: found.dir })
    }
}

/// A command that runs a program as this user, with the groups that the user has, as systemd's
/// `User=`; without one, as whoever runs the daemon.
///
/// Only root can become somebody else; anybody else is that user already. `setpriv` does it, since
/// what could do it here would need `unsafe`; it becomes the program, so the pid is the program's.
#[must_use]
pub fn command(user: Option<&User>, program: &str) -> Command {
    let Some(user) = user else { return Command::new(program) };
    let mut command = if unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user.name, "--regid", &user.gid.to_string()]);
        command.args(["--init-groups", "--", program]);
        command
    } else {
        Command::new(program)
    };
    command.env("USER", &user.name).env("LOGNAME", &user.name).env("HOME", &user.home);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let root = User::find("root");
        match unistd::geteuid().is_root() {
            true => {
                assert_eq!(root.as_ref().unwrap().uid, 0);
                assert_eq!(User::find("0").unwrap(), root.unwrap());
            }
            false => assert!(matches!(root, Err(UserError::Right(_)))),
        }
        assert!(matches!(User::find("nobody at all"), Err(UserError::Unknown(_))));
    }
}
