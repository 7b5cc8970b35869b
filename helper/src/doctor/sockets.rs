//! Whether something listens where a release runs, and whether it has taken the socket that it was
//! given: one that it opens itself is gone while it starts again.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use shunt_api::{Address, ReleaseName};

use super::Finding;
use crate::clock::Span;
use crate::endpoint;
use crate::runner::process::LISTEN_FD;
use crate::wire::SlotStatus;

const CHECK: &str = "socket";

/// How long a connection may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Connects to a slot.
pub async fn answers(slot: &Address) -> Finding {
    let why = match tokio::time::timeout(LIMIT, endpoint::connect(slot)).await {
        Ok(Ok(_)) => return Finding::ok(CHECK, format!("{slot} can be connected to")),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {}", Span(LIMIT)),
    };
    Finding::problem(
        CHECK,
        format!("a release runs in {slot}, but nobody listens there: {why}"),
        "shunt status says what runs; its log says why it does not listen; the next deploy starts it anew",
    )
}

/// Whether a release that does not run is the one that users are sent to.
#[must_use]
pub fn of_ended(slot: &SlotStatus, active: Option<&ReleaseName>) -> Option<Finding> {
    let release = slot.release.as_ref().filter(|release| active == Some(*release))?;
    let address = &slot.address;
    (!slot.listens).then(|| {
        Finding::problem(
            CHECK,
            format!("\"{release}\" is active, but does not run in {address}: users get errors"),
            "shunt logs says why; shunt rollback, or a deploy, takes another one; a container that was \
             removed comes back when shuntd is restarted",
        )
    })
}

/// Looks whose socket a slot's process listens on.
#[must_use]
pub fn of_process(slot: &Address, pid: u32) -> Finding {
    let listening = listening(slot);
    if listening.is_empty() {
        let cure = "its log says why it does not listen";
        return Finding::problem(CHECK, format!("no socket listens on {slot}"), cure);
    }
    let tree = tree(pid);
    if sockets_of(pid).is_none() {
        let saw = format!("cannot look at the sockets of process {pid}");
        return Finding::warning(CHECK, saw, "run this as root");
    }
    let held: BTreeSet<u64> = tree.iter().filter_map(|pid| sockets_of(*pid)).flatten().collect();
    let held: BTreeSet<u64> = held.intersection(&listening).copied().collect();
    let given = held_by_others(&tree, &held);
    let own = held.difference(&given).count();
    if held.is_empty() {
        return Finding::problem(
            CHECK,
            format!("process {pid} does not listen on {slot}, somebody else does"),
            "let the application listen on descriptor 3 (LISTEN_FDS), or on PORT",
        );
    }
    if own > 0 {
        return Finding::warning(
            CHECK,
            format!(
                "process {pid} listens on {slot} with a socket of its own: while it starts again, \
                     connections fail"
            ),
            "let the application take the socket that it is given: descriptor 3, when LISTEN_FDS=1 (sd_listen_fds(3))",
        );
    }
    let third = fs::read_link(format!("/proc/{pid}/fd/{LISTEN_FD}")).ok();
    let third = third.and_then(|link| inode(&link)).is_some_and(|inode| given.contains(&inode));
    let how = if third { "descriptor 3" } else { "as another descriptor" };
    Finding::ok(CHECK, format!("process {pid} has the socket of {slot} that it was given, {how}"))
}

/// The inodes of the sockets that listen there (`proc_net(5)`, `unix(7)`).
fn listening(slot: &Address) -> BTreeSet<u64> {
    match slot {
        Address::Ip(address) => {
            let file = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines().filter_map(|line| of_tcp(line, address)).collect()
        }
        Address::Unix(path) => {
            let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
            text.lines().filter_map(|line| of_unix(line, path)).collect()
        }
    }
}

/// `0: 0100007F:0BB9 00000000:0000 0A … inode …`, of which `0A` is a socket that listens.
fn of_tcp(line: &str, address: &SocketAddr) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let is_there = *fields.get(3)? == "0A"
        && u16::from_str_radix(port, 16).ok()? == address.port()
        && (ip == hex(address) || ip.bytes().all(|b| b == b'0'));
    is_there.then(|| fields.get(9)?.parse().ok())?
}

/// An IP address as the kernel prints it: words of four bytes, each in the machine's order.
fn hex(address: &SocketAddr) -> String {
    let bytes = match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    let word = |word: &[u8]| {
        let word = word.try_into().unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(word))
    };
    bytes.chunks(4).map(word).collect()
}

/// `Num: RefCount Protocol Flags Type St Inode Path`, of which `00010000` is a socket that listens.
fn of_unix(line: &str, path: &Path) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let flags = fields.nth(3)?;
    let inode = fields.nth(2)?.parse().ok()?;
    let found = line.find(" /").map(|at| &line[at + 1..])?;
    (flags == "00010000" && Path::new(found) == path).then_some(inode)
}

