//! The running configuration as JSON, for people and tools to look at.
//!
//! Private keys and the values of headers and parameters that carry credentials are never in it. Every struct is taken apart field by
//! field without `..`, so a new field does not compile until somebody has decided whether it may be shown.

mod acme;
mod balance;
mod breaker;
mod filter;
mod health;
mod l4;
mod limits;
mod outlier;
mod overload;
mod retry;
mod tls;

use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use self::breaker::view_breaker;
use crate::config::model::*;
use crate::proto::head::HeaderName;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// The configuration, in the words of the file where it has them.
pub fn view(config: &Config) -> Value {
    let Config {
        gateway,
        admin,
        access_log,
        overload,
        xdp,
        access,
        vips,
        certificates,
        acme,
        certificate_store,
        listeners,
        clusters,
        limits,
        routes,
        l4_routes,
    } = config;
    json!({
        "gateway": view_gateway(gateway),
        "admin": admin.as_ref().map_or(json!({ "address": "off" }), |Admin { address }| json!({ "address": address })),
        "access_log": access_log.as_ref().map(view_access_log),
        "overload": overload::view_overload(overload),
        "xdp": l4::view_xdp(xdp),
        "access": access.iter().map(view_access).collect::<Vec<_>>(),
        "vip": vips.iter().map(|vip| l4::view_vip(vip, config)).collect::<Vec<_>>(),
        "certificate": certificates.iter().map(view_certificate).collect::<Vec<_>>(),
        "acme": acme.iter().map(acme::view).collect::<Vec<_>>(),
        "certificate_store": acme::view_store(certificate_store),
        "listener": listeners.iter().map(|listener| view_listener(listener, config)).collect::<Vec<_>>(),
        "cluster": clusters.iter().map(view_cluster).collect::<Vec<_>>(),
        "limits": limits.iter().map(limits::view).collect::<Vec<_>>(),
        "route": routes.iter().map(|route| view_route(route, config)).collect::<Vec<_>>(),
        "l4_route": l4_routes.iter().map(|route| view_l4_route(route, config)).collect::<Vec<_>>(),
    })
}

fn view_gateway(gateway: &Gateway) -> Value {
    let Gateway { workers, drain_timeout, trusted_proxies, trusted_hops, forwarded_header, server_header, via } =
        gateway;
    json!({
        "workers": workers.map_or(json!("auto"), |count| json!(count)),
        "drain_timeout": duration(*drain_timeout),
        "trusted_proxies": trusted_proxies,
        "trusted_hops": trusted_hops,
        "forwarded_header": forwarded_header,
        "server_header": server_header,
        "via": via,
    })
}

fn view_access_log(AccessLog { target, format }: &AccessLog) -> Value {
    let path = match target {
        LogTarget::Stdout => "stdout".into(),
        LogTarget::File(path) => path.to_string_lossy(),
    };
    let format = match format {
        LogFormat::Json => "json",
        LogFormat::Format(text) => text,
    };
    json!({ "path": path, "format": format })
}

fn view_access(rule: &AccessRule) -> Value {
    let AccessRule { name, action, protocol, ports, sources, expiring } = rule;
    let action = match action {
        AccessAction::Deny => "deny",
        AccessAction::Allow => "allow",
    };
    let protocol = protocol.map(|protocol| match protocol {
        VipProtocol::Tcp => "tcp",
        VipProtocol::Udp => "udp",
    });
    let ports: Vec<String> = ports.iter().map(|ports| format!("{}-{}", ports.start(), ports.end())).collect();
    let ends = |(network, until): &(IpNet, SystemTime)| json!({ "source": network, "expires": humantime::format_rfc3339_seconds(*until).to_string() });
    let expiring: Vec<Value> = expiring.iter().map(ends).collect();
    json!({
        "name": name,
        "action": action,
        "protocol": protocol,
        "ports": ports,
        "sources": sources,
        "expiring": expiring,
    })
}

