//! Who asks, and whether he may change something.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::seats::Seats;
use crate::source::reader::Reader;

/// Who has connected, as the kernel says (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy)]
pub struct Peer(Option<Caller>);

#[derive(Debug, Clone, Copy)]
struct Caller {
    uid: Uid,
    gid: Gid,
}

impl Connected<IncomingStream<'_, Seats>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Seats>) -> Self {
        let caller =
            stream.io().stream().peer_cred().ok().map(|cred| Caller {
                uid: Uid::from_raw(cred.uid()),
                gid: Gid::from_raw(cred.gid()),
            });
        Self(caller)
    }
}

impl std::fmt::Display for Peer {
    /// As others are told of him.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(caller) if caller.uid.is_root() => f.write_str("root"),
            Some(caller) => write!(f, "the user with uid {}", caller.uid),
            None => f.write_str("somebody"),
        }
    }
}

/// Why a group cannot be given rights.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// There is none of this name.
    #[error("--group {0}: there is no such group; make it with \"groupadd --system {0}\"")]
    Unknown(String),
    /// The system cannot tell.
    #[error("--group {group}: whether there is such a group cannot be found out: {error}")]
    System {
        /// The group.
        group: String,
        /// What the system said.
        error: Errno,
    },
}

/// Who may change something: root, the user of the daemon, and a group if it was given one.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    user: Uid,
    group: Option<Gid>,
}

impl Rights {
    /// Of root and the user whom this process runs as, and of this group.
    ///
    /// # Errors
    ///
    /// [`GroupError`].
    pub fn new(group: Option<&str>) -> Result<Self, GroupError> {
        Ok(Self { user: Uid::effective(), group: group.map(find).transpose()? })
    }

    /// Whether somebody may change something.
    pub async fn allow(self, Peer(caller): Peer) -> bool {
        let Some(caller) = caller else { return false };
        if caller.uid.is_root() || caller.uid == self.user {
            return true;
        }
        let Some(group) = self.group else { return false };
        if caller.gid == group {
            return true;
        }
        // A directory in the network may be asked for it.
        let member = tokio::task::spawn_blocking(move || is_member(caller.uid, group));
        member.await.unwrap_or(false)
    }

    /// Somebody whose own rights count for what he lets the daemon read: neither root nor its user.
    pub async fn reader(self, Peer(caller): Peer) -> Option<Reader> {
        let is_own = |caller: &Caller| caller.uid.is_root() || caller.uid == self.user;
        let caller = caller.filter(|caller| !is_own(caller))?;
        // As for a group.
        let found = move || Reader::new(caller.uid.as_raw(), caller.gid.as_raw());
        let found = tokio::task::spawn_blocking(found).await;
        Some(found.unwrap_or_else(|_| Reader::new(u32::MAX, u32::MAX)))
    }

    /// What is said to everybody else.
    #[must_use]
    pub fn refusal(self) -> &'static str {
        match self.group {
            None => "only root and the user of shuntd may change something",
            Some(_) => "only root, the user of shuntd and its group may change something",
        }
    }
}

fn find(name: &str) -> Result<Gid, GroupError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(GroupError::Unknown(name.to_owned())),
        Err(error) => Err(GroupError::System { group: name.to_owned(), error }),
    }
}

/// Whether a user is in a group, by his primary group or another. Who is not known is in none.
fn is_member(user: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(user) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}
