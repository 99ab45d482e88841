//! Certificates that are not in files of the configuration but in the certificate store's directory.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::store::{CERTIFICATES, Directory, StoreError, segment};
use crate::config::model::{Certificate, Config, Pair};

/// The key at which the pair of a certificate is kept.
pub fn key(certificate: &str) -> String {
    format!("{CERTIFICATES}/{}", segment(certificate))
}

/// Reads what is kept at a certificate's key: one text with the private key and the chain.
pub fn parse(bytes: &[u8]) -> Result<Pair, String> {
    let why = |errors: Vec<crate::config::PairError>| {
        let messages: Vec<String> = errors.into_iter().map(|error| error.message).collect();
        messages.join("; ")
    };
    Pair::of(bytes, bytes, None).map_err(why)
}

/// Gives every certificate that is obtained or stored the pair that is kept for it. One that cannot be read changes nothing:
/// the pair that `running` has for the certificate stays.
pub fn give(config: &mut Config, running: Option<&Config>) -> Result<(), StoreError> {
    let mut certificates = config.certificates.iter_mut().filter(|certificate| certificate.is_kept()).peekable();
    if certificates.peek().is_none() {
        return Ok(());
    }
    let directory = Directory::open(config.certificate_store.directory.clone())?;
    for certificate in certificates {
        let before = running.and_then(|running| running.certificates.iter().find(|old| old.name == certificate.name));
        let before = before.and_then(|before| before.pair.clone());
        certificate.give(read(&directory, certificate, before.clone())?.or(before));
    }
    Ok(())
}

/// What is kept; `before` itself where that is the same.
fn read(
    directory: &Directory,
    certificate: &Certificate,
    before: Option<Arc<Pair>>,
) -> Result<Option<Arc<Pair>>, StoreError> {
    let Some(bytes) = directory.get(&key(&certificate.name))?.map(Zeroizing::new) else { return Ok(None) };
    if before.as_ref().is_some_and(|before| before.is_of(&bytes, &bytes, None)) {
        return Ok(before);
    }
    match parse(&bytes) {
        Ok(pair) => Ok(Some(Arc::new(pair))),
        Err(why) => {
            log::error!("certificate \"{}\": what is kept of it cannot be used: {why}", certificate.name);
            Ok(None)
        }
    }
}