fn view_certificate(Certificate { name, source, pair: _, hosts, http }: &Certificate) -> Value {
    let mut view = json!({ "name": name, "hosts": hosts, "http": view_http_versions(*http) });
    match source {
        CertificateSource::Files(files) | CertificateSource::Directory(files) => {
            view["chain"] = files.chain.to_string_lossy().into();
            view["ocsp"] = files.ocsp.as_ref().map(|path| path.to_string_lossy()).into();
        }
        CertificateSource::Acme(obtained) => view["acme"] = obtained.by.as_str().into(),
    }
    view
}

fn view_listener(listener: &Listener, config: &Config) -> Value {
    let Listener {
        name,
        address,
        protocol,
        http,
        http2,
        proxy_protocol,
        trusted_proxies,
        tls,
        forward_client_cert,
        client_cert_details,
        limits,
        path,
        filters,
    } = listener;
    let protocol = match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::TlsPassthrough => "tls_passthrough",
        ListenerProtocol::Udp => "udp",
    };
    let proxy_protocol = match proxy_protocol {
        ProxyProtocol::Off => "off",
        ProxyProtocol::Accept => "accept",
        ProxyProtocol::Require => "require",
    };
    json!({
        "name": name,
        "address": address,
        "protocol": protocol,
        "http": view_http_versions(*http),
        "http2": view_http2(http2),
        "proxy_protocol": proxy_protocol,
        "trusted_proxies": trusted_proxies,
        "tls": tls.as_ref().map(|tls| tls::view_listener_tls(tls, config)),
        "forward_client_cert": tls::forward_client_cert(*forward_client_cert),
        "forward_client_cert_details": tls::client_cert_details(*client_cert_details),
        "limits": view_limits(limits),
        "path_normalisation": view_path_policy(path),
        "filters": filters.iter().map(|each| filter::view(each, config)).collect::<Vec<_>>(),
    })
}

fn view_http_versions(HttpVersions { h1, h2 }: HttpVersions) -> Vec<&'static str> {
    [(h2, "h2"), (h1, "h1")].into_iter().filter_map(|(spoken, name)| spoken.then_some(name)).collect()
}

fn view_http2(Http2 { max_concurrent_streams, stream_window, connection_window }: &Http2) -> Value {
    json!({
        "max_concurrent_streams": max_concurrent_streams,
        "stream_window": stream_window,
        "connection_window": connection_window,
    })
}

fn view_limits(limits: &ListenerLimits) -> Value {
    let ListenerLimits {
        connections,
        connections_per_source,
        new_connections,
        new_connections_per_source,
        header_bytes,
        header_count,
        header_timeout,
        handshake_timeout,
        idle_timeout,
        body_bytes,
    } = limits;
    json!({
        "connections": connections,
        "connections_per_source": connections_per_source,
        "new_connections": new_connections.as_ref().map(filter::view_connection_rate),
        "new_connections_per_source": new_connections_per_source.as_ref().map(filter::view_connection_rate),
        "header_bytes": header_bytes,
        "header_count": header_count,
        "header_timeout": duration(*header_timeout),
        "handshake_timeout": duration(*handshake_timeout),
        "idle_timeout": duration(*idle_timeout),
        "body_bytes": body_bytes,
    })
}

fn view_path_policy(PathPolicy { dot_segments, merge_slashes, encoded_slashes }: &PathPolicy) -> Value {
    let encoded_slashes = match encoded_slashes {
        EncodedSlashes::Keep => "keep",
        EncodedSlashes::Reject => "reject",
        EncodedSlashes::Decode => "decode",
    };
    json!({ "dot_segments": dot_segments, "merge_slashes": merge_slashes, "encoded_slashes": encoded_slashes })
}

