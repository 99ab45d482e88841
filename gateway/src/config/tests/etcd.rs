//! `etcd` of `[certificate_store]`, and certificates that are in it.

use super::certificates;
use crate::config::load;
use crate::config::model::*;
use std::path::Path;
use std::time::SystemTime;

/// The configuration, or what is wrong with it.
fn read(text: &str) -> Result<Config, String> {
    let mut files = certificates::files();
    files.add("gateway.toml", text);
    files.add("etcd.password", "hunter2\nnot this\n");
    files.add("empty", "\n");
    load(Path::new("gateway.toml"), &files, SystemTime::now())
        .map(|loaded| loaded.config)
        .map_err(|report| report.to_string())
}

fn store(keys: &str) -> String {
    format!("[certificate_store]\ndirectory = \"/tmp/store\"\netcd = {{ {keys} }}\n")
}

#[test]
fn an_etcd_is_read_in_full() {
    let plain = read(&store("endpoints = [\"http://10.0.0.5:2379\"]")).unwrap().certificate_store;
    let member = |is_tls, host: &str| EtcdEndpoint { is_tls, host: host.into(), port: 2379 };
    let expected = EtcdStore {
        endpoints: vec![member(false, "10.0.0.5")],
        prefix: "/gateway/".into(),
        tls: EtcdTls::default(),
        login: None,
    };
    assert_eq!(plain, CertificateStore { directory: "/tmp/store".into(), etcd: Some(expected) });
    let full = read(&store(
        "endpoints = [\"https://a\", \"https://[::1]\"], prefix = \"/edge/\", ca = \"certs/good.pem\", \
         certificate = \"certs/good.pem\", key = \"certs/good.key\", username = \"gw\", password_file = \"etcd.password\"",
    ));
    let etcd = full.unwrap().certificate_store.etcd.unwrap();
    assert_eq!(etcd.endpoints, [member(true, "a"), member(true, "::1")]);
    assert_eq!(etcd.prefix, "/edge/");
    assert!(etcd.tls.ca_pem.is_some() && etcd.tls.client.is_some());
    assert_eq!(etcd.login, Some(EtcdLogin { username: "gw".into(), password: "hunter2".into() }));
    let shown = format!("{etcd:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let member = "endpoints = [\"https://a\"]";
    for (keys, expected) in [
        ("endpoints = []".to_owned(), "no members"),
        ("endpoints = [\"a:2379\"]".to_owned(), "not a URL of a member of etcd"),
        (format!("{member}, prefix = \"/a\""), "is no prefix of keys"),
        (format!("{member}, username = \"gw\""), "`username` and `password_file` go together"),
        (format!("{member}, username = \"gw\", password_file = \"empty\""), "the first line of this file is empty"),
        (format!("{member}, certificate = \"certs/good.pem\""), "`certificate` and `key` go together"),
        (format!("{member}, ca = \"empty\""), "empty has no PEM certificates"),
        (
            format!("{member}, certificate = \"certs/good.pem\", key = \"certs/good.pem\""),
            "certs/good.pem has no PEM private key",
        ),
    ] {
        let told = read(&store(&keys)).expect_err(&keys);
        assert!(told.contains(expected), "{keys}: {told}");
    }
}

#[test]
fn a_stored_certificate_takes_an_etcd_and_no_other_source() {
    let table = "[[certificate]]\nname = \"shop\"\nstored = true\n";
    let etcd = store("endpoints = [\"http://a\"]");
    let config = read(&format!("{etcd}{table}hosts = [\"shop.test\"]")).unwrap();
    let Certificate { source, pair, hosts, .. } = &config.certificates[0];
    let wanted = vec!["shop.test".to_owned()];
    assert_eq!((source, pair, hosts), (&CertificateSource::Stored(wanted.clone()), &None, &wanted));
    for (text, expected) in [
        (table.to_owned(), "there is no etcd that the certificate could be in"),
        (format!("{etcd}{table}chain = \"certs/good.pem\"\nkey = \"certs/good.key\""), "only one of `chain`"),
        (format!("{etcd}[[certificate]]\nname = \"shop\"\nstored = false"), "it is not said where"),
    ] {
        let told = read(&text).expect_err(&text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}
