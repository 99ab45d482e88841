//! A GET to an endpoint, of which the status counts.

use std::io;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::exchange::{self, NOT_H2};
use super::probe::{Connection, Io};
use crate::config::model::UpstreamProtocol;
use crate::proto::limits::{RESPONSE_HEAD_BYTES, RESPONSE_HEADER_COUNT};

/// What checks call themselves.
pub const USER_AGENT: &str = "gateway-health-check";

/// The status of the final answer; interim ones (1xx, RFC 9110 section 15.2) are passed over. The body is not read.
pub async fn status(connection: Connection, version: UpstreamProtocol, host: &str, path: &str) -> Result<u16, String> {
    let Connection { mut io, is_tls, alpn } = connection;
    let chose_h2 = alpn.as_deref() == Some(b"h2");
    match version {
        UpstreamProtocol::H2 if is_tls && !chose_h2 => Err(NOT_H2.into()),
        UpstreamProtocol::H1 => over_h1(&mut io, host, path).await.map_err(|error| error.to_string()),
        UpstreamProtocol::Auto if !chose_h2 => over_h1(&mut io, host, path).await.map_err(|error| error.to_string()),
        UpstreamProtocol::H2 | UpstreamProtocol::Auto => over_h2(io, is_tls, host, path).await,
    }
}

async fn over_h2(io: Box<dyn Io>, is_tls: bool, host: &str, path: &str) -> Result<u16, String> {
    let request =
        Request::get(exchange::uri(is_tls, host, path)?).header("user-agent", USER_AGENT).header("accept", "*/*");
    let request = request.body(()).map_err(|error| error.to_string())?;
    exchange::exchange(io, request, Bytes::new(), async |response| Ok(response.status().as_u16())).await
}

async fn over_h1(io: &mut Box<dyn Io>, host: &str, path: &str) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {USER_AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        while let Some((status, length)) = parse(&buffer)? {
            if status >= 200 {
                return Ok(status);
            }
            buffer.drain(..length);
        }
        if buffer.len() > RESPONSE_HEAD_BYTES {
            return Err(io::Error::other("its head does not end"));
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The status and length of a head; `None` when it is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; RESPONSE_HEADER_COUNT];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => Ok(response.code.map(|status| (status, length))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}