/// The inodes of a process's sockets; `None` if one may not look.
fn sockets_of(pid: u32) -> Option<BTreeSet<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter_map(|link| inode(&link)).collect())
}

/// `socket:[123]`
fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A process and all that descend from it.
fn tree(pid: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> =
        processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut tree = BTreeSet::from([pid]);
    loop {
        let before = tree.len();
        let children = parents.iter().filter(|(_, parent)| tree.contains(parent));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        tree.extend(children);
        if tree.len() == before {
            return tree;
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have blanks and parentheses itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

/// Of these sockets, those that a process outside of the tree has, too: it has given them.
fn held_by_others(tree: &BTreeSet<u32>, sockets: &BTreeSet<u64>) -> BTreeSet<u64> {
    let others = processes().filter(|pid| !tree.contains(pid));
    let held = others.filter_map(sockets_of).flatten();
    held.filter(|socket| sockets.contains(socket)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use command_fds::{CommandFdExt, FdMapping};
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command};

    /// A process that has these descriptors; it ends with this.
    struct Process(Child);

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn process(fds: Vec<(OwnedFd, i32)>) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        let fds = fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(fds.collect()).unwrap();
        Process(command.spawn().unwrap())
    }

    fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        (listener, address)
    }

    #[tokio::test]
    async fn somebody_listens_or_nobody_does() {
        let (listener, slot) = listener();
        assert_eq!(answers(&slot).await.level, Level::Ok);
        assert_eq!(listening(&slot).len(), 1);
        drop(listener);
        let found = answers(&slot).await;
        assert_eq!(found.level, Level::Problem, "{found:?}");
        let found = of_process(&slot, std::process::id());
        assert!(found.saw.contains("no socket listens"), "{found:?}");
    }

    #[test]
    fn a_socket_that_was_given_is_told_from_one_of_its_own() {
        let (listener, slot) = listener();
        // This test holds it, too, as shuntd does.
        let given = process(vec![(listener.try_clone().unwrap().into(), LISTEN_FD)]);
        let found = of_process(&slot, given.0.id());
        assert!(found.level == Level::Ok && found.saw.ends_with("descriptor 3"), "{found:?}");
        let moved = process(vec![(listener.try_clone().unwrap().into(), 7)]);
        let found = of_process(&slot, moved.0.id());
        assert!(found.level == Level::Ok && found.saw.ends_with("another descriptor"), "{found:?}");
        drop(given);
        drop(listener);
        let found = of_process(&slot, moved.0.id());
        assert_eq!(found.level, Level::Warning, "{found:?}");
        assert!(found.saw.contains("a socket of its own"), "{found:?}");
    }

    #[test]
    fn a_process_that_has_nothing_to_do_with_the_slot() {
        let (_listener, slot) = listener();
        let other = process(Vec::new());
        let found = of_process(&slot, other.0.id());
        assert_eq!(found.level, Level::Problem, "{found:?}");
        assert!(found.saw.contains("somebody else does"), "{found:?}");
    }

    #[test]
    fn the_socket_may_be_with_a_process_that_it_has_started() {
        let (listener, slot) = listener();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & exec 3<&-; read x"]).stdin(std::process::Stdio::piped());
        let parent_fd = listener.try_clone().unwrap().into();
        shell.fd_mappings(vec![FdMapping { parent_fd, child_fd: LISTEN_FD }]).unwrap();
        let mut shell = shell.spawn().unwrap();
        let pid = shell.id();
        // The shell has closed its own when it reads.
        let link = format!("/proc/{pid}/fd/{LISTEN_FD}");
        while fs::read_link(&link).is_ok() {
            std::thread::yield_now();
        }
        let found = of_process(&slot, pid);
        assert!(found.level == Level::Ok && found.saw.ends_with("another descriptor"), "{found:?}");
        for child in tree(pid).into_iter().filter(|child| *child != pid) {
            let child = rustix::process::Pid::from_raw(child.try_into().unwrap()).unwrap();
            rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        }
        let _ = shell.kill();
        let _ = shell.wait();
    }

    #[test]
    fn unix_sockets_and_ipv6_are_found_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a slot.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listening(&Address::Unix(path.clone())).len(), 1);
        let given = process(vec![(listener.try_clone().unwrap().into(), LISTEN_FD)]);
        assert_eq!(of_process(&Address::Unix(path), given.0.id()).level, Level::Ok);
        // There may be no IPv6 here.
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            let slot = Address::Ip(listener.local_addr().unwrap());
            assert_eq!(listening(&slot).len(), 1);
        }
    }
}
