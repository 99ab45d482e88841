//! Certificates that change while they are shown: renewals, bad pairs, directories, several for a name, what is stapled.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::certs::{Authority, Leaf, Store};
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;
use rcgen::date_time_ymd;
use rustls::pki_types::CertificateDer;

const NAME: &str = "test.example";

/// A TLS listener `web` that answers by itself and shows `certificates`, which `tables` declare.
fn config(tables: &str, certificates: &str) -> Config {
    Config::new()
        .tables(tables)
        .listener("web", &format!("tls = {{ certificates = [{certificates}] }}"))
        .route("all", "respond = { status = 200, body = 'hello' }")
}

/// One certificate, `site`.
fn site(store: &Store) -> Config {
    config("", "'site'").certificate("site", store.path())
}

fn connect(store: &Store, addr: SocketAddr, name: &str) -> (Conn, CertificateDer<'static>) {
    // A new client each time: a resumed session would show the certificate of its first handshake.
    let (conn, handshake) = TlsClient::new(&store.authority).connect(addr, name).expect("a handshake");
    (conn, handshake.certificate)
}

#[test]
fn a_renewed_pair_is_shown_within_a_second_and_open_connections_stay() {
    let store = Store::new();
    let old = store.issue("site", &[NAME]);
    let gateway = Gateway::start(&site(&store));
    let addr = gateway.addr("web");
    let (mut kept, shown) = connect(&store, addr, NAME);
    assert_eq!((kept.get("/").status, shown), (200, old.der));
    let renew = || {
        let renewed = store.issue("site", &[NAME]);
        let since = Instant::now();
        wait::until_true("the new certificate", || connect(&store, addr, NAME).1 == renewed.der);
        since.elapsed()
    };
    // The tests share the machine, so the best of a few counts.
    let fastest = (0..3).map(|_| renew()).min().expect("three renewals");
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    assert_eq!(kept.get("/").status, 200, "the connection goes on");
}

#[test]
fn a_bad_pair_is_refused_with_a_metric_and_an_alert_while_the_old_one_is_shown() {
    let store = Store::new();
    let good = store.issue("site", &[NAME]);
    let table = |hosts: &str| {
        let path = store.path().display();
        format!("[[certificate]]\nname = 'site'\nchain = '{path}/site.pem'\nkey = '{path}/site.key'\nhosts = [{hosts}]")
    };
    let gateway = Gateway::start(&config(&table(&format!("'{NAME}'")), "'site'"));
    let addr = gateway.addr("web");
    let mismatch = Leaf { key_pem: store.authority.leaf(&[NAME]).key_pem, ..store.authority.leaf(&[NAME]) };
    let early = store.authority.leaf_with(&[NAME], |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
        params.not_after = date_time_ymd(4001, 1, 1);
    });
    for (bad, reason, message) in [
        (mismatch, "key_mismatch", "site.key is not the key of this certificate"),
        (early, "not_yet_valid", "site.pem is not valid before 4000-01-01"),
        (store.authority.leaf(&["other.test"]), "hosts", "the certificate does not cover test.example"),
    ] {
        store.put("site", &bad);
        let labels = [("certificate", "site"), ("reason", reason)];
        wait::until_true(reason, || gateway.metrics().sum_or_none("gateway_certificate_refused", &labels) == 1.0);
        assert!(connect(&store, addr, NAME).1 == good.der, "{reason}");
        let alert = "certificate \"site\": a new pair is refused, the pair it had is used: ";
        let is_alert = |line: &str| line.contains(alert) && line.ends_with(message);
        wait::until_true(message, || gateway.process.stderr.lines().iter().any(|line| is_alert(line)));
    }
    store.put("site", &good);
    wait::until_true("all is well", || gateway.metrics().sum_or_none("gateway_certificate_refused", &[]) == 0.0);
    assert!(connect(&store, addr, NAME).1 == good.der);
}

