//! Answers of the gateway's own: errors, redirects, direct responses.

use super::error::{LocalReply, ProxyError};
use super::{BodySink, Downstream, Ending, Exchange, Request, RequestBody, ResponseSink};
use crate::config::model::{Redirect, Respond, RouteId};
use crate::filter::forwarded::client_scheme;
use crate::metrics::flags::ResponseFlag;
use crate::net::{Buf, Until};
use crate::proto::grpc;
use crate::proto::h1::encode::{BodyFraming, ResponseFraming};
use crate::proto::head::{BodyLength, HeaderName, Headers, Known};
use crate::proto::websocket::{self, HandshakeError};
use crate::route::{path, redirect as location};

/// Answers an error by the table in [`super::error`].
pub(super) async fn error(request: &mut Request<'_>, downstream: &mut impl Downstream, error: ProxyError) -> Ending {
    let mut reply = LocalReply::of(&error);
    let exchange = &mut *request.exchange;
    if exchange.is_retried {
        // Envoy's words.
        reply.body = reply.body.replacen(". reset reason", ". retried and the latest reset reason", 1).into();
    }
    exchange.details = reply.details;
    if let Some(flag) = reply.flag {
        exchange.flags.insert(flag);
    }
    exchange.response.clear();
    if reply.status == 0 {
        return Ending::Abort;
    }
    exchange.response.status = reply.status;
    if reply.overloaded {
        exchange.response.headers.append_raw(b"x-envoy-overloaded", b"true");
    }
    if let ProxyError::Overloaded = error {
        // Envoy's `append_local_overload`: it is this box that has too much to do, and not the origin.
        exchange.response.headers.append_raw(b"x-envoy-local-overloaded", b"true");
    }
    if let ProxyError::WebSocket(HandshakeError::Version) = error {
        exchange.response.headers.append(&Known::SecWebsocketVersion, websocket::VERSION);
    }
    if is_grpc(exchange) {
        return send_grpc(request, downstream, reply.body.as_bytes(), reply.grpc_status).await;
    }
    send(request, downstream, reply.body.as_bytes(), b"text/plain").await
}

/// An answer in the words of the configuration, or of a service.
pub(super) struct Answer<'a> {
    pub status: u16,
    pub flag: ResponseFlag,
    pub details: &'static str,
    pub body: &'a [u8],
    /// Of a body that is not empty.
    pub content_type: &'a [u8],
    pub headers: &'a [(HeaderName, String)],
    /// What a gRPC client gets, where the status alone does not say it.
    pub grpc_status: Option<u8>,
}

/// Answers for a filter.
pub(super) async fn answer(request: &mut Request<'_>, downstream: &mut impl Downstream, answer: &Answer<'_>) -> Ending {
    let exchange = &mut *request.exchange;
    exchange.details = answer.details;
    exchange.flags.insert(answer.flag);
    exchange.response.clear();
    exchange.response.status = answer.status;
    for (name, value) in answer.headers {
        exchange.response.headers.set(name, value.as_bytes());
    }
    if is_grpc(exchange) {
        return send_grpc(request, downstream, answer.body, answer.grpc_status).await;
    }
    send(request, downstream, answer.body, answer.content_type).await
}

pub(super) fn is_grpc(exchange: &Exchange) -> bool {
    exchange.request.headers.get(&Known::ContentType).is_some_and(grpc::is_grpc)
}

/// Says it as gRPC does: HTTP status 200, and what is meant in `grpc-status`. `status`, unless the HTTP status says it.
async fn send_grpc(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    message: &[u8],
    status: Option<u8>,
) -> Ending {
    let exchange = &mut *request.exchange;
    let status = status.unwrap_or_else(|| grpc::status_of_http(exchange.response.status));
    exchange.response.status = 200;
    let headers = &mut exchange.response.headers;
    headers.append(&Known::ContentType, b"application/grpc");
    headers.append(&Known::GrpcStatus, itoa::Buffer::new().format(status).as_bytes());
    if !message.is_empty() {
        let mut text = std::mem::take(&mut exchange.scratch);
        text.clear();
        grpc::encode_message(message, &mut text);
        headers.append_raw(b"grpc-message", &text);
        exchange.scratch = text;
    }
    send(request, downstream, b"", b"").await
}

