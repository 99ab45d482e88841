//! How it went.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Tries to obtain each certificate, by its name.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, Tries>>);

/// Tries to obtain a certificate.
#[derive(Debug, Default)]
struct Tries {
    count: Count,
    /// Why the last one failed, if it did.
    failure: Option<String>,
}

/// How many tries there were.
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
        self.lock().iter().map(|(name, tries)| (name.clone(), tries.count)).collect()
    }

    /// Those whose last try failed, and why.
    pub fn failing(&self) -> BTreeMap<String, String> {
        self.lock().iter().filter_map(|(name, tries)| Some((name.clone(), tries.failure.clone()?))).collect()
    }

    pub(super) fn issued(&self, certificate: &str) {
        self.change(certificate, |tries| tries.count.issued += 1);
        self.found(certificate);
    }

    /// Somebody else has obtained it.
    pub(super) fn found(&self, certificate: &str) {
        self.change(certificate, |tries| tries.failure = None);
    }

    pub(super) fn failed(&self, certificate: &str, why: String) {
        self.change(certificate, |tries| {
            tries.count.failed += 1;
            tries.failure = Some(why);
        });
    }

    fn change(&self, certificate: &str, change: impl FnOnce(&mut Tries)) {
        change(self.lock().entry(certificate.to_owned()).or_default());
    }

    /// Zero is worth showing, too.
    pub(super) fn begin(&self, certificate: &str) {
        self.lock().entry(certificate.to_owned()).or_default();
    }

    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.lock().retain(|name, _| keep(name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Tries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
