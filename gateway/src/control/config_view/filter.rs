//! The filters of the running configuration.

use serde_json::{Value, json};

use super::{duration, view_fields, view_header_matches, view_host, view_query_matches};
use crate::config::model::*;
use crate::proto::head::Method;

pub fn view(filter: &Filter, config: &Config) -> Value {
    match filter {
        Filter::RateLimit(limit) => json!({ "rate_limit": view_rate_limit(limit) }),
        Filter::GlobalRateLimit(limit) => json!({ "global_rate_limit": view_global_limit(limit, config) }),
        Filter::Fault(fault) => json!({ "fault": view_fault(fault) }),
    }
}

fn view_rate_limit(limit: &RateLimit) -> Value {
    let RateLimit {
        name,
        when,
        key,
        max_keys,
        quota,
        overrides,
        status,
        body,
        headers,
        grpc_resource_exhausted,
        ratelimit_headers,
        dry_run,
    } = limit;
    let overrides: Vec<Value> = overrides
        .iter()
        .map(|RateOverride { when, quota }| json!({ "match": view_when(when), "quota": view_quota(quota) }))
        .collect();
    json!({
        "name": name,
        "match": view_when(when),
        "key": key.as_ref().map(view_key),
        "max_keys": max_keys,
        "quota": view_quota(quota),
        "overrides": overrides,
        "status": status,
        "body": body,
        "headers": view_fields(headers),
        "grpc_resource_exhausted": grpc_resource_exhausted,
        "ratelimit_headers": ratelimit_headers,
        "dry_run": dry_run,
    })
}

fn view_global_limit(limit: &GlobalRateLimit, config: &Config) -> Value {
    let GlobalRateLimit {
        name,
        when,
        domain,
        judge,
        descriptors,
        status,
        headers,
        grpc_resource_exhausted,
        ratelimit_headers,
        ratelimited_header,
        deny_on_error,
        status_on_error,
    } = limit;
    let descriptor = |actions: &Vec<DescriptorAction>| actions.iter().map(view_action).collect::<Value>();
    let (cluster, timeout, limits) = match judge {
        Judge::Service { cluster, timeout } => (Some(&config.clusters[cluster.index()].name), Some(*timeout), None),
        Judge::Limits(id) => (None, None, Some(&config.limits[id.index()].name)),
    };
    json!({
        "name": name,
        "match": view_when(when),
        "domain": domain,
        "cluster": cluster,
        "timeout": timeout.map(duration),
        "limits": limits,
        "descriptors": descriptors.iter().map(descriptor).collect::<Vec<_>>(),
        "status": status,
        "headers": view_fields(headers),
        "grpc_resource_exhausted": grpc_resource_exhausted,
        "ratelimit_headers": ratelimit_headers,
        "ratelimited_header": ratelimited_header,
        "deny_on_error": deny_on_error,
        "status_on_error": status_on_error,
    })
}

fn view_action(action: &DescriptorAction) -> Value {
    match action {
        DescriptorAction::SourceCluster(name) => json!({ "source_cluster": name }),
        DescriptorAction::DestinationCluster => json!({ "destination_cluster": {} }),
        DescriptorAction::RequestHeader { from, key, skip_if_absent } => {
            let from = match from {
                FieldSource::Method => ":method",
                FieldSource::Path => ":path",
                FieldSource::Authority => ":authority",
                FieldSource::Header(name) => name.as_str(),
            };
            json!({ "request_headers": { "header": from, "key": key, "skip_if_absent": skip_if_absent } })
        }
        DescriptorAction::QueryParameter { name, key, skip_if_absent } => {
            json!({ "query_parameters": { "parameter": name, "key": key, "skip_if_absent": skip_if_absent } })
        }
        DescriptorAction::RemoteAddress => json!({ "remote_address": {} }),
        DescriptorAction::MaskedRemoteAddress(Prefixes { ipv4, ipv6 }) => {
            json!({ "masked_remote_address": { "ipv4_prefix": ipv4, "ipv6_prefix": ipv6 } })
        }
        DescriptorAction::GenericKey { key, value } => json!({ "generic_key": { "key": key, "value": value } }),
        DescriptorAction::HeaderValueMatch { headers, key, value, expect_match } => json!({ "header_value_match": {
            "headers": view_header_matches(headers),
            "key": key,
            "value": value,
            "expect_match": expect_match,
        } }),
    }
}

fn view_fault(Fault { name, when, delay, abort, headers, max_active }: &Fault) -> Value {
    let delay = delay
        .as_ref()
        .map(|FaultDelay { share, time }| json!({ "percent": percent(*share), "for": time.map(duration) }));
    let abort = abort.as_ref().map(|FaultAbort { share, with }| match with {
        None => json!({ "percent": percent(*share) }),
        Some(AbortStatus::Http(status)) => json!({ "percent": percent(*share), "status": status }),
        Some(AbortStatus::Grpc(status)) => json!({ "percent": percent(*share), "grpc_status": status }),
    });
    json!({
        "name": name,
        "match": view_when(when),
        "delay": delay,
        "abort": abort,
        "headers": headers,
        "max_active": max_active,
    })
}

pub fn view_mirrors(Mirrors { targets, body_bytes }: &Mirrors, config: &Config) -> Value {
    let target = |Mirror { cluster, share, shadow_host, max_active }: &Mirror| {
        json!({
            "cluster": config.clusters[cluster.index()].name,
            "percent": percent(*share),
            "shadow_host": shadow_host,
            "max_active": max_active,
        })
    };
    json!({ "targets": targets.iter().map(target).collect::<Vec<_>>(), "body_bytes": body_bytes })
}

fn percent(Share(millionths): Share) -> f64 {
    f64::from(millionths) / 10_000.0
}

/// `new_connections` of a listener.
pub fn view_connection_rate(Quota { requests, per, burst }: &Quota) -> Value {
    json!({ "connections": requests, "per": duration(*per), "burst": burst })
}

fn view_quota(Quota { requests, per, burst }: &Quota) -> Value {
    json!({ "requests": requests, "per": duration(*per), "burst": burst })
}

fn view_key(key: &RateKey) -> Value {
    let prefixes = |Prefixes { ipv4, ipv6 }: &Prefixes| json!({ "ipv4_prefix": ipv4, "ipv6_prefix": ipv6 });
    match key {
        RateKey::ClientIp(of) => json!({ "client_ip": prefixes(of) }),
        RateKey::PeerIp(of) => json!({ "peer_ip": prefixes(of) }),
        RateKey::Host => json!("host"),
        RateKey::Connection => json!("connection"),
        RateKey::Header(name) => json!({ "header": name.as_str() }),
        RateKey::Query(name) => json!({ "query": name }),
        RateKey::Cookie(name) => json!({ "cookie": name }),
    }
}

fn view_when(When { hosts, methods, headers, query, client_ip }: &When) -> Value {
    json!({
        "hosts": hosts.iter().map(view_host).collect::<Vec<_>>(),
        "methods": methods.iter().map(Method::as_str).collect::<Vec<_>>(),
        "headers": view_header_matches(headers),
        "query": view_query_matches(query),
        "client_ip": client_ip,
    })
}
