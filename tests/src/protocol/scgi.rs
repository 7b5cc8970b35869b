//! An SCGI server: parameters as a netstring, the body, the answer, and the connection ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::Call;
use crate::backend::Backend;

/// Serves a connection.
pub fn serve(backend: &Backend, stream: TcpStream) {
    // Whoever is left without an answer sees the connection end.
    let _ = answer(backend, &mut BufReader::new(stream));
}

fn answer(backend: &Backend, stream: &mut BufReader<TcpStream>) -> Option<()> {
    let mut length = Vec::new();
    stream.read_until(b':', &mut length).ok()?;
    length.pop()?;
    let length: usize = String::from_utf8(length).ok()?.parse().ok()?;
    // And the comma behind it.
    let mut block = vec![0; length + 1];
    stream.read_exact(&mut block).ok()?;
    block.pop()?;
    let text = String::from_utf8(block).ok()?;
    let mut texts = text.split_terminator('\0').map(ToOwned::to_owned);
    let mut call = Call::default();
    while let Some(name) = texts.next() {
        call.parameters.push((name, texts.next()?));
    }
    let mut body = vec![0; call.length()];
    stream.read_exact(&mut body).ok()?;
    stream.get_mut().write_all(&call.answer(backend, &body)).ok()
}
