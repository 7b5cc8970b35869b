//! A URL of plain HTTP: whom to ask, and for what.

use std::net::SocketAddr;

/// As in `http://shop.example:8080/health?all=1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    name: String,
    port: u16,
    /// Host and port as they are written: what the `Host` header says.
    pub host: String,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{url:?}: only http:// can be asked"));
        }
        let host = uri.authority().ok_or_else(|| format!("{url:?} has no host"))?;
        let name = host.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.as_str().contains('@') {
            return Err(format!("{url:?}: a user and a password are not sent, leave them out"));
        }
        // One that is too large is none for the URL's own parser.
        let after = host.as_str().rsplit_once(host.host()).map_or("", |(_, after)| after);
        let port = match after.strip_prefix(':') {
            None => 80,
            Some(port) => port.parse().map_err(|_| format!("{url:?}: {port:?} is not a port"))?,
        };
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { name, port, host: host.to_string(), path })
    }

    /// Looks its host up, and gives its addresses in the order in which they should be tried.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let found = tokio::net::lookup_host((self.name.as_str(), self.port)).await;
        Ok(found.map_err(|e| format!("{}: {e}", self.host))?.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_has_an_address_a_host_and_a_path() {
        for (text, port, host, path) in [
            ("http://127.0.0.1", 80, "127.0.0.1", "/"),
            ("http://127.0.0.1:8080/a?b", 8080, "127.0.0.1:8080", "/a?b"),
            ("http://[::1]:81/", 81, "[::1]:81", "/"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.host.as_str(), url.path.as_str()), (host, path));
            let found = url.resolve().await.unwrap();
            assert!(found.iter().all(|a| a.port() == port && a.ip().is_loopback()), "{found:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        for (text, said) in [
            ("https://127.0.0.1/", "only http://"),
            ("/health", "only http://"),
            ("http://", "\"http://\""),
            ("http://127.0.0.1:99999/", "not a port"),
            ("http://127.0.0.1:x/", "\"http://127.0.0.1:x/\""),
            ("http://a:b@127.0.0.1/", "leave them out"),
            ("http://a b/", "\"http://a b/\""),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