#[test]
fn certificates_of_a_directory_come_change_and_go() {
    let store = Store::new();
    let table = format!("[[certificate]]\nname = 'all'\ndirectory = '{}'", store.path().display());
    // What is there has no key, so it is no certificate of ours.
    std::fs::rename(store.path().join("ca.pem"), store.path().join("ca.txt")).expect("rename");
    let first = store.issue("a", &["a.test"]);
    let gateway = Gateway::start(&config(&table, "'all'"));
    let addr = gateway.addr("web");
    let shown = |name: &str| {
        let client = TlsClient::accepting_anything(&store.authority);
        client.connect(addr, name).expect("a handshake").1.certificate
    };
    assert!(shown("a.test") == first.der);
    assert!(shown("b.test") == first.der, "the first one, for want of a better one");
    let second = store.issue("b", &["b.test"]);
    wait::until_true("a certificate that came", || shown("b.test") == second.der);
    let renewed = store.issue("b", &["b.test"]);
    wait::until_true("a certificate that changed", || shown("b.test") == renewed.der);
    for extension in ["pem", "key"] {
        std::fs::remove_file(store.path().join(format!("b.{extension}"))).expect("remove");
    }
    wait::until_true("a certificate that went", || shown("b.test") == first.der);

    // With the other ending, and a key that is not its own, it takes nothing away.
    std::fs::write(store.path().join("a.crt"), store.authority.leaf(&["a.test"]).chain_pem).expect("write a file");
    wait::until_true("it to be refused", || {
        gateway.metrics().sum_or_none("gateway_certificate_refused", &[("certificate", "all/a")]) == 1.0
    });
    assert!(shown("a.test") == first.der);
    // Nor does the last one go.
    for name in ["a.crt", "a.pem", "a.key"] {
        std::fs::remove_file(store.path().join(name)).expect("remove");
    }
    let is_told = |line: &str| {
        line.contains("reload (a file changed): generation")
            && line.contains("take the table out when they are not wanted")
    };
    assert!(gateway.process.stderr.find("a line about it", is_told).is_some());
    assert!(shown("a.test") == first.der);
}

#[test]
fn a_directory_that_is_swapped_by_a_link_is_noticed_and_only_we_log_it() {
    let store = Store::new();
    let leaves = ["..1", "..2", "..3"].map(|version| {
        let leaf = store.authority.leaf(&[NAME]);
        std::fs::create_dir(store.path().join(version)).expect("make a directory");
        store.put(&format!("{version}/tls"), &leaf);
        leaf
    });
    let swap = |version: &str| {
        std::os::unix::fs::symlink(version, store.path().join("..tmp")).expect("make a link");
        std::fs::rename(store.path().join("..tmp"), store.path().join("..data")).expect("rename");
    };
    swap("..1");
    let data = store.path().join("..data");
    let table = format!("[[certificate]]\nname = 'site'\ndirectory = '{}'", data.display());
    let gateway = Gateway::start(&config(&table, "'site'"));
    assert!(connect(&store, gateway.addr("web"), NAME).1 == leaves[0].der);
    for (version, before, leaf) in [("..2", "..1", &leaves[1]), ("..3", "..2", &leaves[2])] {
        swap(version);
        std::fs::remove_dir_all(store.path().join(before)).expect("remove");
        wait::until_true("the new one", || connect(&store, gateway.addr("web"), NAME).1 == leaf.der);
    }
    let log = gateway.process.stderr.text();
    assert!(!log.contains("watch"), "{log}");
}

#[test]
#[expect(clippy::print_stderr, reason = "the measured figures belong into the log of the run")]
fn ten_thousand_certificates_are_no_other_matter_than_one() {
    let store = Store::new();
    std::fs::rename(store.path().join("ca.pem"), store.path().join("ca.txt")).expect("rename");
    let issue = |n: usize| store.issue(&format!("host-{n}"), &[&format!("host-{n}.test")]);
    let issued: Vec<Leaf> = (0..10_000).map(issue).collect();
    let table = format!("[[certificate]]\nname = 'all'\ndirectory = '{}'", store.path().display());
    let begun = Instant::now();
    let gateway = Gateway::start(&config(&table, "'all'"));
    eprintln!("10 000 certificates: ready after {:?}, {} MiB", begun.elapsed(), gateway.process.rss() >> 20);
    let shown = |n: usize| connect(&store, gateway.addr("web"), &format!("host-{n}.test")).1;
    for n in [0, 4711, 9999] {
        assert!(shown(n) == issued[n].der, "{n}");
    }
    let renewed = issue(4711);
    let begun = Instant::now();
    wait::until_true("the renewed one", || shown(4711) == renewed.der);
    eprintln!("one of them renewed: shown after {:?}", begun.elapsed());
    assert!(shown(4712) == issued[4712].der);
}

