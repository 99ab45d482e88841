//! `[[limits]]`: rules that judge descriptors, in the shape of envoyproxy/ratelimit's files.

use std::time::Duration;

use super::EndpointAddress;

/// `[[limits]]`
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSet {
    /// `name`
    pub name: String,
    /// The domains of `files`, sorted by name; no two have the same.
    pub domains: Vec<LimitDomain>,
    /// `max_counters`: default 65 536.
    pub max_counters: u32,
    /// `shadow_mode`: counts, and answers that nothing is over its limit (`SHADOW_MODE` of envoyproxy/ratelimit). Default off.
    pub shadow_mode: bool,
    /// `redis`: where several boxes add up what they count; `None` is this box alone.
    pub redis: Option<RedisStore>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitDomain {
    /// `domain`
    pub name: String,
    /// `descriptors`
    pub rules: Vec<LimitRule>,
}

/// One of `descriptors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRule {
    /// `key`
    pub key: String,
    /// `value`
    pub value: LimitValue,
    /// `rate_limit`: of descriptors that end here.
    pub limit: Option<Limit>,
    /// `shadow_mode`: counts, and is never over. Default off.
    pub shadow_mode: bool,
    /// `share_threshold`: all values that a wildcard matches are counted together. Default off.
    pub shares_count: bool,
    /// `descriptors`: what may follow.
    pub rules: Vec<LimitRule>,
}

/// `value` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LimitValue {
    /// Any, unless another rule is for it.
    Any,
    /// This one.
    Exact(String),
    /// All that begin like this: `value` with a `*` at its end, which is not in it.
    Prefix(String),
}

/// `rate_limit` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `requests_per_unit` and `unit`; `None` is `unlimited`.
    pub quota: Option<LimitQuota>,
    /// `name`: by which others replace it; empty for none.
    pub name: String,
    /// `replaces`: the names of limits that do not count for a request that this one counts for.
    pub replaces: Vec<String>,
}

/// How many requests in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitQuota {
    /// `requests_per_unit`
    pub requests: u32,
    /// `unit`
    pub unit: LimitUnit,
}

/// A unit of time, whose windows begin at whole multiples of it since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// `second`
    Second,
    /// `minute`
    Minute,
    /// `hour`
    Hour,
    /// `day`
    Day,
    /// `week`
    Week,
    /// `month`: 30 days.
    Month,
    /// `year`: 365 days.
    Year,
}

impl LimitUnit {
    /// All of them.
    pub const ALL: [LimitUnit; 7] = [
        LimitUnit::Second,
        LimitUnit::Minute,
        LimitUnit::Hour,
        LimitUnit::Day,
        LimitUnit::Week,
        LimitUnit::Month,
        LimitUnit::Year,
    ];

    /// As files have it.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitUnit::Second => "second",
            LimitUnit::Minute => "minute",
            LimitUnit::Hour => "hour",
            LimitUnit::Day => "day",
            LimitUnit::Week => "week",
            LimitUnit::Month => "month",
            LimitUnit::Year => "year",
        }
    }

    /// Its length.
    pub fn seconds(self) -> u32 {
        const DAY: u32 = 24 * 60 * 60;
        match self {
            LimitUnit::Second => 1,
            LimitUnit::Minute => 60,
            LimitUnit::Hour => 60 * 60,
            LimitUnit::Day => DAY,
            LimitUnit::Week => 7 * DAY,
            LimitUnit::Month => 30 * DAY,
            LimitUnit::Year => 365 * DAY,
        }
    }
}

/// `redis` of `[[limits]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisStore {
    /// `address`
    pub address: EndpointAddress,
    /// `username`; `None` is Redis's own default.
    pub username: Option<String>,
    /// The first line of `password_file`. Never printed.
    pub password: Option<String>,
    /// `database`. Default 0.
    pub database: u32,
    /// `prefix`: what every key begins with. Default `gateway`.
    pub prefix: String,
    /// `interval`: from one exchange to the next. Default 100 ms.
    pub interval: Duration,
}
