//! Every metric, once: name, kind, labels and help.
//!
//! The names follow the Prometheus conventions (base units, `_total` for counters), which `promtool check metrics`
//! checks.

/// How a family's values behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    /// As the `# TYPE` line says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// The labels, in the order values are given; a histogram's `le` is not among them.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help)]
            pub const $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// Every family, in the order they are rendered.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    LISTENER_CONNECTIONS = Counter "gateway_listener_connections_total" ["listener"]
        "Downstream connections accepted."
    LISTENER_CONNECTIONS_ACTIVE = Gauge "gateway_listener_connections_active" ["listener"]
        "Downstream connections open now."
    LISTENER_REFUSED = Counter "gateway_listener_connections_refused_total" ["listener", "reason"]
        "Downstream connections closed before they were served, and datagrams dropped, by reason."
    LISTENER_HANDSHAKES = Counter "gateway_listener_tls_handshakes_total" ["listener", "result"]
        "TLS handshakes, by result."
    LISTENER_HANDSHAKE_FAILURES = Counter "gateway_listener_tls_handshake_failures_total" ["listener", "reason"]
        "TLS handshakes that failed, by reason."
    LISTENER_RECEIVED = Counter "gateway_listener_received_bytes_total" ["listener"]
        "Bytes of request bodies, relayed connections and datagrams received."
    LISTENER_SENT = Counter "gateway_listener_sent_bytes_total" ["listener"]
        "Bytes of response bodies, relayed connections and datagrams sent."
    LISTENER_REQUESTS = Counter "gateway_listener_requests_total" ["listener", "code"]
        "Requests finished, by class of response code; none when the client left before the response."
    LISTENER_REQUESTS_ACTIVE = Gauge "gateway_listener_requests_active" ["listener"]
        "Requests in progress."
    LISTENER_FLAGS = Counter "gateway_listener_response_flags_total" ["listener", "flag"]
        "Requests, relayed connections and UDP sessions finished, by response flag; one with two flags counts under both."
    LISTENER_LOCAL_REPLIES = Counter "gateway_listener_local_replies_total" ["listener"]
        "Responses made by the gateway itself."
    L4_CONNECTIONS = Counter "gateway_l4_route_connections_total" ["route"]
        "Connections and UDP sessions taken by an L4 route; a route shows once it has taken one."
    L4_CONNECTIONS_ACTIVE = Gauge "gateway_l4_route_connections_active" ["route"]
        "Connections and UDP sessions of an L4 route open now."
    L4_RECEIVED = Counter "gateway_l4_route_received_bytes_total" ["route"]
        "Bytes received from clients, counted when a connection or session ends."
    L4_SENT = Counter "gateway_l4_route_sent_bytes_total" ["route"]
        "Bytes sent to clients, counted when a connection or session ends."
    ROUTE_REQUESTS = Counter "gateway_route_requests_total" ["route", "code"]
        "Requests finished, by class of response code; a route shows once it has served one."
    ROUTE_DURATION = Histogram "gateway_route_request_duration_seconds" ["route"]
        "Time from the first byte of a request to the last byte of its response."
    BREAKER_OPENED = Counter "gateway_route_breaker_opened_total" ["route"]
        "Times the breaker of a route opened."
    BREAKER_OPEN = Gauge "gateway_route_breaker_open" ["route"]
        "1 while the breaker of a route is open, else 0."
    BREAKER_ANSWERS = Counter "gateway_route_breaker_answers_total" ["route"]
        "Requests that the open breaker of a route answered."
    ACME_ORDERS = Counter "gateway_acme_orders_total" ["certificate", "result"]
        "Tries to obtain a certificate by ACME."
    CLUSTER_REQUESTS = Counter "gateway_cluster_requests_total" ["cluster", "code"]
        "Upstream attempts finished, by class of response code; none when there was no response."
    CLUSTER_CONNECTIONS = Counter "gateway_cluster_connections_total" ["cluster"]
        "Upstream connections made."
    CLUSTER_REUSED = Counter "gateway_cluster_connections_reused_total" ["cluster"]
        "Upstream attempts that went over a connection that had served one before."
    CLUSTER_CONNECTIONS_ACTIVE = Gauge "gateway_cluster_connections_active" ["cluster"]
        "Upstream connections open now, idle ones among them."
    CLUSTER_CONNECT_FAILURES = Counter "gateway_cluster_connect_failures_total" ["cluster"]
        "Upstream connections that could not be made, timeouts among them."
    CLUSTER_HANDSHAKES = Counter "gateway_cluster_tls_handshakes_total" ["cluster", "kind"]
        "Upstream TLS handshakes that ended well: full, or resumed from a session."
    CLUSTER_TIMEOUTS = Counter "gateway_cluster_timeouts_total" ["cluster"]
        "Requests that ran into the timeout of their route."
    CLUSTER_OVERFLOW = Counter "gateway_cluster_pool_overflow_total" ["cluster"]
        "Requests refused because the connection pool had no room, at once or after a wait."
    CLUSTER_RETRIES = Counter "gateway_cluster_retries_total" ["cluster"]
        "Upstream attempts after the first."
    CLUSTER_RETRIES_EXHAUSTED = Counter "gateway_cluster_retries_exhausted_total" ["cluster"]
        "Requests whose last retry did not help."
    CLUSTER_RETRY_OVERFLOW = Counter "gateway_cluster_retry_overflow_total" ["cluster"]
        "Retries that the cluster's retry budget had no room for."
    CLUSTER_TRY_TIMEOUTS = Counter "gateway_cluster_try_timeouts_total" ["cluster"]
        "Upstream attempts that ran into the per-try timeout of their route."
    CLUSTER_REQUESTS_ACTIVE = Gauge "gateway_cluster_requests_active" ["cluster"]
        "Requests in progress."
    CLUSTER_REQUESTS_PENDING = Gauge "gateway_cluster_requests_pending" ["cluster"]
        "Requests that wait for a connection to become free."
    CLUSTER_RETRIES_ACTIVE = Gauge "gateway_cluster_retries_active" ["cluster"]
        "Requests in progress that have been sent again."
    CLUSTER_REQUEST_OVERFLOW = Counter "gateway_cluster_requests_overflow_total" ["cluster"]
        "Requests refused because the cluster had as many in progress as it may."
    CLUSTER_EJECTIONS = Counter "gateway_cluster_ejections_total" ["cluster", "reason"]
        "Times an endpoint was ejected for its answers."
    CLUSTER_EJECTIONS_LET_GO = Counter "gateway_cluster_ejections_let_go_total" ["cluster", "reason"]
        "Times an endpoint stood out by its answers and was not ejected: as many were as may be, or such findings do not eject."
    CLUSTER_HEALTHY = Gauge "gateway_cluster_endpoint_healthy" ["cluster", "endpoint"]
        "1 when the endpoint takes requests, else 0: it drains, its health checks fail, or it is ejected for its answers."
    CLUSTER_HEALTH_CHANGES = Counter "gateway_cluster_endpoint_health_changes_total" ["cluster", "endpoint"]
        "Times the endpoint became unhealthy or healthy again."
    CLUSTER_ENDPOINT_ACTIVE = Gauge "gateway_cluster_endpoint_requests_active" ["cluster", "endpoint"]
        "Requests, connections and UDP sessions of an endpoint in progress; of clusters with `balance = \"least_request\"`."
    RATE_LIMIT_REQUESTS = Counter "gateway_rate_limit_requests_total" ["limit", "result"]
        "Requests a rate limit looked at: allowed, refused, or dry_run_refused where it only counts."
    RATE_LIMIT_KEYS = Gauge "gateway_rate_limit_keys" ["limit"]
        "Keys of a rate limit whose buckets are not full."
    RATE_LIMIT_EVICTIONS = Counter "gateway_rate_limit_evictions_total" ["limit"]
        "Buckets that were forgotten before they were full, as there were too many keys or another worker was in the way."
    LIMITS_DESCRIPTORS = Counter "gateway_limits_descriptors_total" ["rule", "result"]
        "Descriptors that a rule of a set of limits judged: within, over, or shadowed where it only counts; a rule shows once it has judged one."
    LIMITS_COUNTERS = Gauge "gateway_limits_counters" ["limits"]
        "Counters of a set of limits whose windows are not over."
    LIMITS_EVICTIONS = Counter "gateway_limits_evictions_total" ["limits"]
        "Counters that were forgotten before their windows were over, as there were too many or another worker was in the way."
    LIMITS_REDIS_UP = Gauge "gateway_limits_redis_up" ["limits"]
        "1 when the last exchange with Redis succeeded, else 0."
    LIMITS_REDIS_EXCHANGES = Counter "gateway_limits_redis_exchanges_total" ["limits", "result"]
        "Exchanges with Redis, by result."
    LIMITS_REDIS_TOLD = Counter "gateway_limits_redis_counters_told_total" ["limits"]
        "Counters whose numbers were written to Redis, each time."
    LIMITS_REDIS_UNSHARED = Counter "gateway_limits_redis_counters_unshared_total" ["limits"]
        "Counters that Redis does not hear of, because too many were opened at once."
    GLOBAL_RATE_LIMIT_REQUESTS = Counter "gateway_global_rate_limit_requests_total" ["limit", "result"]
        "Requests about which a rate limit service was asked: ok, over_limit, or error when nobody could tell."
    GLOBAL_RATE_LIMIT_ALLOWED = Counter "gateway_global_rate_limit_failure_mode_allowed_total" ["limit"]
        "Requests with the result error that were let through."
    FAULT_REQUESTS = Counter "gateway_fault_requests_total" ["fault", "result"]
        "Requests that a fault hit: delayed, aborted, or overflow where there were too many at once and it let go."
    FAULT_ACTIVE = Gauge "gateway_fault_requests_active" ["fault"]
        "Requests that a fault delays or aborts now."
    MIRROR_REQUESTS = Counter "gateway_mirror_requests_total" ["mirror", "result"]
        "Copies of requests, by route/cluster: sent, failed, or not made because of too_long a body or an overflow."
    LOG_LINES = Counter "gateway_access_log_lines_total" []
        "Access log lines handed to the writer."
    LOG_DROPPED = Counter "gateway_access_log_lines_dropped_total" []
        "Access log lines dropped because the writer was behind."
    LOG_WRITE_ERRORS = Counter "gateway_access_log_write_errors_total" []
        "Failed writes of the access log; the lines of such a write are lost."
    XDP_PACKETS = Counter "gateway_xdp_packets_total" ["reason"]
        "Packets the XDP program decided on, by reason."
    XDP_MODE = Gauge "gateway_xdp_interface_mode" ["interface", "mode"]
        "1 for the mode in which the XDP program is attached to an interface: native, generic or off; else 0."
    VIP_FLOWS = Counter "gateway_vip_flows_total" ["vip", "endpoint"]
        "Flows that the kernel's balancer began with an endpoint."
    VIP_PACKETS = Counter "gateway_vip_packets_total" ["vip", "endpoint", "direction"]
        "Packets of a vip's flows to an endpoint (in) and back through the box (out)."
    VIP_BYTES = Counter "gateway_vip_bytes_total" ["vip", "endpoint", "direction"]
        "IP bytes of a vip's flows to an endpoint (in) and back through the box (out)."
    VIP_LOCAL_PACKETS = Counter "gateway_vip_local_packets_total" ["vip"]
        "Packets of a vip passed to a listener of this gateway."
    VIP_LOCAL_BYTES = Counter "gateway_vip_local_bytes_total" ["vip"]
        "IP bytes of a vip passed to a listener of this gateway."
    VIP_DROPPED = Counter "gateway_vip_dropped_packets_total" ["vip"]
        "Packets that would have begun a flow and were dropped: no endpoint, draining, too many flows, no source port."
    XDP_RULE_PACKETS = Counter "gateway_xdp_rule_packets_total" ["rule"]
        "Packets an access rule decided on in the XDP program."
    XDP_FLOW_ENTRIES = Gauge "gateway_xdp_flow_entries" ["table", "ip", "state"]
        "Entries of the kernel's flow tables, estimated from a sample; those whose time is over stay until their place is needed."
    XDP_FLOW_ENTRIES_MAX = Gauge "gateway_xdp_flow_entries_max" ["table", "ip"]
        "Entries that the kernel's flow tables have room for: two for a flow whose answers come by, else one."
    XDP_DROP_LOG = Counter "gateway_xdp_drop_log_packets_total" ["result"]
        "Dropped packets while there is a `drop_log`: written to the log, or omitted because there were too many."
    STORE_UP = Gauge "gateway_certificate_store_up" []
        "1 while the etcd of the certificate store answers, else 0; none without etcd."
    BANS = Gauge "gateway_bans_active" []
        "Sources that are banned now."
    OVERLOAD_MEMORY = Gauge "gateway_overload_memory_bytes" []
        "Resident memory of the process, as overload protection sees it."
    OVERLOAD_MEMORY_MAX = Gauge "gateway_overload_memory_max_bytes" []
        "The most memory there may be; shows where there is a limit."
    OVERLOAD_ACTIVE = Gauge "gateway_overload_action_active" ["action"]
        "1 while this is given up for want of memory: idle_connections, connections, requests, everything; else 0."
    OVERLOAD_DELAY = Gauge "gateway_overload_delay_seconds" ["worker", "of"]
        "The shortest wait of the last fifth of a second for a worker: of all its work, and of connections to be accepted."
    OVERLOAD_REFUSED = Gauge "gateway_overload_refused_ratio" ["worker"]
        "The share of ordinary requests and new connections that a worker refuses because of its delay."
    OVERLOAD_SHED = Counter "gateway_overload_requests_shed_total" ["reason"]
        "Requests answered with 503 and flag OM, for want of memory or because of delay."
    CERTIFICATE_NOT_AFTER = Gauge "gateway_certificate_not_after_seconds" ["kind", "name", "domain"]
        "When a certificate, or one of its chain, expires, in seconds of Unix time."
    CERTIFICATES = Gauge "gateway_certificates" ["state"]
        "Certificates with a key, by state: ok, expired, not_yet_valid, not_obtained, or refused because of its files."
    CERTIFICATE_ALERT_POSTS = Counter "gateway_certificate_alert_posts_total" ["result"]
        "Posts to the webhook of certificate alerts: ok, or failed when it was given up."
    CONFIG_GENERATION = Gauge "gateway_config_generation" []
        "Generation of the running configuration; 1 is the one the process started with."
    CONFIG_RELOADS = Counter "gateway_config_reloads_total" ["result"]
        "Reloads, by result."
    CONFIG_LAST_RELOAD = Gauge "gateway_config_last_reload_timestamp_seconds" []
        "When the running configuration was put into force."
    CERTIFICATE_REFUSED = Gauge "gateway_certificate_refused" ["certificate", "reason"]
        "1 for a certificate whose newest pair is not used; the one it had is, if it had one."
    BUILD_INFO = Gauge "gateway_build_info" ["version"]
        "1; the version is in the label."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = std::collections::HashSet::new();
        for family in ALL {
            assert!(seen.insert(family.name), "{} twice", family.name);
            assert!(family.name.starts_with("gateway_"), "{}", family.name);
            assert!(
                family.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')),
                "{}",
                family.name
            );
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.') || family.help.ends_with("label."), "{}", family.name);
        }
    }
}
