//! Certificates made for a test.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, PublicKeyData as _, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

/// A certificate authority that only this test trusts.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A directory with certificates, each under its name, and their authority's as `ca.pem`.
pub struct Store {
    /// Who issues them.
    pub authority: Authority,
    dir: TempDir,
}

/// A server certificate and its key.
#[derive(Debug)]
pub struct Leaf {
    /// The certificate, in PEM.
    pub chain_pem: String,
    /// Its private key, in PEM.
    pub key_pem: String,
    /// The certificate, as it is on the wire.
    pub der: CertificateDer<'static>,
    /// Its serial number.
    pub serial: SerialNumber,
    /// Its public key as a `SubjectPublicKeyInfo`.
    pub spki: Vec<u8>,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        Authority(CertifiedIssuer::self_signed(params, key()).expect("a root certificate"))
    }

    /// Issues a certificate for `hosts` (names, wildcards, addresses). Each has a serial number of its own.
    pub fn leaf(&self, hosts: &[&str]) -> Leaf {
        self.leaf_with(hosts, |_| {})
    }

    /// The same, with something about it changed.
    pub fn leaf_with(&self, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let serial = SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut params = CertificateParams::new(hosts).expect("host names");
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("a leaf certificate");
        Leaf {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().clone(),
            serial,
            spki: key.subject_public_key_info(),
        }
    }

    /// A revocation list with these in it, in PEM, good until `until` (a year).
    pub fn revocation_list(&self, revoked: &[&Leaf], until: i32) -> String {
        let revoked = revoked.iter().map(|leaf| RevokedCertParams {
            serial_number: leaf.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).expect("a revocation list").pem().expect("PEM")
    }

    /// The authority's own certificate, as it is on the wire.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// The authority's own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

impl Store {
    /// An authority, and nothing issued yet.
    pub fn new() -> Store {
        let store = Store { authority: Authority::new(), dir: tempfile::tempdir().expect("a temporary directory") };
        std::fs::write(store.path().join("ca.pem"), store.authority.pem()).expect("write a certificate");
        store
    }

    /// Issues a certificate for `hosts` as `NAME.pem` and `NAME.key`, in place of the one of that name. Each file
    /// changes all at once; the pair does not.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Leaf {
        let leaf = self.authority.leaf(hosts);
        for (file, text) in [(format!("{name}.pem"), &leaf.chain_pem), (format!("{name}.key"), &leaf.key_pem)] {
            self.write(&file, text);
        }
        leaf
    }

    /// Writes a file, in place of the one of that name, all at once.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.path().join("new");
        std::fs::write(&new, text).expect("write a file");
        std::fs::rename(new, self.path().join(name)).expect("rename a file");
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Default for Store {
    fn default() -> Self {
        Store::new()
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key pair")
}
