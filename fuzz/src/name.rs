//! Names of releases.

use shunt_api::call::encode;
use shunt_api::{Call, Method, ReleaseName};

use crate::{Verdict, parse, reads_the_same};

/// Whatever is a name can stand unescaped in a path, in a URL and in a header.
pub fn run(input: &[u8]) -> Verdict {
    let Some((name, text)) = parse::<ReleaseName>(input) else { return Verdict::Refused };
    assert_eq!(name.as_str(), text);
    assert_eq!(encode(text), text);
    assert_eq!(std::path::Path::new(text).file_name(), Some(text.as_ref()));
    let path = format!("/v1/upstreams/web/releases/{text}");
    let call = Call::PutRelease { upstream: "web".to_owned(), release: name.clone() };
    assert_eq!(Call::parse(Method::Put, &path, ""), Ok(call));
    reads_the_same(&name);
    Verdict::Accepted
}
