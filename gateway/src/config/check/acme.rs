//! `[[acme]]` and `[certificate_store]`

use data_encoding::{BASE64URL_NOPAD, DecodeError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Tables, etcd};
use crate::config::decode::Optional;
use crate::config::load::Loader;
use crate::config::model::{Acme, AcmeChallenge, CertificateStore, ExternalAccount};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};

/// Checks an account.
pub fn check(raw: At<raw::Acme>, names: &Tables, loader: &mut Loader<'_>) -> Option<Acme> {
    let At { value: raw, span } = raw;
    if let Some(agreed) = &raw.terms_of_service_agreed.0
        && !agreed.value
    {
        let help = "read the terms that the authority links to in its directory, then set this to true";
        loader.diagnostics.error(agreed.span, "without agreement the authority opens no account").help(help);
    }
    let challenge = raw.challenge.map_or(AcmeChallenge::default(), |challenge| challenge.value);
    warn_unanswered(challenge, raw.challenge.map_or(span, |challenge| challenge.span), names, &mut loader.diagnostics);
    let ca_pem = match &raw.ca {
        None => None,
        Some(path) => {
            let pem = loader.bytes(path)?;
            let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            if !authorities.is_ok_and(|list| !list.is_empty()) {
                let message = format!("{} has no PEM certificates", path.value.0);
                let help = "it has to begin with -----BEGIN CERTIFICATE-----";
                loader.diagnostics.error(path.span, message).help(help);
            }
            Some(pem)
        }
    };
    let external_account = match raw.external_account {
        None => None,
        Some(raw) => Some(external_account(raw.value, loader)?),
    };
    Some(Acme {
        name: raw.name.0?.value.0,
        directory_url: raw.directory_url.0?.value.0,
        contact: raw.contact.into_iter().flat_map(|list| list.value).map(|contact| contact.value.0).collect(),
        challenge,
        ca_pem,
        key_type: raw.key_type.map(|kind| kind.value).unwrap_or_default(),
        external_account,
        profile: raw.profile.map(|profile| profile.value.0),
    })
}

/// Where things are kept.
pub fn store(raw: Optional<raw::CertificateStore>, loader: &mut Loader<'_>) -> Option<CertificateStore> {
    let Some(At { value: raw, .. }) = raw else { return Some(CertificateStore::default()) };
    let etcd = raw.etcd.map(|etcd| etcd::check(etcd, loader));
    let directory = raw.directory.map(|path| loader.diagnostics.sources.resolve(&path.value.0, path.span));
    Some(CertificateStore {
        directory: directory.unwrap_or_else(|| CertificateStore::default().directory),
        etcd: match etcd {
            Some(etcd) => Some(etcd?),
            None => None,
        },
    })
}

fn external_account(raw: raw::ExternalAccount, loader: &mut Loader<'_>) -> Option<ExternalAccount> {
    let path = raw.hmac_key.0?;
    let key = loader.bytes(&path)?;
    match decode(&key) {
        Ok(key) if !key.is_empty() => Some(ExternalAccount { key_id: raw.key_id.0?.value, hmac_key: key.into() }),
        Ok(_) | Err(_) => {
            let message = format!("{} has no key in base64url", path.value.0);
            loader
                .diagnostics
                .error(path.span, message)
                .help("it has to have the key as the authority gave it, and nothing else");
            None
        }
    }
}

/// Authorities give it in base64url without padding; some with it, and some in plain base64.
fn decode(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let plain = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    };
    let text: Vec<u8> = text.trim_ascii().iter().map(plain).collect();
    let unpadded = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    BASE64URL_NOPAD.decode(&text[..unpadded])
}

fn warn_unanswered(challenge: AcmeChallenge, span: Span, names: &Tables, diagnostics: &mut Diagnostics) {
    let mut listeners = names.listener_kinds.iter();
    let (answers, message, help) = match challenge {
        AcmeChallenge::Http01 => (
            listeners.any(|listener| listener.may_be_http() && !listener.has_tls),
            "no listener answers the challenge http-01",
            "it takes one for HTTP without `tls`, which the authority reaches at port 80; or use \"tls-alpn-01\"",
        ),
        AcmeChallenge::TlsAlpn01 => (
            listeners.any(|listener| listener.has_tls),
            "no listener answers the challenge tls-alpn-01",
            "it takes one with `tls`, which the authority reaches at port 443; or use \"http-01\"",
        ),
    };
    if !answers {
        diagnostics.warning(span, message).help(help);
    }
}
