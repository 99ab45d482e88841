//! A TLS client that shows what was negotiated.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::certs::Authority;
use crate::conn::Conn;
use crate::stream::{self, Stream};
use crate::wait::DEADLINE;

/// A client's settings, and the tickets it has been given: connections of one `TlsClient` resume each other's sessions.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Handshake {
    /// The protocol version.
    pub version: ProtocolVersion,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// The server's certificate; of a resumed session, that of the session it resumes.
    pub certificate: CertificateDer<'static>,
    /// Whether it was full or resumed a session.
    pub kind: HandshakeKind,
}

impl TlsClient {
    /// One that trusts `authority`, speaks every version and offers no ALPN.
    pub fn new(authority: &Authority) -> TlsClient {
        TlsClient::with(authority, ALL_VERSIONS, &[])
    }

    /// One that speaks only `versions` and offers `alpn`.
    pub fn with(authority: &Authority, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).expect("a root certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(64);
        TlsClient(Arc::new(config))
    }

    /// Connects and shakes hands.
    pub fn connect(&self, addr: SocketAddr, server_name: &str) -> io::Result<(Conn, Handshake)> {
        let mut tcp = TcpStream::connect_timeout(&addr, DEADLINE)?;
        stream::prepare(&tcp)?;
        let name = ServerName::try_from(server_name.to_owned()).expect("a server name");
        let mut tls = ClientConnection::new(self.0.clone(), name).expect("a client connection");
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let handshake = Handshake {
            version: tls.protocol_version().expect("a version after the handshake"),
            alpn: tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            certificate: tls.peer_certificates().expect("the server's certificates")[0].clone(),
            kind: tls.handshake_kind().expect("a kind after the handshake"),
        };
        Ok((Conn::new(Stream::Tls(Box::new(StreamOwned::new(tls, tcp))), 0), handshake))
    }
}
