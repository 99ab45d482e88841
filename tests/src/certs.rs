//! Certificates made for a test.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SerialNumber};
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
        self.leaf_with(hosts, |_| ())
    }

    fn leaf_with(&self, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).expect("host names");
        params.serial_number = Some(SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed)));
        change(&mut params);
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("a leaf certificate");
        Leaf { chain_pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// The same, good until `until` and not longer.
    pub fn leaf_until(&self, hosts: &[&str], until: SystemTime) -> Leaf {
        let since_epoch = until.duration_since(SystemTime::UNIX_EPOCH).expect("a moment after 1970");
        self.leaf_with(hosts, |params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.as_secs());
        })
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
        self.put(name, self.authority.leaf(hosts))
    }

    /// The same, good until `until` and not longer.
    pub fn issue_until(&self, name: &str, hosts: &[&str], until: SystemTime) -> Leaf {
        self.put(name, self.authority.leaf_until(hosts, until))
    }

    fn put(&self, name: &str, leaf: Leaf) -> Leaf {
        for (file, text) in [(format!("{name}.pem"), &leaf.chain_pem), (format!("{name}.key"), &leaf.key_pem)] {
            let new = self.path().join("new");
            std::fs::write(&new, text).expect("write a file");
            std::fs::rename(new, self.path().join(file)).expect("rename a file");
        }
        leaf
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
