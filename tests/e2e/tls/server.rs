//! Servers of a release that speak HTTP over TLS, and remember how each connection began.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use shunt_tests::backend::Backend;
use tempfile::TempDir;

/// Who signs the servers' certificates: `ca.pem` in a folder.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([]).unwrap();
        // Another name than the servers' certificates have, else those would be their own issuers.
        parameters.distinguished_name.push(DnType::CommonName, "the tests' authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: Issuer::new(parameters, key) }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate for `web.test`, and its key.
    fn sign(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["web.test".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), key.into())
    }
}

/// How connections began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// With a new session.
    pub full: usize,
    /// With one from before.
    pub resumed: usize,
}

/// A release whose servers speak TLS.
pub struct Secure {
    /// What answers.
    pub backend: Backend,
    handshakes: Arc<Mutex<Handshakes>>,
}

impl Secure {
    /// So many servers, which know each other's sessions.
    pub fn start(authority: &Authority, release: &str, servers: usize) -> Self {
        let (certificate, key) = authority.sign();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        let config = Arc::new(config.unwrap());
        let handshakes = Arc::<Mutex<Handshakes>>::default();
        let seen = handshakes.clone();
        let speak = move |backend: &Backend, stream| {
            if let Some(stream) = accept(config.clone(), stream, &seen) {
                backend.http(stream);
            }
        };
        Self { backend: Backend::speaking(release, servers, "127.0.0.1:0", speak), handshakes }
    }

    /// Those until now.
    pub fn handshakes(&self) -> Handshakes {
        *self.handshakes.lock().unwrap()
    }
}

/// Begins a connection; `None` when the client does not go through with it.
fn accept(
    config: Arc<ServerConfig>,
    mut stream: TcpStream,
    seen: &Mutex<Handshakes>,
) -> Option<StreamOwned<ServerConnection, TcpStream>> {
    let mut connection = ServerConnection::new(config).ok()?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).ok()?;
    }
    let mut seen = seen.lock().ok()?;
    match connection.handshake_kind()? {
        HandshakeKind::Resumed => seen.resumed += 1,
        _ => seen.full += 1,
    }
    Some(StreamOwned::new(connection, stream))
}
