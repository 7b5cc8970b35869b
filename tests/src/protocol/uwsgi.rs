//! A uwsgi server: a block of parameters, the body, the answer, and the connection ends.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use super::Call;
use crate::backend::Backend;

/// Serves a connection.
pub fn serve(backend: &Backend, stream: TcpStream) {
    // Whoever is left without an answer sees the connection end.
    let _ = answer(backend, &mut BufReader::new(stream));
}

fn answer(backend: &Backend, stream: &mut BufReader<TcpStream>) -> Option<()> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let [0, size0, size1, 0] = head else { return None };
    let mut block = vec![0; usize::from(u16::from_le_bytes([size0, size1]))];
    stream.read_exact(&mut block).ok()?;
    let mut call = Call::default();
    let mut block = block.as_slice();
    while !block.is_empty() {
        let name = text(&mut block)?;
        call.parameters.push((name, text(&mut block)?));
    }
    let mut body = vec![0; call.length()];
    stream.read_exact(&mut body).ok()?;
    stream.get_mut().write_all(&call.answer(backend, &body)).ok()
}

/// A text with its length before it.
fn text(block: &mut &[u8]) -> Option<String> {
    let (length, rest) = block.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *block = rest;
    Some(String::from_utf8_lossy(text).into_owned())
}
