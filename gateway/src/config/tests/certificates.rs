//! Certificates for tests, in `certs/`.

use std::path::Path;
use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
    SerialNumber, date_time_ymd,
};

use super::files::MapFiles;

/// Files that every case may name: `good`, `renewed`, `other`, `expired`, `future` and `nameless`, each `.pem` and `.key`, and
/// some that are broken; `old/former.pem` and `old/lapsed.pem`, with the key of `good`; `none-revoked.crl` and `stale.crl`.
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
    let key = KeyPair::from_pem(std::str::from_utf8(&files.0[Path::new("certs/good.key")]).unwrap()).unwrap();
    certificate(&mut files, "old/former", &key, &["example.com"], 2019, 2039);
    certificate(&mut files, "old/lapsed", &key, &["example.com"], 2019, 2024);
    files.add("certs/text.pem", "hello\n");
    files.add("certs/broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    revocation_list(&mut files, "none-revoked", 2040);
    revocation_list(&mut files, "stale", 2025);
    let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    files.add("certs/encrypted.key", sealed);
    files
}

/// A list with nothing in it, of nobody in particular.
fn revocation_list(files: &mut MapFiles, name: &str, until_year: i32) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(until_year, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    files.add(&format!("certs/{name}.crl"), list.signed_by(&issuer).unwrap().pem().unwrap());
}

fn pair(files: &mut MapFiles, name: &str, hosts: &[&str], from_year: i32, to_year: i32) {
    let key = KeyPair::generate().unwrap();
    certificate(files, &format!("certs/{name}"), &key, hosts, from_year, to_year);
    files.add(&format!("certs/{name}.key"), key.serialize_pem());
}

fn certificate(files: &mut MapFiles, path: &str, key: &KeyPair, hosts: &[&str], from_year: i32, to_year: i32) {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_before = date_time_ymd(from_year, 1, 1);
    params.not_after = date_time_ymd(to_year, 1, 1);
    files.add(&format!("{path}.pem"), params.self_signed(key).unwrap().pem());
}