fn view_cluster(cluster: &Cluster) -> Value {
    let Cluster {
        name,
        balance,
        hash_on,
        affinity_cookie,
        panic_threshold,
        prefer,
        endpoints,
        connect_timeout,
        idle_timeout,
        max_connections,
        max_pending_requests,
        max_requests,
        retry_budget,
        max_idle_connections,
        dns_refresh,
        protocol,
        max_streams,
        proxy_protocol,
        tls,
        health_check,
        outlier_detection,
        slow_start,
    } = cluster;
    json!({
        "name": name,
        "balance": balance.as_str(),
        "hash_on": balance::view_rules(hash_on),
        "affinity_cookie": affinity_cookie.as_ref().map(balance::view_affinity),
        "panic_threshold": panic_threshold,
        "prefer": balance::view_labels(prefer),
        "endpoints": endpoints.iter().map(view_endpoint).collect::<Vec<_>>(),
        "connect_timeout": duration(*connect_timeout),
        "idle_timeout": duration(*idle_timeout),
        "max_connections": max_connections,
        "max_pending_requests": max_pending_requests,
        "max_requests": max_requests,
        "retry_budget": retry::view_budget(retry_budget),
        "max_idle_connections": max_idle_connections,
        "dns_refresh": duration(*dns_refresh),
        "protocol": health::view_protocol(*protocol),
        "max_streams": max_streams,
        "proxy_protocol": health::view_proxy_header(*proxy_protocol),
        "tls": tls.as_ref().map(health::view_tls),
        "health_check": health_check.as_ref().map(health::view_health_check),
        "outlier_detection": outlier_detection.as_ref().map(outlier::view_outliers),
        "slow_start": duration(*slow_start),
    })
}

fn view_endpoint(Endpoint { address, weight, drain, priority, labels }: &Endpoint) -> Value {
    json!({
        "address": address.to_string(),
        "weight": weight,
        "drain": drain,
        "priority": priority,
        "labels": balance::view_labels(labels),
    })
}

fn view_route(route: &Route, config: &Config) -> Value {
    let Route {
        name,
        listeners,
        hosts,
        matcher,
        action,
        timeout,
        retry,
        body_bytes,
        request_headers,
        response_headers,
        websocket,
        filters,
        mirrors,
        breaker,
        priority,
    } = route;
    let (key, action) = view_action(action, config);
    json!({
        "name": name,
        "listeners": listeners.iter().map(|id| &config.listeners[id.index()].name).collect::<Vec<_>>(),
        "hosts": hosts.iter().map(view_host).collect::<Vec<_>>(),
        "match": view_match(matcher),
        key: action,
        "timeout": duration_or_none(*timeout),
        "retry": retry::view_retry(retry),
        "body_bytes": body_bytes,
        "request_headers": view_edits(request_headers),
        "response_headers": view_edits(response_headers),
        "websocket": websocket.as_ref().map_or(json!(false), |WebSocket { idle_timeout }| {
            json!({ "idle_timeout": duration_or_none(*idle_timeout) })
        }),
        "filters": filters.iter().map(|each| filter::view(each, config)).collect::<Vec<_>>(),
        "breaker": breaker.as_ref().map(view_breaker),
        "mirror": mirrors.as_ref().map(|mirrors| filter::view_mirrors(mirrors, config)),
        "priority": overload::view_priority(*priority),
    })
}

fn view_l4_route(route: &L4Route, config: &Config) -> Value {
    let L4Route {
        name,
        listeners,
        server_names,
        without_server_name,
        alpn,
        clusters,
        subset,
        connect_attempts,
        idle_timeout,
    } = route;
    let (subset, fallback) = balance::view_subset(subset.as_ref());
    json!({
        "name": name,
        "listeners": listeners.iter().map(|id| &config.listeners[id.index()].name).collect::<Vec<_>>(),
        "server_names": server_names.iter().map(view_host).collect::<Vec<_>>(),
        "without_server_name": without_server_name,
        "alpn": alpn,
        "clusters": view_clusters(clusters, config),
        "subset": subset,
        "subset_fallback": fallback,
        "connect_attempts": connect_attempts,
        "idle_timeout": duration_or_none(*idle_timeout),
    })
}

fn view_clusters(clusters: &[WeightedCluster], config: &Config) -> Vec<Value> {
    let share = |WeightedCluster { cluster, weight }: &WeightedCluster| json!({ "name": config.clusters[cluster.index()].name, "weight": weight });
    clusters.iter().map(share).collect()
}

fn view_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
        HostPattern::Any => "*".to_owned(),
    }
}

