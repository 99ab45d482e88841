//! Several gateways that share certificates and ticket keys by a real etcd.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_tests::certs::{Leaf, Store};
use gateway_tests::conn::Framing;
use gateway_tests::etcd::Etcd;
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;
use rcgen::date_time_ymd;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};
use tempfile::TempDir;

const NAME: &str = "test.example";

/// What a fleet needs: an authority, an origin, and for each box a directory that outlives it.
struct Fleet {
    store: Store,
    origin: Origin,
    boxes: TempDir,
    url: String,
}

impl Fleet {
    fn new(etcd: &Etcd) -> Fleet {
        let (store, origin) = (Store::new(), Origin::start("a"));
        store.issue("file", &["file.example"]);
        Fleet { store, origin, boxes: tempfile::tempdir().expect("a directory"), url: etcd.url() }
    }

    /// The configuration of a box. `file.example` is a certificate of files, so that there is always one.
    fn config(&self, number: u32) -> Config {
        let directory = self.boxes.path().join(number.to_string());
        let (directory, url) = (directory.display(), &self.url);
        let etcd = format!("etcd = {{ endpoints = ['{url}'], prefix = '/test/' }}");
        self.config_with(&["file", "shop"])
            .tables(&format!("[certificate_store]\ndirectory = '{directory}'\n{etcd}"))
            .tables("[[certificate]]\nname = 'shop'\nstored = true")
    }

    fn config_with(&self, certificates: &[&str]) -> Config {
        Config::new()
            .certificate("file", self.store.path())
            .listener("web", &format!("tls = {{ certificates = {certificates:?} }}"))
            .cluster("origin", &[self.origin.addr()], "")
            .route("all", "cluster = 'origin'")
    }

    fn start(&self, number: u32) -> Gateway {
        Gateway::start(&self.config(number))
    }

    /// What a box shows for a name: the certificate, or the default one.
    fn shown(&self, gateway: &Gateway, name: &str) -> rustls::pki_types::CertificateDer<'static> {
        let client = TlsClient::accepting_anything(&self.store.authority);
        client.connect(gateway.addr("web"), name).expect("a handshake").1.certificate
    }

    fn wait_shown(&self, gateway: &Gateway, leaf: &Leaf) {
        wait::until_true("the certificate to be shown", || self.shown(gateway, NAME) == leaf.der);
    }
}

fn put(etcd: &Etcd, leaf: &Leaf) {
    etcd.ctl(&["put", "/test/certificates/shop"], format!("{}{}", leaf.key_pem, leaf.chain_pem).as_bytes());
}

/// Connects once to each in turn, with the tickets that the one before gave, and says how.
fn kinds(client: &TlsClient, name: &str, addrs: &[SocketAddr]) -> Vec<HandshakeKind> {
    let connect = |addr: &SocketAddr| {
        let (mut conn, handshake) = client.connect(*addr, name).expect("a handshake");
        // In TLS 1.3 the tickets come after the handshake; an answer is behind them.
        conn.send(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"));
        assert_eq!(conn.response().status, 200);
        handshake.kind
    };
    addrs.iter().map(connect).collect()
}

fn wait_common_keys(fleet: &Fleet, gateways: &[&Gateway], version: &'static SupportedProtocolVersion) {
    let addrs: Vec<_> = gateways.iter().map(|gateway| gateway.addr("web")).collect();
    wait::until_true("the boxes to open each other's tickets", || {
        let client = TlsClient::with(&fleet.store.authority, &[version], &[]);
        let there_and_back = [&addrs[..], &addrs[..1]].concat();
        kinds(&client, "file.example", &there_and_back)[1..].iter().all(|kind| *kind == HandshakeKind::Resumed)
    });
}

#[test]
fn a_session_of_one_box_is_resumed_at_the_others_and_at_each_of_their_workers() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let gateways = [fleet.start(1), fleet.start(2), fleet.start(3)];
    wait_common_keys(&fleet, &gateways.each_ref(), &TLS13);
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::with(&fleet.store.authority, &[version], &[]);
        let addrs: Vec<_> = gateways.iter().cycle().take(30).map(|gateway| gateway.addr("web")).collect();
        let kinds = kinds(&client, "file.example", &addrs);
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{:?}: {kinds:?}", version.version);
    }
    // On no disk but etcd's.
    let kept = etcd.ctl(&["get", "/test/tickets", "--print-value-only"], b"");
    let secret = kept.lines().nth(1).and_then(|line| line.split(' ').nth(1)).expect("a key").to_owned();
    assert_eq!(secret.len(), 64);
    for file in files_below(fleet.boxes.path()) {
        assert!(!String::from_utf8_lossy(&std::fs::read(&file).expect("a file")).contains(&secret), "{file:?}");
    }
    for gateway in &gateways {
        assert!(!gateway.process.stderr.text().contains(&secret));
        assert!(!gateway.admin_get("/config").text().contains(&secret));
    }
}

