//! A call of gRPC's health service.

use h2::RecvStream;
use http::{HeaderMap, Request, Response};

use super::exchange::{self, NOT_H2, text};
use super::get::USER_AGENT;
use super::probe::Connection;
use crate::proto::grpc_health::{self, Answer};

/// Longest body that is read: many times what the service's message has.
const BODY_BYTES: usize = 4 << 10;

/// Why an endpoint is not well.
pub enum Unwell {
    /// There was no answer, or only a part of one.
    NoAnswer(String),
    /// This is what it says.
    Says(String),
}

/// Asks for the health of `service`.
pub async fn check(connection: Connection, host: &str, service: &str) -> Result<(), Unwell> {
    let Connection { io, is_tls, alpn } = connection;
    if is_tls && alpn.as_deref() != Some(b"h2") {
        return Err(Unwell::NoAnswer(NOT_H2.into()));
    }
    let answered = async {
        let request = Request::post(exchange::uri(is_tls, host, grpc_health::CHECK)?)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", USER_AGENT);
        let request = request.body(()).map_err(|error| error.to_string())?;
        exchange::exchange(io, request, grpc_health::request(service), read).await
    };
    let Whole { head, body, trailers } = answered.await.map_err(Unwell::NoAnswer)?;
    let field = |fields: &HeaderMap, name: &str| fields.get(name).map(|value| value.as_bytes().to_vec());
    // Where the head is all there is, the status is in it.
    let last = trailers.as_ref().or(body.is_empty().then_some(head.headers()));
    let of_last = |name| last.and_then(|fields| field(fields, name));
    let (status, message) = (of_last("grpc-status"), of_last("grpc-message"));
    let answer = Answer {
        http_status: head.status().as_u16(),
        content_type: &field(head.headers(), "content-type").unwrap_or_default(),
        grpc_status: status.as_deref(),
        grpc_message: &message.unwrap_or_default(),
        body: &body,
    };
    answer.verdict().map_err(Unwell::Says)
}

struct Whole {
    head: Response<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// Reads an answer to its end.
async fn read(response: Response<RecvStream>) -> Result<Whole, String> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await.transpose().map_err(text)? {
        stream.flow_control().release_capacity(data.len()).map_err(text)?;
        body.extend_from_slice(&data);
        if body.len() > BODY_BYTES {
            return Err("its body does not end".into());
        }
    }
    let trailers = stream.trailers().await.map_err(text)?;
    Ok(Whole { head: Response::from_parts(head, ()), body, trailers })
}
