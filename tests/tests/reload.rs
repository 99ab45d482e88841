//! A reload changes what it must and nothing else: no request fails, no connection is cut, a bad file does nothing.

use std::net::SocketAddr;

use gateway_tests::certs::Store;
use gateway_tests::client;
use gateway_tests::load::{Load, Mode, Report};
use gateway_tests::ports::HeldPort;
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;
use gateway_tests::tls::TlsClient;

/// How often the configuration changes under load.
const RELOADS: u64 = 20;

/// A configuration that differs from that of another `version` in its routes, clusters and headers.
fn version(origins: &[&Origin], version: u64) -> Config {
    let origin = origins[version as usize % origins.len()];
    Config::new()
        .listener("web", "")
        .cluster(&format!("origin-{}", version % 3), &[origin.addr()], "")
        .route(
            "all",
            &format!(
                "cluster = 'origin-{}'\nresponse_headers = {{ set = {{ x-version = '{version}' }} }}",
                version % 3
            ),
        )
        .route(&format!("other-{version}"), "match = { path = '/other' }\nrespond = { status = 204 }")
}

fn reload_under_load(mode: Mode) -> Report {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let mut gateway = Gateway::start(&version(&[&a, &b], 0));
    let load = Load { addr: gateway.addr("web"), clients: 6, requests: 1_000_000, mode, path: "/bytes/3000".into() };
    let running = load.start();
    for reload in 1..=RELOADS {
        running.wait_answered(100);
        gateway.reload(&version(&[&a, &b], reload));
        assert_eq!(gateway.get("/").header("x-version"), Some(reload.to_string().as_str()));
    }
    running.wait_answered(100);
    let report = running.stop();
    assert_eq!(report.answered + RELOADS, a.requests() + b.requests(), "each request reached an origin exactly once");
    assert!(a.requests() > 0 && b.requests() > 0);
    report
}

#[test]
fn no_request_on_kept_connections_fails_during_reloads() {
    let report = reload_under_load(Mode::KeepAlive);
    assert!(report.answered > RELOADS * 100, "{report:?}");
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(report.closed_politely, 0, "no listener changed, so no connection had to end: {report:?}");
}

#[test]
fn no_new_connection_fails_during_reloads() {
    let report = reload_under_load(Mode::NewConnections);
    assert!(report.answered > RELOADS * 100, "{report:?}");
    assert!(report.failures.is_empty(), "{report:?}");
}

#[test]
fn a_request_in_flight_is_served_by_the_configuration_it_began_with() {
    let origin = Origin::start("old");
    let mut gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("GET", "/hold", ""));
    origin.wait_held(1);
    gateway.reload(&Config::new().listener("web", "").route("all", "respond = { status = 200, body = 'new' }"));
    assert_eq!(gateway.get("/").text(), "new");
    origin.release();
    assert_eq!(client.response().text(), "released");
    assert_eq!(client.get("/").text(), "new", "the same connection, the new configuration");
}

#[test]
fn pooled_connections_to_an_untouched_cluster_survive() {
    let origin = Origin::start("a");
    let config = Config::proxy_to(origin.addr()).gateway("workers = 1");
    let mut gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/").status, 200);
    gateway.reload(&config.clone().route("more", "match = { path = '/more' }\nrespond = { status = 204 }"));
    assert_eq!((gateway.get("/").status, gateway.get("/more").status), (200, 204));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let origin = Origin::start("a");
    let mut gateway = Gateway::in_front_of(origin.addr());
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").status, 200);
    let generation = || gateway.metrics().sum("gateway_config_generation", &[]);
    let before = generation();
    for (bad, complaint) in [
        ("this is not toml", "gateway.toml:1"),
        ("[[listener]]\nname = 'web'\nadress = '127.0.0.1:0'", "adress"),
        ("[[listener]]\nname = 'web'\naddress = '127.0.0.1:0'\n[[route]]\nname = 'r'\ncluster = 'missing'", "missing"),
    ] {
        gateway.write_file("gateway.toml", bad);
        let response = gateway.admin_post("/reload");
        assert!((400..500).contains(&response.status), "{} for {bad:?}", response.status);
        assert!(response.text().contains(complaint), "{:?} does not name {complaint:?}", response.text());
        assert_eq!(generation(), before);
        assert_eq!(kept.get("/").text(), "a");
    }
    gateway.reload(&Config::new().listener("web", "").route("all", "respond = { status = 200, body = 'good' }"));
    assert_eq!(kept.get("/").text(), "good");
}

