//! `[[limits]]` of the running configuration.

use serde_json::{Value, json};

use super::{REDACTED, duration};
use crate::config::model::*;

pub fn view(LimitSet { name, domains, max_counters, shadow_mode, redis }: &LimitSet) -> Value {
    json!({
        "name": name,
        "domains": domains.iter().map(view_domain).collect::<Vec<_>>(),
        "max_counters": max_counters,
        "shadow_mode": shadow_mode,
        "redis": redis.as_ref().map(view_redis),
    })
}

fn view_domain(LimitDomain { name, rules }: &LimitDomain) -> Value {
    json!({ "domain": name, "descriptors": rules.iter().map(view_rule).collect::<Vec<_>>() })
}

fn view_rule(LimitRule { key, value, limit, shadow_mode, shares_count, rules }: &LimitRule) -> Value {
    let value = match value {
        LimitValue::Any => None,
        LimitValue::Exact(value) => Some(value.clone()),
        LimitValue::Prefix(prefix) => Some(format!("{prefix}*")),
    };
    json!({
        "key": key,
        "value": value,
        "rate_limit": limit.as_ref().map(view_limit),
        "shadow_mode": shadow_mode,
        "share_threshold": shares_count,
        "descriptors": rules.iter().map(view_rule).collect::<Vec<_>>(),
    })
}

fn view_limit(Limit { quota, name, replaces }: &Limit) -> Value {
    json!({
        "unlimited": quota.is_none(),
        "requests_per_unit": quota.map(|quota| quota.requests),
        "unit": quota.map(|quota| quota.unit.as_str()),
        "name": name,
        "replaces": replaces,
    })
}

fn view_redis(RedisStore { address, username, password, database, prefix, interval }: &RedisStore) -> Value {
    json!({
        "address": address.to_string(),
        "username": username,
        "password": password.as_ref().map(|_| REDACTED),
        "database": database,
        "prefix": prefix,
        "interval": duration(*interval),
    })
}
