//! A request that becomes a WebSocket (RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2, and from one to the other).
//!
//! Until the origin has accepted, this is a request like any other, and no byte that the client sends behind it reaches the
//! origin: what the gateway takes for a tunnel's bytes, an origin that refused would read as requests (CVE-2026-2833).

use std::cell::Cell;
use std::pin::pin;

use super::error::of_broken_answer;
use super::forward::{Target, Tried, answer_head, relay};
use super::pump::PumpError;
use super::tunnel::{TunnelError, tunnel};
use super::{BodySink as _, Downstream, Ending, ProxyError, Request, RequestBody as _, ResponseSink as _};
use crate::metrics::flags::ResponseFlag as Flag;
use crate::net::{Passed, Until};
use crate::proto::head::{Known, RequestHead, Version};
use crate::proto::websocket;
use crate::upstream::{Connection, UpstreamError};

/// Makes the head ask for a WebSocket again, after what belonged to the client's connection was taken out of it. Each side
/// leaves out what its version of HTTP does not have.
pub(super) fn prepare(head: &mut RequestHead, random: [u64; 2]) {
    let headers = &mut head.headers;
    headers.append(&Known::Connection, b"Upgrade");
    headers.append(&Known::Upgrade, websocket::PROTOCOL);
    if !headers.contains(&Known::SecWebsocketVersion) {
        headers.append(&Known::SecWebsocketVersion, websocket::VERSION);
    }
    // A client of HTTP/2 sends none (RFC 8441 §5).
    if head.version == Version::Http2 {
        headers.set(&Known::SecWebsocketKey, &websocket::new_key(random));
    }
}

/// One try over a connection, which is of no use after a tunnel.
pub(super) async fn attempt(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    connection: &mut Connection,
    target: &Target<'_>,
) -> Result<Tried, ProxyError> {
    let timers = request.timers;
    let handshake = Until::idle(&timers.idle, request.idle_timeout(), Some(&timers.end));
    let (mut sink, mut answer) = connection.start(&request.exchange.request, true)?;
    sink.flush(&handshake).await.map_err(|_| UpstreamError::Closed { answered: false })?;
    {
        let (mut client_in, _) = downstream.split();
        let gone = pin!(async { PumpError::Source(client_in.broken().await) });
        answer_head(request.exchange, &mut answer, gone, &handshake).await?;
    }
    timers.end_tries();
    let key = request.exchange.request.headers.get(&Known::SecWebsocketKey).unwrap_or_default().to_vec();
    if !answer.accepts_websocket(&request.exchange.response, &key)? {
        // A client of HTTP/2 would take this for a yes (RFC 8441 §5).
        if request.exchange.request.version == Version::Http2 && matches!(request.exchange.response.status, 200..=299) {
            return Err(UpstreamError::Protocol("upstream_answered_without_upgrade").into());
        }
        let (mut client_in, mut client_out) = downstream.split();
        let mut upload = pin!(async { PumpError::Source(client_in.broken().await) });
        let ending =
            relay(request, &mut client_out, answer.body(), upload.as_mut(), &Cell::new(true), &handshake).await;
        return Ok(Tried::Answered { ending, uploaded: true });
    }

    if let Some(route) = request.exchange.route {
        request.tell_breaker(route, None);
    }
    request.finish_response_head(true);
    request.exchange.details = "via_upstream";
    // The route's timeout was for the handshake.
    let until = target.websocket_idle.map_or_else(Until::never, |idle| Until::idle(&timers.idle, idle, None));
    let exchange = &mut *request.exchange;
    exchange.responded = true;
    let ended = {
        let (mut client_in, mut client_out) = downstream.accept_websocket(&mut exchange.response, &key);
        let ended = match client_out.flush(&until).await {
            Ok(()) => tunnel((&mut client_in, &mut client_out), (&mut answer.body(), &mut sink), &until).await,
            Err(error) => Err(TunnelError::Client(error)),
        };
        exchange.sent = client_out.sent();
        ended
    };
    if let Err(error) = &ended {
        request.note_tunnel_end(error);
    }
    let ending = if ended.is_ok() { Ending::Close } else { Ending::Abort };
    Ok(Tried::Answered { ending, uploaded: false })
}

impl Request<'_> {
    fn note_tunnel_end(&mut self, error: &TunnelError) {
        let (flag, details) = match error {
            TunnelError::Client(_) => (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect"),
            TunnelError::Origin(error) => of_broken_answer(error),
            TunnelError::TimedOut(Passed::Idle | Passed::End) => (Flag::StreamIdleTimeout, "stream_idle_timeout"),
        };
        self.exchange.flags.insert(flag);
        self.exchange.details = details;
    }
}