#[test]
fn a_listener_that_cannot_be_bound_changes_nothing() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let taken = Origin::start("holds a port");
    gateway.write_config(
        &Config::new()
            .listener("web", "")
            .listener_at("more", taken.addr(), "")
            .route("all", "respond = { status = 200, body = 'new' }"),
    );
    let response = gateway.admin_post("/reload");
    assert!(response.status >= 400, "{}", response.text());
    assert!(response.text().contains(&taken.addr().to_string()), "{}", response.text());
    assert_eq!(gateway.get("/").text(), "a");
}

/// `respond(body)` with this address of the admin endpoint.
fn with_admin_at(address: SocketAddr, body: &str) -> String {
    let text = respond(body).to_string();
    let moved = text.replacen("[admin]\naddress = '127.0.0.1:0'", &format!("[admin]\naddress = '{address}'"), 1);
    assert_ne!(moved, text);
    moved
}

#[test]
fn an_admin_address_that_is_taken_changes_nothing_and_says_what_to_do() {
    let gateway = Gateway::start(&respond("old"));
    let generation = || gateway.metrics().sum("gateway_config_generation", &[]);
    let before = generation();
    let taken = Origin::start("holds a port");
    gateway.write_file("gateway.toml", &with_admin_at(taken.addr(), "new"));
    let response = gateway.admin_post("/reload");
    assert_eq!(response.status, 400, "{}", response.text());
    for part in ["admin.address", &taken.addr().to_string(), "ss -lntup"] {
        assert!(response.text().contains(part), "{part:?} is missing in {:?}", response.text());
    }
    assert_eq!(generation(), before);
    assert_eq!(gateway.get("/").text(), "old");
}

#[test]
fn the_admin_endpoint_moves_to_another_address_of_its_port() {
    let gateway = Gateway::start(&respond("old"));
    let line = gateway.process.stdout.find("ADMIN", |line| line.starts_with("ADMIN ")).expect("an ADMIN line");
    let address: SocketAddr = line["ADMIN ".len()..].parse().expect("an address");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
    gateway.write_file("gateway.toml", &with_admin_at(everywhere, "new"));
    let response = gateway.admin_post("/reload");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(gateway.get("/").text(), "new");
    assert_eq!(gateway.admin_get("/ready").status, 200);
    let mut elsewhere = Conn::connect(SocketAddr::from(([127, 0, 0, 2], address.port())));
    assert_eq!(elsewhere.get("/ready").status, 200);
}

#[test]
fn a_listener_moves_to_another_address_of_its_port_and_keeps_its_connections() {
    let first = Config::new().listener_at("web", SocketAddr::from(([127, 0, 0, 1], 0)), "");
    let mut gateway = Gateway::start(&first.route("all", "respond = { status = 200, body = 'old' }"));
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").text(), "old");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], gateway.addr("web").port()));
    let moved = Config::new().listener_at("web", everywhere, "");
    gateway.reload(&moved.route("all", "respond = { status = 200, body = 'new' }"));
    let mut elsewhere = Conn::connect(SocketAddr::from(([127, 0, 0, 2], everywhere.port())));
    assert_eq!(elsewhere.get("/").text(), "new");
    assert_eq!(kept.get("/").text(), "new", "a connection to the old address goes on");
}

#[test]
fn sighup_and_a_changed_file_reload_too() {
    let gateway = Gateway::start(&respond("one"));
    assert_eq!(gateway.get("/").text(), "one");
    gateway.write_config(&respond("two"));
    wait::until_true("the file watch to notice", || gateway.get("/").text() == "two");
    gateway.write_config(&respond("three"));
    gateway.process.signal(libc::SIGHUP);
    wait::until_true("the signal to be obeyed", || gateway.get("/").text() == "three");
}

