//! What is asked.

/// A route of both, for requests whose `x-case` is its name, and what is asked of it.
pub struct Case {
    pub name: &'static str,
    /// The gateway's route, without `match`. Empty: there is none.
    pub gateway: &'static str,
    /// Envoy's route, without `match`.
    pub envoy: &'static str,
    pub path: &'static str,
    /// How many requests follow each other.
    pub requests: usize,
    /// How many other requests wait meanwhile, the first of them at the origin.
    pub others: usize,
    /// Seconds that it takes at least.
    pub at_least_s: u64,
}

const fn case(name: &'static str, path: &'static str, gateway: &'static str, envoy: &'static str) -> Case {
    Case { name, gateway, envoy, path, requests: 1, others: 0, at_least_s: 0 }
}

/// `retry = { attempts = 0 }` where Envoy has no `retry_policy`: the gateway's default is Istio's. `non_idempotent`, because
/// Envoy repeats any method.
pub const CASES: &[Case] = &[
    case("served", "/", "cluster = 'origin'", "route: {cluster: origin}"),
    case("no route", "/", "", ""),
    case(
        "redirect",
        "/a?b=c",
        "redirect = { scheme = 'https', host = 'www.example.com', status = 308 }",
        "redirect: {https_redirect: true, host_redirect: www.example.com, response_code: PERMANENT_REDIRECT}",
    ),
    case(
        "direct response",
        "/",
        "respond = { status = 410, body = 'not here' }",
        "direct_response: {status: 410, body: {inline_string: not here}}",
    ),
    case("no endpoint", "/", "cluster = 'empty'", "route: {cluster: empty}"),
    case("connection refused", "/", "cluster = 'nobody'\nretry = { attempts = 0 }", "route: {cluster: nobody}"),
    case(
        "connection refused twice",
        "/",
        "cluster = 'nobody'\nretry = { on = ['connect-failure'], attempts = 1 }",
        "route: {cluster: nobody, retry_policy: {retry_on: connect-failure, num_retries: 1}}",
    ),
    case("connect timeout", "/", "cluster = 'stuck'\nretry = { attempts = 0 }", "route: {cluster: stuck}"),
    case("timeout", "/hang", "cluster = 'origin'\ntimeout = '200ms'", "route: {cluster: origin, timeout: 0.2s}"),
    case(
        "timeout of each try",
        "/hang",
        "cluster = 'origin'\nretry = { on = ['gateway-error'], non_idempotent = true, attempts = 1, \
         per_try_timeout = '200ms' }",
        "route: {cluster: origin, retry_policy: {retry_on: gateway-error, num_retries: 1, per_try_timeout: 0.2s}}",
    ),
    case("reset", "/cut", "cluster = 'origin'\nretry = { attempts = 0 }", "route: {cluster: origin}"),
    case("reset of a stream", "/cut", "cluster = 'h2'\nretry = { attempts = 0 }", "route: {cluster: h2}"),
    case(
        "error, then success",
        "/flaky",
        "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1 }",
        "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1}}",
    ),
    case(
        "errors only",
        "/503",
        "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1 }",
        "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1}}",
    ),
    Case { others: 1, ..case("overflow", "/", "cluster = 'one'\nretry = { attempts = 0 }", "route: {cluster: one}") },
    Case {
        others: 2,
        ..case("pending overflow", "/", "cluster = 'narrow'\nretry = { attempts = 0 }", "route: {cluster: narrow}")
    },
    Case {
        at_least_s: 1,
        ..case(
            "retry-after",
            "/later",
            "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1, max_backoff = '2s' }",
            "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1, rate_limited_retry_back_off: \
             {max_interval: 2s, reset_headers: [{name: retry-after, format: SECONDS}]}}}",
        )
    },
    case(
        "retry-after for too long",
        "/much-later",
        "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1, max_backoff = '2s' }",
        "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1, rate_limited_retry_back_off: \
         {max_interval: 2s, reset_headers: [{name: retry-after, format: SECONDS}]}}}",
    ),
    case(
        "attempts counted for the origin",
        "/attempt",
        "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1 }",
        "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1}}",
    ),
    Case {
        requests: 2,
        ..case(
            "local limit",
            "/",
            "cluster = 'origin'\nfilters = [{ rate_limit = { requests = 1, per = '1h', ratelimit_headers = true } }]",
            "route: {cluster: origin}, typed_per_filter_config: {local: {'@type': TYPES.filters.http.local_ratelimit.v3.\
             LocalRateLimit, stat_prefix: local, enable_x_ratelimit_headers: DRAFT_VERSION_03, \
             token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s}, \
             filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}}}",
        )
    },
    case(
        "global limit, within",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         ratelimit_headers = true, descriptors = [[{ generic_key = { value = 'ok' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{actions: [{generic_key: {descriptor_value: ok}}]}]}",
    ),
    case(
        "global limit, over",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         ratelimit_headers = true, descriptors = [[{ generic_key = { value = 'over' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{actions: [{generic_key: {descriptor_value: over}}]}]}",
    ),
    case(
        "global limit, error allowed",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         ratelimit_headers = true, descriptors = [[{ generic_key = { value = 'error' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{actions: [{generic_key: {descriptor_value: error}}]}]}",
    ),
    case(
        "global limit, error denied",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         deny_on_error = true, descriptors = [[{ generic_key = { value = 'error' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{stage: 1, actions: [{generic_key: {descriptor_value: error}}]}]}",
    ),
    case(
        "abort",
        "/",
        "cluster = 'origin'\nfilters = [{ fault = { abort = { percent = 100, status = 418 } } }]",
        "route: {cluster: origin}, typed_per_filter_config: {fault: {'@type': TYPES.filters.http.fault.v3.HTTPFault, \
         abort: {http_status: 418, percentage: {numerator: 100}}}}",
    ),
    case(
        "delay",
        "/",
        "cluster = 'origin'\nfilters = [{ fault = { delay = { percent = 100, for = '50ms' } } }]",
        "route: {cluster: origin}, typed_per_filter_config: {fault: {'@type': TYPES.filters.http.fault.v3.HTTPFault, \
         delay: {fixed_delay: 0.05s, percentage: {numerator: 100}}}}",
    ),
];
