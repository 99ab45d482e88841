//! `[[certificate]]`

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::HttpVersions;

/// One certificate of a `[[certificate]]`: a table with a `directory` stands for as many as there are pairs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `name`; of one in a directory, the table's name, a slash, and the name its files share.
    pub name: String,
    /// Where the pair comes from.
    pub source: CertificateSource,
    /// The pair; `None` while an `acme` certificate has not been obtained, or a `stored` one has not come. Nobody is shown
    /// such a certificate.
    pub pair: Option<Arc<Pair>>,
    /// `hosts`: exact names and `*.` wildcards this certificate serves; when the file names none, those of the certificate.
    pub hosts: Vec<String>,
    /// `http`: the HTTP versions these hosts are offered, of those the listener speaks. Default all.
    pub http: HttpVersions,
}

impl Certificate {
    /// Whether its pair is kept in the certificate store, and [given](Certificate::give) to it from there.
    pub fn is_kept(&self) -> bool {
        matches!(self.source, CertificateSource::Acme(_) | CertificateSource::Stored(_))
    }

    /// Gives a certificate that is kept its pair. Hosts that the pair does not cover wait for the next one.
    pub fn give(&mut self, pair: Option<Arc<Pair>>) {
        let wanted = match &self.source {
            CertificateSource::Acme(Obtained { hosts, .. }) => hosts,
            CertificateSource::Stored(hosts) if !hosts.is_empty() => hosts,
            CertificateSource::Stored(_) => pair.as_ref().map_or(&self.hosts, |pair| &pair.info.names),
            CertificateSource::Files(_) | CertificateSource::Directory(_) => return,
        };
        let is_served = |host: &&String| pair.as_ref().is_none_or(|pair| pair.covers(host));
        self.hosts = wanted.iter().filter(is_served).cloned().collect();
        self.pair = pair;
    }
}

/// Where a certificate's pair comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// `chain`, `key` and `ocsp`
    Files(PairFiles),
    /// The same, in a `directory`.
    Directory(PairFiles),
    /// `acme` and `hosts`
    Acme(Obtained),
    /// `stored`: somebody puts it into the etcd of `[certificate_store]`. With `hosts`; none are all that it covers.
    Stored(Vec<String>),
}

/// How a certificate is obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obtained {
    /// `acme`: the name of the `[[acme]]` table.
    pub by: String,
    /// `hosts`: what it has to be for.
    pub hosts: Vec<String>,
}

impl CertificateSource {
    /// The files, where it comes from files.
    pub fn files(&self) -> Option<&PairFiles> {
        match self {
            CertificateSource::Files(files) | CertificateSource::Directory(files) => Some(files),
            CertificateSource::Acme(_) | CertificateSource::Stored(_) => None,
        }
    }
}

/// The files of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// PEM: the certificate, then the intermediate ones.
    pub chain: PathBuf,
    /// PEM
    pub key: PathBuf,
    /// DER
    pub ocsp: Option<PathBuf>,
}

/// A certificate with its private key, read and found to belong together ([`Pair::of`]). Two are equal when the bytes they
/// were read from are. Its key is not in the form of the file any more: the library has it, and cleans it up.
pub struct Pair {
    /// The chain, the key, and what is stapled.
    pub key: Arc<CertifiedKey>,
    /// What the first certificate of the chain says.
    pub info: CertificateInfo,
    /// From when on all certificates of the chain are valid, in seconds of Unix time.
    pub chain_not_before: i64,
    /// Until when all certificates of the chain are valid, in seconds of Unix time.
    pub chain_not_after: i64,
    /// SHA-256 of what it was read from.
    pub content: [u8; 32],
}

impl Pair {
    /// Whether one of its names is good for a host.
    pub fn covers(&self, host: &str) -> bool {
        self.info.names.iter().any(|name| covers(name, host))
    }
}

/// Whether a certificate's name is good for a host: equal, or a wildcard for its first label (RFC 9525 section 6.3).
fn covers(name: &str, host: &str) -> bool {
    let below = |parent: &str| host.split_once('.').is_some_and(|(label, rest)| label != "*" && rest == parent);
    name == host || name.strip_prefix("*.").is_some_and(below)
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.content == other.content
    }
}

impl Eq for Pair {}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What a certificate says about itself ([`CertificateInfo::of`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The DNS names it is good for (subjectAltName), in lower case.
    pub names: Vec<String>,
    /// The issuer's distinguished name, such as `C=US, O=Let's Encrypt, CN=R3`.
    pub issuer: String,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// The kind of its key.
    pub key_kind: KeyKind,
    /// In seconds of Unix time.
    pub not_before: i64,
    /// In seconds of Unix time.
    pub not_after: i64,
    /// SHA-256 of its DER form.
    pub sha256: [u8; 32],
}

/// The kind of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, with the bits of its modulus.
    Rsa(u32),
    /// ECDSA on the NIST curve of that many bits.
    Ecdsa(u32),
    /// Ed25519
    Ed25519,
    /// Something else: nothing that a listener can show.
    Other,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::Rsa(bits) => write!(f, "RSA {bits}"),
            KeyKind::Ecdsa(bits) => write!(f, "ECDSA P-{bits}"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
            KeyKind::Other => f.write_str("other"),
        }
    }
}
