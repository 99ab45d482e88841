//! Handshakes, both sides.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{ClientConfig, ClientConnection, Connection, ProtocolVersion};

use super::record::{feed, flush, halves};
use super::stream::{Reader, Writer};
use crate::net::{self, Buf, Until};
use crate::snapshot::{Challenges, ServerTls};

/// What the handshake settled.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// The server name the client asked for.
    pub server_name: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`, as Envoy writes it.
    pub version: &'static str,
    /// The protocol that was settled, such as `h2`; `None` when neither side cared.
    pub alpn: Option<Box<[u8]>>,
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The peer broke the protocol, offered nothing acceptable, or its certificate does not verify.
    Tls(String),
    /// The deadline passed.
    TimedOut,
    /// The connection ended.
    Io(io::Error),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Tls(error) => f.write_str(error),
            HandshakeError::TimedOut => f.write_str("handshake timed out"),
            HandshakeError::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => HandshakeError::TimedOut,
            io::ErrorKind::InvalidData => HandshakeError::Tls(error.to_string()),
            _ => HandshakeError::Io(error),
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
) -> Result<(Reader, Writer, TlsInfo), HandshakeError> {
    let accepted = match hello(&mut reader, until).await? {
        Ok(accepted) => accepted,
        Err(refused) => return Err(refuse(refused, &mut writer, until).await),
    };
    let hello = accepted.client_hello();
    let challenge = challenges.settings(&hello);
    let config = challenge.unwrap_or_else(|| settings.config_for(hello.server_name()).clone());
    let tls = match accepted.into_connection(config) {
        Ok(tls) => tls,
        Err(refused) => return Err(refuse(refused, &mut writer, until).await),
    };
    let (reader, writer, tls) = shake(reader, writer, tls.into(), until).await?;
    let Connection::Server(server) = &tls else { unreachable!("made of a ServerConnection above") };
    let info = info(server.server_name().map(str::to_owned), &tls);
    let (reader, writer) = halves(reader, writer, tls);
    Ok((Reader::Tls(Box::new(reader)), Writer::Tls(writer), info))
}

type Refused = (rustls::Error, AcceptedAlert);

/// Reads the ClientHello, which decides about the settings.
async fn hello(reader: &mut net::Reader, until: &Until<'_>) -> Result<Result<Accepted, Refused>, HandshakeError> {
    let mut acceptor = Acceptor::default();
    loop {
        if reader.data().is_empty() && reader.fill(until).await? == 0 {
            return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut data = reader.data();
        let consumed = acceptor.read_tls(&mut data)?;
        reader.consume(consumed);
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Ok(accepted)),
            Err(refused) => return Ok(Err(refused)),
        }
    }
}

/// Sends the alert that says why, as far as the peer still listens.
async fn refuse((error, mut alert): Refused, writer: &mut net::Writer, until: &Until<'_>) -> HandshakeError {
    let mut records = Vec::new();
    if alert.write_all(&mut records).is_ok() {
        let _ = writer.send(Buf::copy_of(&records), until).await;
    }
    HandshakeError::Tls(error.to_string())
}

/// Client side. `alpn`, which may be empty, is offered in place of what the settings say.
pub async fn connect(
    reader: net::Reader,
    writer: net::Writer,
    (config, alpn): (Arc<ClientConfig>, Vec<Vec<u8>>),
    name: ServerName<'static>,
    until: &Until<'_>,
) -> Result<(Reader, Writer, TlsInfo), HandshakeError> {
    let server_name = name.to_str().into_owned();
    let tls = ClientConnection::new_with_alpn(config, name, alpn);
    let tls = tls.map_err(|error| HandshakeError::Tls(error.to_string()))?;
    let (reader, writer, tls) = shake(reader, writer, tls.into(), until).await?;
    let info = info(Some(server_name), &tls);
    let (reader, writer) = halves(reader, writer, tls);
    Ok((Reader::Tls(Box::new(reader)), Writer::Tls(writer), info))
}

async fn shake(
    mut reader: net::Reader,
    mut writer: net::Writer,
    tls: Connection,
    until: &Until<'_>,
) -> Result<(net::Reader, net::Writer, Connection), HandshakeError> {
    let tls = RefCell::new(tls);
    while tls.borrow().is_handshaking() {
        flush(&tls, &mut writer, until).await?;
        if !tls.borrow().is_handshaking() {
            break;
        }
        if reader.data().is_empty() && reader.fill(until).await? == 0 {
            return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let fed = feed(&mut tls.borrow_mut(), &mut reader);
        if let Err(error) = fed {
            // The alert that says why, as far as the peer still listens.
            let _ = flush(&tls, &mut writer, until).await;
            return Err(error.into());
        }
    }
    flush(&tls, &mut writer, until).await?;
    Ok((reader, writer, tls.into_inner()))
}

fn info(server_name: Option<String>, tls: &Connection) -> TlsInfo {
    TlsInfo { server_name, version: version(tls), alpn: tls.alpn_protocol().map(Box::from) }
}

fn version(tls: &Connection) -> &'static str {
    match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}
