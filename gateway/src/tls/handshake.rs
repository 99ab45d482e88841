//! Handshakes, both sides.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion, ServerConfig,
};

use super::failure::{self, HandshakeError};
use super::record::{feed, flush, halves};
use super::stream::{Reader, Writer};
use crate::net::{self, Buf, Until};
use crate::proto::client_cert::ClientCert;
use crate::proto::limits;
use crate::snapshot::{Challenges, ServerTls, Terms, without_root};

/// [`TlsInfo::version`] of TLS 1.3.
pub const TLS13: &str = "TLSv1.3";

/// What the handshake settled.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// The server name the client asked for.
    pub server_name: Option<String>,
    /// `TLSv1.2` or [`TLS13`], as Envoy writes it.
    pub version: &'static str,
    /// The protocol that was settled, such as `h2`; `None` when neither side cared.
    pub alpn: Option<Box<[u8]>>,
    /// Whether it took up a session.
    pub is_resumed: bool,
    /// What the client has shown, where it was asked for a certificate.
    pub client: Option<Box<ClientCert>>,
    /// The terms that the client has fulfilled; `None` towards origins. Others, when a reload has changed them and it
    /// fulfils those too.
    pub terms: RefCell<Option<Arc<Terms>>>,
}

/// A client's handshake that failed.
pub struct Failed {
    /// Why.
    pub error: HandshakeError,
    /// The connection, where the client has been told.
    told: Option<Box<(net::Reader, net::Writer)>>,
}

