//! One question to one endpoint. Its caller limits the time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::config::model::HealthProbe;

/// Longest answer head that is read: as much as the gateway takes of an origin's.
const HEAD_BYTES: usize = 64 << 10;

/// More header fields than an answer to a health check has.
const FIELDS: usize = 128;

/// Asks; the error says what went wrong. `host` is for HTTP where the probe names none.
pub async fn probe(probe: &HealthProbe, address: SocketAddr, host: &str) -> Result<(), String> {
    match probe {
        HealthProbe::Tcp => connect(address).await.map(drop),
        HealthProbe::Udp { send, expect } => udp(address, send, expect.as_deref()).await,
        HealthProbe::Http { path, host: given, statuses } => {
            http(address, path, given.as_deref().unwrap_or(host), statuses).await
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))
}

async fn udp(address: SocketAddr, send: &[u8], expect: Option<&[u8]>) -> Result<(), String> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut answer = vec![0; 64 << 10];
    let asked = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(address).await?;
        socket.send(send).await?;
        socket.recv(&mut answer).await
    };
    let length = asked.await.map_err(|error: io::Error| format!("no datagram from {address}: {error}"))?;
    match expect {
        Some(expect) if !answer[..length].starts_with(expect) => {
            Err(format!("the answer of {address} does not begin with `expect`"))
        }
        _ => Ok(()),
    }
}

async fn http(address: SocketAddr, path: &str, host: &str, statuses: &RangeInclusive<u16>) -> Result<(), String> {
    let mut stream = connect(address).await?;
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
