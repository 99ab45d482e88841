//! How endpoints are chosen.

use serde_json::{Map, Value, json};

use super::REDACTED;
use crate::config::model::*;
use crate::proto::cookie::Cookie;

pub fn view_rules(rules: &[HashRule]) -> Vec<Value> {
    let view_rule = |HashRule { on, terminal }: &HashRule| {
        let (key, on) = match on {
            HashOn::Header(name) => ("header", json!(name.as_str())),
            HashOn::Cookie { cookie, generate: true } => ("cookie", Value::Object(view_cookie(cookie))),
            HashOn::Cookie { cookie, generate: false } => ("cookie", json!(cookie.name)),
            HashOn::Query(name) => ("query", json!(name)),
            HashOn::SourceIp => ("source_ip", json!(true)),
        };
        json!({ key: on, "terminal": terminal })
    };
    rules.iter().map(view_rule).collect()
}

pub fn view_affinity(AffinityCookie { cookie, strict, secret }: &AffinityCookie) -> Value {
    let mut view = view_cookie(cookie);
    view.insert("strict".into(), json!(strict));
    view.insert("secret".into(), json!(secret.as_ref().map(|_| REDACTED)));
    Value::Object(view)
}

fn view_cookie(Cookie { name, ttl, path, attributes }: &Cookie) -> Map<String, Value> {
    let attributes: Map<_, _> = attributes.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let view = [
        ("name", json!(name)),
        ("ttl", json!(ttl.map(super::duration))),
        ("path", json!(path)),
        ("attributes", Value::Object(attributes)),
    ];
    view.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

pub fn view_labels(labels: &Labels) -> Value {
    labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into()
}

/// The keys of a route.
pub fn view_subset(subset: Option<&Subset>) -> (Value, &'static str) {
    let labels = subset.map_or(Value::Null, |subset| view_labels(&subset.labels));
    (labels, subset.map_or_else(Default::default, |subset| subset.fallback).as_str())
}
