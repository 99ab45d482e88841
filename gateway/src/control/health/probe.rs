//! One question to one endpoint. Its caller limits the time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use super::{Question, get, grpc};
use crate::config::model::{HealthProbe, ProxyVersion, VipProtocol};
use crate::proto::proxy_protocol;
use crate::xdp::ProbeWay;

/// A connection to an endpoint, over which it can be asked.
pub struct Connection {
    /// Its bytes, in the clear on this side.
    pub io: Box<dyn Io>,
    /// Whether there is TLS below.
    pub is_tls: bool,
    /// The protocol that its handshake settled (ALPN).
    pub alpn: Option<Vec<u8>>,
}

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Asks; the error says what went wrong. `way` is the one to the virtual address that the endpoint is asked at, in place of
/// its own.
pub async fn probe(question: &Question, way: Option<&ProbeWay>) -> Result<(), String> {
    let address = question.address;
    match &question.check.probe {
        HealthProbe::Tcp => connect(address, way).await.map(drop),
        HealthProbe::Udp { send, expect } => udp(address, send, expect.as_deref(), way).await,
        HealthProbe::Tls => {
            let mut connection = open(question, way).await?;
            // The handshake was all; whether the endpoint hears the goodbye does not matter.
            let _ = connection.io.shutdown().now_or_never();
            Ok(())
        }
        HealthProbe::Http { version, path, host, statuses } => {
            let host = host.as_deref().unwrap_or(&question.host);
            let status = get::status(open(question, way).await?, *version, host, path);
            match status.await.map_err(|why| format!("no answer of HTTP from {address}: {why}"))? {
                status if statuses.contains(&status) => Ok(()),
                status => Err(format!("{address} answers {path} with {status}")),
            }
        }
        HealthProbe::Grpc { service, host } => {
            let host = host.as_deref().unwrap_or(&question.host);
            grpc::check(open(question, way).await?, host, service).await.map_err(|unwell| match unwell {
                grpc::Unwell::NoAnswer(why) => format!("no answer of gRPC from {address}: {why}"),
                grpc::Unwell::Says(what) => format!("{address} answers the gRPC health check with {what}"),
            })
        }
    }
}

/// Connects, sends the PROXY header, and shakes hands: what the check wants of these.
async fn open(question: &Question, way: Option<&ProbeWay>) -> Result<Connection, String> {
    let address = question.address;
    let mut stream = connect(address, way).await?;
    // What is small and late, as in the handshake of HTTP/2, must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let header = own_proxy_header(question.check.proxy_protocol);
    stream.write_all(&header).await.map_err(|error| format!("no PROXY header for {address}: {error}"))?;
    let Some(tls) = &question.tls else {
        return Ok(Connection { io: Box::new(stream), is_tls: false, alpn: None });
    };
    let shaken = TlsConnector::from(tls.config.clone()).connect(tls.name.clone(), stream).await;
    let stream = shaken.map_err(|error| format!("no TLS with {address}: {error}"))?;
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Connection { io: Box::new(stream), is_tls: true, alpn })
}

/// The header that says that nobody else's connection is passed on.
fn own_proxy_header(version: Option<ProxyVersion>) -> Vec<u8> {
    let mut out = Vec::new();
    match version {
        None => {}
        Some(ProxyVersion::V1) => proxy_protocol::write_v1_own(&mut out),
        Some(ProxyVersion::V2) => proxy_protocol::write_v2_own(&mut out),
    }
    out
}

async fn connect(address: SocketAddr, way: Option<&ProbeWay>) -> Result<TcpStream, String> {
    let Some(way) = way else { return TcpStream::connect(address).await.map_err(|error| refused(address, &error)) };
    let connected = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        SockRef::from(&socket).set_mark(way.mark())?;
        // Ends by RST: in TIME-WAIT it would keep its port from all others for a minute.
        SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        // A port of its own, by which the answers of endpoints are told apart: they all come from the virtual address.
        socket.bind(any_port(address))?;
        let port = socket.local_addr()?.port();
        way.begin(VipProtocol::Tcp, port);
        Ok((socket.connect(address).await?, port))
    };
    let (stream, port) = connected.await.map_err(|error: io::Error| refused(address, &error))?;
    check_way(way, VipProtocol::Tcp, port, address)?;
    Ok(stream)
}

fn refused(address: SocketAddr, error: &io::Error) -> String {
    format!("cannot connect to {address}: {error}")
}

/// An answer of the endpoint's own address proves nothing about the virtual one.
fn check_way(way: &ProbeWay, protocol: VipProtocol, port: u16, endpoint: SocketAddr) -> Result<(), String> {
    match way.was_taken(protocol, port, endpoint.ip()) {
        true => Ok(()),
        false => Err(format!("{} is reached by an interface that is not in `interfaces` of [xdp]", endpoint.ip())),
    }
}

fn any_port(towards: SocketAddr) -> SocketAddr {
    match towards {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

async fn udp(address: SocketAddr, send: &[u8], expect: Option<&[u8]>, way: Option<&ProbeWay>) -> Result<(), String> {
    let mut answer = vec![0; 64 << 10];
    let asked = async {
        let socket = UdpSocket::bind(any_port(address)).await?;
        let port = socket.local_addr()?.port();
        if let Some(way) = way {
            SockRef::from(&socket).set_mark(way.mark())?;
            way.begin(VipProtocol::Udp, port);
        }
        socket.connect(address).await?;
        socket.send(send).await?;
        Ok((socket.recv(&mut answer).await?, port))
    };
    let (length, port) = asked.await.map_err(|error: io::Error| format!("no datagram from {address}: {error}"))?;
    if let Some(way) = way {
        check_way(way, VipProtocol::Udp, port, address)?;
    }
    match expect {
        Some(expect) if !answer[..length].starts_with(expect) => {
            Err(format!("the answer of {address} does not begin with `expect`"))
        }
        _ => Ok(()),
    }
}
