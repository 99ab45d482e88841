//! One question to one endpoint. Its caller limits the time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::config::model::{HealthProbe, VipProtocol};
use crate::xdp::ProbeWay;

/// Longest answer head that is read: as much as the gateway takes of an origin's.
const HEAD_BYTES: usize = 64 << 10;

/// More header fields than an answer to a health check has.
const FIELDS: usize = 128;

/// Asks; the error says what went wrong. `host` is for HTTP where the probe names none. `way` is the one to the virtual
/// address that the endpoint is asked at, in place of its own.
pub async fn probe(probe: &HealthProbe, address: SocketAddr, host: &str, way: Option<&ProbeWay>) -> Result<(), String> {
    match probe {
        HealthProbe::Tcp => connect(address, way).await.map(drop),
        HealthProbe::Udp { send, expect } => udp(address, send, expect.as_deref(), way).await,
        HealthProbe::Http { path, host: given, statuses } => {
            http(address, path, given.as_deref().unwrap_or(host), statuses, way).await
        }
    }
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

async fn http(
    address: SocketAddr,
    path: &str,
    host: &str,
    statuses: &RangeInclusive<u16>,
    way: Option<&ProbeWay>,
) -> Result<(), String> {
    let mut stream = connect(address, way).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: gateway-health-check\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    let status = async {
        stream.write_all(request.as_bytes()).await?;
        read_status(&mut stream).await
    };
    match status.await {
        Ok(status) if statuses.contains(&status) => Ok(()),
        Ok(status) => Err(format!("{address} answers {path} with {status}")),
        Err(error) => Err(format!("no answer of HTTP from {address}: {error}")),
    }
}

/// The status of the final answer; interim ones (1xx, RFC 9110 section 15.2) are passed over. The body is not read.
async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        while let Some((status, length)) = parse(&buffer)? {
            if status >= 200 {
                return Ok(status);
            }
            buffer.drain(..length);
        }
        if buffer.len() > HEAD_BYTES {
            return Err(io::Error::other("its head does not end"));
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The status and length of a head; `None` when it is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => Ok(response.code.map(|status| (status, length))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}
