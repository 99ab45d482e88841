//! Copies of requests for other clusters: sent and forgotten.
//!
//! A copy is made of what an origin gets, once its body has passed by whole. It is sent by a task of its own, so nothing
//! that happens to it can be felt by the request: it may hang, fail or be refused.

use std::io;
use std::time::Duration;

use super::call::{Call, Caller};
use super::{BodySource, ProxyError, Request, RequestBody};
use crate::config::model::{ClusterId, RouteId};
use crate::metrics::shard::MirrorShard;
use crate::net::{self, Buf, Until};
use crate::proto::head::{BodyLength, Headers, Known, RequestHead};
use crate::route::host;
use crate::snapshot::{Active, MirrorView};

/// How long a copy may take where the route has no timeout: Envoy's for a route.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer that are read, so that its connection can serve the next copy. A longer one is not worth it.
const ANSWER_BYTES: u64 = 1 << 20;

/// Copies of one request in the making.
pub(super) struct Copies {
    context: Context,
    head: RequestHead,
    /// Which of the route's mirrors get one, and their places.
    targets: Vec<(usize, Active)>,
    body: Vec<u8>,
    body_limit: u64,
}

/// What a copy needs of the worker, for longer than the request.
#[derive(Clone)]
struct Context {
    caller: Caller,
    route: RouteId,
    timeout: Duration,
}

impl Copies {
    /// Begins copies of a request, where its route wants some. Those of a request without a body are sent at once.
    pub(super) fn begin(request: &Request<'_>, route: RouteId) -> Option<Box<Copies>> {
        let generation = &request.cx.generation;
        let views = &generation.route_mirrors[route.index()];
        let settings = &generation.config.routes[route.index()];
        let head = &request.exchange.request;
        if views.is_empty() || request.exchange.websocket.is_some() {
            return None;
        }
        let body_limit = settings.mirrors.as_ref().map_or(0, |mirrors| mirrors.body_bytes);
        let too_long = matches!(head.body, BodyLength::Known(length) if length > body_limit);
        let targets: Vec<_> =
            views.iter().enumerate().filter_map(|(at, view)| take(request, at, view, too_long)).collect();
        if targets.is_empty() {
            return None;
        }
        let mut head = head.clone();
        // Nobody waits for a 100 (Continue).
        head.headers.remove(&Known::Expect);
        let context = Context { caller: Caller::of(request), route, timeout: settings.timeout.unwrap_or(TIMEOUT) };
        let copies = Box::new(Copies { context, head, targets, body: Vec::new(), body_limit });
        if copies.head.body.is_empty() {
            copies.send(&Headers::default());
            return None;
        }
        Some(copies)
    }

    /// A piece of the body passes by. `false`: it is longer than what is copied, and there will be no copies.
    fn add(&mut self, piece: &[u8]) -> bool {
        if (self.body.len() + piece.len()) as u64 > self.body_limit {
            self.targets.iter().for_each(|&(at, _)| self.context.stats(at).too_long.inc());
            return false;
        }
        self.body.extend_from_slice(piece);
        true
    }

    /// Whether as much has passed by as the head announced.
    fn is_whole(&self) -> bool {
        self.head.body == BodyLength::Known(self.body.len() as u64)
    }

    /// The request is whole: its copies go.
    fn send(self: Box<Self>, trailers: &Headers) {
        let Copies { context, head, targets, body, .. } = *self;
        for (at, active) in targets {
            let (context, mut head, body, trailers) = (context.clone(), head.clone(), body.clone(), trailers.clone());
            let settings = context.caller.generation.route_mirrors[context.route.index()][at].settings;
            if settings.shadow_host {
                head.authority = shadow_host(&head.authority);
            }
            net::spawn(async move {
                let _active = active;
                let stats = context.stats(at);
                match Box::pin(context.deliver(settings.cluster, &head, &body, &trailers)).await {
                    Ok(()) => stats.sent.inc(),
                    Err(error) => {
                        stats.failed.inc();
                        log::debug!("copy for {}: {error:?}", String::from_utf8_lossy(&head.authority));
                    }
                }
            });
        }
    }
}

/// A place for a copy, if this request is among those that are copied.
fn take(request: &Request<'_>, at: usize, view: &MirrorView, too_long: bool) -> Option<(usize, Active)> {
    let stats = view.stats.shard(request.worker.worker);
    if !view.settings.share.has(request.worker.random() as u32) {
        return None;
    }
    if too_long {
        stats.too_long.inc();
        return None;
    }
    let active = view.enter();
    if active.is_none() {
        stats.overflow.inc();
    }
    Some((at, active?))
}

/// `shop.example:8080` becomes `shop.example-shadow:8080`, as in Envoy.
fn shadow_host(authority: &[u8]) -> Vec<u8> {
    let (name, _) = host::split_port(authority);
    [name, b"-shadow", &authority[name.len()..]].concat()
}

impl Context {
    fn stats(&self, at: usize) -> &MirrorShard {
        self.caller.generation.route_mirrors[self.route.index()][at].stats.shard(self.caller.worker)
    }

    /// Sends a copy and reads its answer away.
    async fn deliver(
        &self,
        cluster: ClusterId,
        head: &RequestHead,
        body: &[u8],
        trailers: &Headers,
    ) -> Result<(), ProxyError> {
        let connecting = self.caller.generation.config.clusters[cluster.index()].connect_timeout;
        let call = Call { cluster, head, body, trailers, connecting, answering: Some(self.timeout) };
        let mut read = 0;
        let take = |piece: &[u8]| {
            read += piece.len() as u64;
            read <= ANSWER_BYTES
        };
        self.caller.call(&call, take).await.map(drop)
    }
}

/// A body that is copied while it comes from the client. At its end the copies go.
pub(super) struct Copied<'a, B> {
    /// The body.
    pub body: &'a mut B,
    /// The copies; none when nobody wants any, or no longer.
    pub copies: &'a mut Option<Box<Copies>>,
}

impl<B: RequestBody> Copied<'_, B> {
    /// Waits for the client to go away; see [`RequestBody::broken`].
    pub async fn broken(&mut self) -> io::Error {
        self.body.broken().await
    }
}

impl<B: BodySource> BodySource for Copied<'_, B> {
    async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        let piece = self.body.next(until).await?;
        match (self.copies.take(), &piece) {
            (Some(mut copies), Some(piece)) => match copies.add(piece.as_slice()) {
                // The origin may answer before the client has said that this was all.
                true if copies.is_whole() => copies.send(&Headers::default()),
                true => *self.copies = Some(copies),
                false => {}
            },
            (Some(copies), None) => copies.send(self.body.trailers()),
            (None, _) => {}
        }
        Ok(piece)
    }

    fn trailers(&self) -> &Headers {
        self.body.trailers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_host_says_that_it_is_one() {
        for (host, shadow) in [
            ("shop.example", "shop.example-shadow"),
            ("shop.example:8080", "shop.example-shadow:8080"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("", "-shadow"),
        ] {
            assert_eq!(shadow_host(host.as_bytes()), shadow.as_bytes(), "{host}");
        }
    }
}
