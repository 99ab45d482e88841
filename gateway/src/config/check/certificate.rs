//! `[[certificate]]`

use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, X509Certificate, parse_x509_certificate};

use crate::config::load::Loader;
use crate::config::model::{Certificate, HostPattern};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;
use crate::config::value::{FilePath, Host};

type Chain = Vec<CertificateDer<'static>>;

/// Reads both files, and checks that they belong together and are good for the hosts, now.
pub fn check(raw: At<raw::Certificate>, now: SystemTime, loader: &mut Loader<'_>) -> Option<Certificate> {
    let raw = raw.value;
    let http = super::http_versions(&raw.http);
    if let Some(versions) = &raw.http {
        super::reject_empty(versions, "http", "every version the listener speaks", &mut loader.diagnostics);
    }
    let chain_pem = raw.chain.0.as_ref().and_then(|path| loader.bytes(path));
    let key_pem = raw.key.0.as_ref().and_then(|path| loader.bytes(path));
    let (chain_path, key_path) = (raw.chain.0?, raw.key.0?);
    let diagnostics = &mut loader.diagnostics;
    let chain = chain_pem.as_deref().and_then(|pem| parse_chain(pem, &chain_path, diagnostics));
    let key = key_pem.as_deref().and_then(|pem| parse_key(pem, &key_path, diagnostics));
    if let Some(chain) = &chain {
        warn_validity(chain, &chain_path, now, diagnostics);
    }
    let names = chain.as_ref().and_then(|chain| dns_names(chain, &chain_path, diagnostics));
    if let (Some(chain), Some(key)) = (chain, key) {
        check_pair(chain, &key, &key_path, diagnostics);
    }
    let hosts = match (raw.hosts, names) {
        (Some(hosts), Some(names)) => check_hosts(hosts.value, &names, diagnostics),
        (_, names) => names?,
    };
    Some(Certificate { name: raw.name.0?.value.0, chain_pem: chain_pem?, key_pem: key_pem?, hosts, http })
}

fn parse_chain(pem: &[u8], path: &At<FilePath>, diagnostics: &mut Diagnostics) -> Option<Chain> {
    let message = match CertificateDer::pem_slice_iter(pem).collect::<Result<Chain, _>>() {
        Ok(chain) if chain.is_empty() => "has no certificate".to_owned(),
        Ok(chain) => match chain.iter().position(|der| parse_x509_certificate(der).is_err()) {
            None => return Some(chain),
            Some(index) => format!("has a certificate that cannot be read, number {}", index + 1),
        },
        Err(error) => format!("is not PEM: {error}"),
    };
    let help = "it has to begin with -----BEGIN CERTIFICATE-----";
    diagnostics.error(path.span, format!("{} {message}", path.value.0)).help(help);
    None
}

fn parse_key(pem: &[u8], path: &At<FilePath>, diagnostics: &mut Diagnostics) -> Option<PrivateKeyDer<'static>> {
    let message = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => return Some(key),
        Err(pem::Error::NoItemsFound) if pem.windows(9).any(|bytes| bytes == b"ENCRYPTED") => {
            "has an encrypted key, which is not supported".to_owned()
        }
        Err(pem::Error::NoItemsFound) => "has no private key".to_owned(),
        Err(error) => format!("is not PEM: {error}"),
    };
    let help = "it has to begin with -----BEGIN PRIVATE KEY-----";
    diagnostics.error(path.span, format!("{} {message}", path.value.0)).help(help);
    None
}

fn check_pair(chain: Chain, key: &PrivateKeyDer<'_>, path: &At<FilePath>, diagnostics: &mut Diagnostics) {
    let message = match any_supported_type(key) {
        Err(_) => format!("{} has a key of a kind that is not supported", path.value.0),
        Ok(key) => match CertifiedKey::new(chain, key).keys_match() {
            Ok(()) => return,
            Err(_) => format!("{} is not the key of this certificate", path.value.0),
        },
    };
    let help = "RSA, ECDSA (P-256, P-384, P-521) or Ed25519, belonging to the first certificate in `chain`";
    diagnostics.error(path.span, message).help(help);
}

/// Warns when a certificate of the chain is not valid now. It may be renewed under the same name at any time, so that
/// is no reason not to start.
fn warn_validity(chain: &Chain, path: &At<FilePath>, now: SystemTime, diagnostics: &mut Diagnostics) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    for certificate in chain.iter().filter_map(|der| x509(der)) {
        let validity = certificate.validity();
        if validity.not_after.timestamp() < now {
            let message = format!("{} expired on {}", path.value.0, date(validity.not_after));
            diagnostics.warning(path.span, message);
        } else if validity.not_before.timestamp() > now {
            let message = format!("{} is not valid before {}", path.value.0, date(validity.not_before));
            diagnostics.warning(path.span, message);
        }
    }
}

fn date(time: ASN1Time) -> String {
    time.to_datetime().date().to_string()
}

fn x509<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse_x509_certificate(der).ok().map(|(_, certificate)| certificate)
}

/// The names the first certificate is good for. Its common name is not one: no client has looked at it for years
/// (RFC 9525 section 2).
fn dns_names(chain: &Chain, path: &At<FilePath>, diagnostics: &mut Diagnostics) -> Option<Vec<String>> {
    let certificate = x509(chain.first()?)?;
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let names: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        let message = format!("{} has no DNS name in it (subjectAltName), so no server name selects it", path.value.0);
        diagnostics.warning(path.span, message);
    }
    Some(names)
}

fn check_hosts(hosts: Vec<At<Host>>, names: &[String], diagnostics: &mut Diagnostics) -> Vec<String> {
    let mut checked = Vec::new();
    for host in hosts {
        let text = match host.value.0 {
            HostPattern::Exact(text) => text,
            HostPattern::Suffix(parent) => format!("*{parent}"),
            HostPattern::Any => "*".to_owned(),
        };
        if !names.iter().any(|name| covers(name, &text)) {
            let help = format!("it covers {}", names.join(", "));
            diagnostics.error(host.span, format!("the certificate does not cover {text}")).help(help);
        }
        checked.push(text);
    }
    checked
}

/// Whether a certificate's name is good for a host: equal, or a wildcard for its first label (RFC 9525 section 6.3).
fn covers(name: &str, host: &str) -> bool {
    let below = |parent: &str| host.split_once('.').is_some_and(|(label, rest)| label != "*" && rest == parent);
    name == host || name.strip_prefix("*.").is_some_and(below)
}
