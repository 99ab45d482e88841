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
            ..Gateway::default()
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
        certificate_alerts: CertificateAlerts {
            days: vec![30],
            webhook: Some(Webhook {
                is_tls: true,
                host: "ops.test".into(),
                port: 443,
                path: "/hunter2".into(),
                ca_pem: None,
            }),
        },
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
