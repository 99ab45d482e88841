//! The Prometheus text exposition format, version 0.0.4.

mod extra;

use std::fmt::Write;
use std::sync::Arc;

pub use extra::{
    CertificateCounts, CertificateEnd, EndpointHealth, Extra, FlowTableCounts, LimitSetCounts, OverloadCounts,
    VipCounts, VipEndpointCounts,
};

use super::flags::ResponseFlag;
use super::names::{self, Family};
use super::registry::Registry;
use super::shard::{
    ByCode, ByFinding, ClusterShard, CodeClass, Counter, DURATION_BOUNDS_US, Finding, Gauge, HandshakeFailure, Refusal,
    RouteShard, Sharded,
};

/// The `Content-Type` of [`render`]'s output.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends every metric to `out`.
pub fn render(registry: &Registry, extra: &Extra, out: &mut String) {
    let mut page = Page { out };
    listeners(registry, &mut page);
    l4_routes(registry, &mut page);
    routes(registry, &mut page);
    breakers(registry, extra, &mut page);
    acme(extra, &mut page);
    clusters(registry, extra, &mut page);
    filters(registry, extra, &mut page);
    process(registry, extra, &mut page);
}

fn listeners(registry: &Registry, page: &mut Page<'_>) {
    let all = registry.listeners();
    page.sums(&names::LISTENER_CONNECTIONS, &all, |shard| &shard.connections);
    page.levels(&names::LISTENER_CONNECTIONS_ACTIVE, &all, |shard| &shard.connections_active);
    page.family(&names::LISTENER_REFUSED, |family| {
        for (name, stats) in &all {
            for refusal in Refusal::ALL {
                family.sample(&[name, refusal.as_str()], stats.sum(|shard| shard.refused.of(refusal)));
            }
        }
    });
    page.family(&names::LISTENER_HANDSHAKES, |family| {
        for (name, stats) in &all {
            family.sample(&[name, "ok"], stats.sum(|shard| &shard.handshakes_ok));
            let failed = |failure| stats.sum(|shard| shard.handshakes_failed.of(failure));
            family.sample(&[name, "failed"], HandshakeFailure::ALL.into_iter().map(failed).sum::<u64>());
        }
    });
    page.family(&names::LISTENER_HANDSHAKE_FAILURES, |family| {
        for (name, stats) in &all {
            for failure in HandshakeFailure::ALL {
                family.sample(&[name, failure.as_str()], stats.sum(|shard| shard.handshakes_failed.of(failure)));
            }
        }
    });
    page.sums(&names::LISTENER_RECEIVED, &all, |shard| &shard.bytes_received);
    page.sums(&names::LISTENER_SENT, &all, |shard| &shard.bytes_sent);
    page.codes(&names::LISTENER_REQUESTS, &all, |shard| &shard.requests);
    page.levels(&names::LISTENER_REQUESTS_ACTIVE, &all, |shard| &shard.requests_active);
    page.family(&names::LISTENER_FLAGS, |family| {
        for (name, stats) in &all {
            for flag in ResponseFlag::ALL {
                family.sample(&[name, flag.as_str()], stats.sum(|shard| shard.flags.at(flag.index())));
            }
        }
    });
    page.sums(&names::LISTENER_LOCAL_REPLIES, &all, |shard| &shard.local_replies);
}

fn l4_routes(registry: &Registry, page: &mut Page<'_>) {
    let mut all = registry.l4_routes();
    all.retain(|(_, stats)| stats.used().next().is_some());
    page.sums(&names::L4_CONNECTIONS, &all, |shard| &shard.connections);
    page.levels(&names::L4_CONNECTIONS_ACTIVE, &all, |shard| &shard.connections_active);
    page.sums(&names::L4_RECEIVED, &all, |shard| &shard.bytes_received);
    page.sums(&names::L4_SENT, &all, |shard| &shard.bytes_sent);
}

fn routes(registry: &Registry, page: &mut Page<'_>) {
    // A route without a request yet is left out: there may be a hundred thousand of them.
    let mut all = registry.routes();
    all.retain(|(_, stats)| stats.used().next().is_some());
    page.codes(&names::ROUTE_REQUESTS, &all, |shard| &shard.requests);
    page.family(&names::ROUTE_DURATION, |family| {
        for (name, stats) in &all {
            family.histogram(name, stats);
        }
    });
}

