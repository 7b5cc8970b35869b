//! A memcached that has the release's name under every key.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::backend::Backend;

/// Serves a connection.
pub fn serve(backend: &Backend, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    while answer(backend, &mut stream).is_some() {}
}

/// Answers one `get`; `None` ends the connection.
fn answer(backend: &Backend, stream: &mut BufReader<TcpStream>) -> Option<()> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let key = line.strip_prefix("get ")?.trim_end();
    backend.wait(key);
    let value = backend.release();
    let answer = format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
    stream.get_mut().write_all(answer.as_bytes()).ok()
}