#[test]
fn of_an_rsa_and_an_ecdsa_pair_each_client_is_shown_one_that_it_can_verify() {
    let store = Store::new();
    store.put("rsa", &store.authority.rsa_leaf(&[NAME]));
    store.issue("ecdsa", &[NAME]);
    let certificates = config("", "'rsa', 'ecdsa'");
    let certificates = certificates.certificate("rsa", store.path()).certificate("ecdsa", store.path());
    let gateway = Gateway::start(&certificates);
    let target = gateway.addr("web").to_string();
    let name = ["-servername", NAME];
    let (rsa, ecdsa) = ("PKEY: rsaEncryption", "PKEY: id-ecPublicKey");
    for (arguments, key) in [
        (&["-sigalgs", "RSA-PSS+SHA256"][..], rsa),
        (&["-sigalgs", "ECDSA+SHA256"], ecdsa),
        // Both: the one that costs less.
        (&["-sigalgs", "RSA-PSS+SHA256:ECDSA+SHA256"], ecdsa),
        // In TLS 1.2 suites say it too.
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], rsa),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], ecdsa),
    ] {
        for name in [&name[..], &["-noservername"]] {
            let said =
                openssl(store.path(), &[&["s_client", "-connect", target.as_str()][..], name, arguments].concat());
            let shown = said.lines().find(|line| line.contains("PKEY:")).unwrap_or_default();
            assert!(shown.contains(key), "{arguments:?} {name:?}: {said}");
        }
    }
}

#[test]
fn an_ocsp_response_in_a_file_is_stapled_when_it_is_about_the_certificate() {
    let store = Store::new();
    let leaf = store.issue("site", &[NAME]);
    make_ocsp_response(&store, &leaf);
    let path = store.path().display();
    let table = format!(
        "[[certificate]]\nname = 'site'\nchain = '{path}/site.pem'\nkey = '{path}/site.key'\nocsp = '{path}/site.ocsp'"
    );
    let gateway = Gateway::start(&config(&table, "'site'"));
    let target = gateway.addr("web").to_string();
    let status = |version: &str| {
        openssl(store.path(), &["s_client", "-connect", &target, "-servername", NAME, "-status", version])
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let said = status(version);
        assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
    }
    // The response is still about the old certificate.
    store.issue("site", &[NAME]);
    wait::until_true("no stapling", || status("-tls1_3").contains("OCSP response: no response sent"));
}

/// Has the authority say that `leaf`, which is `site`, is good, in `site.ocsp`.
fn make_ocsp_response(store: &Store, leaf: &Leaf) {
    store.write("ca.key", &store.authority.key_pem());
    let serial: String = leaf.serial.to_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
    store.write("index.txt", &format!("V\t400101000000Z\t\t{serial}\tunknown\t/CN=site\n"));
    let ask = ["ocsp", "-issuer", "ca.pem", "-cert", "site.pem", "-no_nonce", "-reqout", "site.req"];
    openssl(store.path(), &ask);
    let answer =
        ["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key", "-ndays", "7"];
    openssl(store.path(), &[&answer[..], &["-reqin", "site.req", "-respout", "site.ocsp"]].concat());
}

/// What openssl(1) says on standard output, with nothing on its standard input.
fn openssl(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    let output = command.args(arguments).current_dir(directory).stdin(Stdio::null()).output().expect("openssl runs");
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "openssl {arguments:?}: {said}{complaint}");
    said.into_owned()
}

#[test]
fn a_swap_under_constant_handshakes_loses_none() {
    let store = Store::new();
    store.issue("site", &[NAME]);
    let gateway = Gateway::start(&site(&store));
    let (addr, over) = (gateway.addr("web"), AtomicBool::new(false));
    let shake = |authority: &Authority| {
        let mut handshakes = 0;
        while !over.load(Ordering::Relaxed) {
            let client = TlsClient::new(authority);
            let (mut conn, _) = client.connect(addr, NAME).expect("no handshake fails");
            assert_eq!(conn.get("/").status, 200);
            handshakes += 1;
        }
        handshakes
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| shake(&store.authority))).collect();
        for _ in 0..5 {
            let renewed = store.issue("site", &[NAME]);
            wait::until_true("the swap", || connect(&store, addr, NAME).1 == renewed.der);
        }
        over.store(true, Ordering::Relaxed);
        let handshakes: usize = clients.into_iter().map(|client| client.join().expect("a client")).sum();
        assert!(handshakes > 50, "{handshakes}");
    });
    let failed = [("listener", "web"), ("result", "failed")];
    assert_eq!(gateway.metrics().sum("gateway_listener_tls_handshakes_total", &failed), 0.0);
}