fn breakers(registry: &Registry, extra: &Extra, page: &mut Page<'_>) {
    let all = registry.breakers();
    page.sums(&names::BREAKER_OPENED, &all, |shard| &shard.opened);
    page.family(&names::BREAKER_OPEN, |family| {
        extra.breakers.iter().for_each(|(route, is_open)| family.sample(&[route], u8::from(*is_open)));
    });
    page.sums(&names::BREAKER_ANSWERS, &all, |shard| &shard.answers);
}

fn acme(extra: &Extra, page: &mut Page<'_>) {
    page.family(&names::ACME_ORDERS, |family| {
        for (certificate, [issued, failed]) in &extra.acme {
            family.sample(&[certificate, "issued"], issued);
            family.sample(&[certificate, "failed"], failed);
        }
    });
}

fn clusters(registry: &Registry, extra: &Extra, page: &mut Page<'_>) {
    let all = registry.clusters();
    page.codes(&names::CLUSTER_REQUESTS, &all, |shard| &shard.requests);
    page.sums(&names::CLUSTER_CONNECTIONS, &all, |shard| &shard.connections_created);
    page.sums(&names::CLUSTER_REUSED, &all, |shard| &shard.connections_reused);
    page.levels(&names::CLUSTER_CONNECTIONS_ACTIVE, &all, |shard| &shard.connections_active);
    page.sums(&names::CLUSTER_CONNECT_FAILURES, &all, |shard| &shard.connect_failures);
    page.family(&names::CLUSTER_HANDSHAKES, |family| {
        for (name, stats) in &all {
            family.sample(&[name, "full"], stats.sum(|shard| &shard.handshakes_full));
            family.sample(&[name, "resumed"], stats.sum(|shard| &shard.handshakes_resumed));
        }
    });
    page.sums(&names::CLUSTER_TIMEOUTS, &all, |shard| &shard.timeouts);
    page.sums(&names::CLUSTER_OVERFLOW, &all, |shard| &shard.pool_overflow);
    page.sums(&names::CLUSTER_RETRIES, &all, |shard| &shard.retries);
    page.sums(&names::CLUSTER_RETRIES_EXHAUSTED, &all, |shard| &shard.retries_exhausted);
    page.sums(&names::CLUSTER_RETRY_OVERFLOW, &all, |shard| &shard.retry_overflow);
    page.sums(&names::CLUSTER_TRY_TIMEOUTS, &all, |shard| &shard.try_timeouts);
    page.levels(&names::CLUSTER_REQUESTS_ACTIVE, &all, |shard| &shard.requests_active);
    page.levels(&names::CLUSTER_REQUESTS_PENDING, &all, |shard| &shard.requests_pending);
    page.levels(&names::CLUSTER_RETRIES_ACTIVE, &all, |shard| &shard.retries_active);
    page.sums(&names::CLUSTER_REQUEST_OVERFLOW, &all, |shard| &shard.request_overflow);
    page.findings(&names::CLUSTER_EJECTIONS, &all, |shard| &shard.ejections);
    page.findings(&names::CLUSTER_EJECTIONS_LET_GO, &all, |shard| &shard.findings_let_go);
    page.family(&names::CLUSTER_HEALTHY, |family| {
        for health in &extra.endpoints {
            family.sample(&[&health.cluster, &health.endpoint], u8::from(health.healthy));
        }
    });
    page.family(&names::CLUSTER_HEALTH_CHANGES, |family| {
        for health in &extra.endpoints {
            family.sample(&[&health.cluster, &health.endpoint], health.changes);
        }
    });
    page.family(&names::CLUSTER_ENDPOINT_ACTIVE, |family| {
        for health in &extra.endpoints {
            if let Some(active) = health.active {
                family.sample(&[&health.cluster, &health.endpoint], active);
            }
        }
    });
}

