//! `etcd` of `[certificate_store]`

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::decode::Optional;
use crate::config::load::Loader;
use crate::config::model::{EtcdLogin, EtcdPair, EtcdStore, EtcdTls};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{FilePath, HeaderValue};

/// Reads its files, and checks that what belongs together is there.
pub fn check(raw: At<raw::EtcdStore>, loader: &mut Loader<'_>) -> Option<EtcdStore> {
    let At { value: raw, span } = raw;
    let endpoints = raw.endpoints.0;
    if let Some(list) = &endpoints
        && list.value.is_empty()
    {
        loader.diagnostics.error(list.span, "no members").help("for example [\"http://10.0.0.5:2379\"]");
    }
    let ca_pem = match &raw.ca {
        None => None,
        Some(path) => Some(pem(path, "certificates", loader, |pem| {
            let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            list.is_ok_and(|list| !list.is_empty())
        })?),
    };
    let tls = EtcdTls { ca_pem, client: client(raw.certificate, raw.key, span, loader)? };
    let endpoints: Vec<_> = endpoints?.value.into_iter().map(|url| url.value.0).collect();
    if tls != EtcdTls::default() && !endpoints.iter().any(|endpoint| endpoint.is_tls) {
        loader.diagnostics.warning(span, "`ca`, `certificate` and `key` are for members with https, and there is none");
    }
    Some(EtcdStore {
        endpoints,
        prefix: raw.prefix.map_or_else(|| "/gateway/".to_owned(), |prefix| prefix.value.0),
        tls,
        login: login(raw.username, raw.password_file, span, loader)?,
    })
}

/// Reports certificates that are to be in an etcd which there is not.
pub fn check_stored(raw: &raw::File, diagnostics: &mut Diagnostics) {
    if raw.certificate_store.as_ref().is_some_and(|store| store.value.etcd.is_some()) {
        return;
    }
    let stored = raw.certificate.iter().filter_map(|table| table.value.stored.as_ref());
    for stored in stored.filter(|stored| stored.value) {
        let help = "say in [certificate_store] which etcd it is in, or give `chain` and `key`";
        diagnostics.error(stored.span, "there is no etcd that the certificate could be in").help(help);
    }
}

/// `None` when an error was reported.
fn client(
    certificate: Optional<FilePath>,
    key: Optional<FilePath>,
    span: Span,
    loader: &mut Loader<'_>,
) -> Option<Option<EtcdPair>> {
    match (certificate, key) {
        (None, None) => Some(None),
        (Some(certificate), Some(key)) => {
            let is_chain = |pem: &[u8]| CertificateDer::from_pem_slice(pem).is_ok();
            let chain_pem = pem(&certificate, "certificate", loader, is_chain);
            let key_pem = pem(&key, "private key", loader, |pem| PrivateKeyDer::from_pem_slice(pem).is_ok());
            Some(Some(EtcdPair { chain_pem: chain_pem?, key_pem: key_pem? }))
        }
        _ => {
            loader.diagnostics.error(span, "`certificate` and `key` go together").help("give both, or neither");
            None
        }
    }
}

/// `None` when an error was reported.
fn login(
    username: Optional<HeaderValue>,
    file: Optional<FilePath>,
    span: Span,
    loader: &mut Loader<'_>,
) -> Option<Option<EtcdLogin>> {
    match (username, file) {
        (None, None) => Some(None),
        (Some(username), Some(file)) => {
            let source = loader.text(&file)?;
            let password = loader.diagnostics.sources.text(source).lines().next().unwrap_or_default().to_owned();
            if password.is_empty() {
                loader.diagnostics.error(file.span, "the first line of this file is empty").help("it is the password");
                return None;
            }
            Some(Some(EtcdLogin { username: username.value.0, password }))
        }
        _ => {
            loader.diagnostics.error(span, "`username` and `password_file` go together").help("give both, or neither");
            None
        }
    }
}

fn pem(
    path: &At<FilePath>,
    what: &str,
    loader: &mut Loader<'_>,
    is_good: impl FnOnce(&[u8]) -> bool,
) -> Option<std::sync::Arc<[u8]>> {
    let pem = loader.bytes(path)?;
    if !is_good(&pem) {
        let message = format!("{} has no PEM {what}", path.value.0);
        loader.diagnostics.error(path.span, message).help("it has to begin with -----BEGIN");
        return None;
    }
    Some(pem)
}
