//! Mutual TLS: who is let in, by which alert others learn that they are not, and what the origin is told.

use std::time::{Duration, SystemTime};

use gateway_tests::certs::{Authority, Leaf, Store};
use gateway_tests::client::{HOST, request};
use gateway_tests::h2::{Client, Options, fields, response};
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;
use gateway_tests::tls::TlsClient;
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, HandshakeKind, SupportedProtocolVersion};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// The gateway's certificates, and an authority of clients.
struct Lab {
    store: Store,
    clients: Authority,
    origin: Origin,
}

impl Lab {
    fn new() -> Lab {
        let lab = Lab { store: Store::new(), clients: Authority::new(), origin: Origin::start("a") };
        lab.store.issue("site", &[HOST, "admin.test", "strict.test", "127.0.0.1", "::1"]);
        lab.store.write("clients.pem", &lab.clients.pem());
        lab
    }

    /// `tls` goes into the listener's `tls` table, `lines` into the listener.
    fn config(&self, tls: &str, lines: &str) -> Config {
        Config::new()
            .certificate("site", self.store.path())
            .listener("web", &format!("tls = {{ certificates = ['site'], {tls} }}\n{lines}"))
            .cluster("origin", &[self.origin.addr()], "")
            .route("all", "cluster = 'origin'")
    }

    fn file(&self, name: &str) -> String {
        self.store.path().join(name).display().to_string()
    }

    /// `client_auth` with this lab's authority.
    fn client_auth(&self, more: &str) -> String {
        format!("client_auth = {{ ca = '{}' {more} }}", self.file("clients.pem"))
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> TlsClient {
        TlsClient::with(&self.store.authority, &[version], &[])
    }

    fn h2(&self, leaf: &Leaf, gateway: &Gateway, host: &str) -> Client {
        let client = TlsClient::with(&self.store.authority, &[&TLS13], &["h2"]).showing(leaf);
        let (conn, _) = client.connect(gateway.addr("web"), host).expect("a handshake");
        Client::over(conn.into_stream(), Options::default())
    }
}

/// How many handshakes failed for this reason.
fn failures(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("listener", "web"), ("reason", reason)];
    gateway.metrics().sum("gateway_listener_tls_handshake_failures_total", &labels)
}

fn wait_failures(gateway: &Gateway, reason: &str, count: f64) {
    wait::until_true(&format!("{count} failures for {reason}"), || failures(gateway, reason) == count);
}

fn asked_for(conn: &mut Conn, host: &str) -> u16 {
    conn.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    conn.response().status
}

fn sha256_hex(leaf: &Leaf) -> String {
    gateway::proto::x509::Identity::of(&leaf.der).map(|identity| gateway::proto::x509::hex(&identity.sha256)).unwrap()
}