fn filters(registry: &Registry, extra: &Extra, page: &mut Page<'_>) {
    let limits = registry.rate_limits();
    page.family(&names::RATE_LIMIT_REQUESTS, |family| {
        for (name, stats) in &limits {
            family.sample(&[name, "allowed"], stats.sum(|shard| &shard.allowed));
            family.sample(&[name, "refused"], stats.sum(|shard| &shard.refused));
            family.sample(&[name, "dry_run_refused"], stats.sum(|shard| &shard.would_refuse));
        }
    });
    page.family(&names::RATE_LIMIT_KEYS, |family| {
        extra.rate_limit_keys.iter().for_each(|(name, keys)| family.sample(&[name], keys));
    });
    page.sums(&names::RATE_LIMIT_EVICTIONS, &limits, |shard| &shard.evictions);
    limit_sets(registry, extra, page);
    let limits = registry.global_rate_limits();
    page.family(&names::GLOBAL_RATE_LIMIT_REQUESTS, |family| {
        for (name, stats) in &limits {
            family.sample(&[name, "ok"], stats.sum(|shard| &shard.ok));
            family.sample(&[name, "over_limit"], stats.sum(|shard| &shard.over_limit));
            family.sample(&[name, "error"], stats.sum(|shard| &shard.error));
        }
    });
    page.sums(&names::GLOBAL_RATE_LIMIT_ALLOWED, &limits, |shard| &shard.failure_mode_allowed);
    let faults = registry.faults();
    page.family(&names::FAULT_REQUESTS, |family| {
        for (name, stats) in &faults {
            family.sample(&[name, "delayed"], stats.sum(|shard| &shard.delayed));
            family.sample(&[name, "aborted"], stats.sum(|shard| &shard.aborted));
            family.sample(&[name, "overflow"], stats.sum(|shard| &shard.overflow));
        }
    });
    page.family(&names::FAULT_ACTIVE, |family| {
        extra.faults_active.iter().for_each(|(name, active)| family.sample(&[name], active));
    });
    let mirrors = registry.mirrors();
    page.family(&names::MIRROR_REQUESTS, |family| {
        for (name, stats) in &mirrors {
            family.sample(&[name, "sent"], stats.sum(|shard| &shard.sent));
            family.sample(&[name, "failed"], stats.sum(|shard| &shard.failed));
            family.sample(&[name, "too_long"], stats.sum(|shard| &shard.too_long));
            family.sample(&[name, "overflow"], stats.sum(|shard| &shard.overflow));
        }
    });
}

fn limit_sets(registry: &Registry, extra: &Extra, page: &mut Page<'_>) {
    // A rule that has judged nothing yet is left out: there may be a hundred thousand of them.
    let mut rules = registry.limit_rules();
    rules.retain(|(_, stats)| stats.used().next().is_some());
    page.family(&names::LIMITS_DESCRIPTORS, |family| {
        for (name, stats) in &rules {
            family.sample(&[name, "within"], stats.sum(|shard| &shard.within));
            family.sample(&[name, "over"], stats.sum(|shard| &shard.over));
            family.sample(&[name, "shadowed"], stats.sum(|shard| &shard.shadowed));
        }
    });
    let sets = registry.limit_sets();
    page.family(&names::LIMITS_COUNTERS, |family| {
        extra.limit_sets.iter().for_each(|set| family.sample(&[&set.name], set.counters));
    });
    page.sums(&names::LIMITS_EVICTIONS, &sets, |shard| &shard.evictions);
    let shared = || extra.limit_sets.iter().filter_map(|set| Some((&set.name, set.is_redis_up?)));
    let mut sharing = sets;
    sharing.retain(|(name, _)| shared().any(|(shared, _)| **shared == **name));
    page.family(&names::LIMITS_REDIS_UP, |family| {
        shared().for_each(|(name, is_up)| family.sample(&[name], u8::from(is_up)));
    });
    page.family(&names::LIMITS_REDIS_EXCHANGES, |family| {
        for (name, stats) in &sharing {
            family.sample(&[name, "ok"], stats.sum(|shard| &shard.exchanges_ok));
            family.sample(&[name, "failed"], stats.sum(|shard| &shard.exchanges_failed));
        }
    });
    page.sums(&names::LIMITS_REDIS_TOLD, &sharing, |shard| &shard.told);
    page.sums(&names::LIMITS_REDIS_UNSHARED, &sharing, |shard| &shard.unshared);
}

/// Modes an interface's program can be in.
const XDP_MODES: [&str; 3] = ["native", "generic", "off"];

const DIRECTIONS: [&str; 2] = ["in", "out"];

