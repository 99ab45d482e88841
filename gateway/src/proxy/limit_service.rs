//! `rate_limit_service` of a route: other proxies ask, over gRPC, whether descriptors are over their limits.

use std::time::SystemTime;

use super::reply;
use super::{BodySource as _, Downstream, Ending, ProxyError, Request, ask_for_body};
use crate::config::model::{LimitSetId, Respond};
use crate::filter::limits::Unjudged;
use crate::net::Until;
use crate::proto::rate_limit_service::{RateLimitRequest, RateLimitResponse, SHOULD_RATE_LIMIT};
use crate::proto::{grpc, limits};

/// Answers a call of the service.
pub(super) async fn answer(request: &mut Request<'_>, downstream: &mut impl Downstream, id: LimitSetId) -> Ending {
    if !reply::is_grpc(request.exchange) {
        // As a gRPC server answers what is no call (`PROTOCOL-HTTP2.md`).
        let respond =
            Respond { status: 415, body: "this is a gRPC service\n".into(), content_type: "text/plain".into() };
        return reply::direct(request, downstream, &respond).await;
    }
    if request.exchange.request.path() != SHOULD_RATE_LIMIT.as_bytes() {
        return reply::grpc_error(request, downstream, grpc::UNIMPLEMENTED, "no such method").await;
    }
    let body = match read(request, downstream).await {
        Ok(body) => body,
        Err(error) => return reply::error(request, downstream, error).await,
    };
    let Some(asked) = grpc::decode_frame::<RateLimitRequest>(&body) else {
        return reply::grpc_error(request, downstream, grpc::INTERNAL, "no whole, uncompressed message").await;
    };
    match judge(request, id, &asked) {
        Ok(response) => reply::grpc_message(request, downstream, &grpc::encode_frame(&response)).await,
        Err(error) => reply::grpc_error(request, downstream, grpc::INVALID_ARGUMENT, error.as_str()).await,
    }
}

/// Has the limits of this box judge what is asked.
pub(super) fn judge(
    request: &Request<'_>,
    id: LimitSetId,
    asked: &RateLimitRequest,
) -> Result<RateLimitResponse, Unjudged> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    request.cx.generation.limits[id.index()].judge(asked, now.as_secs(), request.worker.worker)
}

async fn read(request: &mut Request<'_>, downstream: &mut impl Downstream) -> Result<Vec<u8>, ProxyError> {
    let until = Until::idle(&request.timers.idle, request.idle_timeout(), None);
    let (mut source, mut sink) = downstream.split();
    ask_for_body(request.exchange, &mut source, &mut sink, &until).await?;
    let mut body = Vec::new();
    loop {
        match source.next(&until).await {
            Ok(Some(piece)) if body.len() + piece.len() > limits::RATE_LIMIT_REQUEST_BYTES => {
                return Err(ProxyError::BodyTooLong);
            }
            Ok(Some(piece)) => body.extend_from_slice(piece.as_slice()),
            Ok(None) => return Ok(body),
            Err(error) => return Err(ProxyError::reading_request(&error, until.passed())),
        }
    }
}
