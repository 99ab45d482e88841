//! TLS of origins.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    ALL_VERSIONS, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::Session;
use crate::certs::{Authority, Leaf};
use crate::stream::Stream;

/// A server's settings, and what it has seen.
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    seen: Arc<Mutex<Vec<Shaken>>>,
}

/// A handshake that ended well, as the server saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shaken {
    /// The protocol version.
    pub version: ProtocolVersion,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// The server name that the client asked for.
    pub server_name: Option<String>,
    /// The client's certificate, where it was asked for one; of a resumed session, that of the session it resumes.
    pub certificate: Option<CertificateDer<'static>>,
    /// Whether it was full or resumed a session.
    pub kind: HandshakeKind,
}

impl TlsServer {
    /// One that shows `leaf` to whoever asks, and takes the first of `alpn` that a client offers.
    pub fn new(leaf: &Leaf, alpn: &[&str]) -> TlsServer {
        TlsServer::with(leaf, alpn, ALL_VERSIONS, WebPkiClientVerifier::no_client_auth())
    }

    /// The same for one version.
    pub fn speaking(version: &'static SupportedProtocolVersion, leaf: &Leaf, alpn: &[&str]) -> TlsServer {
        TlsServer::with(leaf, alpn, &[version], WebPkiClientVerifier::no_client_auth())
    }

    /// One for one version that takes clients only with a certificate of `clients`.
    pub fn demanding(
        clients: &Authority,
        version: &'static SupportedProtocolVersion,
        leaf: &Leaf,
        alpn: &[&str],
    ) -> TlsServer {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der()).expect("a root certificate");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        TlsServer::with(leaf, alpn, &[version], verifier.build().expect("a verifier"))
    }

    fn with(
        leaf: &Leaf,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
        clients: Arc<dyn ClientCertVerifier>,
    ) -> TlsServer {
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a private key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions the provider has")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![leaf.der.clone()], key)
            .expect("a certificate and its key");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsServer { config: Arc::new(config), seen: Arc::default() }
    }

    /// The handshakes that ended well, in order.
    pub fn seen(&self) -> Vec<Shaken> {
        self.seen.lock().unwrap().clone()
    }

    /// Shakes hands with the client behind `tcp`.
    pub fn accept(&self, mut tcp: TcpStream) -> io::Result<Stream> {
        let mut tls = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        // The tickets.
        while tls.wants_write() {
            tls.write_tls(&mut tcp)?;
        }
        self.seen.lock().unwrap().push(Shaken {
            version: tls.protocol_version().expect("a version after the handshake"),
            alpn: tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            server_name: tls.server_name().map(str::to_owned),
            certificate: tls.peer_certificates().map(|chain| chain[0].clone()),
            kind: tls.handshake_kind().expect("a kind after the handshake"),
        });
        Ok(Stream::Tls(Arc::new(Session::new(tls.into(), tcp))))
    }
}