impl Failed {
    /// Reads on until the client has closed its side, if it was told why it is refused: closing while bytes are unread resets
    /// the connection, and a client that was about to send a request would lose the alert.
    pub async fn linger(self, until: &Until<'_>) {
        let Some((mut reader, writer)) = self.told.map(|told| *told) else { return };
        writer.shutdown();
        let mut discarded = reader.take().len();
        while discarded < limits::LINGER_BYTES {
            match reader.fill(until).await {
                Ok(1..) => discarded += reader.take().len(),
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Server side. What settles [`ACME_TLS`](crate::snapshot::ACME_TLS) was a challenge, which is over now.
pub async fn accept(
    mut reader: net::Reader,
    mut writer: net::Writer,
    settings: &ServerTls,
    challenges: &Challenges,
    until: &Until<'_>,
) -> Result<(Reader, Writer, TlsInfo), Failed> {
    match accept_on(&mut reader, &mut writer, settings, challenges, until).await {
        Ok((tls, info)) => {
            let (reader, writer) = halves(reader, writer, tls);
            Ok((Reader::Tls(Box::new(reader)), Writer::Tls(writer), info))
        }
        Err(error) => {
            let told = matches!(error, HandshakeError::Tls(_)).then(|| Box::new((reader, writer)));
            Err(Failed { error, told })
        }
    }
}

async fn accept_on(
    reader: &mut net::Reader,
    writer: &mut net::Writer,
    settings: &ServerTls,
    challenges: &Challenges,
    until: &Until<'_>,
) -> Result<(Connection, TlsInfo), HandshakeError> {
    let accepted = match hello(reader, until).await? {
        Ok(accepted) => accepted,
        Err(refused) => return Err(refuse(refused, writer, until).await),
    };
    if let Some(challenge) = challenges.settings(&accepted.client_hello()) {
        return Box::pin(prove(accepted, challenge, reader, writer, until)).await;
    }
    let (config, terms) = settings.config_for(accepted.client_hello().server_name());
    let own = match terms.asks_for_certificates() {
        true => settings.certificate_for(accepted.client_hello()),
        false => None,
    };
    let tls = match accepted.into_connection(config.clone()) {
        Ok(tls) => tls,
        // There is no certificate for the name (RFC 6066 §3).
        Err((error @ rustls::Error::General(_), _)) => {
            let alert = Alert::Own(AlertDescription::UnrecognisedName);
            return Err(refuse((error, alert), writer, until).await);
        }
        Err((error, alert)) => return Err(refuse((error, Alert::Of(alert)), writer, until).await),
    };
    let tls = shake(reader, writer, tls.into(), until).await?;
    let Connection::Server(server) = &tls else { unreachable!("made of a ServerConnection above") };
    let mut info = info(server.server_name().map(|name| without_root(name).to_owned()), &tls);
    if terms.asks_for_certificates() {
        let chain = tls.peer_certificates().unwrap_or_default();
        info.client = ClientCert::of(chain, own.as_ref()).map(Box::new);
    }
    *info.terms.get_mut() = Some(terms.clone());
    Ok((tls, info))
}

/// A handshake that is a challenge of a certificate authority.
async fn prove(
    accepted: Accepted,
    settings: Arc<ServerConfig>,
    reader: &mut net::Reader,
    writer: &mut net::Writer,
    until: &Until<'_>,
) -> Result<(Connection, TlsInfo), HandshakeError> {
    let tls = match accepted.into_connection(settings) {
        Ok(tls) => tls,
        Err((error, alert)) => return Err(refuse((error, Alert::Of(alert)), writer, until).await),
    };
    let tls = shake(reader, writer, tls.into(), until).await?;
    let info = info(None, &tls);
    Ok((tls, info))
}

type Refused = (rustls::Error, Alert);

/// What a client that is refused is told.
enum Alert {
    /// By rustls.
    Of(AcceptedAlert),
    /// By us.
    Own(AlertDescription),
}

/// Reads the ClientHello, which decides about the settings.
async fn hello(reader: &mut net::Reader, until: &Until<'_>) -> Result<Result<Accepted, Refused>, HandshakeError> {
    let mut acceptor = Acceptor::default();
    let mut start = Start::default();
    loop {
        if reader.data().is_empty() && reader.fill(until).await? == 0 {
            return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut data = reader.data();
        let consumed = acceptor.read_tls(&mut data)?;
        start.extend(&reader.data()[..consumed]);
        reader.consume(consumed);
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Ok(accepted)),
            Err(_) if start.is_old_hello() => {
                let error = rustls::PeerIncompatible::Tls12NotOffered.into();
                return Ok(Err((error, Alert::Own(AlertDescription::ProtocolVersion))));
            }
            Err((error, alert)) => return Ok(Err((error, Alert::Of(alert)))),
        }
    }
}

/// The first bytes of a connection: as many as it takes to see which version a ClientHello is of. rustls looks at other
/// things first, and would tell a client of TLS 1.0 that it lacks an extension that its version does not have.
#[derive(Default)]
struct Start {
    bytes: [u8; Start::LEN],
    len: usize,
}

impl Start {
    /// Record header, message header, `legacy_version`.
    const LEN: usize = 5 + 4 + 2;

    fn extend(&mut self, bytes: &[u8]) {
        let free = &mut self.bytes[self.len..];
        let n = free.len().min(bytes.len());
        free[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
    }

    /// Whether it is the ClientHello of SSL 3.0, TLS 1.0 or 1.1. Later ones have 3.3 here, and say more in an extension.
    fn is_old_hello(&self) -> bool {
        const HANDSHAKE: u8 = 22;
        const CLIENT_HELLO: u8 = 1;
        let [kind, .., message, _, _, _, major, minor] = self.bytes;
        self.len == Start::LEN && kind == HANDSHAKE && message == CLIENT_HELLO && major == 3 && minor < 3
    }
}

/// Sends the alert that says why, as far as the peer still listens.
async fn refuse((error, alert): Refused, writer: &mut net::Writer, until: &Until<'_>) -> HandshakeError {
    let mut records = Vec::new();
    let written = match alert {
        Alert::Of(mut alert) => alert.write_all(&mut records).is_ok(),
        Alert::Own(alert) => {
            records.extend_from_slice(&failure::record(alert));
            true
        }
    };
    if written {
        let _ = writer.send(Buf::copy_of(&records), until).await;
    }
    HandshakeError::Tls(error)
}

/// Client side. `alpn`, which may be empty, is offered in place of what the settings say.
pub async fn connect(
    mut reader: net::Reader,
    mut writer: net::Writer,
    (config, alpn): (Arc<ClientConfig>, Vec<Vec<u8>>),
    name: ServerName<'static>,
    until: &Until<'_>,
) -> Result<(Reader, Writer, TlsInfo), HandshakeError> {
    let server_name = name.to_str().into_owned();
    let tls = ClientConnection::new_with_alpn(config, name, alpn);
    let tls = shake(&mut reader, &mut writer, tls?.into(), until).await?;
    let info = info(Some(server_name), &tls);
    let (reader, writer) = halves(reader, writer, tls);
    Ok((Reader::Tls(Box::new(reader)), Writer::Tls(writer), info))
}

async fn shake(
    reader: &mut net::Reader,
    writer: &mut net::Writer,
    tls: Connection,
    until: &Until<'_>,
) -> Result<Connection, HandshakeError> {
    let tls = RefCell::new(tls);
    while tls.borrow().is_handshaking() {
        flush(&tls, writer, until).await?;
        if !tls.borrow().is_handshaking() {
            break;
        }
        if reader.data().is_empty() && reader.fill(until).await? == 0 {
            return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let fed = feed(&mut tls.borrow_mut(), reader);
        if let Err(error) = fed {
            let error = HandshakeError::from(error);
            // The alert that says why, as far as the peer still listens.
            let own = own_alert(&error, &tls.borrow());
            let _ = match own {
                Some(alert) => writer.send(Buf::copy_of(&failure::record(alert)), until).await,
                None => flush(&tls, writer, until).await,
            };
            return Err(error);
        }
    }
    flush(&tls, writer, until).await?;
    Ok(tls.into_inner())
}

/// The alert that is sent in place of rustls's. certificate_required is one of TLS 1.3 (RFC 8446 §6.2); before, who shows no
/// certificate gets handshake_failure (RFC 5246 §7.4.6).
fn own_alert(error: &HandshakeError, tls: &Connection) -> Option<AlertDescription> {
    let is_tls12_client =
        matches!(tls, Connection::Server(_)) && tls.protocol_version() == Some(ProtocolVersion::TLSv1_2);
    let shows_none = matches!(error, HandshakeError::Tls(rustls::Error::NoCertificatesPresented));
    (is_tls12_client && shows_none).then_some(AlertDescription::HandshakeFailure)
}

fn info(server_name: Option<String>, tls: &Connection) -> TlsInfo {
    TlsInfo {
        server_name,
        version: version(tls),
        alpn: tls.alpn_protocol().map(Box::from),
        is_resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        ..TlsInfo::default()
    }
}

fn version(tls: &Connection) -> &'static str {
    match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => TLS13,
        _ => "",
    }
}
