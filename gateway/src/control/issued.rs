//! Pairs that are kept in the directory of the certificate store: those that were obtained by ACME, and those that are shared.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::store::{self, Directory, StoreError};
use crate::config::Issued;
use crate::config::model::{CertificateSource, Config, Pair};

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
        let found = directory.as_ref().and_then(|directory| pair(directory, name));
        let pair = match (found, before.get(name)) {
            (Some(found), Some(before)) if *before.as_ref() == found => before.clone(),
            (Some(found), _) => Arc::new(found),
            (None, before) => before?.clone(),
        };
        Some((name.clone(), pair))
    };
    names.into_iter().filter_map(pair).collect()
}

fn pair(directory: &Directory, name: &str) -> Option<Pair> {
    let bytes: Result<_, StoreError> = directory.get(&store::certificate(name));
    let bytes = bytes.inspect_err(|error| log::error!("certificate `{name}`: {error}")).ok()??;
    let bytes = Zeroizing::new(bytes);
    let cannot = |errors: &Vec<crate::config::PairError>| {
        let why: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        log::error!("certificate `{name}`: what is kept of it {}", why.join(", and "));
    };
    Pair::of(&bytes, &bytes, None).inspect_err(cannot).ok()
}