#[test]
fn an_equal_configuration_is_not_a_new_generation() {
    let mut gateway = Gateway::start(&respond("one"));
    let before = gateway.metrics().sum("gateway_config_generation", &[]);
    gateway.reload(&respond("one").tables("# only a comment is new"));
    assert_eq!(gateway.metrics().sum("gateway_config_generation", &[]), before);
    gateway.reload(&respond("two"));
    assert_eq!(gateway.metrics().sum("gateway_config_generation", &[]), before + 1.0);
}

#[test]
fn a_listener_comes_and_goes_without_touching_the_others() {
    let origin = Origin::start("a");
    let addr = HeldPort::released();
    let small = Config::proxy_to(origin.addr());
    let large = small.clone().listener_at("more", addr, "");
    let mut gateway = Gateway::start(&small);
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").status, 200);

    gateway.reload(&large);
    let mut on_more = Conn::connect(addr);
    assert_eq!(on_more.get("/").status, 200);
    let mut busy = Conn::connect(addr);
    busy.send(client::request("GET", "/hold", ""));
    origin.wait_held(1);

    gateway.reload(&small);
    wait::until_true("the removed listener to refuse", || Stream::connect(addr).is_err());
    origin.release();
    assert_eq!(busy.response().text(), "released", "a request in flight on a removed listener is finished");
    assert_eq!(kept.get("/").status, 200, "a connection of another listener goes on");
    // A kept connection of the removed listener may serve one more request, or be closed now; not hang.
    let _ = on_more.try_send(client::request("GET", "/", ""));
    let last = on_more.try_response_to("GET");
    assert!(matches!(&last, Ok(response) if response.closes()) || last == Err(ReadError::Closed), "{last:?}");

    gateway.reload(&large);
    assert_eq!(Conn::connect(addr).get("/").status, 200, "and it can come back");
}

#[test]
fn changed_limits_of_a_listener_do_not_cut_its_connections() {
    let origin = Origin::start("a");
    let config = |limits: &str| {
        Config::new().listener("web", limits).cluster("origin", &[origin.addr()], "").route("all", "cluster = 'origin'")
    };
    let mut gateway = Gateway::start(&config(""));
    let addr = gateway.addr("web");
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").status, 200);
    gateway.reload(&config("limits = { body_bytes = '10B' }"));
    assert_eq!(gateway.addr("web"), addr, "port 0 stays the port it became");
    assert_eq!(kept.get("/").status, 200);
    assert_eq!(gateway.connect().request("POST", "/echo", "", b"more than ten bytes").status, 413);
}

#[test]
fn a_new_certificate_is_used_for_new_handshakes_and_old_connections_stay() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    let old = store.issue("site", &["test.example"]);
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let mut gateway = Gateway::start(&config);
    // A new client each time: a resumed session would show the certificate of its first handshake.
    let connect =
        || TlsClient::new(&store.authority).connect(gateway.addr("web"), "test.example").expect("a handshake");
    let (mut kept, handshake) = connect();
    assert!(handshake.certificate == old.der);
    assert_eq!(kept.get("/").status, 200);

    let new = store.issue("site", &["test.example"]);
    assert_eq!(gateway.admin_post("/reload").status, 200);
    assert!(connect().1.certificate == new.der, "the old certificate is still shown");
    assert_eq!(kept.get("/").status, 200, "the old connection goes on");

    std::fs::write(store.path().join("site.pem"), "no certificate").expect("write");
    let reply = gateway.admin_post("/reload");
    assert_eq!(reply.status, 200, "a certificate that runs is no reason to refuse a configuration");
    assert!(reply.text().contains("has no certificate"), "{}", reply.text());
    assert!(connect().1.certificate == new.der, "a bad file must leave the good certificate in place");
    let newest = store.issue("site", &["test.example"]);
    gateway.reload(&config);
    let connect =
        || TlsClient::new(&store.authority).connect(gateway.addr("web"), "test.example").expect("a handshake");
    assert!(connect().1.certificate == newest.der);
}

#[test]
fn a_changed_certificate_file_is_noticed_without_being_told() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let new = store.issue("site", &["test.example"]);
    wait::until_true("the new certificate", || {
        let client = TlsClient::new(&store.authority);
        client.connect(gateway.addr("web"), "test.example").expect("a handshake").1.certificate == new.der
    });
}

fn respond(body: &str) -> Config {
    Config::new().listener("web", "").route("all", &format!("respond = {{ status = 200, body = '{body}' }}"))
}
