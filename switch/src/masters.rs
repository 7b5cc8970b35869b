//! The NGINX masters that run: one, and two while its binary is upgraded.
//!
//! The new master is a child of the old one, has inherited its listening sockets, and both take
//! connections. Each has a zone of its own, so a change in one would be none for the requests of the
//! other. What they share is a file that lives in memory only: like the sockets, it is inherited by
//! the new binary. Each master is written down in it, and whoever wants to change something looks
//! whether another one lives. So it is also right when the new one fails, when either is killed, and
//! when an upgrade is taken back, and it needs no state file.
//!
//! A record lock of the kernel's orders the two: it is held for a change, and to write a master down.
//! A new master that is written down thus reads what every earlier change has left, and there is
//! none after that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};
use rustix::io::Errno;

use crate::worker::Identity;

/// The file's name, to find it by.
const NAME: &str = "shunt-masters";

/// How the system shows an open file of this name.
const LINK: &str = "/memfd:shunt-masters (deleted)";

/// How long a master waits for changes before it is written down, which ends them.
const SHORT: Duration = Duration::from_millis(50);

/// The pause between two looks at a lock.
const PAUSE: Duration = Duration::from_micros(200);

/// The masters that share a file.
#[derive(Debug)]
pub struct Masters {
    file: File,
}

/// Why nothing can be changed now.
#[derive(Debug, thiserror::Error)]
pub enum MastersError {
    /// Another master lives.
    #[error(
        "two NGINX masters run, {old} and {new}, as in a binary upgrade, and each would change only \
         its own requests: send QUIT to the one that is to go, and ask again when it has ended"
    )]
    Two {
        /// The pid of the one that was there first.
        old: u32,
        /// The pid of the other one.
        new: u32,
    },
    /// A master is being written down, or a change takes long.
    #[error("a change, or the start of another NGINX master, takes long, try again")]
    Busy,
    /// The system says no.
    #[error("cannot tell whether another NGINX master runs: {0}")]
    System(#[from] io::Error),
}

/// Leave to change something, until this is dropped.
#[derive(Debug)]
#[must_use = "without it another master may start in the middle of a change"]
pub struct Turn<'m>(&'m File);

