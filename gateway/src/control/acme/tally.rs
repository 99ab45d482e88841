//! How it went.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Tries to obtain each certificate, by its name.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, Count>>);

/// Tries to obtain a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// That succeeded.
    pub issued: u64,
    /// That failed.
    pub failed: u64,
}

impl Tally {
    /// All of them.
    pub fn all(&self) -> Vec<(String, Count)> {
        self.lock().iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    pub(super) fn issued(&self, certificate: &str) {
        self.lock().entry(certificate.to_owned()).or_default().issued += 1;
    }

    pub(super) fn failed(&self, certificate: &str) {
        self.lock().entry(certificate.to_owned()).or_default().failed += 1;
    }

    /// Zero is worth showing, too.
    pub(super) fn begin(&self, certificate: &str) {
        self.lock().entry(certificate.to_owned()).or_default();
    }

    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.lock().retain(|name, _| keep(name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
