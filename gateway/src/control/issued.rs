//! Pairs that are kept in the directory of the certificate store: those that were obtained by ACME, and those that are shared.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::store::{self, Directory};
use crate::config::model::{CertificateSource, Config, Pair};
use crate::config::{Issued, PairError};

/// The pairs of a configuration's certificates. What cannot be read is as it was `before`.
pub fn read(config: &Config, before: &Issued) -> Issued {
    let is_kept = |source: &CertificateSource| match source {
        CertificateSource::Acme(_) | CertificateSource::Stored => true,
        CertificateSource::Files(_) | CertificateSource::Directory(_) => false,
    };
    let names: Vec<&String> =
        config.certificates.iter().filter(|certificate| is_kept(&certificate.source)).map(|it| &it.name).collect();
    if names.is_empty() {
        return Issued::new();
    }
    let directory = Directory::open(config.certificate_store.directory.clone())
        .inspect_err(|error| log::error!("certificate store: {error}"))
        .ok();
    let pair = |name: &String| {
        let before = before.get(name);
        let found = directory.as_ref().and_then(|directory| pair(directory, name, before));
        Some((name.clone(), found.or(before.cloned())?))
    };
    names.into_iter().filter_map(pair).collect()
}

/// The pair of this name, parsed unless it is the one of `before`.
fn pair(directory: &Directory, name: &str, before: Option<&Arc<Pair>>) -> Option<Arc<Pair>> {
    let bytes = directory.get(&store::certificate(name));
    let bytes = bytes.inspect_err(|error| log::error!("certificate `{name}`: {error}")).ok()??;
    let bytes = Zeroizing::new(bytes);
    if let Some(same) = before.filter(|before| before.is_of(&bytes, &bytes, None)) {
        return Some(same.clone());
    }
    let cannot = |errors: &Vec<PairError>| {
        let why: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        log::error!("certificate `{name}`: what is kept of it {}", why.join(", and "));
    };
    Pair::of(&bytes, &bytes, None).inspect_err(cannot).ok().map(Arc::new)
}
