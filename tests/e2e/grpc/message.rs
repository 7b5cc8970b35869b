//! Messages of gRPC: a flag, the length, the text.

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;

use crate::h2c::soon;

/// The head of a call.
pub const HEADERS: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

/// Flag and length.
const PREFIX: usize = 5;

/// A message as it goes over the wire.
pub fn frame(text: &str) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(text.len()).unwrap());
    frame.put_slice(text.as_bytes());
    frame.freeze()
}

/// The messages of a stream, however it is cut into frames of HTTP/2.
pub struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    /// Those of this stream.
    pub fn new(body: RecvStream) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next one; none when the stream has ended, or was reset.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let [_, a, b, c, d, ..] = self.buffer[..] {
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
                if self.buffer.len() >= PREFIX + length {
                    let message = self.buffer.split_to(PREFIX + length).split_off(PREFIX);
                    return Some(String::from_utf8(message.to_vec()).unwrap());
                }
            }
            let data = soon("a message", self.body.data()).await?.ok()?;
            self.body.flow_control().release_capacity(data.len()).ok()?;
            self.buffer.extend_from_slice(&data);
        }
    }

    /// `grpc-status`, which comes after the last message.
    pub async fn status(&mut self) -> Option<String> {
        let trailers = soon("the end", self.body.trailers()).await.ok()??;
        Some(trailers.get("grpc-status")?.to_str().ok()?.to_owned())
    }
}
