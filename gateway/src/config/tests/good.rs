//! Good configurations and what they mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificates;
use super::files::{MapFiles, now};
use crate::config::model::*;
use crate::config::reference::toml_text;
use crate::config::{Loaded, load, reference, schema};

fn loaded(text: &str) -> Loaded {
    let mut files = certificates::files();
    files.add("gateway.toml", text);
    files.load().unwrap_or_else(|report| panic!("{report}"))
}

pub(super) fn config(text: &str) -> Config {
    loaded(text).config
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_example_loads_without_a_warning() {
    let mut files = MapFiles::default();
    let mut examples = 0;
    for entry in walk(&root().join("examples")) {
        files.add(entry.to_str().unwrap(), std::fs::read(&entry).unwrap());
    }
    let paths: Vec<PathBuf> = files.0.keys().cloned().collect();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        // Parts of another example.
        if path.parent().is_some_and(|parent| parent.ends_with("conf.d")) {
            continue;
        }
        examples += 1;
        let mut files = files.clone();
        // Private keys are not committed, not even for an example.
        for name in ["example", "api"] {
            for extension in ["pem", "key"] {
                let at = path.with_file_name("certs").join(format!("{name}.{extension}"));
                files.add(
                    at.to_str().unwrap(),
                    certificates::files().0[Path::new(&format!("certs/good.{extension}"))].clone(),
                );
            }
        }
        match load(path, &files, now()) {
            Ok(loaded) => assert!(loaded.warnings.diagnostics.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
    }
    assert!(examples >= 11);
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = config("");
    assert_eq!(config.gateway, Gateway::default());
    assert_eq!(config.admin, Some(Admin { address: "127.0.0.1:9901".parse().unwrap() }));
    assert_eq!(config.access_log, None);
    assert_eq!(config.xdp, Xdp::default());
}

/// A file with every table that has defaults; each may be filled with `keys`.
fn file_with(keys: impl Fn(&str) -> String) -> String {
    format!(
        "[gateway]\n{}[admin]\n{}[access_log]\n{}[certificate_store]\n{}[xdp]\n{}\
         [[listener]]\nname = \"web\"\naddress = \"0.0.0.0:443\"\n{}\
         [listener.tls]\ncertificates = [\"c\"]\n{}[listener.limits]\n{}[listener.path_normalisation]\n{}\
         [listener.http2]\n{}\
         [[acme]]\nname = \"le\"\ndirectory_url = \"https://acme.test/directory\"\nterms_of_service_agreed = true\n{}\
         [[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n{}\
         [[listener]]\nname = \"pg\"\naddress = \"0.0.0.0:5432\"\nprotocol = \"tcp\"\n\
         [[l4_route]]\nname = \"l\"\ncluster = \"api\"\n{}\
         [[cluster]]\nname = \"api\"\nendpoints = [\"10.0.0.1:80\"]\n{}[cluster.tls]\n{}\
         [[route]]\nname = \"r\"\ncluster = \"api\"\n{}[route.request_headers]\n{}\
         [[route]]\nname = \"s\"\nredirect = {{ host = \"a\", {} }}\n\
         [[route]]\nname = \"t\"\nrespond = {{ status = 200, {} }}\n\
         [[route]]\nname = \"u\"\ncluster = \"api\"\nwebsocket = {{ {} }}\n\
         [xdp.flows]\n{}[xdp.timeouts]\n{}[xdp.limits]\n{}\
         [[vip]]\nname = \"v\"\naddress = \"192.0.2.1:80\"\ncluster = \"checked\"\n{}\
         [[cluster]]\nname = \"checked\"\nendpoints = [{{ address = \"10.0.0.1:80\", {} }}]\n\
         health_check = {{ protocol = \"http\", {} }}\n",
        keys("Gateway"),
        keys("Admin"),
        keys("AccessLog"),
        keys("CertificateStore"),
        keys("Xdp"),
        keys("Listener"),
        keys("ListenerTls"),
        keys("Limits"),
        keys("PathNormalisation"),
        keys("Http2"),
        keys("Acme"),
        keys("Certificate"),
        keys("L4Route"),
        keys("Cluster"),
        keys("ClusterTls"),
        keys("Route"),
        keys("HeaderEdits"),
        inline(&keys("Redirect")),
        inline(&keys("Respond")),
        keys("WebSocketTable").trim_end(),
        keys("Flows"),
        keys("Timeouts"),
        keys("XdpLimits"),
        keys("Vip"),
        inline(&keys("EndpointTable")),
        inline(&keys("HealthCheck")),
    )
}

/// Lines of a table as they are written in one line.
pub(super) fn inline(lines: &str) -> String {
    lines.trim_end().replace('\n', ", ")
}

/// The keys of a table as the schema shows them under `what`.
pub(super) fn keys_with(what: &str, table: &str) -> String {
    let schema = schema().to_value();
    let properties = schema["$defs"][table]["properties"].as_object().unwrap().clone();
    let value = |schema: &serde_json::Value| schema.get(what).map(toml_text);
    properties.iter().filter_map(|(key, schema)| Some(format!("{key} = {}\n", value(schema)?))).collect()
}

#[test]
fn the_defaults_that_the_schema_shows_are_the_defaults() {
    assert_eq!(config(&file_with(|table| keys_with("default", table))), config(&file_with(|_| String::new())));
}

#[test]
fn every_example_in_the_schema_is_accepted() {
    let examples = |table: &str| {
        let schema = schema().to_value();
        let Some(properties) = schema["$defs"][table]["properties"].as_object() else { panic!("no {table}") };
        let mut lines = String::new();
        for (key, schema) in properties {
            let Some(example) = schema["examples"].get(0) else { continue };
            lines += &format!("{key} = {}\n", toml_text(example));
        }
        lines
    };
    let lists = "[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:1\"\n[[cluster]]\nname = \"api\"\nendpoints = []\n\
                 [[cluster]]\nname = \"api-canary\"\nendpoints = []\n";
    let l4_lists = "[[listener]]\nname = \"pg\"\naddress = \"0.0.0.0:1\"\nprotocol = \"tls_passthrough\"\n\
                    [[cluster]]\nname = \"db\"\nendpoints = []\n[[cluster]]\nname = \"db-new\"\nendpoints = []\n";
    let route = |keys: String| format!("{lists}[[route]]\nname = \"r\"\n{keys}");
    let without = |keys: String, left_out: &[&str]| -> String {
        keys.lines()
            .filter(|line| !left_out.iter().any(|key| line.split(' ').next() == Some(key)))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    for text in [
        format!("[gateway]\n{}", examples("Gateway")),
        format!("[admin]\n{}", examples("Admin")),
        format!("[access_log]\n{}", examples("AccessLog")),
        format!("[xdp]\n{}", examples("Xdp")),
        format!("[xdp]\n[xdp.flows]\n{}[xdp.timeouts]\n{}", examples("Flows"), examples("Timeouts")),
        format!("[xdp]\n[xdp.limits]\n{}", examples("XdpLimits")),
        format!("[xdp]\n[xdp.drop_log]\n{}", examples("DropLog")),
        format!("[xdp]\n[xdp.limits.syn]\n{}", examples("PacketRate")),
        format!(
            "[[cluster]]\nname = \"api\"\nendpoints = [\"10.0.0.1:443\"]\n[[vip]]\n{}",
            without(examples("Vip"), &["listener"])
        ),
        format!(
            "[[listener]]\nname = \"web\"\naddress = \"192.0.2.10:443\"\nprotocol = \"udp\"\n[[vip]]\n{}",
            without(examples("Vip"), &["cluster"])
        ),
        format!(
            "[[cluster]]\nname = \"a\"\nendpoints = []\n[cluster.health_check]\n{}",
            without(examples("HealthCheck"), &["send", "expect", "service"])
        ),
        format!("[[access]]\n{}", examples("Access")),
        format!("[[acme]]\n{}", examples("Acme")),
        format!("[[acme]]\n{}[acme.external_account]\n{}", examples("Acme"), examples("ExternalAccount")),
        format!("[certificate_store]\n{}", examples("CertificateStore")),
        format!("[[certificate]]\n{}", without(examples("Certificate"), &["directory", "acme"])),
        format!(
            "[[acme]]\n{}[[certificate]]\nhosts = [\"example.com\"]\n{}",
            examples("Acme"),
            without(examples("Certificate"), &["hosts", "directory", "chain", "key", "ocsp"])
        ),
        format!("[[certificate]]\n{}", without(examples("Certificate"), &["hosts", "acme", "chain", "key", "ocsp"])),
        format!("[[listener]]\n{}[listener.limits]\n{}", examples("Listener"), examples("Limits")),
        format!(
            "[[listener]]\n{}[listener.path_normalisation]\n{}",
            examples("Listener"),
            examples("PathNormalisation")
        ),
        format!("[[listener]]\n{}[listener.http2]\n{}", examples("Listener"), examples("Http2")),
        format!(
            "[[certificate]]\n{}[[listener]]\n{}[listener.tls]\n{}client_auth = {{ {} }}\nhosts = [{{ {} }}]\n",
            without(examples("Certificate"), &["directory", "acme", "ocsp"]),
            examples("Listener"),
            examples("ListenerTls"),
            inline(&examples("ClientAuth")),
            inline(&examples("TlsHost")),
        ),
        format!("{l4_lists}[[l4_route]]\n{}", without(examples("L4Route"), &["clusters"])),
        format!("{l4_lists}[[l4_route]]\n{}", without(examples("L4Route"), &["cluster"])),
        format!("[[cluster]]\n{}", examples("Cluster")),
        format!("[[cluster]]\nname = \"a\"\nendpoints = [{{ {} }}]\n", inline(&examples("EndpointTable"))),
        format!("[[cluster]]\nname = \"a\"\nendpoints = []\n[cluster.tls]\n{}", examples("ClusterTls")),
        format!("{lists}[[route]]\n{}", without(examples("Route"), &["clusters", "rate_limit_service"])),
        format!("{lists}[[route]]\n{}", without(examples("Route"), &["cluster", "rate_limit_service"])),
        route(format!("cluster = \"api\"\nwebsocket = {{ {} }}\n", examples("WebSocketTable").trim_end())),
        route(format!("cluster = \"api\"\n[route.match.grpc]\n{}", examples("Grpc"))),
        route(format!("cluster = \"api\"\n[route.rewrite]\n{}", examples("Rewrite"))),
        route(format!("[route.redirect]\n{}", without(examples("Redirect"), &["path"]))),
        route(format!("[route.redirect]\n{}", without(examples("Redirect"), &["path_prefix"]))),
        route(format!("[route.respond]\n{}[route.response_headers]\n{}", examples("Respond"), examples("HeaderEdits"))),
        route(format!("cluster = \"api\"\n[route.match]\n{}", without(examples("Match"), &["path", "path_prefix"]))),
        route(format!("cluster = \"api\"\n[route.match]\n{}", without(examples("Match"), &["path", "path_regex"]))),
        route(format!(
            "cluster = \"api\"\n[route.match]\n{}",
            without(examples("Match"), &["path_regex", "path_prefix"])
        )),
    ] {
        let mut files = certificates::files();
        for (name, like) in [
            ("example.pem", "good.pem"),
            ("example.key", "good.key"),
            ("internal-ca.pem", "good.pem"),
            ("clients-ca.pem", "good.pem"),
            ("clients.crl", "none-revoked.crl"),
        ] {
            let bytes = files.0[Path::new(&format!("certs/{like}"))].clone();
            files.add(&format!("certs/{name}"), bytes);
        }
        files.add("certs/example.ocsp", "");
        files.add("blacklist.txt", "10.0.0.1\n");
        files.add("acme.hmac", "c2VjcmV0\n");
        files.add("gateway.toml", text.as_str());
        if let Err(report) = files.load() {
            panic!("{text}\n{report}");
        }
    }
}

#[test]
fn the_reference_is_up_to_date() {
    let path = root().join("../docs/config.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == reference(), "docs/config.md is out of date: run the tests with UPDATE=1");
}

#[test]
fn two_files_that_mean_the_same_compare_equal() {
    let one = "[[cluster]]\nname = \"a\"\nendpoints = [\"10.0.0.1:80\"]\nconnect_timeout = \"1m30s\"\n\
               [[route]]\nname = \"r\"\ncluster = \"a\"\nmatch = { path_prefix = \"/x/\" }\n";
    let other = "# the same\n[[route]]\nname = \"r\"\nclusters = [{ name = \"a\", weight = 1 }]\n\
                 match.path_prefix = \"/x\"\ntimeout = \"15000ms\"\n\
                 [[cluster]]\nendpoints = [{ address = \"10.0.0.1:80\", weight = 1 }]\nname = \"a\"\n\
                 connect_timeout = \"90s\"\n";
    assert_eq!(config(one), config(other));
}

#[test]
fn a_route_is_read_in_full() {
    let config = config(
        r#"
        [[listener]]
        name = "web"
        address = "127.0.0.1:0"
        [[listener]]
        name = "other"
        address = "127.0.0.1:0"
        [[cluster]]
        name = "a"
        endpoints = ["10.0.0.1:80", "API.internal:80", { address = "[::1]:80", weight = 3 }]
        [[cluster]]
        name = "b"
        endpoints = ["10.0.0.2:80"]
        [[route]]
        name = "r"
        listeners = ["other"]
        hosts = ["Example.COM", "*.example.com", "*"]
        match = { path_prefix = "/v1/", methods = ["GET", "PURGE"], headers = { X-B = "1", x-a = { present = false } } }
        clusters = [{ name = "b", weight = 9 }, { name = "a", weight = 1 }]
        rewrite = { path_prefix = "/", host = "Internal:80" }
        timeout = "0s"
        body_bytes = "10MB"
        request_headers = { remove = ["X-C"], set = { z = "1", a = "2" }, add = { l = ["3", "4"] } }
        "#,
    );
    assert_eq!(config.clusters[0].endpoints[1].address, EndpointAddress::Name("api.internal".into(), 80));
    assert_eq!(config.clusters[0].endpoints[2].weight, 3);
    let route = &config.routes[0];
    assert_eq!(route.listeners, [ListenerId(1)]);
    let hosts =
        [HostPattern::Exact("example.com".into()), HostPattern::Suffix(".example.com".into()), HostPattern::Any];
    assert_eq!(route.hosts, hosts);
    assert_eq!(route.matcher.path, PathMatch::Prefix("/v1".into()));
    let headers: Vec<_> = route.matcher.headers.iter().map(|header| (header.name.as_str(), &header.value)).collect();
    assert_eq!(headers, [("x-b", &ValueMatch::Exact("1".into())), ("x-a", &ValueMatch::Present(false))]);
    let Action::Forward(forward) = &route.action else { panic!() };
    let shares: Vec<_> = forward.clusters.iter().map(|share| (share.cluster.0, share.weight)).collect();
    assert_eq!(shares, [(1, 9), (0, 1)]);
    assert_eq!(forward.rewrite_host.as_deref(), Some("internal:80"));
    assert_eq!((route.timeout, route.body_bytes), (None, Some(10_000_000)));
    let set: Vec<_> = route.request_headers.set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(set, [("z", "1"), ("a", "2")], "in the order of the file");
    assert_eq!(route.request_headers.add.len(), 2);
}

#[test]
fn listeners_clusters_and_l4_routes_are_read_in_full() {
    let config = config(
        r#"
        [gateway]
        trusted_proxies = ["10.0.0.0/8"]
        trusted_hops = 2
        forwarded_header = true
        [[certificate]]
        name = "c"
        chain = "certs/good.pem"
        key = "certs/good.key"
        http = ["h1"]
        [[listener]]
        name = "web"
        address = "127.0.0.1:443"
        http = ["h2"]
        http2 = { max_concurrent_streams = 7, stream_window = 65535, connection_window = 2147483647 }
        proxy_protocol = "require"
        trusted_proxies = ["::ffff:192.0.2.0/120"]
        [[listener]]
        name = "pg"
        address = "127.0.0.1:5432"
        protocol = "tcp"
        proxy_protocol = "accept"
        [[cluster]]
        name = "a"
        endpoints = ["10.0.0.1:80"]
        protocol = "auto"
        max_streams = 9
        tls = {}
        [[cluster]]
        name = "b"
        endpoints = ["10.0.0.1:80"]
        proxy_protocol = "v1"
        [[l4_route]]
        name = "l"
        listeners = ["pg"]
        clusters = [{ name = "a", weight = 1 }, { name = "b", weight = 0 }]
        connect_attempts = 5
        idle_timeout = "0s"
        "#,
    );
    assert_eq!((config.gateway.trusted_hops, config.gateway.forwarded_header), (2, true));
    assert_eq!(config.certificates[0].http, HttpVersions { h1: true, h2: false });
    let [web, pg] = &config.listeners[..] else { panic!() };
    assert_eq!(web.http, HttpVersions { h1: false, h2: true });
    let http2 = Http2 { max_concurrent_streams: 7, stream_window: 65_535, connection_window: 2_147_483_647 };
    assert_eq!((&web.http2, web.proxy_protocol), (&http2, ProxyProtocol::Require));
    assert_eq!(web.trusted_proxies, ["192.0.2.0/24".parse().unwrap()], "in place of the gateway's");
    assert_eq!((pg.protocol, pg.proxy_protocol), (ListenerProtocol::Tcp, ProxyProtocol::Accept));
    assert_eq!(pg.trusted_proxies, config.gateway.trusted_proxies);
    let [a, b] = &config.clusters[..] else { panic!() };
    assert_eq!((a.protocol, a.max_streams, a.proxy_protocol), (UpstreamProtocol::Auto, 9, None));
    assert_eq!((b.protocol, b.proxy_protocol), (UpstreamProtocol::H1, Some(ProxyVersion::V1)));
    let share = |cluster, weight| WeightedCluster { cluster: ClusterId(cluster), weight };
    let route = L4Route {
        name: "l".into(),
        listeners: vec![ListenerId(1)],
        server_names: vec![],
        without_server_name: false,
        alpn: vec![],
        clusters: vec![share(0, 1), share(1, 0)],
        subset: None,
        connect_attempts: 5,
        idle_timeout: None,
    };
    assert_eq!(config.l4_routes, [route]);
}

#[test]
fn vips_and_their_clusters_are_read_in_full() {
    let config = config(
        r#"
        [xdp]
        interfaces = ["eth0"]
        pin = "off"
        snat_addresses = ["10.0.0.1", "fd00::1"]
        snat_ports = "40000-40001"
        syn_cookies = true
        flows = { established = 2048, half_open = 1024, new_per_second = 7 }
        timeouts = { half_open = "1s", established = "2s", closing = "3s", udp = "4s" }
        [[vip]]
        name = "dns"
        address = "192.0.2.10:53"
        protocol = "udp"
        mode = "dsr"
        cluster = "a"
        affinity = "source"
        drain = true
        [[vip]]
        name = "web"
        address = "[2001:db8::10]:443"
        listener = "web"
        [[listener]]
        name = "web"
        address = "[::]:443"
        [[cluster]]
        name = "a"
        endpoints = ["10.0.0.2:53", { address = "10.0.0.3:53", drain = true }, "dns.internal:53"]
        slow_start = "30s"
        health_check = { protocol = "udp", send = "hex:00Ff", expect = "ok", port = 54, healthy = 1, unhealthy = 9 }
        [[cluster]]
        name = "b"
        endpoints = ["10.0.0.2:80"]
        health_check = { protocol = "http", path = "/up", host = "b:80", statuses = "204", interval = "1s", timeout = "9s" }
        [[cluster]]
        name = "c"
        endpoints = ["10.0.0.2:80"]
        health_check = { protocol = "tcp" }
        "#,
    );
    let seconds = Duration::from_secs;
    assert_eq!((config.xdp.pin, config.xdp.snat_ports), (None, 40_000..=40_001));
    assert!(config.xdp.syn_cookies);
    assert_eq!(config.xdp.snat_addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    assert_eq!(config.xdp.flows, FlowLimits { established: 2048, half_open: 1024, new_per_second: 7 });
    let timeouts =
        FlowTimeouts { half_open: seconds(1), established: seconds(2), closing: seconds(3), udp: seconds(4) };
    assert_eq!(config.xdp.timeouts, timeouts);
    let dns = Vip {
        name: "dns".into(),
        address: "192.0.2.10:53".parse().unwrap(),
        protocol: VipProtocol::Udp,
        mode: VipMode::Dsr,
        target: VipTarget::Cluster(ClusterId(0)),
        affinity: VipAffinity::Source,
        drain: true,
    };
    let web = Vip {
        name: "web".into(),
        address: "[2001:db8::10]:443".parse().unwrap(),
        protocol: VipProtocol::Tcp,
        mode: VipMode::Nat,
        target: VipTarget::Listener(ListenerId(0)),
        affinity: VipAffinity::Flow,
        drain: false,
    };
    assert_eq!(config.vips, [dns, web]);
    let [a, b, c] = &config.clusters[..] else { panic!() };
    assert_eq!(a.endpoints.iter().map(|endpoint| endpoint.drain).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(a.slow_start, seconds(30));
    let check = |probe| HealthCheck {
        probe,
        tls: None,
        proxy_protocol: None,
        port: None,
        interval: seconds(5),
        timeout: seconds(2),
        healthy: 2,
        unhealthy: 3,
    };
    let udp = check(HealthProbe::Udp { send: vec![0, 0xff], expect: Some(b"ok".to_vec()) });
    assert_eq!(a.health_check, Some(HealthCheck { port: Some(54), healthy: 1, unhealthy: 9, ..udp }));
    let http = check(HealthProbe::Http {
        version: UpstreamProtocol::H1,
        path: "/up".into(),
        host: Some("b:80".into()),
        statuses: 204..=204,
    });
    assert_eq!(b.health_check, Some(HealthCheck { interval: seconds(1), timeout: seconds(9), ..http }));
    assert_eq!(c.health_check, Some(check(HealthProbe::Tcp)));
}

/// `web` is http, `tls` http with TLS, then one of each other kind.
const ONE_OF_EACH: &str = r#"
    [[certificate]]
    name = "c"
    chain = "certs/good.pem"
    key = "certs/good.key"
    [[listener]]
    name = "web"
    address = "127.0.0.1:0"
    [[listener]]
    name = "tls"
    address = "127.0.0.1:0"
    tls = { certificates = ["c"] }
    [[listener]]
    name = "tcp"
    address = "127.0.0.1:0"
    protocol = "tcp"
    [[listener]]
    name = "tcp-tls"
    address = "127.0.0.1:0"
    protocol = "tcp"
    tls = { certificates = ["c"] }
    [[listener]]
    name = "passthrough"
    address = "127.0.0.1:0"
    protocol = "tls_passthrough"
    [[listener]]
    name = "udp"
    address = "127.0.0.1:0"
    protocol = "udp"
    [[cluster]]
    name = "a"
    endpoints = ["10.0.0.1:80"]
"#;

#[test]
fn a_route_without_listeners_is_for_all_it_can_serve() {
    let cases: [(&str, &[u32]); 5] = [
        ("idle_timeout = \"1m\"", &[2, 3, 4, 5]),
        ("server_names = [\"a.example.com\"]", &[1, 3, 4]),
        ("without_server_name = true", &[3, 4]),
        ("without_server_name = false\nidle_timeout = \"1m\"", &[2, 3, 4, 5]),
        ("alpn = [\"h2\"]", &[3, 4]),
    ];
    for (keys, wanted) in cases {
        let config = config(&format!("{ONE_OF_EACH}[[l4_route]]\nname = \"l\"\ncluster = \"a\"\n{keys}\n"));
        let listeners: Vec<u32> = config.l4_routes[0].listeners.iter().map(|id| id.0).collect();
        assert_eq!(listeners, wanted, "{keys}");
    }
    let config = config(&format!("{ONE_OF_EACH}[[route]]\nname = \"r\"\ncluster = \"a\"\n"));
    assert_eq!(config.routes[0].listeners, [ListenerId(0), ListenerId(1)]);
}

#[test]
fn connections_may_be_silent_for_an_hour_and_datagrams_for_a_minute() {
    for (listener, wanted) in [("tcp", 3600), ("passthrough", 3600), ("udp", 60)] {
        let route = format!("[[l4_route]]\nname = \"l\"\nlisteners = [\"{listener}\"]\ncluster = \"a\"\n");
        let config = config(&format!("{ONE_OF_EACH}{route}"));
        assert_eq!(config.l4_routes[0].idle_timeout, Some(Duration::from_secs(wanted)), "{listener}");
    }
}

#[test]
fn a_match_by_grpc_is_one_by_path_and_addresses_are_networks() {
    let matcher = |text: &str| {
        let text = format!("[[route]]\nname = \"r\"\nmatch = {{ {text} }}\nrespond = {{ status = 200 }}\n");
        config(&text).routes.remove(0).matcher
    };
    let method = matcher("grpc = { service = \"a.b_2.C\", method = \"_Do1\" }");
    assert_eq!(method.path, PathMatch::Exact("/a.b_2.C/_Do1".into()));
    assert_eq!(matcher("grpc = { service = \"C\" }").path, PathMatch::Prefix("/C".into()));
    let addresses = matcher("peer_ip = [\"192.0.2.1\"], client_ip = [\"::ffff:10.0.0.0/104\", \"2001:db8::/32\"]");
    assert_eq!(addresses.peer_ip, ["192.0.2.1/32".parse().unwrap()]);
    assert_eq!(addresses.client_ip, ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
}

#[test]
fn websockets_are_off_unless_the_route_says_so() {
    let websocket = |keys: &str| {
        let text =
            format!("[[cluster]]\nname = \"a\"\nendpoints = []\n[[route]]\nname = \"r\"\ncluster = \"a\"\n{keys}\n");
        config(&text).routes.remove(0).websocket
    };
    let idle = |seconds| Some(WebSocket { idle_timeout: Some(Duration::from_secs(seconds)) });
    assert_eq!(websocket(""), None);
    assert_eq!(websocket("websocket = false"), None);
    assert_eq!(websocket("websocket = true"), idle(300));
    assert_eq!(websocket("websocket = {}"), idle(300));
    assert_eq!(websocket("websocket = { idle_timeout = \"7s\" }"), idle(7));
    assert_eq!(websocket("websocket = { idle_timeout = \"0s\" }"), Some(WebSocket { idle_timeout: None }));
}

#[test]
fn a_regex_matches_the_whole_text() {
    let config = config("[[route]]\nname = \"r\"\nmatch = { path_regex = \"/a|/b\" }\nrespond = { status = 200 }\n");
    let PathMatch::Regex(Pattern(regex)) = &config.routes[0].matcher.path else { panic!() };
    assert!(regex.is_match(b"/a") && regex.is_match(b"/b"));
    assert!(!regex.is_match(b"/ab") && !regex.is_match(b"x/b") && !regex.is_match(b"/b\n"));
}

#[test]
fn a_certificate_without_hosts_serves_those_it_covers() {
    let certificate = |hosts: &str| {
        let text =
            format!("[[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n{hosts}");
        config(&text).certificates.remove(0).hosts
    };
    assert_eq!(certificate(""), ["example.com", "*.example.com"]);
    assert_eq!(certificate("hosts = [\"a.Example.com\"]\n"), ["a.example.com"]);
}

#[test]
fn sources_come_from_the_file_and_from_lists() {
    let mut files = MapFiles::default();
    files.add(
        "conf.d/deny.toml",
        "[[access]]\nname = \"a\"\naction = \"deny\"\nsources = [\"10.0.0.0/8\"]\nsource_files = [\"../l.txt\"]\n",
    );
    files.add("l.txt", "192.0.2.1 # one\r\n\n# nothing\n10.0.0.0/8\n2001:db8::/32");
    files.add("gateway.toml", "include = [\"conf.d/*.toml\"]\n");
    let loaded = files.load().unwrap_or_else(|report| panic!("{report}"));
    let sources: Vec<_> = loaded.config.access[0].sources.iter().map(|net| net.to_string()).collect();
    assert_eq!(sources, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
    let read: Vec<_> = loaded.files.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(read, ["gateway.toml", "conf.d/deny.toml", "conf.d/../l.txt"]);
}

#[test]
fn sources_end_with_their_line_or_their_rule_whichever_is_first() {
    let mut files = MapFiles::default();
    files.add(
        "gateway.toml",
        "[[access]]\nname = \"a\"\naction = \"deny\"\nprotocol = \"udp\"\nports = [53, \"8000-8100\"]\n\
         sources = [\"10.0.0.0/8\"]\nsource_files = [\"l.txt\"]\n\
         [[access]]\nname = \"b\"\naction = \"deny\"\nexpires = \"2026-06-01T00:00:00Z\"\nsource_files = [\"l.txt\"]\n",
    );
    files.add(
        "l.txt",
        "192.0.2.1 expires=2026-12-01T00:00:00Z # one\n192.0.2.1\texpires=2027-01-01T00:00:00Z\n192.0.2.2\n",
    );
    let loaded = files.load().unwrap_or_else(|report| panic!("{report}"));
    let shown: Vec<_> = loaded.config.access.iter().map(shown_access).collect();
    assert_eq!(
        shown,
        [
            "Some(Udp) [53..=53, 8000..=8100] [10.0.0.0/8, 192.0.2.2/32] 192.0.2.1/32 until 2027-01-01T00:00:00Z",
            "None [] [] 192.0.2.1/32 until 2026-06-01T00:00:00Z, 192.0.2.2/32 until 2026-06-01T00:00:00Z",
        ]
    );
}

fn shown_access(rule: &AccessRule) -> String {
    let ends =
        rule.expiring.iter().map(|(net, end)| format!("{net} until {}", humantime::format_rfc3339_seconds(*end)));
    let ends = ends.collect::<Vec<_>>().join(", ");
    format!("{:?} {:?} {:?} {ends}", rule.protocol, rule.ports, rule.sources)
}

#[test]
fn limits_of_sources_are_read_in_full() {
    let limits = config(
        "[xdp]\nlimits = { syn = { per_second = 100 }, packets = { per_second = 9, burst = 7 }, prefix_v4 = 24, \
         prefix_v6 = 48, sources = 2048, dry_run = true }\n",
    )
    .xdp
    .limits;
    let rate = |per_second, burst| Some(PacketRate { per_second, burst });
    let (syn, packets) = (rate(100, 100), rate(9, 7));
    assert_eq!(limits, XdpLimits { syn, packets, prefix_v4: 24, prefix_v6: 48, sources: 2048, dry_run: true });
}

#[test]
fn drops_are_logged_when_a_rate_says_how_many() {
    assert_eq!(config("[xdp]\n").xdp.drop_log, None);
    assert_eq!(config("[xdp]\ndrop_log = { per_second = 10 }\n").xdp.drop_log, Some(DropLog { per_second: 10 }));
}

#[test]
fn no_check_is_quadratic_in_the_number_of_routes() {
    let mut text = String::from("[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:80\"\n");
    text += "[[listener]]\nname = \"sni\"\naddress = \"0.0.0.0:443\"\nprotocol = \"tls_passthrough\"\n";
    for i in 0..10_000 {
        text += &format!("[[l4_route]]\nname = \"l{i}\"\nserver_names = [\"s{i}.example.com\"]\ncluster = \"c{i}\"\n");
        text += &format!(
            "[[cluster]]\nname = \"c{i}\"\nendpoints = [\"10.0.0.1:80\"]\n\
             [[route]]\nname = \"r{i}\"\nhosts = [\"h{i}.example.com\"]\nmatch = {{ path_prefix = \"/p{i}\" }}\ncluster = \"c{i}\"\n"
        );
    }
    // Every name wrong is the worst case of all: an error each, with a suggestion.
    let wrong = text.replace("cluster = \"c", "cluster = \"k");
    let start = std::time::Instant::now();
    assert_eq!(config(&text).routes.len(), 10_000);
    let good = start.elapsed();
    let mut files = MapFiles::default();
    files.add("gateway.toml", wrong);
    let report = files.load().unwrap_err();
    assert_eq!(report.diagnostics.len(), 20_000);
    let bad = start.elapsed() - good;

    // This is a build without optimisations beside other tests; a quadratic check would take minutes.
    assert!(good.max(bad) < Duration::from_secs(10), "{good:?} {bad:?}");
}
