//! Where a request went, and why, by `$shunt_release` and `$shunt_reason`.

use shunt_tests::nginx::Nginx;

/// The release and the reason of an answer.
pub type Went = (String, String);

/// What is expected of one.
pub fn answer(release: &str, reason: &str) -> Went {
    (release.to_owned(), reason.to_owned())
}

/// Asks over a new connection.
#[track_caller]
pub fn ask(nginx: &Nginx, headers: &[(&str, &str)]) -> Went {
    let mut connection = nginx.connect();
    connection.send("GET", "/", headers, b"").unwrap();
    let response = connection.receive().unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let reason = response.header("x-reason").unwrap_or_default().to_owned();
    (response.release().to_owned(), reason)
}
