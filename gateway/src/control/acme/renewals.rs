//! Renewals that an operator asks for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::date;
use super::rests::Rests;

/// What may be asked of the task of each certificate.
#[derive(Debug, Default)]
pub struct Renewals {
    /// By the certificate's name.
    tasks: Mutex<HashMap<String, Task>>,
    /// Authorities that are left in peace.
    pub(super) rests: Rests,
}

#[derive(Debug, Default)]
struct Task {
    /// Of the authority that issues it.
    directory_url: String,
    wake: Arc<Notify>,
    is_asked: bool,
    is_under_way: bool,
    /// Until when the authority does not want to hear of it.
    paused_until: i64,
}

/// Why a certificate is not renewed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// None of this name is obtained.
    NotObtained,
    /// It is being renewed already.
    UnderWay,
    /// The authority does not want to be asked before this moment, in seconds of Unix time.
    Paused(i64),
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotNow::NotObtained => f.write_str("it is not obtained by ACME"),
            NotNow::UnderWay => f.write_str("a renewal is under way already"),
            NotNow::Paused(until) => write!(f, "the authority wants to be left in peace until {}", date(*until)),
        }
    }
}

impl Renewals {
    /// Has a certificate renewed now. Pauses after failures are ours and do not count, those that an authority asks for do.
    pub fn ask(&self, certificate: &str, now: i64) -> Result<(), NotNow> {
        let mut tasks = self.lock();
        let task = tasks.get_mut(certificate).ok_or(NotNow::NotObtained)?;
        if task.is_asked || task.is_under_way {
            return Err(NotNow::UnderWay);
        }
        let paused_until = task.paused_until.max(self.rests.until(&task.directory_url, now));
        if paused_until > now {
            return Err(NotNow::Paused(paused_until));
        }
        task.is_asked = true;
        task.wake.notify_one();
        Ok(())
    }

    /// There is a task for it from now on, which is woken by what this gives.
    pub(in crate::control) fn begin(&self, certificate: &str, directory_url: &str) -> Arc<Notify> {
        let task = Task { directory_url: directory_url.to_owned(), ..Task::default() };
        let wake = task.wake.clone();
        self.lock().insert(certificate.to_owned(), task);
        wake
    }

    /// Whether it was asked for.
    pub(super) fn is_asked(&self, certificate: &str) -> bool {
        self.lock().get(certificate).is_some_and(|task| task.is_asked)
    }

    /// It is under way, asked for or not.
    pub(super) fn started(&self, certificate: &str) {
        self.change(certificate, |task| (task.is_asked, task.is_under_way) = (false, true));
    }

    /// It is still to be done: another box was at it.
    pub(super) fn put_off(&self, certificate: &str) {
        self.change(certificate, |task| task.is_asked = true);
    }

    /// It is over; `paused_until` is what the authority asks for.
    pub(super) fn ended(&self, certificate: &str, paused_until: i64) {
        self.change(certificate, |task| (task.is_under_way, task.paused_until) = (false, paused_until));
    }

    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.lock().retain(|name, _| keep(name));
    }

    fn change(&self, certificate: &str, change: impl FnOnce(&mut Task)) {
        if let Some(task) = self.lock().get_mut(certificate) {
            change(task);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_asked_for_once_and_not_in_a_pause() {
        let renewals = Renewals::default();
        assert_eq!(renewals.ask("a", 0), Err(NotNow::NotObtained));
        renewals.begin("a", "le");
        renewals.begin("b", "other");
        assert_eq!((renewals.ask("a", 0), renewals.is_asked("a")), (Ok(()), true));
        assert_eq!(renewals.ask("a", 0), Err(NotNow::UnderWay), "it is about to begin");
        renewals.started("a");
        assert_eq!((renewals.ask("a", 0), renewals.is_asked("a")), (Err(NotNow::UnderWay), false));
        renewals.ended("a", 100);
        assert_eq!(renewals.ask("a", 99), Err(NotNow::Paused(100)));
        assert_eq!(renewals.ask("a", 100), Ok(()));
        renewals.started("a");
        renewals.ended("a", i64::MIN);
        renewals.put_off("a");
        assert_eq!(
            (renewals.ask("a", 101), renewals.is_asked("a")),
            (Err(NotNow::UnderWay), true),
            "it is not forgotten"
        );
        renewals.started("a");
        renewals.ended("a", i64::MIN);
        renewals.rests.begin("le", Some(60), 200);
        assert_eq!(renewals.ask("a", 200), Err(NotNow::Paused(260)), "the whole authority is paused");
        assert_eq!(renewals.ask("b", 200), Ok(()));
        renewals.retain(|_| false);
        assert_eq!(renewals.ask("a", 100), Err(NotNow::NotObtained));
    }
}
