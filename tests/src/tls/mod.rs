//! A TLS client that shows what was negotiated, and a server for origins.

mod server;
mod session;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ALL_VERSIONS, AlertDescription, CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind,
    NamedGroup, ProtocolVersion, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};

use crate::certs::{Authority, Leaf};
use crate::conn::Conn;
use crate::stream::{self, Stream};
use crate::wait::DEADLINE;

pub use server::{Shaken, TlsServer};
pub use session::Session;

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
    /// The cipher suite.
    pub suite: CipherSuite,
    /// The key exchange; `None` where a session was resumed without one.
    pub group: Option<NamedGroup>,
}

impl TlsClient {
    /// One that trusts `authority`, speaks every version and offers no ALPN.
    pub fn new(authority: &Authority) -> TlsClient {
        TlsClient::with(authority, ALL_VERSIONS, &[])
    }

    /// One that trusts this root.
    pub fn trusting(root: CertificateDer<'static>) -> TlsClient {
        TlsClient::of(root, ALL_VERSIONS, &[])
    }

    /// One that speaks only `versions` and offers `alpn`.
    pub fn with(authority: &Authority, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> TlsClient {
        TlsClient::of(authority.der(), versions, alpn)
    }

    fn of(root: CertificateDer<'static>, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(64);
        TlsClient(Arc::new(config))
    }

    /// The same, with another certificate shown to servers that ask for one, and without tickets.
    pub fn showing(&self, leaf: &Leaf) -> TlsClient {
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a private key");
        let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key for signatures");
        let mut config = ClientConfig::clone(&self.0);
        config.client_auth_cert_resolver =
            Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![leaf.der.clone()], key)));
        config.resumption = Resumption::in_memory_sessions(64);
        TlsClient(Arc::new(config))
    }

    /// One that speaks every version, and these ways to agree on a key, the favourite first.
    pub fn agreeing_by(authority: &Authority, groups: &[&'static dyn SupportedKxGroup]) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).expect("a root certificate");
        let provider = CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(ALL_VERSIONS)
            .expect("versions the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsClient(Arc::new(config))
    }

    /// The alert by which the server refuses a connection; it may come after the client's end of the handshake.
    ///
    /// # Panics
    /// When the server takes the connection, or ends it without an alert.
    pub fn alert(&self, addr: SocketAddr, server_name: &str) -> AlertDescription {
        let mut tcp = TcpStream::connect_timeout(&addr, DEADLINE).expect("a connection");
        stream::prepare(&tcp).expect("a socket");
        let name = ServerName::try_from(server_name.to_owned()).expect("a server name");
        let mut tls = ClientConnection::new(self.0.clone(), name).expect("a client connection");
        loop {
            match tls.complete_io(&mut tcp) {
                Ok((0, 0)) => panic!("{server_name}: the server ended without an alert"),
                Ok(_) => {}
                Err(error) => match error.get_ref().and_then(|error| error.downcast_ref()) {
                    Some(rustls::Error::AlertReceived(alert)) => return *alert,
                    // A server that takes the connection waits for a request.
                    _ => panic!("{server_name}: no alert: {error}"),
                },
            }
        }
    }

    /// One that takes any certificate: for tests that ask for a name and look at what comes.
    pub fn accepting_anything(authority: &Authority) -> TlsClient {
        let mut client = TlsClient::new(authority);
        let config = Arc::get_mut(&mut client.0).expect("not shared yet");
        config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(aws_lc_rs::default_provider())));
        client
    }

    /// Connects and shakes hands.
    pub fn connect(&self, addr: SocketAddr, server_name: &str) -> io::Result<(Conn, Handshake)> {
        self.handshake(addr, server_name, |tcp| tcp)
    }

    /// The same, with `first` sent ahead of the handshake.
    pub fn connect_after(&self, first: &[u8], addr: SocketAddr, server_name: &str) -> io::Result<(Conn, Handshake)> {
        self.handshake(addr, server_name, |mut tcp| {
            tcp.write_all(first).expect("the first bytes");
            tcp
        })
    }

    /// The same, with every byte of the handshake in a packet of its own.
    pub fn connect_bytewise(&self, addr: SocketAddr, server_name: &str) -> io::Result<(Conn, Handshake)> {
        self.handshake(addr, server_name, Bytewise)
    }

    fn handshake<T: Read + Write>(
        &self,
        addr: SocketAddr,
        server_name: &str,
        wrap: impl FnOnce(TcpStream) -> T,
    ) -> io::Result<(Conn, Handshake)> {
        let tcp = TcpStream::connect_timeout(&addr, DEADLINE)?;
        stream::prepare(&tcp)?;
        let name = ServerName::try_from(server_name.to_owned()).expect("a server name");
        let mut tls = ClientConnection::new(self.0.clone(), name).expect("a client connection");
        let mut wrapped = wrap(tcp.try_clone()?);
        while tls.is_handshaking() {
            tls.complete_io(&mut wrapped)?;
        }
        let handshake = Handshake {
            version: tls.protocol_version().expect("a version after the handshake"),
            alpn: tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            certificate: tls.peer_certificates().expect("the server's certificates")[0].clone(),
            kind: tls.handshake_kind().expect("a kind after the handshake"),
            suite: tls.negotiated_cipher_suite().expect("a suite after the handshake").suite(),
            group: tls.negotiated_key_exchange_group().map(|group| group.name()),
        };
        Ok((Conn::new(Stream::Tls(Arc::new(Session::new(tls.into(), tcp))), 0), handshake))
    }
}

/// Writes a byte at a time. With `TCP_NODELAY` each is a packet.
struct Bytewise(TcpStream);

impl Read for Bytewise {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Bytewise {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(&buf[..buf.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Checks that the server has the key of its certificate, and not whose certificate it is.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
