//! Certificates for tests, in `certs/`.

use std::sync::LazyLock;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::files::MapFiles;

/// Files that every case may name: `good`, `renewed`, `other`, `expired`, `future` and `nameless`, each `.pem` and `.key`, and
/// some that are broken.
pub fn files() -> MapFiles {
    static FILES: LazyLock<MapFiles> = LazyLock::new(make);
    FILES.clone()
}

fn make() -> MapFiles {
    let mut files = MapFiles::default();
    pair(&mut files, "good", &["example.com", "*.example.com"], 2020, 2040);
    pair(&mut files, "renewed", &["example.com", "*.example.com"], 2021, 2041);
    pair(&mut files, "other", &["example.org"], 2020, 2040);
    pair(&mut files, "expired", &["example.com"], 2020, 2025);
    pair(&mut files, "future", &["example.com"], 2030, 2040);
    pair(&mut files, "nameless", &[], 2020, 2040);
    files.add("certs/text.pem", "hello\n");
    files.add("certs/broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    files.add("certs/encrypted.key", sealed);
    files
}

fn pair(files: &mut MapFiles, name: &str, hosts: &[&str], from_year: i32, to_year: i32) {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_before = date_time_ymd(from_year, 1, 1);
    params.not_after = date_time_ymd(to_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    files.add(&format!("certs/{name}.pem"), params.self_signed(&key).unwrap().pem());
    files.add(&format!("certs/{name}.key"), key.serialize_pem());
}
