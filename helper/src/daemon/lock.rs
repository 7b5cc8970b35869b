//! The lock on the state folder: it has one daemon at a time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

/// Why a daemon cannot have a state folder.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one has it.
    #[error(
        "another shuntd{} uses the state folder {}; end it, or give this one a folder of its own \
         (--state)", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), folder.display()
    )]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Which one, as far as the kernel knows.
        pid: Option<i32>,
    },
    /// The folder cannot be used.
    #[error("cannot use the state folder {}: {error}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Whoever may read a file can lock it against those who write, and so keep the daemon from its start.
const MODE: u32 = 0o600;

/// The lock, as long as this is there. The kernel takes it back from a process that was killed.
///
/// It is one of `fcntl(2)` and not of `flock(2)`: it is the process's alone, so no child that is just
/// being started has it, too, when the daemon is killed; and the kernel tells who holds it.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock of a state folder, which is made if there is none.
    ///
    /// # Errors
    ///
    /// [`LockError`]; at once when another process has it.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let failed = |error| LockError::Io { folder: folder.to_owned(), error };
        fs::create_dir_all(folder).map_err(failed)?;
        let path = folder.join("lock");
        // It stays when the daemon ends: whoever removed it could remove that of the next one.
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(MODE).open(path);
        let file = file.map_err(failed)?;
        // One that an earlier version has made.
        file.set_permissions(Permissions::from_mode(MODE)).map_err(failed)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::ACCESS | Errno::AGAIN) => {
                let holder = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock));
                let pid = holder.ok().flatten().and_then(|lock| lock.pid);
                let pid = pid.map(|pid| pid.as_raw_nonzero().get());
                Err(LockError::Held { folder: folder.to_owned(), pid })
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}