fn kernel(extra: &Extra, page: &mut Page<'_>) {
    page.family(&names::XDP_PACKETS, |family| {
        extra.xdp_packets.iter().for_each(|(reason, packets)| family.sample(&[reason], packets));
    });
    page.family(&names::XDP_MODE, |family| {
        for (interface, is) in &extra.xdp_interfaces {
            XDP_MODES.iter().for_each(|mode| family.sample(&[interface, mode], u8::from(mode == is)));
        }
    });
    let endpoints = || extra.vips.iter().flat_map(|vip| vip.endpoints.iter().map(move |endpoint| (vip, endpoint)));
    page.family(&names::VIP_FLOWS, |family| {
        endpoints().for_each(|(vip, endpoint)| family.sample(&[&vip.name, &endpoint.address], endpoint.flows));
    });
    let mut both_ways = |of, counts: fn(&VipEndpointCounts) -> [u64; 2]| {
        page.family(of, |family| {
            for (vip, endpoint) in endpoints() {
                for (direction, count) in DIRECTIONS.iter().zip(counts(endpoint)) {
                    family.sample(&[&vip.name, &endpoint.address, direction], count);
                }
            }
        });
    };
    both_ways(&names::VIP_PACKETS, |endpoint| endpoint.packets);
    both_ways(&names::VIP_BYTES, |endpoint| endpoint.bytes);
    let mut of_vips = |of, count: fn(&VipCounts) -> u64| {
        page.family(of, |family| extra.vips.iter().for_each(|vip| family.sample(&[&vip.name], count(vip))));
    };
    of_vips(&names::VIP_LOCAL_PACKETS, |vip| vip.local[0]);
    of_vips(&names::VIP_LOCAL_BYTES, |vip| vip.local[1]);
    of_vips(&names::VIP_DROPPED, |vip| vip.dropped);
    page.family(&names::XDP_RULE_PACKETS, |family| {
        extra.xdp_rules.iter().for_each(|(rule, packets)| family.sample(&[rule], packets));
    });
    page.family(&names::XDP_FLOW_ENTRIES, |family| {
        for FlowTableCounts { table, ip, entries, .. } in &extra.flow_tables {
            ["live", "over"].iter().zip(entries).for_each(|(state, count)| family.sample(&[table, ip, state], count));
        }
    });
    page.family(&names::XDP_FLOW_ENTRIES_MAX, |family| {
        extra.flow_tables.iter().for_each(|flows| family.sample(&[flows.table, flows.ip], flows.max));
    });
    page.family(&names::XDP_DROP_LOG, |family| {
        let counts = extra.xdp_drop_log.iter().flatten();
        ["written", "omitted"].iter().zip(counts).for_each(|(result, packets)| family.sample(&[result], packets));
    });
    page.family(&names::STORE_UP, |family| extra.store_up.iter().for_each(|up| family.sample(&[], up)));
    page.value(&names::BANS, extra.bans);
}

fn process(registry: &Registry, extra: &Extra, page: &mut Page<'_>) {
    let worker = registry.worker();
    page.value(&names::LOG_LINES, worker.sum(|shard| &shard.log_lines));
    page.value(&names::LOG_DROPPED, worker.sum(|shard| &shard.log_lines_dropped));
    page.value(&names::LOG_WRITE_ERRORS, extra.log_write_errors);
    kernel(extra, page);
    overload(&extra.overload, page);
    certificates(&extra.certificates, page);
    page.value(&names::CONFIG_GENERATION, extra.generation);
    page.family(&names::CONFIG_RELOADS, |family| {
        family.sample(&["ok"], extra.reloads_ok);
        family.sample(&["failed"], extra.reloads_failed);
    });
    page.value(&names::CONFIG_LAST_RELOAD, extra.last_reload_unix_s);
    page.family(&names::CERTIFICATE_REFUSED, |family| {
        extra.certificates_refused.iter().for_each(|(name, reason)| family.sample(&[name, reason], 1));
    });
    page.family(&names::BUILD_INFO, |family| family.sample(&[extra.version], 1));
}

fn certificates(counts: &CertificateCounts, page: &mut Page<'_>) {
    page.family(&names::CERTIFICATE_NOT_AFTER, |family| {
        counts.ends.iter().for_each(|end| family.sample(&[end.kind, &end.name, &end.domain], end.not_after_s));
    });
    page.family(&names::CERTIFICATES, |family| {
        counts.states.iter().for_each(|(state, count)| family.sample(&[state], count));
    });
    page.family(&names::CERTIFICATE_ALERT_POSTS, |family| {
        ["ok", "failed"].iter().zip(counts.posts).for_each(|(result, posts)| family.sample(&[result], posts));
    });
}