#[test]
fn each_client_that_is_not_let_in_learns_why() {
    let lab = Lab::new();
    let issue = |hosts: &[&str]| lab.clients.leaf(hosts);
    let good = issue(&["client.test"]);
    let expired = lab.clients.leaf_with(&["client.test"], |params| params.not_after = date_time_ymd(2021, 1, 1));
    let future = lab.clients.leaf_with(&["client.test"], |params| params.not_before = date_time_ymd(2200, 1, 1));
    let revoked = issue(&["client.test"]);
    let stranger = Authority::new().leaf(&["client.test"]);
    let misnamed = issue(&["other.test"]);
    let for_servers = lab.clients.leaf_with(&["client.test"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    lab.store.write("clients.crl", &lab.clients.revocation_list(&[&revoked], 2100));
    let more = format!(", crl = ['{}'], names = ['client.test', '*.clients.test']", lab.file("clients.crl"));
    let gateway = Gateway::start(&lab.config(&lab.client_auth(&more), ""));
    let web = gateway.addr("web");
    for version in VERSIONS {
        let client = lab.client(version);
        let (mut conn, _) = client.showing(&good).connect(web, HOST).expect("a handshake");
        assert_eq!(conn.get("/").status, 200, "{version:?}");
        let none = match version == &TLS13 {
            true => AlertDescription::CertificateRequired,
            false => AlertDescription::HandshakeFailure,
        };
        assert_eq!(client.alert(web, HOST), none, "no certificate, {version:?}");
    }
    wait_failures(&gateway, "no_certificate", 2.0);
    for (leaf, alert, reason, count) in [
        (&expired, AlertDescription::CertificateExpired, "expired", 2.0),
        (&future, AlertDescription::CertificateExpired, "expired", 4.0),
        (&revoked, AlertDescription::CertificateRevoked, "revoked", 2.0),
        (&stranger, AlertDescription::UnknownCA, "unknown_issuer", 2.0),
        (&misnamed, AlertDescription::AccessDenied, "not_allowed", 2.0),
        (&for_servers, AlertDescription::UnsupportedCertificate, "bad_certificate", 2.0),
    ] {
        for version in VERSIONS {
            let got = lab.client(version).showing(leaf).alert(web, HOST);
            assert_eq!(got, alert, "{reason} {version:?}");
        }
        wait_failures(&gateway, reason, count);
    }
    assert!(lab.origin.connections() <= 2, "nobody else got through");
}

#[test]
fn a_client_that_goes_on_sending_learns_why_it_is_not_let_in() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab.config(&lab.client_auth(""), ""));
    // In TLS 1.3 a client is done before its certificate is looked at, and sends what it has to say.
    let (conn, _) = lab.client(&TLS13).connect(gateway.addr("web"), HOST).expect("its side of the handshake");
    let Stream::Tls(client) = conn.into_stream() else { panic!("no TLS") };
    client.write(b"GET / HTTP/1.1\r\n").expect("a first line");
    wait_failures(&gateway, "no_certificate", 1.0);
    for line in [&b"host: a\r\n"[..], b"\r\n"] {
        client.write(line).expect("a connection that is not reset");
    }
    let error = client.read(&mut [0; 16]).expect_err("an alert");
    let alert = error.get_ref().and_then(|error| error.downcast_ref());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired)));
}

