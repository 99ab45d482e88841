//! TLS to origins: who they are, who we are to them, sessions, and what becomes of requests when something is wrong.

use std::path::Path;

use gateway_tests::certs::{Authority, Leaf, Store};
use gateway_tests::prelude::*;
use gateway_tests::tls::{Shaken, TlsServer};
use rcgen::{ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use serde_json::Value;

/// A cluster and a route for `/NAME` in front of one endpoint; `tls` goes into the cluster's table of that name.
fn add(config: Config, name: &str, origin: &Origin, lines: &str, tls: &str) -> Config {
    config
        .cluster(name, &[origin.addr()], &format!("{lines}\ntls = {{ {tls} }}"))
        .route(name, &format!("match = {{ path = '/{name}' }}\ncluster = '{name}'"))
}

/// A listener `web`, and an access log in `dir`.
fn logging(dir: &Path) -> Config {
    let log = dir.join("access.log");
    Config::new().listener("web", "").tables(&format!("[access_log]\npath = '{}'", log.display()))
}

/// The line of the access log about a path.
fn line_of(dir: &Path, path: &str) -> Value {
    wait::until("a line of the access log", || {
        let text = std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut values = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        values.rfind(|line| line["path"] == path)
    })
}

/// What the client gets when there is no TLS with an endpoint, and what the log says of it.
fn assert_refused(gateway: &Gateway, dir: &Path, path: &str, reason: &str) {
    let response = gateway.get(path);
    // A handshake that fails is tried again; one that is taken back after it is not.
    let body = response.text().replace("retried and the latest ", "");
    let expected = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    assert_eq!((response.status, body.as_str()), (503, expected), "{path}");
    let line = line_of(dir, path);
    assert!(["UF", "URX,UF"].contains(&line["response_flags"].as_str().unwrap_or_default()), "{line}");
    let details = "upstream_reset_before_response_started{remote_connection_failure}";
    assert_eq!(line["response_code_details"], details, "{line}");
    let why = line["upstream_transport_failure_reason"].as_str().unwrap_or_default();
    assert!(why.starts_with("TLS error: ") && why.contains(reason), "{path}: {reason:?} is not in {why:?}");
}

fn file(store: &Store, name: &str) -> String {
    store.path().join(name).display().to_string()
}

fn uri(leaf: &Authority, hosts: &[&str], uri: &str) -> Leaf {
    leaf.leaf_with(hosts, |params| params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI"))))
}

#[test]
fn an_endpoint_is_who_the_cluster_says_or_gets_nothing() {
    let (store, stranger) = (Store::new(), Authority::new());
    let ours = &store.authority;
    let host = ["api.test"];
    let good = ours.leaf(&host);
    let expired = ours.leaf_with(&host, |params| params.not_after = date_time_ymd(2024, 1, 1));
    let future = ours.leaf_with(&host, |params| params.not_before = date_time_ymd(2090, 1, 1));
    let client = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let client = ours.leaf_with(&host, client);
    let revoked = ours.leaf(&host);
    let wildcard = ours.leaf(&["*.api.test", "10.0.0.1"]);
    let spiffe = uri(ours, &[], "spiffe://td.test/ns/prod/api");
    store.write("good.crl", &ours.revocation_list(&[&revoked], 2090));
    store.write("old.crl", &ours.revocation_list(&[], 2025));
    store.write("other.crl", &stranger.revocation_list(&[], 2090));
    let ca = format!("server_name = 'api.test', ca = '{}'", file(&store, "ca.pem"));
    let with = |more: &str| format!("{ca}, {more}");
    let crl = |name: &str| with(&format!("crl = ['{}']", file(&store, name)));
    let names = |names: &str| with(&format!("names = [{names}]"));
    let crl_and_name = format!("{}, names = ['api.test']", crl("good.crl"));
    let here = "server_name = 'other.test'";
    // Who it is, what is asked of it, and why it gets nothing.
    let cases: &[(&Leaf, String, Option<&str>)] = &[
        (&good, ca.clone(), None),
        (&good, ca.replace("server_name = 'api.test'", here), Some("not valid for name \"other.test\"")),
        (&stranger.leaf(&host), ca.clone(), Some("BadSignature")),
        (&good, "server_name = 'api.test'".into(), Some("UnknownIssuer")),
        (&expired, ca.clone(), Some("certificate expired")),
        (&future, ca.clone(), Some("certificate not valid yet")),
        (&client, ca.clone(), Some("client authentication")),
        (&good, crl("good.crl"), None),
        (&revoked, crl("good.crl"), Some("Revoked")),
        (&good, crl("old.crl"), Some("revocation list expired")),
        (&good, crl("other.crl"), Some("revocation list: BadSignature")),
        // In place of the server name.
        (&good, names("'other.test', 'api.test'").replace("server_name = 'api.test'", here), None),
        (&good, names("'other.test'"), Some("it is for api.test, which `names` does not allow")),
        (&wildcard, names("'v1.api.test'"), None),
        (&wildcard, names("'api.test', 'a.b.api.test'"), Some("which `names` does not allow")),
        (&wildcard, names("'10.0.0.1'"), None),
        (&spiffe, names("'spiffe://td.test/ns/prod/*'"), None),
        (&spiffe, names("'spiffe://td.test/ns/dev/*'"), Some("it is for spiffe://td.test/ns/prod/api")),
        (&spiffe, ca.clone(), Some("not valid for name")),
        (&ours.leaf(&[]), names("'api.test'"), Some("it has no name")),
        // A name that fits makes nothing else good.
        (&stranger.leaf(&host), names("'api.test'"), Some("BadSignature")),
        (&expired, names("'api.test'"), Some("certificate expired")),
        (&client, names("'api.test'"), Some("client authentication")),
        (&revoked, crl_and_name.clone(), Some("Revoked")),
        (&good, crl_and_name, None),
        (&stranger.leaf(&["other.test"]), with("verify = false"), None),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = logging(dir.path());
    let mut origins = Vec::new();
    for (number, (leaf, tls, _)) in cases.iter().enumerate() {
        let origin = Origin::start_tls("a", TlsServer::new(leaf, &["http/1.1"]));
        config = add(config, &format!("case-{number}"), &origin, "", tls);
        origins.push(origin);
    }
    let gateway = Gateway::start(&config);
    for (number, ((_, tls, reason), origin)) in cases.iter().zip(&origins).enumerate() {
        let path = format!("/case-{number}");
        match reason {
            None => assert_eq!(gateway.get(&path).text(), "a", "{tls}: {}", line_of(dir.path(), &path)),
            Some(reason) => {
                assert_refused(&gateway, dir.path(), &path, reason);
                assert_eq!(origin.requests(), 0, "{tls}");
                let failures = [("cluster", &path[1..])];
                assert!(gateway.metrics().sum("gateway_cluster_connect_failures_total", &failures) >= 1.0, "{tls}");
            }
        }
    }
}

#[test]
fn versions_and_protocols_that_do_not_meet_are_refused() {
    let store = Store::new();
    let leaf = store.authority.leaf(&["api.test"]);
    let tls = format!("server_name = 'api.test', ca = '{}'", file(&store, "ca.pem"));
    let floor = |version: &str| format!("{tls}, min_version = '{version}'");
    let (old, new) =
        (|alpn: &[&str]| TlsServer::speaking(&TLS12, &leaf, alpn), |alpn: &[&str]| TlsServer::new(&leaf, alpn));
    type Settled = Result<(ProtocolVersion, &'static str), &'static str>;
    let cases: [(TlsServer, &str, String, Settled); 7] = [
        (old(&["http/1.1"]), "", floor("1.2"), Ok((ProtocolVersion::TLSv1_2, "http/1.1"))),
        (new(&["http/1.1"]), "", floor("1.3"), Ok((ProtocolVersion::TLSv1_3, "http/1.1"))),
        (old(&["http/1.1"]), "", floor("1.3"), Err("ProtocolVersion")),
        (new(&["h2", "http/1.1"]), "protocol = 'h1'", tls.clone(), Ok((ProtocolVersion::TLSv1_3, "http/1.1"))),
        (new(&["http/1.1", "h2"]), "protocol = 'h2'", tls.clone(), Ok((ProtocolVersion::TLSv1_3, "h2"))),
        (new(&["h2", "http/1.1"]), "protocol = 'auto'", tls.clone(), Ok((ProtocolVersion::TLSv1_3, "h2"))),
        (new(&["http/1.1"]), "protocol = 'h2'", tls.clone(), Err("NoApplicationProtocol")),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = logging(dir.path());
    let mut origins = Vec::new();
    for (number, (server, lines, tls, _)) in cases.iter().enumerate() {
        let origin = Origin::start_tls("a", server.clone());
        config = add(config, &format!("case-{number}"), &origin, lines, tls);
        origins.push(origin);
    }
    let gateway = Gateway::start(&config);
    for (number, (server, lines, tls, expected)) in cases.iter().enumerate() {
        let path = format!("/case-{number}");
        match expected {
            Ok((version, alpn)) => {
                assert_eq!(gateway.get(&path).text(), "a", "{lines} {tls}");
                let seen = &server.seen()[0];
                assert_eq!((seen.version, seen.alpn.as_deref()), (*version, Some(*alpn)), "{lines} {tls}");
                assert_eq!(seen.server_name.as_deref(), Some("api.test"));
            }
            Err(reason) => assert_refused(&gateway, dir.path(), &path, reason),
        }
    }
}

/// What a cluster speaks, and an endpoint that asks for certificates of `clients`.
fn demanding(clients: &Authority, leaf: &Leaf) -> Vec<(&'static str, TlsServer)> {
    let server =
        |version: &'static SupportedProtocolVersion, alpn: &[&str]| TlsServer::demanding(clients, version, leaf, alpn);
    vec![
        ("protocol = 'h1'", server(&TLS12, &["http/1.1"])),
        ("protocol = 'h1'", server(&TLS13, &["http/1.1"])),
        ("protocol = 'h2'", server(&TLS12, &["h2"])),
        ("protocol = 'h2'", server(&TLS13, &["h2"])),
    ]
}

#[test]
fn an_endpoint_that_asks_for_a_certificate_gets_ours_or_refuses_and_says_why() {
    let (store, strangers) = (Store::new(), Store::new());
    let (server, client) = (store.issue("server", &["api.test"]), store.issue("client", &["gateway.test"]));
    strangers.issue("stranger", &["gateway.test"]);
    let tls = format!("server_name = 'api.test', ca = '{}'", file(&store, "ca.pem"));
    let dir = tempfile::tempdir().expect("a directory");
    let certificates =
        logging(dir.path()).certificate("client", store.path()).certificate("stranger", strangers.path());
    for (lines, server) in demanding(&store.authority, &server) {
        let origin = Origin::start_tls("a", server.clone());
        let shown = |name: &str| format!("{tls}, certificate = '{name}'");
        let mut config = add(certificates.clone(), "client", &origin, lines, &shown("client"));
        config = add(config, "stranger", &origin, lines, &shown("stranger"));
        config = add(config, "nobody", &origin, lines, &tls);
        let gateway = Gateway::start(&config);
        for round in 0..3 {
            assert_eq!(gateway.get("/client").text(), "a", "{lines}, round {round}");
            for (path, reasons) in [
                ("/nobody", ["CertificateRequired", "HandshakeFailure"]),
                // Both authorities have the same name, so it is the signature that is wrong.
                ("/stranger", ["UnknownCA", "DecryptError"]),
            ] {
                let reason = reasons.iter().find(|reason| {
                    gateway.get(path);
                    line_of(dir.path(), path)["upstream_transport_failure_reason"].to_string().contains(**reason)
                });
                let reason = reason.unwrap_or_else(|| panic!("{lines}: {}", line_of(dir.path(), path)));
                assert_refused(&gateway, dir.path(), path, reason);
                let posted = gateway.connect().request("POST", path, "", &[b'x'; 100_000]);
                assert_eq!(posted.status, 503, "{lines}, {path}");
            }
        }
        assert!(server.seen().iter().all(|seen| seen.certificate.as_ref() == Some(&client.der)), "{lines}");
        assert_eq!(origin.requests(), 3, "{lines}: what was refused has not been looked at");
    }
}

#[test]
fn a_renewed_certificate_is_shown_from_the_next_handshake_on_and_no_connection_is_touched() {
    let store = Store::new();
    let (server, first) = (store.issue("server", &["api.test"]), store.issue("client", &["gateway.test"]));
    let server = TlsServer::demanding(&store.authority, &TLS13, &server, &["http/1.1"]);
    let origin = Origin::start_tls("a", server.clone());
    let check = "health_check = { protocol = 'http', path = '/check', interval = '100ms' }";
    let tls = format!("server_name = 'api.test', ca = '{}', certificate = 'client'", file(&store, "ca.pem"));
    let config = Config::new()
        .gateway("workers = 1")
        .certificate("client", store.path())
        .listener("web", "")
        .cluster("origin", &[origin.addr()], &format!("tls = {{ {tls} }}"))
        .cluster("checked", &[origin.addr()], &format!("tls = {{ {tls} }}\n{check}"))
        .route("all", "cluster = 'origin'")
        .route("checked", "match = { path = '/checked' }\ncluster = 'checked'");
    let gateway = Gateway::start(&config);
    let reused = || gateway.metrics().sum("gateway_cluster_connections_reused_total", &[("cluster", "origin")]);
    assert_eq!((gateway.get("/").text(), gateway.get("/").text(), reused()), ("a", "a", 1.0));
    let second = store.issue("client", &["gateway.test"]);
    let shows = |leaf: &Leaf| server.seen().iter().filter(|seen| seen.certificate.as_ref() == Some(&leaf.der)).count();
    // Checks, each of which is a handshake.
    wait::until_true("the renewed certificate", || shows(&second) >= 2);
    let old = shows(&first);
    assert_eq!((gateway.get("/").text(), reused()), ("a", 2.0), "the connection that was there");
    let mut held = gateway.connect();
    held.send(gateway_tests::client::request("GET", "/hold", ""));
    origin.wait_held(1);
    assert_eq!(gateway.get("/").text(), "a");
    let new = server.seen().into_iter().rfind(|seen| seen.kind == HandshakeKind::Full);
    assert_eq!(new.and_then(|seen| seen.certificate).as_ref(), Some(&second.der), "a new connection resumes nothing");
    assert_eq!(shows(&first), old, "the old one is not shown any more");
    origin.release();
    assert_eq!(held.response().text(), "released");
}

#[test]
fn sessions_are_resumed_with_the_endpoint_they_were_made_with() {
    let store = Store::new();
    let leaf = store.issue("server", &["api.test"]);
    let tls = format!("server_name = 'api.test', ca = '{}'", file(&store, "ca.pem"));
    for version in [&TLS12, &TLS13] {
        let servers = [0, 1].map(|_| TlsServer::speaking(version, &leaf, &["http/1.1"]));
        let origins = servers.clone().map(|server| Origin::start_tls("a", server));
        let endpoints = [origins[0].addr(), origins[1].addr()];
        let config = |more: &str| {
            // Connections that are not kept: each request is a handshake.
            let lines = format!("tls = {{ {tls}{more} }}\nmax_idle_connections = 0");
            Config::new().listener("web", "").cluster("origin", &endpoints, &lines).route("all", "cluster = 'origin'")
        };
        let mut gateway = Gateway::start(&config(""));
        let ask = |gateway: &Gateway| (0..20).for_each(|_| assert_eq!(gateway.get("/").text(), "a"));
        ask(&gateway);
        let of_kind = |kind: HandshakeKind| {
            let count = |server: &TlsServer| server.seen().iter().filter(|seen: &&Shaken| seen.kind == kind).count();
            [count(&servers[0]), count(&servers[1])]
        };
        // Workers have them together, so it is one full handshake for each endpoint.
        assert_eq!(
            of_kind(HandshakeKind::Full),
            [1, 1],
            "{:?}: {:?}",
            version.version,
            of_kind(HandshakeKind::Resumed)
        );
        let counted = |kind: &str| gateway.metrics().sum("gateway_cluster_tls_handshakes_total", &[("kind", kind)]);
        assert_eq!((counted("full"), counted("resumed")), (2.0, 18.0));
        // A reload that is about something else leaves them.
        gateway.reload(&config("").route("more", "match = { path = '/more' }\ncluster = 'origin'"));
        ask(&gateway);
        assert_eq!(of_kind(HandshakeKind::Full), [1, 1]);
        gateway.reload(&config(", resumption = false"));
        ask(&gateway);
        assert_eq!(
            of_kind(HandshakeKind::Full).iter().sum::<usize>(),
            22,
            "the two from before, and one for each request"
        );
    }
}

#[test]
fn an_endpoint_that_is_revoked_gets_nothing_more_over_connections_that_are_there() {
    let store = Store::new();
    let leaf = store.issue("server", &["api.test"]);
    let origin = Origin::start_tls("a", TlsServer::new(&leaf, &["http/1.1"]));
    store.write("revoked.crl", &store.authority.revocation_list(&[], 2090));
    let crl = file(&store, "revoked.crl");
    let tls = format!("tls = {{ server_name = 'api.test', ca = '{}', crl = ['{crl}'] }}", file(&store, "ca.pem"));
    let config =
        Config::new().listener("web", "").cluster("origin", &[origin.addr()], &tls).route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/").text(), "a");
    store.write("revoked.crl", &store.authority.revocation_list(&[&leaf], 2090));
    assert_eq!(gateway.admin_post("/reload").status, 200);
    assert_eq!((gateway.get("/").status, origin.requests()), (503, 1));
}

#[test]
fn relays_offer_the_protocols_of_the_cluster() {
    let store = Store::new();
    let server = TlsServer::new(&store.issue("db", &["db.test"]), &["postgresql"]);
    let origin = Script::start_tls(server.clone(), |mut conn| conn.send("ready"));
    let tls = format!("server_name = 'db.test', ca = '{}'", file(&store, "ca.pem"));
    for (alpn, expected) in [("", None), (", alpn = ['mysql', 'postgresql']", Some("postgresql"))] {
        let config = Config::new()
            .listener("web", "protocol = 'tcp'")
            .cluster("db", &[origin.addr()], &format!("tls = {{ {tls}{alpn} }}"))
            .l4_route("db", "cluster = 'db'");
        let gateway = Gateway::start(&config);
        gateway.connect().expect("ready");
        let last = server.seen().pop().expect("a handshake");
        assert_eq!(last.alpn.as_deref(), expected);
    }
}

#[test]
fn health_checks_show_the_certificate_and_name_what_is_wrong() {
    let store = Store::new();
    let (server, _) = (store.issue("server", &["api.test"]), store.issue("client", &["gateway.test"]));
    let trust = format!("server_name = 'api.test', ca = '{}'", file(&store, "ca.pem"));
    for (lines, server) in demanding(&store.authority, &server) {
        let origin = Origin::start_tls("a", server);
        let config = |name: &str, tls: &str, check: &str| {
            let check = format!("health_check = {{ protocol = 'http', interval = '100ms'{check} }}");
            Config::new()
                .certificate("client", store.path())
                .listener("web", "")
                .cluster("origin", &[origin.addr()], &format!("{lines}\ntls = {{ {trust}{tls} }}\n{check}"))
                .route(name, "cluster = 'origin'")
        };
        let shown = ", certificate = 'client'";
        let own = format!(", tls = {{ {trust} }}");
        let gateway = Gateway::start(&config("all", shown, ""));
        let healthy =
            |gateway: &Gateway| gateway.metrics().sum("gateway_cluster_endpoint_healthy", &[("cluster", "origin")]);
        wait::until_true("checks", || origin.requests() > 2);
        assert_eq!(healthy(&gateway), 1.0, "{lines}: {}", gateway.process.stderr.text());
        drop(gateway);
        // The check has settings of its own, without a certificate.
        let gateway = Gateway::start(&config("all", shown, &own));
        wait::until_true("a failed check", || healthy(&gateway) == 0.0);
        let log = gateway.process.stderr.text();
        // Over HTTP/2 the request may be under way to an endpoint that is gone before its alert is read.
        let reasons = ["CertificateRequired", "HandshakeFailure", "roken pipe", "onnection reset"];
        assert!(reasons.iter().any(|reason| log.contains(reason)), "{lines}: {log}");
    }
}