fn view_match(RouteMatch { path, methods, headers, query, peer_ip, client_ip }: &RouteMatch) -> Value {
    let (key, path) = match path {
        PathMatch::Exact(path) => ("path", path.as_str()),
        PathMatch::Prefix(prefix) => ("path_prefix", prefix.as_str()),
        PathMatch::Regex(pattern) => ("path_regex", pattern.0.as_str()),
    };
    let (headers, query) = (view_header_matches(headers), view_query_matches(query));
    let methods: Vec<_> = methods.iter().map(|method| method.as_str()).collect();
    json!({
        key: path, "methods": methods, "headers": headers, "query": query, "peer_ip": peer_ip, "client_ip": client_ip,
    })
}

fn view_header_matches(headers: &[HeaderMatch]) -> Map<String, Value> {
    headers.iter().map(|HeaderMatch { name, value }| view_condition(name.as_str(), value)).collect()
}

fn view_query_matches(query: &[QueryMatch]) -> Map<String, Value> {
    query.iter().map(|QueryMatch { name, value }| view_condition(name, value)).collect()
}

fn view_condition(name: &str, value: &ValueMatch) -> (String, Value) {
    let value = if is_secret(name) { json!(REDACTED) } else { view_value(value) };
    (name.to_owned(), value)
}

fn view_value(value: &ValueMatch) -> Value {
    match value {
        ValueMatch::Exact(text) => json!(text),
        ValueMatch::Regex(pattern) => json!({ "regex": pattern.0.as_str() }),
        ValueMatch::Present(present) => json!({ "present": present }),
    }
}

fn view_action(action: &Action, config: &Config) -> (&'static str, Value) {
    match action {
        Action::Forward(Forward { clusters, rewrite_prefix, rewrite_host, hash_on, subset }) => {
            let (subset, fallback) = balance::view_subset(subset.as_ref());
            let forward = json!({
                "clusters": view_clusters(clusters, config),
                "rewrite": { "path_prefix": rewrite_prefix, "host": rewrite_host },
                "hash_on": balance::view_rules(hash_on),
                "subset": subset,
                "subset_fallback": fallback,
            });
            ("forward", forward)
        }
        Action::Redirect(Redirect { status, scheme, host, port, path, path_prefix }) => (
            "redirect",
            json!({
                "status": status, "scheme": scheme, "host": host, "port": port, "path": path, "path_prefix": path_prefix,
            }),
        ),
        Action::Respond(Respond { status, body, content_type }) => {
            ("respond", json!({ "status": status, "body": body, "content_type": content_type }))
        }
        Action::RateLimitService(id) => ("rate_limit_service", json!(config.limits[id.index()].name)),
    }
}

fn view_edits(HeaderEdits { remove, set, add }: &HeaderEdits) -> Value {
    let remove: Vec<_> = remove.iter().map(HeaderName::as_str).collect();
    json!({ "remove": remove, "set": view_fields(set), "add": view_fields(add) })
}

fn view_fields(fields: &[(HeaderName, String)]) -> Vec<Value> {
    let shown = |(name, value): &(HeaderName, String)| {
        json!([name.as_str(), if is_secret(name.as_str()) { REDACTED } else { value.as_str() }])
    };
    fields.iter().map(shown).collect()
}

