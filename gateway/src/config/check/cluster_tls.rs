//! `tls` of `[[cluster]]` and of its health checks.

use std::time::SystemTime;

use super::tls::{authorities, revocation_lists};
use super::{Tables, each, reject_empty};
use crate::config::load::Loader;
use crate::config::model::{Certificate, CertificateSource, TlsVersion, UpstreamTls};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;
use crate::config::value::Name;

/// What the settings refer to.
pub(super) struct Surroundings<'a> {
    pub names: &'a Tables,
    /// `None` when one of them has an error, which has been reported.
    pub certificates: Option<&'a [Certificate]>,
    pub now: SystemTime,
}

/// Checks how TLS is spoken to endpoints, and reads whom to trust.
pub(super) fn check(raw: raw::ClusterTls, around: &Surroundings<'_>, loader: &mut Loader<'_>) -> Option<UpstreamTls> {
    let verify = raw.verify.is_none_or(|verify| verify.value);
    let not_used = [
        raw.ca.as_ref().map(|ca| ca.span),
        raw.crl.as_ref().map(|list| list.span),
        raw.names.as_ref().map(|list| list.span),
    ];
    for span in not_used.into_iter().flatten().filter(|_| !verify) {
        loader.diagnostics.warning(span, "not used: `verify` is off");
    }
    if let Some(list) = &raw.names {
        reject_empty(list, "names", "the server name", &mut loader.diagnostics);
    }
    let lists = raw.crl.map_or_else(Vec::new, |list| list.value);
    let lists = each(lists, |path| revocation_lists(&path, around.now, loader));
    let ca_pem = raw.ca.map(|path| authorities(&path, loader));
    let certificate = raw.certificate.map(|name| certificate(&name, around, &mut loader.diagnostics));
    Some(UpstreamTls {
        server_name: raw.server_name.map(|name| name.value.0),
        ca_pem: match ca_pem {
            Some(pem) => Some(pem?),
            None => None,
        },
        crls: lists?.into_iter().flatten().collect(),
        names: raw.names.map_or_else(Vec::new, |list| list.value.into_iter().map(|name| name.value.0).collect()),
        verify,
        certificate: match certificate {
            Some(name) => Some(name?),
            None => None,
        },
        min_version: raw.min_version.map_or(TlsVersion::Tls12, |version| version.value),
        alpn: raw.alpn.map_or_else(Vec::new, |list| list.value.into_iter().map(|name| name.value.0).collect()),
        resumption: raw.resumption.is_none_or(|on| on.value),
    })
}

/// The name of one certificate: that of a table with one, or of a directory's, the table's and its own.
fn certificate(name: &At<Name>, around: &Surroundings<'_>, diagnostics: &mut Diagnostics) -> Option<String> {
    let Surroundings { names, certificates, .. } = around;
    let wanted = &name.value.0;
    let is_it = |certificate: &Certificate| certificate.name == *wanted;
    let of_directory = |certificate: &Certificate| matches!(certificate.source, CertificateSource::Directory(_));
    if let Some(at) = certificates.and_then(|all| all.iter().position(|it| is_it(it) && of_directory(it))) {
        let has_it = |table| names.certificate_ids(table).iter().any(|id| id.index() == at);
        names.certificates.use_where(has_it).for_each(drop);
        return Some(wanted.clone());
    }
    names.certificates.find(name, diagnostics)?;
    if !(*certificates)?.iter().any(is_it) {
        let message = format!("`{wanted}` is a directory of certificates, and endpoints are shown one");
        let help = format!("\"{wanted}/NAME\" is that of NAME.crt");
        diagnostics.error(name.span, message).help(help);
        return None;
    }
    Some(wanted.clone())
}