#[test]
fn a_box_that_starts_anew_opens_the_tickets_it_gave_before() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let (first, stays) = (fleet.start(1), fleet.start(2));
    wait_common_keys(&fleet, &[&first, &stays], &TLS13);
    let client = TlsClient::new(&fleet.store.authority);
    assert_eq!(kinds(&client, "file.example", &[first.addr("web")]), [HandshakeKind::Full]);
    first.kill();
    let again = fleet.start(1);
    wait_common_keys(&fleet, &[&again, &stays], &TLS13);
    assert_eq!(kinds(&client, "file.example", &[again.addr("web")]), [HandshakeKind::Resumed]);
}

#[test]
fn a_pair_that_is_put_into_etcd_is_shown_by_every_box_and_the_next_one_after_it() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let gateways = [fleet.start(1), fleet.start(2)];
    let default = fleet.shown(&gateways[0], NAME);
    let first = fleet.store.authority.leaf(&[NAME]);
    put(&etcd, &first);
    for gateway in &gateways {
        fleet.wait_shown(gateway, &first);
        assert_eq!(fleet.shown(gateway, "file.example"), default, "the other one is as it was");
    }
    let client = TlsClient::new(&fleet.store.authority);
    let (mut open, _) = client.connect(gateways[0].addr("web"), NAME).expect("a handshake");
    assert_eq!(open.get("/").status, 200);
    let second = fleet.store.authority.leaf(&[NAME]);
    put(&etcd, &second);
    for gateway in &gateways {
        fleet.wait_shown(gateway, &second);
    }
    assert_eq!(open.get("/").status, 200, "a connection of before is not touched");
}

