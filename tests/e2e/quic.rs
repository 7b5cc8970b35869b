//! An HTTP/3 client, and what a server of NGINX needs for it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3_quinn::{BidiStream, OpenStreams};
use http::{Request, Response};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use shunt_tests::free_port;
use shunt_tests::nginx::Nginx;

use crate::h2c::soon;

/// The name in the server's certificate.
const NAME: &str = "quic.test";

/// A connection lives for as long as its client, however long nothing is sent.
const ALIVE: Duration = Duration::from_secs(1);

/// Where a server listens for HTTP/3, and how clients know it.
#[derive(Debug, Clone)]
pub struct Listener {
    port: u16,
    certificate: CertificateDer<'static>,
    pem: String,
    key: String,
}

impl Listener {
    /// A port, and a certificate that signs itself.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new([NAME.to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self {
            port: free_port(),
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The lines of the server. The kernel gives each worker connections of its own.
    pub fn lines(&self) -> String {
        format!(
            "listen 127.0.0.1:{} quic reuseport; http3 on;
             ssl_certificate %FOLDER%/quic.pem; ssl_certificate_key %FOLDER%/quic.key;",
            self.port
        )
    }

    /// Puts the certificate where the lines say.
    pub fn write(&self, nginx: &Nginx) {
        fs::write(nginx.path("quic.pem"), &self.pem).unwrap();
        fs::write(nginx.path("quic.key"), &self.key).unwrap();
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(ALIVE));
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport));
        config
    }
}

/// A connection; its clones share it.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<OpenStreams, Bytes>,
    /// Its socket.
    _endpoint: Endpoint,
}

/// A request that was begun, and its stream.
pub type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

impl Client {
    /// Connects.
    pub async fn connect(listener: &Listener) -> Self {
        let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.port));
        let connecting = endpoint.connect_with(listener.config(), server, NAME).unwrap();
        let connection = soon("a connection", connecting).await.unwrap();
        let connection = h3_quinn::Connection::new(connection);
        // NGINX takes the rest of a frame that it does not know for the body if the frame comes in two
        // pieces (`ngx_http_v3_request_body_filter()`), so none is sent.
        let mut builder = h3::client::builder();
        let (mut driver, requests) = builder.send_grease(false).build(connection).await.unwrap();
        // It ends when the last clone is gone.
        tokio::spawn(async move { driver.wait_idle().await });
        Self { requests, _endpoint: endpoint }
    }

    /// Begins a request whose body is still to come.
    pub async fn begin(&self, request: Request<()>) -> Stream {
        let mut requests = self.requests.clone();
        soon("a stream", requests.send_request(request)).await.unwrap()
    }
}

/// The answer to a request that was sent.
pub async fn answer(stream: &mut Stream) -> Response<Vec<u8>> {
    let response = soon("an answer", stream.recv_response()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(mut data) = soon("a body", stream.recv_data()).await.unwrap() {
        let n = data.remaining();
        bytes.extend_from_slice(&data.copy_to_bytes(n));
    }
    response.map(|()| bytes)
}
