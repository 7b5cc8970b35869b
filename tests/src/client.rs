//! A small HTTP/1.1 client on raw sockets, to see exactly what goes over a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Either kind of stream.
pub trait Stream: Read + Write + Send + AsFd {}

impl<T: Read + Write + Send + AsFd> Stream for T {}

/// A connection.
pub struct Connection {
    stream: BufReader<Box<dyn Stream>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The release that answered.
    #[must_use]
    pub fn release(&self) -> &str {
        self.header("x-release").unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Connection {
    /// Connects to a port of this machine.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn tcp(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Whether the other side still has it open, and has sent nothing: what a client looks at before it
    /// uses a connection again.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let unread = !self.stream.buffer().is_empty();
        !unread && recv(self.stream.get_ref(), &mut [0u8; 1][..], flags) == Err(Errno::AGAIN)
    }

    /// Sends a request and leaves the connection open for more.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn read(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads an answer up to its body.
    ///
    /// # Errors
    ///
    /// What the system says; also when what comes is no answer.
    pub fn receive_head(&mut self) -> io::Result<Response> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| wrong(&line))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| wrong(line))?;
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        Ok(Response { status, headers, body: Vec::new() })
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// What the system says; also when what comes is no answer.
    pub fn receive(&mut self) -> io::Result<Response> {
        let mut response = self.receive_head()?;
        if matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| wrong(length))?;
            response.body = self.read(length)?;
        } else if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let length =
                    usize::from_str_radix(line.trim_end(), 16).map_err(|_| wrong(&line))?;
                let mut chunk = self.read(length + 2)?;
                if length == 0 {
                    break;
                }
                chunk.truncate(length);
                response.body.append(&mut chunk);
            }
        } else {
            self.stream.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> io::Result<Response> {
        self.send(method, target, &[], body)?;
        self.receive()
    }
}
