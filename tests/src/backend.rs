//! Servers of a release, in the test's own process: they name their release, and can be held still.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::gate::Gate;

/// The sockets of a backend, to be shut down when it dies.
type Sockets = Arc<Mutex<HashMap<u64, OwnedFd>>>;

/// One server or several with one name.
#[derive(Debug, Clone)]
pub struct Backend {
    release: String,
    gate: Arc<Gate>,
    sockets: Sockets,
    /// Where the servers listen.
    pub addresses: Vec<String>,
}

impl Backend {
    fn new(release: &str) -> Self {
        Self {
            release: release.to_owned(),
            gate: Arc::default(),
            sockets: Arc::default(),
            addresses: Vec::new(),
        }
    }

    /// Remembers a socket until it is let go under the number that this gives.
    fn keep(&self, socket: impl AsFd) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let socket = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.sockets.lock().expect("no panic under it").insert(n, socket);
        n
    }

    /// As if every process had been killed: nobody listens any more, and what was connected is cut.
    ///
    /// # Panics
    ///
    /// Never in a test that is sound.
    pub fn die(&self) {
        for (_, socket) in self.sockets.lock().expect("no panic under it").drain() {
            // One whose other end has closed it already says so.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
    }

    /// So many servers of a release on ports of this machine.
    ///
    /// # Panics
    ///
    /// When there is no port.
    #[must_use]
    pub fn start(release: &str, servers: usize) -> Self {
        Self::speaking(release, servers, "127.0.0.1:0", Self::http)
    }

    /// So many servers of a release on ports of this address, which speak something.
    ///
    /// # Panics
    ///
    /// When there is no port.
    #[must_use]
    pub fn speaking<F>(release: &str, servers: usize, address: &str, speak: F) -> Self
    where
        F: Fn(&Self, TcpStream) + Clone + Send + 'static,
    {
        let mut backend = Self::new(release);
        for _ in 0..servers {
            let listener = TcpListener::bind(address).expect("a port");
            backend.addresses.push(listener.local_addr().expect("an address").to_string());
            backend.keep(&listener);
            let (this, speak) = (backend.clone(), speak.clone());
            std::thread::spawn(move || {
                // Ends when the socket is shut down.
                while let Ok((stream, _)) = listener.accept() {
                    let (this, speak) = (this.clone(), speak.clone());
                    // Answers are small; without this they wait for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let n = this.keep(&stream);
                    std::thread::spawn(move || {
                        speak(&this, stream);
                        this.sockets.lock().expect("no panic under it").remove(&n);
                    });
                }
            });
        }
        backend
    }

    /// So many servers of a release on unix sockets in a folder.
    ///
    /// # Panics
    ///
    /// When they cannot be made.
    #[must_use]
    pub fn unix(release: &str, servers: usize, folder: &Path) -> Self {
        let mut backend = Self::new(release);
        for n in 0..servers {
            let path = folder.join(format!("{release}{n}.sock"));
            let listener = UnixListener::bind(&path).expect("a socket");
            backend.addresses.push(format!("unix:{}", path.display()));
            let this = backend.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let this = this.clone();
                    std::thread::spawn(move || this.http(stream));
                }
            });
        }
        backend
    }

    /// Its release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// `shunt_release` lines for NGINX's configuration.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |a: &String| format!("shunt_release {} {a};\n", self.release);
        self.addresses.iter().map(line).collect()
    }

    /// So many bytes are sent for `/big`, more than the sockets on the way can hold.
    pub const BIG: usize = 32 << 20;

    /// From now on requests to `/held` and `/halved` wait; the latter after half of the answer.
    pub fn hold(&self) {
        self.gate.close();
    }

    /// How many requests wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gate.waiting()
    }

    /// Lets all of them go.
    pub fn let_go(&self) {
        self.gate.open();
    }

    /// Waits if a request to this path has to.
    pub fn wait(&self, path: &str) {
        if path.starts_with("/held") {
            self.gate.pass();
        }
    }

    /// Speaks HTTP/1.1 on a stream. The answer has what the request's header `X-Body` says, or the
    /// request's body, or the release's name; each `X-Answer` is a line of the answer's head.
    pub fn http(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        while let Some(text) = head(&mut stream) {
            if self.answer(&text, &mut stream).is_none() {
                return;
            }
        }
    }

    /// Answers one request; `None` ends the connection.
    fn answer(&self, text: &str, stream: &mut BufReader<impl Read + Write>) -> Option<()> {
        let path = text.split(' ').nth(1)?;
        let lower = text.to_lowercase();
        if path.starts_with("/ws") && lower.contains("upgrade: ") {
            // Not a WebSocket's frames, but what NGINX sees of one: a tunnel.
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 X-Release: {}\r\n\r\n",
                self.release
            );
            stream.get_mut().write_all(head.as_bytes()).ok()?;
            let mut bytes = [0; 1024];
            loop {
                let n = stream.read(&mut bytes).ok().filter(|n| *n > 0)?;
                stream.get_mut().write_all(&bytes[..n]).ok()?;
            }
        }
        let length = lower.lines().find_map(|l| l.strip_prefix("content-length: "));
        let length: usize = length.and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        self.wait(path);
        let status = if path.starts_with("/missing") { "404 Not Found" } else { "200 OK" };
        if path.starts_with("/big") {
            body = vec![b'.'; Self::BIG];
        }
        if let Some(text) = text.lines().find_map(|line| line.strip_prefix("X-Body: ")) {
            body = text.as_bytes().to_vec();
        }
        let body = if body.is_empty() { self.release.as_bytes() } else { &body };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nX-Release: {}\r\nContent-Length: {}\r\n",
            self.release,
            body.len()
        );
        for line in text.lines().filter_map(|line| line.strip_prefix("X-Answer: ")) {
            answer.push_str(&format!("{line}\r\n"));
        }
        answer.push_str("\r\n");
        let mut answer = answer.into_bytes();
        answer.extend_from_slice(body);
        let (first, second) = if path.starts_with("/halved") {
            answer.split_at(answer.len() - body.len() / 2)
        } else {
            answer.split_at(answer.len())
        };
        stream.get_mut().write_all(first).ok()?;
        if !second.is_empty() {
            self.gate.pass();
            stream.get_mut().write_all(second).ok()?;
        }
        (!lower.contains("connection: close")).then_some(())
    }
}

/// Reads the head of a request.
fn head(stream: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}
