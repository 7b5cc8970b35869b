//! A change over an admin API: one request on a connection of its own.

use std::path::Path;

use shunt_tests::client::Connection;

/// Asks for a change on a unix socket.
///
/// # Errors
///
/// What the system says, or what the API answers if it refuses.
pub fn change(
    socket: &Path,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(), String> {
    let answer = Connection::unix(socket).and_then(|mut connection| {
        connection.send(method, target, headers, body)?;
        connection.receive()
    });
    let answer = answer.map_err(|e| e.to_string())?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("{method} {target}: {status} {}", answer.text())),
    }
}
