//! Keeps the keys of session tickets: makes them, lets time pass for them, and puts them into force. They are never
//! written to a disk: who starts anew has new ones, unless other boxes have them still.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::rand;

use crate::snapshot::{BuildError, SEALS_S, Secret, TicketKeys, Tickets};

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

/// Which keys this box puts where all of a fleet have theirs.
///
/// Keys that a box with its clock ahead has put there would be the last ones until that time comes. So a box to which they
/// are too far ahead begins anew, and the others follow. Whose clock is wrong nobody knows: two that do not agree would
/// go on like this for ever, and so each of them leaves it at that for a while.
#[derive(Debug, Default)]
pub struct Rotation {
    /// When this box last began anew, or has seen that another one did. Unix time in seconds.
    anew_s: Option<u64>,
}

impl Rotation {
    /// How long a line that is ahead is left as it is after the last one, in seconds: as long as until the next key is made.
    const PAUSE_S: u64 = SEALS_S / 2;

    /// Takes over the keys that the fleet has. Says whether this box has to [`advance`](Rotation::advance) them.
    pub fn follow(&mut self, keys: &mut TicketKeys, mut shared: TicketKeys, now_s: u64) -> bool {
        shared.keep_time(now_s);
        if keys.are_ahead(now_s) && !shared.are_ahead(now_s) {
            self.anew_s = Some(now_s);
        }
        if *keys != shared {
            keys.adopt(shared, now_s);
        }
        keys.want_next(now_s) || self.wants_anew(keys, now_s)
    }

    /// Makes what is to be put there.
    pub fn advance(&mut self, keys: &mut TicketKeys, now_s: u64) {
        if self.wants_anew(keys, now_s) {
            begin_anew(keys, now_s);
            self.anew_s = Some(now_s);
        } else if keys.want_next(now_s) {
            append(keys);
        }
    }

    fn wants_anew(&self, keys: &TicketKeys, now_s: u64) -> bool {
        // A clock that was set back does not make the pause longer.
        let is_paused = self.anew_s.is_some_and(|anew_s| now_s.abs_diff(anew_s) < Self::PAUSE_S);
        keys.are_ahead(now_s) && !is_paused
    }
}

fn begin_anew(keys: &mut TicketKeys, now_s: u64) {
    log::warn!(
        "ticket keys: those of the fleet are for a time in {} hours, so the clock of this box or of another one is wrong; new \
         ones are made. Look at the clocks of all boxes",
        keys.ahead_s(now_s) / 3600
    );
    match new_secret() {
        Some(secret) => keys.adopt(TicketKeys::new(secret, now_s), now_s),
        None => log::warn!("ticket keys: the system has no random numbers"),
    }
}

/// Adds the next key. Without random numbers there is none now, and later the one that is derived from the last.
fn append(keys: &mut TicketKeys) {
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

#[cfg(test)]
mod tests {
    use rustls::server::ProducesTickets as _;

    use super::*;

    const HOUR_S: u64 = 60 * 60;

    struct Member {
        keys: TicketKeys,
        rotation: Rotation,
        /// How far its clock is ahead.
        ahead_s: u64,
        /// How often it has put keys into the store.
        puts: u32,
    }

    impl Member {
        fn new(secret: u8, now_s: u64, ahead_s: u64) -> Member {
            let keys = TicketKeys::new(Secret::new([secret; 32]), now_s + ahead_s);
            Member { keys, rotation: Rotation::default(), ahead_s, puts: 0 }
        }

        /// What it does once in a second.
        fn look(&mut self, store: &mut Option<Vec<u8>>, now_s: u64) {
            let now_s = now_s + self.ahead_s;
            self.keys.keep_time(now_s);
            let shared = store.as_ref().map(|bytes| TicketKeys::decode(bytes).unwrap());
            if shared.is_none_or(|shared| self.rotation.follow(&mut self.keys, shared, now_s)) {
                self.rotation.advance(&mut self.keys, now_s);
                *store = Some(self.keys.encode().to_vec());
                self.puts += 1;
            }
        }

        fn tickets(&self, now_s: u64) -> Arc<Tickets> {
            Tickets::new(self.keys.ring(now_s + self.ahead_s))
        }
    }

    /// The names of the keys under which boxes with the right time seal, one after the other, in `hours`.
    fn names(members: &mut [Member], store: &mut Option<Vec<u8>>, start_s: u64, hours: u64) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for now_s in (start_s..start_s + hours * HOUR_S).step_by(60) {
            members.iter_mut().for_each(|member| member.look(store, now_s));
            let right: Vec<_> = members.iter().filter(|member| member.ahead_s == 0).collect();
            let ticket = right[0].tickets(now_s).encrypt(b"session").unwrap();
            let again = |member: &&Member| member.tickets(now_s).decrypt(&ticket).is_some();
            // Within a second or two: not before each has looked once more.
            assert!(now_s == start_s || right.iter().all(again), "at hour {}", (now_s - start_s) / HOUR_S);
            if names.last().is_none_or(|last| !ticket.starts_with(last)) {
                names.push(ticket[..16].to_vec());
            }
        }
        names
    }

    #[test]
    fn a_box_with_its_clock_ahead_does_not_stop_the_keys_of_a_fleet() {
        const START_S: u64 = 1_800_000_000;
        for ahead_h in [13, 3 * 24, 400 * 24] {
            let ahead = Member::new(0, START_S, ahead_h * HOUR_S);
            let mut members = vec![ahead, Member::new(1, START_S, 0), Member::new(2, START_S, 0)];
            let mut store = None;
            members[0].look(&mut store, START_S);
            assert!(TicketKeys::decode(store.as_ref().unwrap()).unwrap().are_ahead(START_S));
            let names = names(&mut members, &mut store, START_S, 48);
            assert!(names.len() >= 5, "{ahead_h} hours ahead: {} keys in 48 hours", names.len());
            let puts: Vec<u32> = members.iter().map(|member| member.puts).collect();
            assert!(puts.iter().sum::<u32>() <= 2 * 48, "{ahead_h} hours ahead: {puts:?}");
        }
    }

    #[test]
    fn when_a_clock_is_right_again_so_are_the_keys() {
        const START_S: u64 = 1_800_000_000;
        let mut members = vec![Member::new(0, START_S, 400 * 24 * HOUR_S), Member::new(1, START_S, 0)];
        let mut store = None;
        members[0].look(&mut store, START_S);
        members[0].ahead_s = 0;
        let names = names(&mut members, &mut store, START_S, 48);
        assert!((8..=10).contains(&names.len()), "{} keys in 48 hours", names.len());
    }
}