impl Masters {
    /// Makes the file for a master that was not started by another one.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn create() -> io::Result<Self> {
        let memory = match memfd_create(NAME, MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3, where there is nothing to say about it.
            Err(Errno::INVAL) => memfd_create(NAME, MemfdFlags::empty()),
            made => made,
        };
        let inherited = File::from(memory?);
        let file = inherited.try_clone()?;
        // It stays open for as long as the process lives, to be inherited and found.
        std::mem::forget(inherited);
        Ok(Self { file })
    }

    /// Finds the file that this process has: by inheritance, or because [`Masters::create`] made it
    /// for an earlier configuration.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn find() -> io::Result<Option<Self>> {
        for entry in fs::read_dir("/proc/self/fd")? {
            let path = entry?.path();
            if fs::read_link(&path).is_ok_and(|link| link.as_os_str() == LINK) {
                let file = File::options().read(true).write(true).open(path)?;
                return Ok(Some(Self { file }));
            }
        }
        Ok(None)
    }

    /// Writes a master down, if it is not yet, after the changes that are under way.
    ///
    /// # Errors
    ///
    /// [`MastersError::Busy`] when one takes longer than `limit`; the master is written down then,
    /// too.
    pub fn enter(&self, master: Identity, limit: Duration) -> Result<(), MastersError> {
        let is_known = |known: &Identity| known.pid() == master.pid() && known.is_alive();
        if self.read()?.iter().any(is_known) {
            return Ok(());
        }
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let turn = self.lock(exclusive, limit.min(SHORT));
        let mut masters = self.read()?;
        masters.retain(|known| known.is_alive());
        if !masters.iter().any(is_known) {
            masters.push(master);
        }
        let bytes: Vec<u8> = masters.iter().flat_map(|m| m.word().to_le_bytes()).collect();
        self.file.write_all_at(&bytes, 0)?;
        self.file.set_len(bytes.len() as u64)?;
        match turn {
            // By now no change begins any more.
            Err(MastersError::Busy) => self.lock(exclusive, limit).map(drop),
            turn => turn.map(drop),
        }
    }

    /// Lets a process of `master` change something, unless another master lives.
    ///
    /// # Errors
    ///
    /// [`MastersError`].
    pub fn turn(&self, master: Identity, limit: Duration) -> Result<Turn<'_>, MastersError> {
        let turn = self.lock(FlockOperation::NonBlockingLockShared, limit)?;
        let masters = self.read()?;
        let Some(other) = find_other(&masters, master) else { return Ok(turn) };
        let place = |pid: u32| masters.iter().position(|m| m.pid() == pid).unwrap_or(usize::MAX);
        let (mine, other) = (master.pid(), other.pid());
        let (old, new) = if place(mine) < place(other) { (mine, other) } else { (other, mine) };
        Err(MastersError::Two { old, new })
    }

    /// Another master that lives.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn other(&self, master: Identity) -> io::Result<Option<Identity>> {
        Ok(find_other(&self.read()?, master))
    }

    fn read(&self) -> io::Result<Vec<Identity>> {
        // More than ever live at the same time.
        let mut bytes = [0; 256];
        let length = self.file.read_at(&mut bytes, 0)?;
        let words = bytes[..length].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        Ok(words.filter_map(Identity::from_word).collect())
    }

    /// The kernel takes the lock back from a process that dies.
    fn lock(&self, how: FlockOperation, limit: Duration) -> Result<Turn<'_>, MastersError> {
        let deadline = Instant::now() + limit;
        loop {
            // Before the look: a process that was stopped after it looks once more.
            let is_last = Instant::now() >= deadline;
            match fcntl_lock(&self.file, how) {
                Ok(()) => return Ok(Turn(&self.file)),
                Err(Errno::AGAIN | Errno::ACCESS) if is_last => return Err(MastersError::Busy),
                Err(Errno::AGAIN | Errno::ACCESS) => std::thread::sleep(PAUSE),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

fn find_other(masters: &[Identity], master: Identity) -> Option<Identity> {
    masters.iter().copied().find(|m| m.pid() != master.pid() && m.is_alive())
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Of a lock that this process has, nothing can be said against giving it back.
        let _ = fcntl_lock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Mutex, MutexGuard, OnceLock};

    const LIMIT: Duration = Duration::from_secs(10);

    /// Tells a test that it is the other process of itself.
    const OTHER: &str = "SHUNT_TEST_OTHER_MASTER";

    /// One for the whole process, as in NGINX.
    fn masters() -> MutexGuard<'static, Masters> {
        static MASTERS: OnceLock<Mutex<Masters>> = OnceLock::new();
        let masters = MASTERS.get_or_init(|| Mutex::new(Masters::create().unwrap()));
        masters.lock().unwrap()
    }

    /// Starts a test once more in a process of its own, which has inherited the file.
    fn other(test: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("masters::tests::{test}"), "--exact", "--nocapture"]);
        command.env(OTHER, std::process::id().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until the other process says so.
    fn says(child: &mut Child, what: &str) {
        let out = BufReader::new(child.stdout.as_mut().unwrap());
        assert!(out.lines().any(|line| line.unwrap().ends_with(what)), "it does not say {what:?}");
    }

    /// In the other process: says something and waits until it may go on.
    fn say(what: &str) {
        println!("{what}");
        std::io::stdout().flush().unwrap();
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither such files nor processes")]
    fn of_two_masters_neither_may_change_anything_until_one_has_ended() {
        let me = Identity::me();
        if std::env::var_os(OTHER).is_some() {
            let masters = Masters::find().unwrap().expect("what was inherited");
            masters.enter(me, LIMIT).unwrap();
            let error = masters.turn(me, LIMIT).unwrap_err();
            assert!(matches!(error, MastersError::Two { new, .. } if new == me.pid()), "{error}");
            say("entered");
            return;
        }
        let masters = masters();
        masters.enter(me, LIMIT).unwrap();
        let mut child = other("of_two_masters_neither_may_change_anything_until_one_has_ended");
        says(&mut child, "entered");
        let error = masters.turn(me, LIMIT).unwrap_err().to_string();
        let both = format!("two NGINX masters run, {} and {},", me.pid(), child.id());
        assert!(error.starts_with(&both), "{error}");
        // Whoever is written down again stays the older one.
        masters.enter(me, LIMIT).unwrap();
        assert!(masters.turn(me, LIMIT).unwrap_err().to_string().starts_with(&both));
        assert_eq!(masters.other(me).unwrap(), Some(Identity::of(child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(masters.turn(me, LIMIT).is_ok());
        assert_eq!(masters.other(me).unwrap(), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither such files nor processes")]
    fn a_change_that_is_under_way_is_waited_for_when_a_master_starts() {
        if let Ok(master) = std::env::var(OTHER) {
            let masters = Masters::find().unwrap().expect("what was inherited");
            let _turn = masters.turn(Identity::of(master.parse().unwrap()), LIMIT).unwrap();
            say("changing");
            return;
        }
        let masters = masters();
        let mut child = other("a_change_that_is_under_way_is_waited_for_when_a_master_starts");
        says(&mut child, "changing");
        let mut starting = Command::new("sleep").arg("60").spawn().unwrap();
        let start = Identity::of(starting.id());
        let error = masters.enter(start, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, MastersError::Busy), "{error}");
        assert!(masters.read().unwrap().contains(&start), "it is written down all the same");
        drop(child.stdin.take());
        masters.enter(Identity::of(child.id()), LIMIT).unwrap();
        assert!(child.wait().unwrap().success());
        starting.kill().unwrap();
        starting.wait().unwrap();
    }
}