#[test]
fn keys_can_be_pinned() {
    let lab = Lab::new();
    let (good, other) = (lab.clients.leaf(&["client.test"]), lab.clients.leaf(&["client.test"]));
    let pin = gateway::proto::x509::Identity::of(&good.der).unwrap().spki_sha256;
    let more = format!(", spki_sha256 = ['{}']", gateway::proto::x509::hex(&pin));
    let gateway = Gateway::start(&lab.config(&lab.client_auth(&more), ""));
    let client = lab.client(&TLS13);
    let (mut conn, _) = client.showing(&good).connect(gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(conn.get("/").status, 200);
    assert_eq!(client.showing(&other).alert(gateway.addr("web"), HOST), AlertDescription::AccessDenied);
}

#[test]
fn names_may_be_spiffe_ids() {
    let lab = Lab::new();
    let with = |uri: &str| {
        let uri = SanType::URI(uri.try_into().expect("ASCII"));
        lab.clients.leaf_with(&[], |params| params.subject_alt_names.push(uri))
    };
    let gateway = Gateway::start(&lab.config(&lab.client_auth(", names = ['spiffe://td.test/ns/prod/*']"), ""));
    let client = lab.client(&TLS13);
    let (mut conn, _) =
        client.showing(&with("spiffe://td.test/ns/prod/web")).connect(gateway.addr("web"), HOST).unwrap();
    assert_eq!(conn.get("/").status, 200);
    for other in ["spiffe://td.test/ns/dev/web", "spiffe://td.test.evil/ns/prod/web"] {
        assert_eq!(client.showing(&with(other)).alert(gateway.addr("web"), HOST), AlertDescription::AccessDenied);
    }
}

#[test]
fn a_revocation_list_that_has_expired_lets_nobody_in() {
    let lab = Lab::new();
    let leaf = lab.clients.leaf(&["client.test"]);
    lab.store.write("clients.crl", &lab.clients.revocation_list(&[], 2025));
    let gateway =
        Gateway::start(&lab.config(&lab.client_auth(&format!(", crl = ['{}']", lab.file("clients.crl"))), ""));
    let alert = lab.client(&TLS13).showing(&leaf).alert(gateway.addr("web"), HOST);
    assert_eq!(alert, AlertDescription::UnknownCA);
    wait_failures(&gateway, "revocation_unknown", 1.0);
}

#[test]
fn a_certificate_may_be_optional_but_not_bad() {
    let lab = Lab::new();
    let lines = "forward_client_cert = 'sanitize_set'";
    let gateway = Gateway::start(&lab.config(&lab.client_auth(", mode = 'optional'"), lines));
    for version in VERSIONS {
        let client = lab.client(version);
        let (mut conn, _) = client.connect(gateway.addr("web"), HOST).expect("a handshake");
        conn.send(request("GET", "/headers", "x-forwarded-client-cert: Hash=forged\r\n"));
        assert_eq!(conn.response().seen().header("x-forwarded-client-cert"), None, "{version:?}");
        let leaf = lab.clients.leaf(&["client.test"]);
        let (mut conn, _) = client.showing(&leaf).connect(gateway.addr("web"), HOST).expect("a handshake");
        let told = format!("Hash={}", sha256_hex(&leaf));
        assert_eq!(conn.get("/headers").seen().header("x-forwarded-client-cert"), Some(&*told), "{version:?}");
        let stranger = Authority::new().leaf(&["client.test"]);
        assert_eq!(client.showing(&stranger).alert(gateway.addr("web"), HOST), AlertDescription::UnknownCA);
    }
}

/// A certificate with all that is told of one.
fn telling(lab: &Lab) -> Leaf {
    lab.clients.leaf_with(&["client.test", "also.test"], |params| {
        params.distinguished_name.push(DnType::CommonName, "client.test");
        params.distinguished_name.push(DnType::OrganizationName, "x");
        params.subject_alt_names.push(SanType::URI("spiffe://td/client".try_into().expect("ASCII")));
    })
}

#[test]
fn the_origin_is_told_who_the_client_is_in_every_version_of_http() {
    let lab = Lab::new();
    let own = lab.store.authority.leaf_with(&[HOST], |params| {
        params.subject_alt_names.push(SanType::URI("spiffe://td/b".try_into().expect("ASCII")));
    });
    lab.store.write("site.pem", &own.chain_pem);
    lab.store.write("site.key", &own.key_pem);
    let leaf = telling(&lab);
    let lines = "forward_client_cert = 'append_forward'\nforward_client_cert_details = ['subject', 'uri', 'dns']";
    let gateway = Gateway::start(&lab.config(&lab.client_auth(""), lines));
    let hash = sha256_hex(&leaf);
    let told = format!(
        "By=spiffe://td/b;Hash={hash};Subject=\"O=x,CN=client.test\";URI=spiffe://td/client;DNS=client.test;DNS=also.test"
    );
    let (mut conn, _) = lab.client(&TLS12).showing(&leaf).connect(gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(conn.get("/headers").seen().header("x-forwarded-client-cert"), Some(&*told));
    // A hop before this one has told of its client.
    conn.send(request("GET", "/headers", "x-forwarded-client-cert: Hash=1\r\n"));
    let both = format!("Hash=1,{told}");
    assert_eq!(conn.response().seen().header("x-forwarded-client-cert"), Some(&*both));
    let h2 = lab.h2(&leaf, &gateway, HOST);
    assert_eq!(h2.get("/headers").seen().header("x-forwarded-client-cert"), Some(&*told));
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = h2.ask("POST", "/headers", &grpc, &[0, 0, 0, 0, 0]);
    assert_eq!(answer.seen().header("x-forwarded-client-cert"), Some(&*told), "gRPC");
}

#[test]
fn a_claim_of_a_certificate_is_dropped_by_default_whoever_makes_it() {
    let origin = Origin::start("a");
    let seen = |config: Config| {
        let gateway = Gateway::start(&config);
        let mut conn = gateway.connect();
        conn.send(request("GET", "/headers", "X-Forwarded-Client-Cert: Hash=1\r\nx-forwarded-client-cert: Hash=2\r\n"));
        conn.response().seen().all("x-forwarded-client-cert").join("|")
    };
    let trusting = "trusted_proxies = ['127.0.0.0/8', '::1']";
    assert_eq!(seen(Config::proxy_to(origin.addr())), "");
    assert_eq!(seen(Config::proxy_to(origin.addr()).gateway(trusting)), "");
    let always = |lines: &str| {
        Config::new()
            .listener("web", &format!("forward_client_cert = '{lines}'"))
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'")
    };
    assert_eq!(seen(always("always_forward_only")), "Hash=1|Hash=2");
    assert_eq!(seen(always("forward_only")), "", "there is no certificate");
}

#[test]
fn a_request_for_a_host_with_other_rules_is_misdirected() {
    let lab = Lab::new();
    let leaf = lab.clients.leaf(&["client.test"]);
    let hosts = format!("hosts = [{{ hosts = ['admin.test', '*.strict.test'], {} }}]", lab.client_auth(""));
    let gateway = Gateway::start(&lab.config(&hosts, ""));
    let web = gateway.addr("web");
    for version in VERSIONS {
        let client = lab.client(version);
        // The certificate is for both hosts, so that only the rules keep them apart. One has no server name at all.
        for name in [HOST, "127.0.0.1"] {
            let (mut conn, _) = client.connect(web, name).expect("a handshake");
            assert_eq!(asked_for(&mut conn, HOST), 200);
            for host in ["admin.test", "ADMIN.test:443", "admin.test.", "a.strict.test", "b.a.strict.test"] {
                assert_eq!(asked_for(&mut conn, host), 421, "{name} {host}");
            }
            conn.send("GET http://admin.test/ HTTP/1.1\r\nhost: admin.test\r\n\r\n");
            assert_eq!(conn.response().status, 421);
            assert_eq!(asked_for(&mut conn, HOST), 200);
        }
        let refused = client.alert(web, "admin.test");
        assert!(matches!(refused, AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure));
        let (mut conn, _) = client.showing(&leaf).connect(web, "admin.test").expect("a handshake");
        assert_eq!(asked_for(&mut conn, "admin.test"), 200);
        assert_eq!(asked_for(&mut conn, HOST), 421, "an identity is not shown to who has not asked for it");
    }
    let tls = TlsClient::with(&lab.store.authority, &[&TLS13], &["h2"]);
    let (conn, _) = tls.connect(web, HOST).expect("a handshake");
    let h2 = Client::over(conn.into_stream(), Options::default());
    for (authority, status) in [(HOST, 200), ("admin.test", 421), (HOST, 200)] {
        let stream = h2.connection.open(&fields("GET", "https", "/", &[(":authority", authority)]), true);
        assert_eq!(response(&stream, &mut |_| {}).expect("a response").status, status, "{authority}");
    }
    let h2 = lab.h2(&leaf, &gateway, "admin.test");
    let stream = h2.connection.open(&fields("GET", "https", "/", &[(":authority", "admin.test")]), true);
    assert_eq!(response(&stream, &mut |_| {}).expect("a response").status, 200);
}

#[test]
fn a_ticket_is_not_worth_more_than_the_handshake_it_is_from() {
    let lab = Lab::new();
    let listener = |tls: &str| format!("tls = {{ certificates = ['site'], {tls} }}");
    let config = lab.config("", "").listener("mutual", &listener(&lab.client_auth("")));
    let gateway = Gateway::start(&config);
    for version in VERSIONS {
        let client = lab.client(version);
        let (mut conn, _) = client.connect(gateway.addr("web"), HOST).expect("a handshake");
        assert_eq!(conn.get("/").status, 200);
        let (mut conn, handshake) = client.connect(gateway.addr("web"), HOST).expect("a handshake");
        assert_eq!((handshake.kind, conn.get("/").status), (HandshakeKind::Resumed, 200));
        // Offers a ticket of the other listener.
        let alert = client.alert(gateway.addr("mutual"), HOST);
        assert!(
            matches!(alert, AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure),
            "{alert:?}"
        );
    }
}

#[test]
fn a_resumed_client_is_who_it_was() {
    let lab = Lab::new();
    let leaf = lab.clients.leaf(&["client.test"]);
    let gateway = Gateway::start(&lab.config(&lab.client_auth(""), "forward_client_cert = 'sanitize_set'"));
    for version in VERSIONS {
        let client = lab.client(version).showing(&leaf);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let (mut conn, handshake) = client.connect(gateway.addr("web"), HOST).expect("a handshake");
            let told = format!("Hash={}", sha256_hex(&leaf));
            assert_eq!(conn.get("/headers").seen().header("x-forwarded-client-cert"), Some(&*told));
            assert_eq!(handshake.kind, kind, "{version:?}");
        }
    }
}

#[test]
fn neither_a_ticket_nor_an_open_connection_outlives_a_revocation() {
    let lab = Lab::new();
    let (good, bad) = (lab.clients.leaf(&["good.test"]), lab.clients.leaf(&["bad.test"]));
    lab.store.write("clients.crl", &lab.clients.revocation_list(&[], 2100));
    let config = lab.config(&lab.client_auth(&format!(", crl = ['{}']", lab.file("clients.crl"))), "");
    let mut gateway = Gateway::start(&config);
    let web = gateway.addr("web");
    let mut open = Vec::new();
    for version in VERSIONS {
        // One has no server name.
        for (leaf, name, status) in [(&good, HOST, 200), (&bad, HOST, 421), (&bad, "127.0.0.1", 421)] {
            let client = lab.client(version).showing(leaf);
            let (mut conn, _) = client.connect(web, name).expect("a handshake");
            assert_eq!(conn.get("/").status, 200);
            open.push((client, conn, status));
        }
    }
    let streams = [(lab.h2(&good, &gateway, HOST), 200), (lab.h2(&bad, &gateway, HOST), 421)];
    for (h2, _) in &streams {
        assert_eq!(h2.get("/").status, 200);
    }
    lab.store.write("clients.crl", &lab.clients.revocation_list(&[&bad], 2100));
    gateway.reload(&config);
    for (client, mut conn, status) in open {
        let response = conn.get("/");
        assert_eq!((response.status, response.closes()), (status, status == 421), "over the open connection");
        if status == 421 {
            assert_eq!(client.alert(web, HOST), AlertDescription::CertificateRevoked);
        } else {
            let (mut conn, handshake) = client.connect(web, HOST).expect("a handshake");
            assert_eq!((handshake.kind, conn.get("/").status), (HandshakeKind::Full, 200));
        }
    }
    for (h2, status) in streams {
        assert_eq!(h2.get("/").status, status, "over an open connection of HTTP/2");
        if status == 421 {
            assert!(h2.connection.wait_goaways(2).iter().all(|(_, code)| *code == 0), "it may go elsewhere");
            h2.connection.wait_end();
        }
    }
    // Another authority.
    let client = lab.client(&TLS13).showing(&good);
    let (mut conn, _) = client.connect(web, HOST).expect("a handshake");
    assert_eq!(conn.get("/").status, 200);
    let others = Authority::new();
    lab.store.write("clients.pem", &others.pem());
    lab.store.write("clients.crl", &others.revocation_list(&[], 2100));
    gateway.reload(&config);
    assert_eq!(client.alert(web, HOST), AlertDescription::UnknownCA);
    assert_eq!(conn.get("/").status, 421);
}

#[test]
fn a_connection_from_before_the_rule_does_not_get_past_it() {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab.config("", ""));
    let (mut conn, _) = lab.client(&TLS13).connect(gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(conn.get("/").status, 200);
    gateway.reload(&lab.config(&lab.client_auth(", mode = 'optional'"), ""));
    assert_eq!(conn.get("/").status, 200);
    let (mut other, _) = lab.client(&TLS13).connect(gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(other.get("/").status, 200);
    gateway.reload(&lab.config(&lab.client_auth(""), ""));
    assert_eq!(conn.get("/").status, 421);
    gateway.reload(&lab.config("", ""));
    assert_eq!(other.get("/").status, 200, "the rule has come and gone");
}

#[test]
fn a_certificate_that_expires_takes_its_tickets_with_it() {
    let lab = Lab::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    // Time for the first connection, also on a machine that is busy.
    let end = Duration::from_secs(now.as_secs() + 4);
    let leaf = lab.clients.leaf_with(&["client.test"], |params| params.not_after = date_time_ymd(1970, 1, 1) + end);
    let gateway = Gateway::start(&lab.config(&lab.client_auth(""), ""));
    let client = lab.client(&TLS13).showing(&leaf);
    let (mut conn, _) = client.connect(gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(conn.get("/").status, 200);
    wait::until_true("the certificate to expire", || {
        SystemTime::now() > SystemTime::UNIX_EPOCH + end + Duration::from_secs(1)
    });
    assert_eq!(client.alert(gateway.addr("web"), HOST), AlertDescription::CertificateExpired);
    wait_failures(&gateway, "expired", 1.0);
}

#[test]
fn relayed_tls_asks_for_a_certificate_too() {
    let lab = Lab::new();
    let leaf = lab.clients.leaf(&["client.test"]);
    let config = Config::new()
        .certificate("site", lab.store.path())
        .listener("web", &format!("protocol = 'tcp'\ntls = {{ certificates = ['site'], {} }}", lab.client_auth("")))
        .cluster("origin", &[lab.origin.addr()], "")
        .l4_route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let client = lab.client(&TLS13);
    assert_eq!(client.alert(gateway.addr("web"), HOST), AlertDescription::CertificateRequired);
    let (mut conn, _) = client.showing(&leaf).connect(gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(conn.get("/").text(), "a");
}

#[test]
fn the_access_log_says_who_the_client_is() {
    let lab = Lab::new();
    let leaf = telling(&lab);
    let log = lab.store.path().join("access.log");
    let format = "%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_ISSUER% %DOWNSTREAM_PEER_SERIAL% \
                  %DOWNSTREAM_PEER_FINGERPRINT_256% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN%";
    let config = lab.config(&lab.client_auth(", mode = 'optional'"), "");
    let config = config.tables(&format!("[access_log]\npath = '{}'\nformat = '{format}'", log.display()));
    let gateway = Gateway::start(&config);
    let client = lab.client(&TLS13);
    client.showing(&leaf).connect(gateway.addr("web"), HOST).expect("a handshake").0.get("/");
    client.connect(gateway.addr("web"), HOST).expect("a handshake").0.get("/");
    let lines = wait::until("two lines", || {
        let text = std::fs::read_to_string(&log).ok()?;
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        // Each worker writes for itself.
        lines.sort_by_key(|line| line.starts_with('-'));
        (lines.len() == 2).then_some(lines)
    });
    let serial = gateway::proto::x509::Identity::of(&leaf.der).unwrap().serial;
    let hash = sha256_hex(&leaf);
    let told = format!("O=x,CN=client.test CN=Test authority {serial} {hash} spiffe://td/client client.test,also.test");
    assert_eq!(lines, [told.as_str(), "- - - - - -"]);
}
