//! Waiting with a request in hand: for a connection, before a retry, for a delay that a filter injects, for the verdict of a
//! service.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use super::{Downstream, ProxyError, Request, RequestBody as _};
use crate::net::Until;

/// Waits until the request's idle deadline, which the caller has set, unless the client goes away.
pub(super) async fn pause(request: &Request<'_>, downstream: &mut impl Downstream) -> Result<(), ProxyError> {
    let until = Until::only(&request.timers.idle);
    let passed = std::future::poll_fn(|cx| until.poll_passed(cx).map(drop));
    unless_gone(downstream, passed).await
}

/// What `work` comes to, unless the client goes away before. Of an HTTP/1 client that has sent some of its body, that is seen
/// when the body is read: nobody reads it meanwhile.
pub(super) async fn unless_gone<T>(
    downstream: &mut impl Downstream,
    work: impl Future<Output = T>,
) -> Result<T, ProxyError> {
    let (mut body, _) = downstream.split();
    let (mut broken, mut work) = (pin!(body.broken()), pin!(work));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        broken.as_mut().poll(cx).map(|_| Err(ProxyError::ClientGone))
    })
    .await
}
