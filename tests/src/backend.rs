//! Servers of a release, in the test's own process: they name their release, and can be held still.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A gate that requests wait at.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

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
        let mut backend = Self::new(release);
        for _ in 0..servers {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            backend.addresses.push(listener.local_addr().expect("an address").to_string());
            backend.keep(&listener);
            let this = backend.clone();
            std::thread::spawn(move || {
                // Ends when the socket is shut down.
                while let Ok((stream, _)) = listener.accept() {
                    let this = this.clone();
                    // Answers are small; without this they wait for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let n = this.keep(&stream);
                    std::thread::spawn(move || {
                        this.serve(stream);
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
                    std::thread::spawn(move || this.serve(stream));
                }
            });
        }
        backend
    }

    /// `shunt_release` lines for NGINX's configuration.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |a: &String| format!("shunt_release {} {a};\n", self.release);
        self.addresses.iter().map(line).collect()
    }

    /// So many bytes are sent for `/big`, more than the sockets on the way can hold.
    pub const BIG: usize = 32 << 20;

    /// From now on requests to `/held` wait.
    ///
    /// # Panics
    ///
    /// Never in a test that is sound.
    pub fn hold(&self) {
        self.gate.state.lock().expect("no panic under it").0 = true;
    }

    /// How many requests wait.
    ///
    /// # Panics
    ///
    /// Never in a test that is sound.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gate.state.lock().expect("no panic under it").1
    }

    /// Lets all of them go.
    ///
    /// # Panics
    ///
    /// Never in a test that is sound.
    pub fn let_go(&self) {
        self.gate.state.lock().expect("no panic under it").0 = false;
        self.gate.changed.notify_all();
    }

    fn serve(&self, stream: impl Read + Write) {
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
        if path.starts_with("/held") {
            let mut state = self.gate.state.lock().ok()?;
            state.1 += 1;
            state = self.gate.changed.wait_while(state, |state| state.0).ok()?;
            state.1 -= 1;
        }
        let status = if path.starts_with("/missing") { "404 Not Found" } else { "200 OK" };
        if path.starts_with("/big") {
            body = vec![b'.'; Self::BIG];
        }
        let body = if body.is_empty() { self.release.as_bytes() } else { &body };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nX-Release: {}\r\nContent-Length: {}\r\n\r\n",
            self.release,
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(body);
        stream.get_mut().write_all(&answer).ok()?;
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
