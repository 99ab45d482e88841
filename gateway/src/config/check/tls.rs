//! `tls` of `[[listener]]`

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::parse_x509_crl;

use super::{Tables, each, reject_empty};
use crate::config::decode::{List, Optional};
use crate::config::load::Loader;
use crate::config::model::{
    CertificateId, CipherSuite, ClientAuth, ClientAuthMode, HttpVersions, KeyExchange, ListenerTls, TlsHost, TlsTerms,
    TlsVersion,
};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{FilePath, Host};

/// The client's favourite is taken, so that the order says nothing.
const DEFAULT_KEY_EXCHANGE: [KeyExchange; 4] =
    [KeyExchange::X25519MlKem768, KeyExchange::X25519, KeyExchange::P256, KeyExchange::P384];

/// Checks how TLS is spoken to clients, and reads whom to trust. `offered` are the listener's HTTP versions; `None` where
/// TLS has something else in it.
pub(super) fn check(
    raw: At<raw::ListenerTls>,
    offered: Option<HttpVersions>,
    names: &Tables,
    now: SystemTime,
    loader: &mut Loader<'_>,
) -> Option<ListenerTls> {
    let raw = raw.value;
    let certificates = certificates(raw.certificates.0?, offered, names, &mut loader.diagnostics);
    let default = TlsTerms { min_version: TlsVersion::Tls12, client_auth: None };
    let terms = terms(raw.min_version, raw.client_auth, &default, now, loader);
    let hosts = raw.hosts.map_or_else(Vec::new, |hosts| hosts.value);
    // Those of hosts are checked even where the listener's are wrong.
    let inherited = terms.as_ref().unwrap_or(&default).clone();
    let mut taken = HashSet::new();
    let hosts = each(hosts, |host| check_host(host, offered, &inherited, &mut taken, now, loader));
    let diagnostics = &mut loader.diagnostics;
    let suites_span = raw.cipher_suites.as_ref().map(|list| list.span);
    let exchanges_span = raw.key_exchange.as_ref().map(|list| list.span);
    let cipher_suites = distinct(raw.cipher_suites, "cipher_suites", diagnostics);
    let key_exchange = match raw.key_exchange {
        None => DEFAULT_KEY_EXCHANGE.to_vec(),
        given => distinct(given, "key_exchange", diagnostics),
    };
    let (terms, hosts) = (terms?, hosts?);
    let floors = || [terms.min_version].into_iter().chain(hosts.iter().map(|host| host.terms.min_version));
    if let Some(span) = suites_span.or(exchanges_span)
        && let Some(floor) = floors().find(|floor| !has_common_ground(*floor, &cipher_suites, &key_exchange))
    {
        let floor = if floor == TlsVersion::Tls13 { "1.3" } else { "1.2" };
        let help =
            "cipher suites of TLS 1.3 begin with `TLS_AES` or `TLS_CHACHA20`; key exchanges with ML-KEM need TLS 1.3";
        let message = format!("no client could connect where `min_version` is \"{floor}\"");
        diagnostics.error(span, message).help(help);
    }
    Some(ListenerTls {
        certificates: certificates?,
        strict_sni: raw.strict_sni.is_some_and(|strict| strict.value),
        cipher_suites,
        key_exchange,
        terms,
        hosts,
    })
}

