//! Passing a request through the filters of its listener and its route, in the order of the configuration.

use std::cmp::Reverse;

use super::global_limit;
use super::pause::pause;
use super::reply::{self, Answer};
use super::{Downstream, Ending, ProxyError, Request};
use crate::config::model::{AbortStatus, RouteId};
use crate::filter::fault::Plan;
use crate::filter::rate_limit::{Allowance, Asker};
use crate::metrics::flags::ResponseFlag;
use crate::net::now_ns;
use crate::proto::grpc;
use crate::route::Query;
use crate::snapshot::{FaultView, FilterView, RateLimitView};

/// Passes the request through. `Some`: a filter has answered it. `route` is `None` when there is none, or none for this
/// connection; the listener's filters see such a request all the same.
pub(super) async fn pass(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    route: Option<RouteId>,
) -> Option<Ending> {
    let generation = request.cx.generation.clone();
    let of_listener = &generation.listener(request.cx.listener).filters;
    let of_route = route.map_or(&[][..], |route| &generation.route_filters[route.index()]);
    for filter in of_listener.iter().chain(of_route) {
        match filter {
            FilterView::RateLimit(limit) => {
                if !has_token(request, limit) {
                    return Some(reply::answer(request, downstream, &refusal(limit)).await);
                }
            }
            // A request that goes nowhere is not worth asking, as in Envoy. Boxed for the same reason as a fault.
            FilterView::GlobalRateLimit(limit) => {
                let Some(route) = route else { continue };
                match Box::pin(global_limit::ask(request, downstream, limit, route)).await {
                    Ok(None) => {}
                    Ok(Some(refused)) => return Some(reply::answer(request, downstream, &refused.answer(limit)).await),
                    Err(error) => return Some(reply::error(request, downstream, error).await),
                }
            }
            // Boxed, so that requests without faults do not keep the room that a delay needs.
            FilterView::Fault(fault) => match Box::pin(inject(request, downstream, fault)).await {
                Ok(None) => {}
                Ok(Some(with)) => return Some(reply::answer(request, downstream, &abortion(with)).await),
                Err(error) => return Some(reply::error(request, downstream, error).await),
            },
        }
    }
    None
}

/// Takes a token of the limit; `false` when there was none and the request is to be refused.
fn has_token(request: &mut Request<'_>, limit: &RateLimitView) -> bool {
    let now = now_ns();
    let connection = request.connection.id;
    let decision = request.with_query(|query| {
        let Query { host, head, peer_ip, client_ip, .. } = *query;
        let asker = Asker { client_ip, peer_ip, host, connection, head };
        let tier = limit.tier(query)?;
        Some(limit.limiter.take(tier, limit.settings.key.as_ref(), &asker, now))
    });
    let Some(decision) = decision else { return true };
    let stats = limit.stats.shard(request.worker.worker);
    if decision.evicted {
        stats.evictions.inc();
    }
    match (decision.is_allowed, limit.settings.dry_run) {
        (true, _) => stats.allowed.inc(),
        (false, true) => stats.would_refuse.inc(),
        (false, false) => stats.refused.inc(),
    }
    if limit.settings.dry_run {
        return true;
    }
    if limit.settings.ratelimit_headers {
        request.tell(decision.allowance);
    }
    decision.is_allowed
}

fn refusal(limit: &RateLimitView) -> Answer<'_> {
    Answer {
        status: limit.settings.status,
        flag: ResponseFlag::RateLimited,
        details: "local_rate_limited",
        body: limit.settings.body.as_bytes(),
        content_type: b"text/plain",
        headers: &limit.settings.headers,
        grpc_status: limit.settings.grpc_resource_exhausted.then_some(grpc::RESOURCE_EXHAUSTED),
    }
}

/// Delays the request where the fault says so; `Some` when it is to be aborted.
async fn inject(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    fault: &FaultView,
) -> Result<Option<AbortStatus>, ProxyError> {
    if !request.with_query(|query| fault.applies(query)) {
        return Ok(None);
    }
    let random = request.worker.random();
    let plan = Plan::of(&fault.settings, &request.exchange.request.headers, [random as u32, (random >> 32) as u32]);
    if plan.is_nothing() {
        return Ok(None);
    }
    let stats = fault.stats.shard(request.worker.worker);
    let Some(_active) = fault.enter() else {
        stats.overflow.inc();
        return Ok(None);
    };
    if let Some(time) = plan.delay {
        stats.delayed.inc();
        request.exchange.flags.insert(ResponseFlag::DelayInjected);
        request.timers.idle.set(time);
        pause(request, downstream).await?;
    }
    if plan.abort.is_some() {
        stats.aborted.inc();
    }
    Ok(plan.abort)
}

fn abortion(with: AbortStatus) -> Answer<'static> {
    let (status, grpc_status) = match with {
        AbortStatus::Http(status) => (status, None),
        AbortStatus::Grpc(status) => (grpc::http_of_status(status), Some(status)),
    };
    Answer {
        status,
        flag: ResponseFlag::FaultInjected,
        details: "fault_filter_abort",
        body: b"fault filter abort",
        content_type: b"text/plain",
        headers: &[],
        grpc_status,
    }
}

impl Request<'_> {
    /// Whether there is a filter to pass.
    pub(super) fn has_filters(&self, route: Option<RouteId>) -> bool {
        let generation = &self.cx.generation;
        !self.cx.view().filters.is_empty()
            || route.is_some_and(|route| !generation.route_filters[route.index()].is_empty())
    }

    /// The answer will say how a limit stands, unless it says so of one that has less left.
    fn tell(&mut self, allowance: Allowance) {
        let told = &mut self.exchange.allowance;
        let closeness = |allowance: Allowance| (Reverse(allowance.remaining), allowance.reset_s);
        if told.is_none_or(|told| closeness(allowance) > closeness(told)) {
            *told = Some(allowance);
        }
    }
}