/// Answers a gRPC call of the gateway's own services that went wrong.
pub(super) async fn grpc_error(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    status: u8,
    message: &str,
) -> Ending {
    request.exchange.details = "direct_response";
    request.exchange.response.clear();
    send_grpc(request, downstream, message.as_bytes(), Some(status)).await
}

/// Answers a gRPC call of the gateway's own services with a message in its frame.
pub(super) async fn grpc_message(request: &mut Request<'_>, downstream: &mut impl Downstream, frame: &[u8]) -> Ending {
    let exchange = &mut *request.exchange;
    exchange.details = "direct_response";
    exchange.response.clear();
    exchange.response.status = 200;
    exchange.response.body = BodyLength::Streamed;
    let mut trailers = Headers::default();
    trailers.append(&Known::GrpcStatus, b"0");
    send_with(request, downstream, frame, b"application/grpc", &trailers).await
}

/// `respond` of a route.
pub(super) async fn direct(request: &mut Request<'_>, downstream: &mut impl Downstream, respond: &Respond) -> Ending {
    request.exchange.details = "direct_response";
    request.exchange.response.clear();
    request.exchange.response.status = respond.status;
    if is_grpc(request.exchange) {
        return send_grpc(request, downstream, respond.body.as_bytes(), None).await;
    }
    send(request, downstream, respond.body.as_bytes(), respond.content_type.as_bytes()).await
}

/// `redirect` of a route.
pub(super) async fn redirect(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    redirect: &Redirect,
    route: RouteId,
) -> Ending {
    let exchange = &mut *request.exchange;
    exchange.details = "direct_response";
    exchange.response.clear();
    exchange.response.status = redirect.status;
    let matcher = &request.cx.generation.config.routes[route.index()].matcher.path;
    let matched = path::matched_len(matcher, exchange.request.path());
    let mut text = std::mem::take(&mut exchange.scratch);
    text.clear();
    let scheme = client_scheme(&exchange.request.headers);
    location::location(redirect, scheme, &exchange.request, matched, &mut text);
    exchange.response.headers.append(&Known::Location, &text);
    exchange.scratch = text;
    if is_grpc(request.exchange) {
        return send_grpc(request, downstream, b"", None).await;
    }
    send(request, downstream, b"", b"text/plain").await
}

async fn send(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    content: &[u8],
    content_type: &[u8],
) -> Ending {
    request.exchange.response.body = BodyLength::Known(content.len() as u64);
    send_with(request, downstream, content, content_type, &Headers::default()).await
}

async fn send_with(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    content: &[u8],
    content_type: &[u8],
    trailers: &Headers,
) -> Ending {
    let (body, mut response) = downstream.split();
    let head = &mut request.exchange.response;
    if !content.is_empty() {
        head.headers.append(&Known::ContentType, content_type);
    }
    request.finish_response_head(false);
    let keep_alive = request.keeps_alive(body.is_done());
    let until = Until::idle(&request.timers.idle, request.idle_timeout(), None);
    let exchange = &mut *request.exchange;
    let framing =
        ResponseFraming::of(&exchange.request.method, exchange.request.version, &exchange.response, keep_alive);
    response.start(&exchange.response, framing);
    exchange.responded = true;
    request.cx.view().stats.shard(request.worker.worker).local_replies.inc();
    let sent = async {
        if framing.body != BodyFraming::Bodyless && !content.is_empty() {
            response.data(Buf::copy_of(content), &until).await?;
        }
        response.finish(trailers, &until).await
    };
    let sent = sent.await;
    request.exchange.sent = response.sent();
    match sent {
        Ok(()) if framing.keep_alive => Ending::KeepAlive,
        Ok(()) => Ending::Close,
        Err(_) => Ending::Abort,
    }
}
