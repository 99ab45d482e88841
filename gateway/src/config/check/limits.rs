//! `[[limits]]`

mod file;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::each;
use crate::config::decode::List;
use crate::config::load::Loader;
use crate::config::model::{LimitDomain, LimitRule, LimitSet, RedisStore};
use crate::config::raw;
use crate::config::span::{At, Span};
use crate::config::value::{FilePath, PositiveDuration};

/// How often a box and Redis may speak with each other, and how long they may not. An exchange takes the control thread 6 ms
/// when as many windows are shared as may be.
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// Checks a set, and reads its files.
pub fn check(raw: At<raw::LimitSet>, loader: &mut Loader<'_>) -> Option<LimitSet> {
    let raw = raw.value;
    let files = raw.files.0;
    let domains = files.and_then(|files| domains(files, loader));
    let interval = raw.redis.as_ref().and_then(|redis| redis.value.interval);
    if let (Some(interval), Some(unit)) =
        (interval, domains.iter().flatten().flat_map(|of| smallest_unit(&of.rules)).min())
    {
        warn_of_slow_exchange(&interval, unit, loader);
    }
    let redis = raw.redis.map(|raw| redis(raw.value, loader));
    Some(LimitSet {
        name: raw.name.0?.value.0,
        domains: domains?,
        max_counters: raw.max_counters.map_or(1 << 16, |count| count.value.0),
        shadow_mode: raw.shadow_mode.is_some_and(|on| on.value),
        redis: match redis {
            Some(redis) => Some(redis?),
            None => None,
        },
    })
}

fn domains(files: At<List<FilePath>>, loader: &mut Loader<'_>) -> Option<Vec<LimitDomain>> {
    if files.value.is_empty() {
        loader.diagnostics.hint(files.span, "no files, so nothing is limited");
    }
    let mut paths: Vec<(PathBuf, Span)> = Vec::new();
    for pattern in files.value {
        for path in loader.glob(&pattern)? {
            if !paths.iter().any(|(taken, _)| *taken == path) {
                paths.push((path, pattern.span));
            }
        }
    }
    let mut domains = each(paths, |(path, span)| file::read(&path, span, loader))?;
    let mut taken: HashMap<&str, Span> = HashMap::new();
    let mut twice = Vec::new();
    for At { value: domain, span } in &domains {
        match taken.get(domain.name.as_str()) {
            None => _ = taken.insert(&domain.name, *span),
            Some(first) => twice.push((*span, *first, format!("there are two files for the domain `{}`", domain.name))),
        }
    }
    let is_unique = twice.is_empty();
    for (span, first, message) in twice {
        let help = "a domain is in one file: put the descriptors of both there";
        loader.diagnostics.error(span, message).help(help).related(first, "the first one");
    }
    domains.sort_by(|a, b| a.value.name.cmp(&b.value.name));
    is_unique.then(|| domains.into_iter().map(|domain| domain.value).collect())
}

/// The shortest unit of these rules and of those that nest in them, in seconds.
fn smallest_unit(rules: &[LimitRule]) -> Option<u32> {
    let own = |rule: &LimitRule| rule.limit.as_ref()?.quota.map(|quota| quota.unit.seconds());
    rules.iter().flat_map(|rule| [own(rule), smallest_unit(&rule.rules)]).flatten().min()
}

/// A window that is over before the boxes have heard of each other is counted by each for itself.
fn warn_of_slow_exchange(interval: &At<PositiveDuration>, unit_s: u32, loader: &mut Loader<'_>) {
    if interval.value.0 * 10 > Duration::from_secs(unit_s.into()) {
        let message = format!("the boxes do not hear of each other often enough for limits of {unit_s} s");
        let help = "a tenth of the shortest unit at most: each box lets through what it has not heard of the others";
        loader.diagnostics.warning(interval.span, message).help(help);
    }
}

fn redis(raw: raw::RedisStore, loader: &mut Loader<'_>) -> Option<RedisStore> {
    if let Some(interval) = raw.interval.filter(|interval| !INTERVAL.contains(&interval.value.0)) {
        loader.diagnostics.error(interval.span, "out of range: must be between 50ms and 1m");
    }
    let password = raw.password_file.map(|path| {
        let source = loader.text(&path)?;
        let line = loader.diagnostics.sources.text(source).lines().next().unwrap_or_default().to_owned();
        if line.is_empty() {
            loader.diagnostics.error(path.span, "the first line of this file is empty").help("it is the password");
            return None;
        }
        Some(line)
    });
    Some(RedisStore {
        address: raw.address.0?.value.0,
        username: raw.username.map(|name| name.value.0),
        password: match password {
            Some(password) => Some(password?),
            None => None,
        },
        database: raw.database.map_or(0, |number| number.value.0),
        prefix: raw.prefix.map_or_else(|| "gateway".to_owned(), |prefix| prefix.value.0),
        interval: super::duration(raw.interval, Duration::from_millis(100)),
    })
}
