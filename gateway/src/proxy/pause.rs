//! Waiting with a request in hand: before a retry, for a delay that a filter injects, for the verdict of a service.

use std::future::Future as _;
use std::pin::pin;
use std::task::Poll;

use super::{Downstream, ProxyError, Request, RequestBody as _};
use crate::net::Until;

/// Waits until the request's idle deadline, which the caller has set, unless the client goes away.
pub(super) async fn pause(request: &Request<'_>, downstream: &mut impl Downstream) -> Result<(), ProxyError> {
    let until = Until::only(&request.timers.idle);
    unless_gone(downstream, std::future::poll_fn(|cx| until.poll_passed(cx).map(drop))).await
}

/// Waits for something, unless the client goes away. That is seen only when its request is whole: what is left of a body is
/// not read.
pub(super) async fn unless_gone<T>(
    downstream: &mut impl Downstream,
    wanted: impl Future<Output = T>,
) -> Result<T, ProxyError> {
    let (mut body, _) = downstream.split();
    let is_whole = body.is_done();
    let (mut broken, mut wanted) = (pin!(body.broken()), pin!(wanted));
    std::future::poll_fn(|cx| {
        if is_whole && broken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ProxyError::ClientGone));
        }
        wanted.as_mut().poll(cx).map(Ok)
    })
    .await
}
