//! `global_rate_limit`

use std::time::Duration;

use super::{Taken, header_list, when};
use crate::config::check::route::matcher::header_matches;
use crate::config::check::{Tables, each, only_one};
use crate::config::decode::{List, Optional};
use crate::config::model::{ClusterId, DescriptorAction, GlobalRateLimit, Judge, LimitSetId, Prefixes};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{Name, PositiveDuration};

/// Descriptors of a limit, and entries of a descriptor: what a request makes us send is at most so many times its longest
/// field.
const DESCRIPTORS_MAX: usize = 32;
const ENTRIES_MAX: usize = 16;

const ACTIONS: &str = "`source_cluster`, `destination_cluster`, `request_headers`, `query_parameters`, `remote_address`, \
                       `masked_remote_address`, `generic_key` and `header_value_match`";

/// Checks a `global_rate_limit`. `place` is its name where the file gives it none.
pub fn check(
    raw: raw::GlobalRateLimit,
    span: Span,
    place: String,
    names: &Tables,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) -> Option<GlobalRateLimit> {
    let (name, span) = raw.name.map_or((place, span), |name| (name.value.0, name.span));
    taken.take(&name, span, diagnostics);
    let judge = judge([raw.cluster, raw.limits], raw.timeout, span, names, diagnostics);
    let descriptors = raw.descriptors.0.map(|list| descriptors(list, diagnostics));
    let when = when(raw.r#match, diagnostics);
    let headers = header_list(raw.headers, diagnostics);
    Some(GlobalRateLimit {
        name,
        when: when?,
        domain: raw.domain.0?.value.0,
        judge: judge?,
        descriptors: descriptors??,
        status: raw.status.map_or(429, |status| status.value.0),
        headers: headers?,
        grpc_resource_exhausted: raw.grpc_resource_exhausted.is_some_and(|on| on.value),
        ratelimit_headers: raw.ratelimit_headers.is_some_and(|on| on.value),
        ratelimited_header: raw.ratelimited_header.is_none_or(|on| on.value),
        deny_on_error: raw.deny_on_error.is_some_and(|on| on.value),
        status_on_error: raw.status_on_error.map_or(500, |status| status.value.0),
    })
}

/// Who judges. `filter` is where the filter is.
fn judge(
    [cluster, limits]: [Optional<Name>; 2],
    timeout: Optional<PositiveDuration>,
    filter: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Judge> {
    let spans = [cluster.as_ref().map(|key| key.span), limits.as_ref().map(|key| key.span)];
    only_one(spans, "`cluster` and `limits`", diagnostics);
    match (cluster, limits) {
        (Some(cluster), _) => {
            let timeout = timeout.map_or(Duration::from_millis(20), |timeout| timeout.value.0);
            Some(Judge::Service { cluster: service(cluster, names, diagnostics)?, timeout })
        }
        (None, Some(limits)) => {
            if let Some(timeout) = timeout {
                diagnostics.error(timeout.span, "`timeout` needs `cluster`: nobody waits for this box");
            }
            names.limits.find(&limits, diagnostics).map(|id| Judge::Limits(LimitSetId(id)))
        }
        (None, None) => {
            let help = "`cluster` of a rate limit service, or `limits` of this box";
            diagnostics.error(filter, "nobody judges the requests").help(help);
            None
        }
    }
}

/// The cluster of the service, to which gRPC can be spoken.
fn service(name: At<Name>, names: &Tables, diagnostics: &mut Diagnostics) -> Option<ClusterId> {
    let id = names.clusters.find(&name, diagnostics)?;
    let kind = &names.cluster_kinds[id as usize];
    if !kind.is_h2 {
        let message = format!("the cluster `{}` does not speak HTTP/2", name.value.0);
        diagnostics.error(name.span, message).help("gRPC needs it: add `protocol = \"h2\"` to the cluster");
    }
    if kind.has_proxy_header {
        let help = "its connections serve one client each, and those to a rate limit service serve all";
        diagnostics.error(name.span, "a cluster with `proxy_protocol` cannot count").help(help);
    }
    Some(ClusterId(id))
}

fn descriptors(
    raw: At<List<List<raw::DescriptorAction>>>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Vec<DescriptorAction>>> {
    if raw.value.is_empty() {
        diagnostics.error(raw.span, "`descriptors` is empty").help("say what is counted, or leave out the filter");
    }
    reject_more(&raw, DESCRIPTORS_MAX, "descriptors", diagnostics);
    each(raw.value, |descriptor| {
        if descriptor.value.is_empty() {
            diagnostics
                .error(descriptor.span, "this descriptor has no entries")
                .help(format!("each is one of {ACTIONS}"));
        }
        reject_more(&descriptor, ENTRIES_MAX, "entries", diagnostics);
        each(descriptor.value, |raw| action(raw, diagnostics))
    })
}

fn reject_more<T>(list: &At<List<T>>, most: usize, what: &str, diagnostics: &mut Diagnostics) {
    if list.value.len() > most {
        diagnostics.error(list.span, format!("{} {what} are more than {most}", list.value.len()));
    }
}

fn action(
    At { value: raw, span }: At<raw::DescriptorAction>,
    diagnostics: &mut Diagnostics,
) -> Option<DescriptorAction> {
    let spans = [
        raw.source_cluster.as_ref().map(|key| key.span),
        raw.destination_cluster.as_ref().map(|key| key.span),
        raw.request_headers.as_ref().map(|key| key.span),
        raw.query_parameters.as_ref().map(|key| key.span),
        raw.remote_address.as_ref().map(|key| key.span),
        raw.masked_remote_address.as_ref().map(|key| key.span),
        raw.generic_key.as_ref().map(|key| key.span),
        raw.header_value_match.as_ref().map(|key| key.span),
    ];
    only_one(spans, ACTIONS, diagnostics);
    if let Some(name) = raw.source_cluster {
        Some(DescriptorAction::SourceCluster(name.value.0?.0))
    } else if raw.destination_cluster.is_some() {
        Some(DescriptorAction::DestinationCluster)
    } else if let Some(raw) = raw.request_headers {
        let raw = raw.value.0?;
        let skip_if_absent = raw.skip_if_absent.is_some_and(|on| on.value);
        let (from, key) = (raw.header.0?.value.0, raw.key.0?.value.0);
        Some(DescriptorAction::RequestHeader { from, key, skip_if_absent })
    } else if let Some(raw) = raw.query_parameters {
        let raw = raw.value.0?;
        let skip_if_absent = raw.skip_if_absent.is_some_and(|on| on.value);
        let (name, key) = (raw.parameter.0?.value.0, raw.key.0?.value.0);
        Some(DescriptorAction::QueryParameter { name, key, skip_if_absent })
    } else if raw.remote_address.is_some() {
        Some(DescriptorAction::RemoteAddress)
    } else if let Some(raw) = raw.masked_remote_address {
        let raw = raw.value.0?;
        Some(DescriptorAction::MaskedRemoteAddress(Prefixes {
            ipv4: raw.ipv4_prefix.map_or(32, |prefix| prefix.value.0),
            ipv6: raw.ipv6_prefix.map_or(128, |prefix| prefix.value.0),
        }))
    } else if let Some(raw) = raw.generic_key {
        let raw = raw.value.0?;
        let key = raw.key.map_or_else(|| "generic_key".to_owned(), |key| key.value.0);
        Some(DescriptorAction::GenericKey { key, value: raw.value.0?.value.0 })
    } else if let Some(raw) = raw.header_value_match {
        header_value_match(raw.value.0?, diagnostics)
    } else {
        diagnostics.error(span, "this entry says nothing").help(format!("it is one of {ACTIONS}"));
        None
    }
}

fn header_value_match(raw: raw::HeaderValueMatch, diagnostics: &mut Diagnostics) -> Option<DescriptorAction> {
    let given = raw.headers.0?;
    if given.value.0.is_empty() {
        diagnostics.error(given.span, "`headers` is empty").help("name a field and its value");
    }
    let headers = header_matches(Some(given), diagnostics);
    Some(DescriptorAction::HeaderValueMatch {
        headers: headers?,
        key: raw.key.map_or_else(|| "header_match".to_owned(), |key| key.value.0),
        value: raw.value.0?.value.0,
        expect_match: raw.expect_match.is_none_or(|on| on.value),
    })
}
