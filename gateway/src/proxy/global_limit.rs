//! Asking who counts for many gateways whether a request may go on.

use std::time::Duration;

use super::call::{Call, Caller, take_place};
use super::limit_service;
use super::pause::unless_gone;
use super::reply::Answer;
use super::{Downstream, ProxyError, Request};
use crate::config::model::{Action, ClusterId, Judge, RouteId};
use crate::filter::global_limit::{self as limit, ANSWER_BYTES};
use crate::filter::rate_limit::keep_least;
use crate::metrics::flags::ResponseFlag;
use crate::proto::grpc;
use crate::proto::head::Headers;
use crate::proto::rate_limit_service::{RateLimitDescriptor, RateLimitRequest, RateLimitResponse};
use crate::route::descriptors;
use crate::snapshot::GlobalRateLimitView;

/// Why a request does not go on.
pub(super) enum Refused {
    /// It is over a limit.
    OverLimit(RateLimitResponse),
    /// Nobody knows, and such requests are refused.
    Unknown,
}

/// Asks about the request. `None`: it goes on.
pub(super) async fn ask(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    view: &GlobalRateLimitView,
    route: RouteId,
) -> Result<Option<Refused>, ProxyError> {
    let destination = if view.needs_destination { request.destination_name(route) } else { None };
    let told = request.with_query(|query| match view.applies(query) {
        true => descriptors(&view.settings.descriptors, query, destination.as_deref()),
        false => Vec::new(),
    });
    if told.is_empty() {
        return Ok(None);
    }
    let verdict = unless_gone(downstream, verdict(request, view, told)).await?;
    let stats = view.stats.shard(request.worker.worker);
    let Some(answer) = verdict else {
        stats.error.inc();
        if view.settings.deny_on_error {
            return Ok(Some(Refused::Unknown));
        }
        stats.failure_mode_allowed.inc();
        return Ok(None);
    };
    request.add_to_response(limit::response_fields(&view.settings, &answer));
    if limit::is_over(&answer) {
        stats.over_limit.inc();
        return Ok(Some(Refused::OverLimit(answer)));
    }
    stats.ok.inc();
    limit::add_to_request(&answer, &mut request.exchange.request.headers);
    Ok(None)
}

/// What becomes of a request with these descriptors, by whoever counts; `None` when that cannot be found out.
async fn verdict(
    request: &Request<'_>,
    view: &GlobalRateLimitView,
    descriptors: Vec<RateLimitDescriptor>,
) -> Option<RateLimitResponse> {
    let asked = RateLimitRequest { domain: view.settings.domain.clone(), descriptors, hits_addend: 0 };
    match view.settings.judge {
        Judge::Service { cluster, timeout } => service_verdict(request, view, cluster, timeout, &asked).await,
        Judge::Limits(id) => limit_service::judge(request, id, &asked).ok(),
    }
}

/// Asks a service, once.
async fn service_verdict(
    request: &Request<'_>,
    view: &GlobalRateLimitView,
    cluster: ClusterId,
    timeout: Duration,
    asked: &RateLimitRequest,
) -> Option<RateLimitResponse> {
    let caller = Caller::of(request);
    let (settings, service) = (&caller.generation.config.clusters[cluster.index()], caller.generation.cluster(cluster));
    let (body, trailers) = (grpc::encode_frame(asked), Headers::default());
    let call =
        Call { cluster, head: &view.question, body: &body, trailers: &trailers, connecting: timeout, answering: None };
    let mut message = Vec::new();
    let take = |piece: &[u8]| {
        message.extend_from_slice(piece);
        message.len() <= ANSWER_BYTES
    };
    let place = take_place(settings, service, service.stats.shard(caller.worker));
    let answered = match &place {
        Ok(_) => caller.call(&call, take).await,
        Err(error) => Err(error.clone().into()),
    };
    let read = match &answered {
        Ok(answered) => limit::read_answer(&answered.head, &message, &answered.trailers).map_err(|bad| bad.to_string()),
        Err(error) => Err(format!("{error:?}")),
    };
    read.inspect_err(|why| log::debug!("rate limit service \"{}\": {why}", settings.name)).ok()
}

impl Refused {
    /// What the client is told.
    pub(super) fn answer<'a>(&'a self, view: &'a GlobalRateLimitView) -> Answer<'a> {
        let settings = &view.settings;
        match self {
            Refused::OverLimit(answer) => Answer {
                status: settings.status,
                flag: ResponseFlag::RateLimited,
                details: "request_rate_limited",
                body: &answer.raw_body,
                content_type: limit::content_type(answer),
                headers: &settings.headers,
                grpc_status: settings.grpc_resource_exhausted.then_some(grpc::RESOURCE_EXHAUSTED),
            },
            Refused::Unknown => Answer {
                status: settings.status_on_error,
                flag: ResponseFlag::RateLimitServiceError,
                details: "rate_limiter_error",
                body: b"",
                content_type: b"",
                headers: &[],
                grpc_status: None,
            },
        }
    }
}

impl Request<'_> {
    /// The name of the cluster that the request goes to by its route.
    fn destination_name(&mut self, route: RouteId) -> Option<String> {
        let generation = self.cx.generation.clone();
        let Action::Forward(to) = &generation.config.routes[route.index()].action else { return None };
        let id = self.look_ahead(to, route)?;
        Some(generation.config.clusters[id.index()].name.clone())
    }

    /// The response, whosever it is, will have these fields.
    fn add_to_response(&mut self, mut fields: Headers) {
        match &mut self.exchange.added {
            _ if fields.is_empty() => {}
            None => self.exchange.added = Some(Box::new(fields)),
            Some(added) => {
                keep_least(added, &mut fields);
                fields.iter().for_each(|(_, name, value)| added.append_raw(name, value));
            }
        }
    }
}
