//! What testssl.sh finds, which attacks a server as well as looking at it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gateway_tests::certs::Store;
use gateway_tests::client::HOST;
use gateway_tests::prelude::*;
use gateway_tests::process::Process;
use rcgen::{CrlDistributionPoint, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde_json::Value;

/// Its hundreds of handshakes are made by a shell.
const PATIENCE: Duration = Duration::from_secs(900);

/// Worse than "low". The others are `OK`, `INFO`, `LOW`, and `WARN` for what it could not look at.
const BAD: [&str; 4] = ["MEDIUM", "HIGH", "CRITICAL", "FATAL"];

#[test]
#[ignore = "takes minutes: `cargo xtask test --with-testssl`, or set GATEWAY_TEST_TESTSSL to its path"]
fn a_scanner_finds_nothing_worse_than_low() {
    let store = Store::new();
    let leaf = store.authority.leaf_with(&[HOST], |params| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let day = Duration::from_secs(24 * 60 * 60);
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now - day;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + 89 * day;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["http://ca.test/list.crl".into()] }];
    });
    store.write("site.pem", &leaf.chain_pem);
    store.write("site.key", &leaf.key_pem);
    let gateway = Gateway::start(
        &Config::new().certificate("site", store.path()).listener("web", "tls = { certificates = ['site'] }").route(
            "all",
            "respond = { status = 200, body = 'hello' }\n\
                 response_headers = { set = { strict-transport-security = 'max-age=31536000', x-content-type-options = 'nosniff' } }",
        ),
    );
    let found = scan(&gateway, &store);
    let bad: Vec<_> = found
        .iter()
        .filter(|finding| BAD.contains(&text(finding, "severity")))
        .map(|finding| format!("{}: {} {}", text(finding, "severity"), text(finding, "id"), text(finding, "finding")))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    let of = |id: &str, key| found.iter().find(|finding| text(finding, "id") == id).map(|finding| text(finding, key));
    for id in ["TLS1", "TLS1_1"] {
        assert_eq!(of(id, "finding"), Some("not offered"), "{id} was looked at: {found:?}");
    }
    for id in ["TLS1_2", "TLS1_3", "cipher_order", "heartbleed", "ROBOT", "secure_client_renego", "LUCKY13"] {
        assert_eq!(of(id, "severity"), Some("OK"), "{id} was looked at: {found:?}");
    }
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().unwrap_or_default()
}

/// All that it finds.
fn scan(gateway: &Gateway, store: &Store) -> Vec<Value> {
    let program = std::env::var_os("GATEWAY_TEST_TESTSSL").expect("GATEWAY_TEST_TESTSSL: the path of testssl.sh");
    let program = Path::new(&program);
    let report = store.path().join("report.json");
    let web = gateway.addr("web");
    let mut command = Command::new(program);
    // A package that was unpacked has its data beside its program.
    if let Some(data) = program.ancestors().nth(3).map(|root| root.join("etc/testssl")).filter(|data| data.exists()) {
        command.env("TESTSSL_INSTALL_DIR", data);
    }
    command.args(["--warnings", "off", "--color", "0", "--nodns", "none", "--quiet", "--openssl-timeout", "5"]);
    command.arg("--add-ca").arg(store.path().join("ca.pem")).arg("--jsonfile").arg(&report);
    command.args(["--ip", &web.ip().to_string(), &format!("{HOST}:{}", web.port())]);
    let mut testssl = Process::start(command);
    testssl.wait_exit(PATIENCE);
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{}", testssl.stdout.text()))
}