#[test]
fn a_bad_value_stays_in_etcd_and_is_told_of_until_there_is_a_good_one() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let alerts = Arc::new(Mutex::new(Vec::new()));
    let hook = Script::start({
        let alerts = alerts.clone();
        move |mut conn| {
            let Ok(head) = conn.head() else { return };
            let mut body = Vec::new();
            conn.body(head.framing(Framing::Empty), &mut |bytes| body.extend_from_slice(bytes)).expect("a body");
            alerts.lock().unwrap().push(serde_json::from_slice::<serde_json::Value>(&body).expect("JSON"));
            conn.send("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        }
    });
    let config = |hosts: &str| {
        let config = fleet.config(1).tables(&format!("hosts = [{hosts}]"));
        config.tables(&format!("[certificate_alerts]\ndays = []\nwebhook = 'http://{}/'", hook.addr()))
    };
    let mut gateway = Gateway::start(&config(&format!("'{NAME}'")));
    let authority = &fleet.store.authority;
    let good = authority.leaf(&[NAME]);
    let mismatch = Leaf { key_pem: authority.leaf(&[NAME]).key_pem, ..authority.leaf(&[NAME]) };
    let early = authority.leaf_with(&[NAME], |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
        params.not_after = date_time_ymd(4001, 1, 1);
    });
    let other = authority.leaf(&["other.test"]);
    let other_der = other.der.clone();
    let refused = |gateway: &Gateway, reason: &str| {
        gateway.metrics().sum_or_none("gateway_certificate_refused", &[("certificate", "shop"), ("reason", reason)])
    };
    let state = |gateway: &Gateway| {
        let all = gateway.admin_get("/certificates").json();
        let all = all["certificates"].as_array().expect("certificates").clone();
        let shop = all.into_iter().find(|certificate| certificate["name"] == "shop").expect("shop");
        (shop["state"].as_str().map(str::to_owned), shop["refused"].as_str().map(str::to_owned))
    };
    put(&etcd, &mismatch);
    wait::until_true("the first one to be refused", || refused(&gateway, "key_mismatch") == 1.0);
    wait::until_true("it to be in the list", || {
        state(&gateway)
            == (Some("refused".into()), Some("`certificates/shop` in etcd has the key of another certificate".into()))
    });
    put(&etcd, &good);
    fleet.wait_shown(&gateway, &good);
    wait::until_true("nothing to be refused", || refused(&gateway, "key_mismatch") == 0.0);
    wait::until_true("the list to be well", || state(&gateway) == (Some("ok".into()), None));
    for (bad, reason, message) in [
        (mismatch, "key_mismatch", "has the key of another certificate"),
        (early, "not_yet_valid", "is not valid before 4000-01-01T00:00:00Z"),
        (other, "hosts", "does not cover test.example"),
    ] {
        put(&etcd, &bad);
        wait::until_true(reason, || refused(&gateway, reason) == 1.0);
        let is_told = |line: &str| {
            line.ends_with(&format!("`certificates/shop` is not used: it {message}; the one before stays"))
        };
        assert!(gateway.process.stderr.find("the refusal", is_told).is_some());
        assert_eq!(fleet.shown(&gateway, NAME), good.der, "{reason}");
    }
    // What stays refused is told of after a while.
    wait::until_true("an alert", || {
        let told = |post: &serde_json::Value| post["text"].as_str().is_some_and(|text| text.ends_with("test.example"));
        alerts.lock().unwrap().iter().any(told)
    });
    assert_eq!(
        state(&gateway),
        (Some("ok".into()), Some("`certificates/shop` in etcd does not cover test.example".into()))
    );
    // A start uses the one before, too, and says why.
    gateway.kill();
    gateway = Gateway::start(&config(&format!("'{NAME}'")));
    fleet.wait_shown(&gateway, &good);
    wait::until_true("it to be refused again", || refused(&gateway, "hosts") == 1.0);
    // With other hosts it is good.
    gateway.reload(&config("'other.test'"));
    wait::until_true("it to be used", || fleet.shown(&gateway, "other.test") == other_der);
    assert_eq!(refused(&gateway, "hosts"), 0.0);
    etcd.ctl(&["put", "/test/certificates/shop"], b"nothing");
    wait::until_true("it to be refused", || refused(&gateway, "unreadable") == 1.0);
    etcd.ctl(&["del", "/test/certificates/shop"], b"");
    wait::until_true("what was deleted to be forgotten", || refused(&gateway, "unreadable") == 0.0);
}