fn overload(counts: &OverloadCounts, page: &mut Page<'_>) {
    let (used, max) = counts.memory;
    page.value(&names::OVERLOAD_MEMORY, used);
    page.family(&names::OVERLOAD_MEMORY_MAX, |family| max.iter().for_each(|max| family.sample(&[], max)));
    page.family(&names::OVERLOAD_ACTIVE, |family| {
        counts.actions.iter().for_each(|(action, is_on)| family.sample(&[action], u8::from(*is_on)));
    });
    page.family(&names::OVERLOAD_DELAY, |family| {
        for (worker, delays) in counts.delays_us.iter().enumerate() {
            for (of, us) in ["work", "connections"].iter().zip(delays) {
                family.sample(&[&worker.to_string(), of], *us as f64 / 1e6);
            }
        }
    });
    page.family(&names::OVERLOAD_REFUSED, |family| {
        for (worker, percent) in counts.refused_percent.iter().enumerate() {
            family.sample(&[&worker.to_string()], f64::from(*percent) / 100.0);
        }
    });
    page.family(&names::OVERLOAD_SHED, |family| {
        counts.shed.iter().for_each(|(why, requests)| family.sample(&[why], requests));
    });
}

/// Writing to a `String` cannot fail, so the results of `write!` below are dropped.
struct Page<'a> {
    out: &'a mut String,
}

impl Page<'_> {
    fn family(&mut self, family: &'static Family, samples: impl FnOnce(&mut Samples<'_>)) {
        let (name, kind, help) = (family.name, family.kind.as_str(), family.help);
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        samples(&mut Samples { family, out: self.out });
    }

    fn value(&mut self, family: &'static Family, value: u64) {
        self.family(family, |family| family.sample(&[], value));
    }

    fn sums<T: Default>(&mut self, family: &'static Family, all: &Named<T>, counter: impl Fn(&T) -> &Counter) {
        self.family(family, |family| {
            all.iter().for_each(|(name, stats)| family.sample(&[name], stats.sum(&counter)));
        });
    }

    fn levels<T: Default>(&mut self, family: &'static Family, all: &Named<T>, gauge: impl Fn(&T) -> &Gauge) {
        self.family(family, |family| {
            all.iter().for_each(|(name, stats)| family.sample(&[name], stats.level(&gauge)));
        });
    }

    /// A cluster without a finding is left out: most have none.
    fn findings(
        &mut self,
        family: &'static Family,
        all: &Named<ClusterShard>,
        findings: impl Fn(&ClusterShard) -> &ByFinding,
    ) {
        self.family(family, |family| {
            for (name, stats) in all {
                for finding in Finding::ALL {
                    let count = stats.sum(|shard| findings(shard).of(finding));
                    if count > 0 {
                        family.sample(&[name, finding.as_str()], count);
                    }
                }
            }
        });
    }

    fn codes<T: Default>(&mut self, family: &'static Family, all: &Named<T>, codes: impl Fn(&T) -> &ByCode) {
        self.family(family, |family| {
            for (name, stats) in all {
                for class in CodeClass::ALL {
                    family.sample(&[name, class.as_str()], stats.sum(|shard| codes(shard).of(class)));
                }
            }
        });
    }
}

type Named<T> = [(Arc<str>, Arc<Sharded<T>>)];

struct Samples<'a> {
    family: &'static Family,
    out: &'a mut String,
}

impl Samples<'_> {
    fn sample(&mut self, labels: &[&str], value: impl std::fmt::Display) {
        self.line("", labels, None, value);
    }

    fn histogram(&mut self, name: &str, stats: &Sharded<RouteShard>) {
        let mut buckets = [0_u64; DURATION_BOUNDS_US.len() + 1];
        let mut sum_us = 0;
        for shard in stats.used() {
            buckets.iter_mut().zip(shard.duration.buckets()).for_each(|(total, count)| *total += count);
            sum_us += shard.duration.sum_us();
        }
        let mut count = 0;
        let bounds = DURATION_BOUNDS_US.iter().map(|us| Some(*us as f64 / 1e6)).chain([None]);
        for (bound, bucket) in bounds.zip(buckets) {
            count += bucket;
            let le = bound.map_or("+Inf".to_owned(), |seconds| seconds.to_string());
            self.line("_bucket", &[name], Some(&le), count);
        }
        self.line("_sum", &[name], None, sum_us as f64 / 1e6);
        self.line("_count", &[name], None, count);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], le: Option<&str>, value: impl std::fmt::Display) {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        let _ = write!(self.out, "{}{suffix}", self.family.name);
        let pairs = self.family.labels.iter().copied().zip(labels.iter().copied()).chain(le.map(|le| ("le", le)));
        let mut open = '{';
        for (label, text) in pairs {
            let _ = write!(self.out, "{open}{label}=\"");
            escape(text, self.out);
            self.out.push('"');
            open = ',';
        }
        let _ = writeln!(self.out, "{} {value}", if open == ',' { "}" } else { "" });
    }
}

/// A label's value: backslash, quote and line feed are escaped, anything else is as it is.
fn escape(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests;
