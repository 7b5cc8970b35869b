//! Addresses of servers.

use std::path::Path;

use shunt_api::Address;

use crate::{Verdict, parse, reads_the_same};

/// Whatever is an address can be connected to as far as its text tells, and is written so that it
/// reads the same.
pub fn run(input: &[u8]) -> Verdict {
    let Some((address, _)) = parse::<Address>(input) else { return Verdict::Refused };
    match &address {
        Address::Ip(ip) => assert_ne!(ip.port(), 0),
        Address::Unix(path) => {
            let length = path.as_os_str().len();
            assert!(path.starts_with(Path::new("/")) && length <= Address::MAX_UNIX_PATH);
        }
    }
    let text = address.to_string();
    // It becomes a text of NGINX's, and a line of logs.
    assert!(!text.bytes().any(|b| b.is_ascii_control()), "{text:?}");
    assert_eq!(text.parse(), Ok(address.clone()));
    reads_the_same(&address);
    Verdict::Accepted
}