#[test]
fn with_etcd_away_every_box_goes_on_and_starts_from_its_copy() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let gateways = [fleet.start(1), fleet.start(2)];
    let leaf = fleet.store.authority.leaf(&[NAME]);
    put(&etcd, &leaf);
    for gateway in &gateways {
        fleet.wait_shown(gateway, &leaf);
    }
    wait_common_keys(&fleet, &gateways.each_ref(), &TLS13);
    let up = |gateway: &Gateway| gateway.metrics().sum("gateway_certificate_store_up", &[]);
    assert_eq!(up(&gateways[0]), 1.0);

    let stopped = etcd.stop();
    wait::until_true("the loss to be noticed", || gateways.iter().all(|gateway| up(gateway) == 0.0));
    let client = TlsClient::new(&fleet.store.authority);
    let addrs = gateways.each_ref().map(|gateway| gateway.addr("web"));
    assert_eq!(kinds(&client, NAME, &addrs), [HandshakeKind::Full, HandshakeKind::Resumed]);
    let [first, second] = gateways;
    first.kill();
    let begin = std::time::Instant::now();
    let first = fleet.start(1);
    assert!(begin.elapsed() < Duration::from_secs(10), "a start does not wait for etcd");
    assert_eq!(fleet.shown(&first, NAME), leaf.der, "from its copy");
    assert_eq!(kinds(&client, NAME, &[second.addr("web")]), [HandshakeKind::Resumed], "the other one has its keys");

    let etcd = stopped.start();
    let next = fleet.store.authority.leaf(&[NAME]);
    wait::until_true("etcd to be back", || up(&first) == 1.0 && up(&second) == 1.0);
    put(&etcd, &next);
    for gateway in [&first, &second] {
        fleet.wait_shown(gateway, &next);
    }
    wait_common_keys(&fleet, &[&first, &second], &TLS13);
}

#[test]
fn etcd_from_a_backup_gets_the_newer_certificate_and_an_operator_may_still_go_back() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let gateways = [fleet.start(1), fleet.start(2)];
    let of = |year| fleet.store.authority.leaf_with(&[NAME], |params| params.not_before = date_time_ymd(year, 1, 1));
    let (older, newer) = (of(2001), of(2002));
    put(&etcd, &older);
    for gateway in &gateways {
        fleet.wait_shown(gateway, &older);
    }
    let stopped = etcd.stop();
    let backup = stopped.backup();
    let etcd = stopped.start();
    put(&etcd, &newer);
    for gateway in &gateways {
        fleet.wait_shown(gateway, &newer);
    }
    let stopped = etcd.stop();
    stopped.restore(&backup);
    let etcd = stopped.start();
    let kept = |etcd: &Etcd| etcd.ctl(&["get", "/test/certificates/shop", "--print-value-only"], b"");
    wait::until_true("the newer one to be put back", || {
        assert!(gateways.iter().all(|gateway| fleet.shown(gateway, NAME) == newer.der), "the older one is shown");
        kept(&etcd).contains(newer.key_pem.trim())
    });
    // What is put there from now on counts, whatever its age.
    put(&etcd, &older);
    for gateway in &gateways {
        fleet.wait_shown(gateway, &older);
    }
    assert!(kept(&etcd).contains(older.key_pem.trim()));
}

#[test]
fn the_first_start_of_a_box_does_not_need_etcd() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let leaf = fleet.store.authority.leaf(&[NAME]);
    put(&etcd, &leaf);
    let stopped = etcd.stop();
    let gateway = fleet.start(1);
    assert_ne!(fleet.shown(&gateway, NAME), leaf.der, "nobody is shown what there is not");
    let _etcd = stopped.start();
    fleet.wait_shown(&gateway, &leaf);
}

#[test]
fn a_box_leaves_the_fleet_and_joins_it_by_a_reload() {
    let etcd = Etcd::start(&[]);
    let fleet = Fleet::new(&etcd);
    let (mut first, second) = (fleet.start(1), fleet.start(2));
    wait_common_keys(&fleet, &[&first, &second], &TLS13);
    first.reload(&fleet.config_with(&["file"]));
    let is_up = |line: &str| line.starts_with("gateway_certificate_store_up");
    assert!(!first.admin_get("/metrics").text().lines().any(is_up));
    assert_eq!(second.metrics().sum("gateway_certificate_store_up", &[]), 1.0);
    let leaf = fleet.store.authority.leaf(&[NAME]);
    put(&etcd, &leaf);
    fleet.wait_shown(&second, &leaf);
    assert_ne!(fleet.shown(&first, NAME), leaf.der);
    first.reload(&fleet.config(1));
    fleet.wait_shown(&first, &leaf);
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