fn certificates(
    given: At<List<crate::config::value::Name>>,
    offered: Option<HttpVersions>,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<CertificateId>> {
    if given.value.is_empty() {
        diagnostics.error(given.span, "a TLS listener needs a certificate");
    }
    let certificates = each(given.value, |name| {
        let id = names.certificates.find(&name, diagnostics)?;
        let http = names.certificate_kinds[id as usize].http;
        if offered.is_some_and(|offered| are_apart(offered, http)) {
            let message = format!("`http` of certificate `{}` has no version that this listener speaks", name.value.0);
            diagnostics.error(name.span, message).help("its hosts could not be reached");
        }
        Some(names.certificate_ids(id))
    })?;
    Some(certificates.concat())
}

/// Whether each has one version, and not the same. (One without any has been reported.)
fn are_apart(one: HttpVersions, other: HttpVersions) -> bool {
    let exactly_one = |versions: HttpVersions| versions.h1 != versions.h2;
    exactly_one(one) && exactly_one(other) && one != other
}

/// The terms, with `default` for what is not given.
fn terms(
    min_version: Optional<TlsVersion>,
    client_auth: Optional<raw::ClientAuth>,
    default: &TlsTerms,
    now: SystemTime,
    loader: &mut Loader<'_>,
) -> Option<TlsTerms> {
    Some(TlsTerms {
        min_version: min_version.map_or(default.min_version, |version| version.value),
        client_auth: match client_auth {
            None => default.client_auth.clone(),
            Some(raw) => check_client_auth(raw, now, loader)?,
        },
    })
}

fn check_host(
    raw: At<raw::TlsHost>,
    offered: Option<HttpVersions>,
    inherited: &TlsTerms,
    taken: &mut HashSet<Host>,
    now: SystemTime,
    loader: &mut Loader<'_>,
) -> Option<TlsHost> {
    let At { value: raw, span } = raw;
    if raw.min_version.is_none() && raw.client_auth.is_none() {
        let help = "give them `min_version` or `client_auth`, or leave them out";
        loader.diagnostics.warning(span, "these hosts have the listener's rules").help(help);
    }
    let terms = terms(raw.min_version, raw.client_auth, inherited, now, loader);
    if let Some(terms) = terms.as_ref().filter(|_| offered.is_none())
        && terms.client_auth != inherited.client_auth
    {
        let help = "the server name is the client's word alone: only HTTP has a `Host` to hold against it";
        let message = "a client could reach the same destination by asking for another name";
        loader.diagnostics.warning(span, message).help(help);
    }
    let hosts = raw.hosts.0?;
    if hosts.value.is_empty() {
        loader.diagnostics.error(hosts.span, "`hosts` is empty").help("name a host, or leave this entry out");
    }
    let hosts = hosts.value.into_iter().map(|host| {
        if !taken.insert(host.value.clone()) {
            loader.diagnostics.error(host.span, "this host has rules already");
        }
        host.value.0
    });
    Some(TlsHost { hosts: hosts.collect(), terms: terms? })
}

/// `Some(None)` is off.
fn check_client_auth(raw: At<raw::ClientAuth>, now: SystemTime, loader: &mut Loader<'_>) -> Option<Option<ClientAuth>> {
    let At { value: raw, span } = raw;
    let mode = raw.mode.map_or(ClientAuthMode::Require, |mode| mode.value);
    if mode == ClientAuthMode::Off {
        if let Some(ca) = &raw.ca {
            loader.diagnostics.warning(ca.span, "not used: `mode` is \"off\"");
        }
        return Some(None);
    }
    if raw.ca.is_none() {
        let help = "name the PEM file with the authorities that issue your clients' certificates";
        loader.diagnostics.error(span, "`ca` is missing in `client_auth`").help(help);
    }
    if let Some(list) = &raw.names {
        reject_empty(list, "names", "any name", &mut loader.diagnostics);
    }
    if let Some(list) = &raw.spki_sha256 {
        reject_empty(list, "spki_sha256", "any key", &mut loader.diagnostics);
    }
    let lists = each(raw.crl.map_or_else(Vec::new, |list| list.value), |path| revocation_lists(&path, now, loader));
    let ca_pem = authorities(&raw.ca?, loader);
    let names = raw.names.map_or_else(Vec::new, |list| list.value.into_iter().map(|name| name.value.0).collect());
    let pins = raw.spki_sha256.map_or_else(Vec::new, |list| list.value.into_iter().map(|pin| pin.value.0).collect());
    Some(Some(ClientAuth {
        is_required: mode == ClientAuthMode::Require,
        ca_pem: ca_pem?,
        crls: lists?.into_iter().flatten().collect(),
        names,
        spki_sha256: pins,
    }))
}

/// A file of authorities. Each must parse: a trust store with a hole in it fails later, and only for some clients.
fn authorities(path: &At<FilePath>, loader: &mut Loader<'_>) -> Option<Arc<[u8]>> {
    let pem = loader.bytes(path)?;
    let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let is_good = |der: &CertificateDer<'_>| x509_parser::parse_x509_certificate(der).is_ok();
    if !authorities.is_ok_and(|list| !list.is_empty() && list.iter().all(is_good)) {
        let help = "it has to begin with -----BEGIN CERTIFICATE-----";
        let message = format!("{} has no PEM certificates, or one that cannot be read", path.value.0);
        loader.diagnostics.error(path.span, message).help(help);
        return None;
    }
    Some(pem)
}

/// The lists in a file, in DER.
fn revocation_lists(path: &At<FilePath>, now: SystemTime, loader: &mut Loader<'_>) -> Option<Vec<Arc<[u8]>>> {
    let bytes = loader.bytes(path)?;
    let lists: Vec<Arc<[u8]>> = match parse_x509_crl(&bytes) {
        Ok(_) => vec![bytes],
        Err(_) => {
            let pem = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
            pem.unwrap_or_default().iter().map(|der| Arc::from(der.as_ref())).collect()
        }
    };
    let parsed: Result<Vec<_>, _> = lists.iter().map(|der| parse_x509_crl(der)).collect();
    let Some(parsed) = parsed.ok().filter(|parsed| !parsed.is_empty()) else {
        let help = "it has to be DER, or begin with -----BEGIN X509 CRL-----";
        let message = format!("{} has no revocation list, or one that cannot be read", path.value.0);
        loader.diagnostics.error(path.span, message).help(help);
        return None;
    };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    for (_, list) in &parsed {
        match list.next_update() {
            Some(next) if next.timestamp() >= now => {}
            Some(next) => {
                let date = next.to_datetime().date();
                let message = format!("{} has expired on {date}: no client it is about gets in", path.value.0);
                loader.diagnostics.warning(path.span, message);
            }
            None => {
                let message =
                    format!("{} does not say when it expires (nextUpdate), which RFC 5280 asks of it", path.value.0);
                loader.diagnostics.error(path.span, message);
                return None;
            }
        }
    }
    Some(lists)
}

/// The items of a list without those that it has twice.
fn distinct<T: Copy + Eq + Hash>(list: Optional<List<T>>, key: &str, diagnostics: &mut Diagnostics) -> Vec<T> {
    let Some(list) = list else { return Vec::new() };
    reject_empty(&list, key, "the default ones", diagnostics);
    let mut seen: HashSet<T> = HashSet::new();
    let mut items = Vec::new();
    for item in list.value {
        match seen.insert(item.value) {
            true => items.push(item.value),
            false => repeated(item.span, diagnostics),
        }
    }
    items
}

fn repeated(span: Span, diagnostics: &mut Diagnostics) {
    diagnostics.warning(span, "given twice");
}

/// Whether some version from `floor` on has both a suite and a key exchange.
fn has_common_ground(floor: TlsVersion, suites: &[CipherSuite], exchanges: &[KeyExchange]) -> bool {
    let has_suite = |version| suites.is_empty() || suites.iter().any(|suite| suite.version() == version);
    let has_classic = exchanges.iter().any(|exchange| exchange.is_classic());
    has_suite(TlsVersion::Tls13) || (floor == TlsVersion::Tls12 && has_suite(TlsVersion::Tls12) && has_classic)
}
