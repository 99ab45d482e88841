//! Keeps the keys of session tickets: makes them, lets time pass for them, and puts them into force. They are never
//! written to a disk: who starts anew has new ones, unless other boxes have them still.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::rand;

use crate::snapshot::{BuildError, Secret, TicketKeys, Tickets};

/// The ticket keys of this process.
#[derive(Debug)]
pub struct Keeper {
    keys: Mutex<TicketKeys>,
    tickets: Arc<Tickets>,
}

impl Keeper {
    /// Begins with a key of its own.
    pub fn new() -> Result<Keeper, BuildError> {
        let now_s = now_s();
        let secret = new_secret().ok_or_else(|| BuildError("ticket keys: the system has no random numbers".into()))?;
        let keys = TicketKeys::new(secret, now_s);
        let tickets = Tickets::new(keys.ring(now_s));
        Ok(Keeper { keys: Mutex::new(keys), tickets })
    }

    /// What is in force.
    pub fn tickets(&self) -> Arc<Tickets> {
        self.tickets.clone()
    }

    /// Lets time pass, once in a second. A box that is `alone` makes its next key itself; for one of a fleet somebody does.
    pub fn keep_time(&self, is_alone: bool) {
        self.change(|keys, now_s| {
            if is_alone && keys.are_ahead(now_s) {
                if let Some(secret) = new_secret() {
                    *keys = TicketKeys::new(secret, now_s);
                }
            } else if is_alone && keys.want_next(now_s) {
                append(keys);
            }
        });
    }

    /// Changes the keys and puts them into force.
    pub fn change<R>(&self, change: impl FnOnce(&mut TicketKeys, u64) -> R) -> R {
        let now_s = now_s();
        let mut keys = self.lock();
        keys.keep_time(now_s);
        let changed = change(&mut keys, now_s);
        self.tickets.set(keys.ring(now_s));
        changed
    }

    fn lock(&self) -> MutexGuard<'_, TicketKeys> {
        // A panic leaves them whole: each change is one push or one replacement.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the next key. Without random numbers there is none now, and later the one that is derived from the last.
pub fn append(keys: &mut TicketKeys) {
    match new_secret() {
        Some(secret) => keys.append(secret),
        None => log::warn!("ticket keys: the system has no random numbers"),
    }
}

fn new_secret() -> Option<Secret> {
    let mut secret = Secret::default();
    rand::fill(&mut secret[..]).ok()?;
    Some(secret)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
