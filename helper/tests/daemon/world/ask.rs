//! A client of the daemon's API that knows nothing of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

/// Sends a request, and gives what comes back until the daemon closes the connection.
fn send(
    socket: &Path,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> (Answer, BufReader<UnixStream>) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // It may have refused it already.
    let _ = stream.write_all(body.as_bytes());
    let mut stream = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let status = line().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let line = line();
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    (Answer { status, headers, body: String::new() }, stream)
}

/// Asks for something that ends.
pub fn ask(socket: &Path, method: &str, target: &str, body: &str) -> Answer {
    let (mut answer, mut stream) = send(socket, method, target, "", body);
    // After it there may be no end but a reset: of a body that is too long, not all was read.
    let length = answer.headers.iter().find(|(name, _)| name == "content-length");
    match length.map(|(_, length)| length.parse().unwrap()) {
        Some(length) => drop(stream.take(length).read_to_string(&mut answer.body).unwrap()),
        None => drop(stream.read_to_string(&mut answer.body).unwrap()),
    }
    answer
}

/// A stream of events.
pub struct Follower(BufReader<UnixStream>);

impl Follower {
    /// Follows a job after an event, 0 from the start.
    pub fn new(socket: &Path, job: u64, after: u64) -> Self {
        let last = format!("Last-Event-ID: {after}\r\n");
        let headers = if after == 0 { "" } else { &last };
        let (answer, stream) = send(socket, "GET", &format!("/v1/jobs/{job}/events"), headers, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), "text/event-stream");
        Self(stream)
    }
}

/// Ids and data, until the stream ends.
impl Iterator for Follower {
    type Item = (u64, serde_json::Value);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut id, mut line) = (None, String::new());
        loop {
            line.clear();
            // A daemon that is killed breaks it off.
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            // Lines of chunks, comments and the like are passed over.
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.trim().parse().unwrap());
            } else if let Some(text) = line.strip_prefix("data: ") {
                let data: serde_json::Value = serde_json::from_str(text).unwrap();
                let id = id.or(data["id"].as_u64()).unwrap();
                assert_eq!(data["id"], id);
                return Some((id, data));
            }
        }
    }
}
