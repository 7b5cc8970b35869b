//! A FastCGI responder (FastCGI specification 1.0), one request after the other on a connection.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use super::Call;
use crate::backend::Backend;

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
/// Flag of `BEGIN_REQUEST`: the connection is not closed after the answer.
const KEEP_CONN: u8 = 1;

/// Serves a connection.
pub fn serve(backend: &Backend, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    while answer(backend, &mut stream).is_some() {}
}

/// Answers one request; `None` ends the connection.
fn answer(backend: &Backend, stream: &mut BufReader<TcpStream>) -> Option<()> {
    let (mut parameters, mut body, mut keep) = (Vec::new(), Vec::new(), false);
    let id = loop {
        let (kind, id, content) = record(stream)?;
        match kind {
            BEGIN_REQUEST => keep = content.get(2)? & KEEP_CONN != 0,
            PARAMS => parameters.extend(content),
            // An empty record ends the body, and with it the request.
            STDIN if content.is_empty() => break id,
            STDIN => body.extend(content),
            _ => return None,
        }
    };
    let call = Call { parameters: pairs(&parameters)? };
    let mut out = Vec::new();
    for part in call.answer(backend, &body).chunks(usize::from(u16::MAX)) {
        push(&mut out, STDOUT, id, part);
    }
    push(&mut out, STDOUT, id, b"");
    push(&mut out, END_REQUEST, id, &[0; 8]);
    stream.get_mut().write_all(&out).ok()?;
    keep.then_some(())
}

/// Reads a record: its type, its request, its content.
fn record(stream: &mut impl Read) -> Option<(u8, u16, Vec<u8>)> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).ok()?;
    let [VERSION, kind, id1, id0, length1, length0, padding, _] = head else { return None };
    let length = usize::from(u16::from_be_bytes([length1, length0]));
    let mut content = vec![0; length + usize::from(padding)];
    stream.read_exact(&mut content).ok()?;
    content.truncate(length);
    Some((kind, u16::from_be_bytes([id1, id0]), content))
}

fn push(out: &mut Vec<u8>, kind: u8, id: u16, content: &[u8]) {
    let length = u16::try_from(content.len()).expect("a part of a record's size");
    let ([id1, id0], [length1, length0]) = (id.to_be_bytes(), length.to_be_bytes());
    out.extend([VERSION, kind, id1, id0, length1, length0, 0, 0]);
    out.extend(content);
}

/// Reads names and values, each with its length before it.
fn pairs(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    while !bytes.is_empty() {
        let name = length(&mut bytes)?;
        let value = length(&mut bytes)?;
        let (name, rest) = bytes.split_at_checked(name)?;
        let (value, rest) = rest.split_at_checked(value)?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        pairs.push((text(name), text(value)));
        bytes = rest;
    }
    Some(pairs)
}

/// One byte, or four with the highest bit set.
fn length(bytes: &mut &[u8]) -> Option<usize> {
    let (first, rest) = bytes.split_first()?;
    if first & 0x80 == 0 {
        *bytes = rest;
        return Some(usize::from(*first));
    }
    let (four, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*four) & 0x7fff_ffff).ok()
}
