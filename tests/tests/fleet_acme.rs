//! Several gateways, one etcd, and a real certificate authority: one obtains for all.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use gateway_tests::certs::Store;
use gateway_tests::etcd::Etcd;
use gateway_tests::gateway::run;
use gateway_tests::pebble::{Pebble, Settings};
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;
use tempfile::TempDir;

/// Issuing takes a few seconds where nobody else wants the processor.
const ISSUE: Duration = Duration::from_secs(60);

const HOST: &str = "shop.test";

struct Fleet {
    origin: Origin,
    store: Store,
    boxes: TempDir,
    etcd: Etcd,
}

impl Fleet {
    fn new() -> Fleet {
        let store = Store::new();
        store.issue("file", &["file.test"]);
        let boxes = tempfile::tempdir().expect("a temporary directory");
        Fleet { origin: Origin::start("a"), store, boxes, etcd: Etcd::start(&[]) }
    }

    /// A box that obtains nothing.
    fn member(&self, number: u32) -> Config {
        self.config(number, "['file']")
    }

    /// A box with a certificate that is obtained.
    fn obtains(&self, number: u32, pebble: &Pebble, challenge: &str) -> Config {
        self.config(number, "['file', 'auto']")
            .tables(&format!("[[acme]]\nname = 'pebble'\nchallenge = '{challenge}'\n{}", pebble.acme()))
            .tables(&format!("[[certificate]]\nname = 'auto'\nacme = 'pebble'\nhosts = ['{HOST}']"))
    }

    fn config(&self, number: u32, certificates: &str) -> Config {
        let directory = self.boxes.path().join(number.to_string());
        let etcd = format!("etcd = {{ endpoints = ['{}'] }}", self.etcd.url());
        Config::new()
            .tables(&format!("[certificate_store]\ndirectory = '{}'\n{etcd}", directory.display()))
            .certificate("file", self.store.path())
            .listener("web", "")
            .listener("secure", &format!("tls = {{ certificates = {certificates} }}"))
            .cluster("origin", &[self.origin.addr()], "")
            .route("all", "cluster = 'origin'")
    }
}

fn orders(gateway: &Gateway, result: &str) -> u64 {
    gateway.metrics().sum("gateway_acme_orders_total", &[("certificate", "auto"), ("result", result)]) as u64
}

/// Waits until a box shows a certificate of the authority, and gives it.
fn shown(gateway: &Gateway, client: &TlsClient) -> rustls::pki_types::CertificateDer<'static> {
    let show = || client.connect(gateway.addr("secure"), HOST).ok();
    wait::within(ISSUE, "the certificate to be shown", show).1.certificate
}

#[test]
fn one_box_obtains_for_all_and_another_answers_the_challenge() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let fleet = Fleet::new();
        let (mut asked, mut obtains) = (Gateway::start(&fleet.member(1)), Gateway::start(&fleet.member(2)));
        let pebble = Pebble::start(&Settings::new(asked.addr("web"), asked.addr("secure")));
        obtains.reload(&fleet.obtains(2, &pebble, challenge));
        let client = TlsClient::trusting(pebble.root());
        let first = shown(&obtains, &client);
        assert_eq!((orders(&obtains, "issued"), orders(&obtains, "failed")), (1, 0), "{challenge}");

        asked.reload(&fleet.obtains(1, &pebble, challenge));
        assert!(shown(&asked, &client) == first, "{challenge}: the same on both");
        assert_eq!((orders(&asked, "issued"), orders(&asked, "failed")), (0, 0), "{challenge}");
        // Both have it on the disk: a start needs neither etcd nor the authority.
        let config = fleet.obtains(1, &pebble, challenge);
        let _ended = (pebble.kill(), fleet.etcd.stop());
        wait::until_true("an operator to be told that nothing is ordered without etcd", || {
            let admin = asked.admin_addr().to_string();
            let (status, out, error) = run(&["certs", "renew", "auto", "--admin", &admin].map(OsStr::new));
            !status.success() && (out + &error).contains("the certificate store does not work")
        });
        asked.kill();
        let again = Gateway::start(&config);
        let after = client.connect(again.addr("secure"), HOST).expect("a handshake at once").1.certificate;
        assert!(after == first, "{challenge}: the copy");
        assert_eq!(orders(&again, "failed"), 0, "{challenge}: nothing is due");
    }
}

#[test]
fn a_certificate_is_renewed_once_for_all() {
    let fleet = Fleet::new();
    let (mut one, mut other) = (Gateway::start(&fleet.member(1)), Gateway::start(&fleet.member(2)));
    let mut settings = Settings::new(one.addr("web"), one.addr("secure"));
    settings.validity_s = 24;
    let pebble = Pebble::start(&settings);
    let begin = Instant::now();
    one.reload(&fleet.obtains(1, &pebble, "http-01"));
    other.reload(&fleet.obtains(2, &pebble, "http-01"));
    let both = || orders(&one, "issued") + orders(&other, "issued");
    wait::within(ISSUE * 2, "two renewals", || (both() >= 3).then_some(()));
    // Each is due when two thirds of 24 seconds are over, so the third one comes 32 seconds after the first; if both boxes
    // had renewed, it would have come after 16.
    assert!(begin.elapsed() >= Duration::from_secs(28), "{:?}", begin.elapsed());
    assert_eq!((orders(&one, "failed"), orders(&other, "failed")), (0, 0));
    let client = TlsClient::trusting(pebble.root());
    wait::until_true("both to show the same", || shown(&one, &client) == shown(&other, &client));
}
