//! What servers of a release can speak other than HTTP: [`crate::backend::Backend::speaking`] takes
//! any of these.

pub mod fastcgi;
pub mod memcached;
pub mod scgi;
pub mod uwsgi;

use crate::backend::Backend;

/// What a request of a gateway's protocol says.
#[derive(Debug, Default)]
struct Call {
    parameters: Vec<(String, String)>,
}

impl Call {
    fn parameter(&self, name: &str) -> &str {
        let found = self.parameters.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// How long the body is that follows.
    fn length(&self) -> usize {
        self.parameter("CONTENT_LENGTH").parse().unwrap_or(0)
    }

    /// The answer as a gateway gives it (RFC 3875, section 6): the body of the request, or the
    /// release's name.
    fn answer(&self, backend: &Backend, body: &[u8]) -> Vec<u8> {
        backend.wait(self.parameter("REQUEST_URI"));
        let body = if body.is_empty() { backend.release().as_bytes() } else { body };
        let mut answer = format!(
            "Status: 200 OK\r\nX-Release: {}\r\nContent-Length: {}\r\n\r\n",
            backend.release(),
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(body);
        answer
    }
}