/// Whether a header or query parameter of this name is likely to carry a credential. Rather one too many.
fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 8] = ["auth", "cookie", "token", "secret", "key", "passw", "credential", "session"];
    PARTS.iter().any(|part| name.to_ascii_lowercase().contains(part))
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// As the file has it: `"0s"` is no limit.
fn duration_or_none(limit: Option<Duration>) -> String {
    limit.map_or("0s".to_owned(), duration)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::proto::cookie::Cookie;

    fn pair() -> Arc<Pair> {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
        let pair = Pair::of(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes(), None);
        Arc::new(pair.unwrap())
    }

    fn config() -> Config {
        let name = |text: &str| HeaderName::new(text).unwrap();
        Config {
            gateway: Gateway {
                workers: None,
                drain_timeout: Duration::from_secs(30),
                trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
                trusted_hops: 0,
                forwarded_header: false,
                server_header: Some("gateway".into()),
                via: None,
            },
            admin: Some(Admin { address: ([127, 0, 0, 1], 9901).into() }),
            access_log: Some(AccessLog { target: LogTarget::Stdout, format: LogFormat::Json }),
            overload: Overload::default(),
            xdp: Xdp::default(),
            vips: vec![],
            access: vec![],
            certificates: vec![Certificate {
                name: "example".into(),
                source: CertificateSource::Files(PairFiles {
                    chain: "certs/example.pem".into(),
                    key: "certs/example.key".into(),
                    ocsp: None,
                }),
                pair: Some(pair()),
                hosts: vec!["example.com".into()],
                http: HttpVersions::default(),
            }],
            acme: vec![Acme {
                name: "letsencrypt".into(),
                directory_url: "https://acme.test/directory".into(),
                contact: vec![],
                challenge: AcmeChallenge::default(),
                ca_pem: None,
                key_type: AcmeKeyType::default(),
                external_account: Some(ExternalAccount { key_id: "kid".into(), hmac_key: (*b"PRIVATE HMAC").into() }),
                profile: None,
            }],
            certificate_store: CertificateStore::default(),
            listeners: vec![Listener {
                name: "web".into(),
                address: ([0, 0, 0, 0], 443).into(),
                protocol: ListenerProtocol::Http,
                http: HttpVersions::default(),
                http2: Http2::default(),
                proxy_protocol: ProxyProtocol::Off,
                trusted_proxies: vec![],
                tls: Some(ListenerTls {
                    certificates: vec![CertificateId(0)],
                    strict_sni: false,
                    cipher_suites: vec![CipherSuite(0x1301)],
                    key_exchange: vec![KeyExchange::X25519],
                    terms: TlsTerms {
                        min_version: TlsVersion::Tls12,
                        client_auth: Some(ClientAuth {
                            is_required: true,
                            ca_pem: (*b"CLIENTS CA").into(),
                            crls: vec![],
                            names: vec![SanMatch::DnsLabel(".example.com".into())],
                            spki_sha256: vec![[1; 32]],
                        }),
                    },
                    hosts: vec![],
                }),
                forward_client_cert: ForwardClientCert::SanitizeSet,
                client_cert_details: ClientCertDetails { subject: true, ..ClientCertDetails::default() },
                limits: ListenerLimits::default(),
                path: PathPolicy::default(),
                filters: vec![],
            }],
            clusters: vec![Cluster {
                name: "api".into(),
                balance: Balance::Maglev,
                hash_on: vec![HashRule { on: HashOn::SourceIp, terminal: false }],
                affinity_cookie: Some(AffinityCookie {
                    cookie: Cookie { name: "server".into(), ttl: None, path: None, attributes: vec![] },
                    strict: true,
                    secret: Some("hunter2".into()),
                }),
                panic_threshold: 50,
                prefer: vec![("zone".into(), "a".into())],
                endpoints: vec![Endpoint {
                    address: EndpointAddress::Name("origin.test".into(), 80),
                    weight: 2,
                    drain: false,
                    priority: 1,
                    labels: vec![("zone".into(), "b".into())],
                }],
                connect_timeout: Duration::from_millis(1500),
                idle_timeout: Duration::from_secs(60),
                max_connections: 1024,
                max_pending_requests: 1024,
                max_requests: None,
                retry_budget: RetryBudget::default(),
                max_idle_connections: 256,
                dns_refresh: Duration::from_secs(5),
                protocol: UpstreamProtocol::H1,
                max_streams: 100,
                proxy_protocol: None,
                tls: None,
                health_check: None,
                outlier_detection: None,
                slow_start: Duration::ZERO,
            }],
            limits: vec![LimitSet {
                name: "shared".into(),
                domains: vec![],
                max_counters: 100,
                shadow_mode: false,
                redis: Some(RedisStore {
                    address: EndpointAddress::Name("redis.test".into(), 6379),
                    username: None,
                    password: Some("hunter2".into()),
                    database: 0,
                    prefix: "gateway".into(),
                    interval: Duration::from_millis(100),
                }),
            }],
            routes: vec![Route {
                name: "v1".into(),
                listeners: vec![ListenerId(0)],
                hosts: vec![HostPattern::Suffix(".example.com".into())],
                matcher: RouteMatch {
                    headers: vec![HeaderMatch { name: name("x-api-key"), value: ValueMatch::Exact("hunter2".into()) }],
                    ..RouteMatch::default()
                },
                action: Action::Forward(Forward {
                    clusters: vec![WeightedCluster { cluster: ClusterId(0), weight: 1 }],
                    rewrite_prefix: Some("/".into()),
                    rewrite_host: None,
                    hash_on: vec![],
                    subset: Some(Subset { labels: vec![("v".into(), "2".into())], fallback: SubsetFallback::Any }),
                }),
                timeout: None,
                body_bytes: None,
                request_headers: HeaderEdits {
                    set: vec![(name("authorization"), "Bearer hunter2".into()), (name("x-tenant"), "blue".into())],
                    ..HeaderEdits::default()
                },
                response_headers: HeaderEdits::default(),
                retry: Retry::unless_said(),
                websocket: None,
                filters: vec![],
                mirrors: None,
                breaker: None,
                priority: Priority::Normal,
            }],
            l4_routes: vec![L4Route {
                name: "db".into(),
                listeners: vec![ListenerId(0)],
                server_names: vec![HostPattern::Suffix(".db.example.com".into()), HostPattern::Any],
                without_server_name: false,
                alpn: vec!["h2".into()],
                clusters: vec![WeightedCluster { cluster: ClusterId(0), weight: 1 }],
                subset: None,
                connect_attempts: 3,
                idle_timeout: Some(Duration::from_secs(3600)),
            }],
        }
    }

    #[test]
    fn names_stand_for_ids_and_durations_are_as_in_the_file() {
        let view = view(&config());
        assert_eq!(view["listener"][0]["tls"]["certificates"], json!(["example"]));
        assert_eq!(view["route"][0]["listeners"], json!(["web"]));
        assert_eq!(view["route"][0]["forward"]["clusters"], json!([{ "name": "api", "weight": 1 }]));
        assert_eq!(view["route"][0]["hosts"], json!(["*.example.com"]));
        assert_eq!(view["route"][0]["timeout"], "0s");
        assert_eq!(view["route"][0]["forward"]["subset"], json!({ "v": "2" }));
        assert_eq!(view["route"][0]["forward"]["subset_fallback"], "any");
        assert_eq!(view["cluster"][0]["hash_on"], json!([{ "source_ip": true, "terminal": false }]));
        assert_eq!(view["cluster"][0]["affinity_cookie"]["name"], "server");
        assert_eq!(view["limits"][0]["redis"]["address"], "redis.test:6379");
        assert_eq!(view["route"][0]["websocket"], json!(false));
        assert_eq!(view["cluster"][0]["connect_timeout"], "1s 500ms");
        assert_eq!(view["cluster"][0]["proxy_protocol"], "off");
        assert_eq!(view["listener"][0]["http"], json!(["h2", "h1"]));
        assert_eq!(view["listener"][0]["http2"]["stream_window"], 262_144);
        assert_eq!(view["l4_route"][0]["listeners"], json!(["web"]));
        assert_eq!(view["l4_route"][0]["server_names"], json!(["*.db.example.com", "*"]));
        assert_eq!(view["l4_route"][0]["clusters"], json!([{ "name": "api", "weight": 1 }]));
        assert_eq!(view["l4_route"][0]["idle_timeout"], "1h");
        assert_eq!(
            view["cluster"][0]["endpoints"],
            json!([{
                "address": "origin.test:80", "weight": 2, "drain": false, "priority": 1, "labels": { "zone": "b" },
            }])
        );
    }

    #[test]
    fn keys_and_credentials_are_never_shown() {
        let text = view(&config()).to_string();
        assert!(!text.contains("PRIVATE") && !text.contains("hunter2"), "{text}");
        assert!(text.contains(r#"["authorization","[redacted]"]"#), "{text}");
        assert!(text.contains(r#"["x-tenant","blue"]"#), "{text}");
    }
}
