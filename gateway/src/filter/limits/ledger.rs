//! What several boxes share of their counters.
//!
//! Each box has a number of its own for each key and window, and writes the whole of it, never a difference: an exchange of
//! which nobody knows whether it succeeded is simply made again, and a store that has forgotten everything is told everything
//! by the next ones. What all have counted is the sum.
//!
//! This is the book of what was opened, told and learnt. It is pure: who makes the exchanges asks it what is
//! [due](Ledger::due), and says what was [learnt](Ledger::learn).

use std::collections::HashMap;
use std::sync::mpsc::Receiver;

use super::counters::{Counters, Tally};
use crate::filter::key_table::Place;

/// How many exchanges later what has not changed here is asked about again: the others may have counted meanwhile.
const IDLE_ROUNDS: u32 = 10;

/// How many of those in one exchange, the longest unasked first.
const IDLE_AT_ONCE: usize = 256;

/// Windows that are shared at once. Each exchange walks them all on the control thread, which has other things to do: 6 ms for
/// as many. Beyond, those that have counted least here are not shared any more.
const SHARED_MAX: usize = 1 << 16;

/// A window of a counter that has begun.
#[derive(Debug)]
pub struct Opened {
    pub place: Place,
    pub ends_s: u32,
    /// The key in words.
    pub key: String,
}

/// The book of one table of counters.
#[derive(Debug)]
pub struct Ledger {
    opened: Receiver<Opened>,
    pages: HashMap<(String, u32), Page>,
    /// Exchanges so far.
    round: u32,
    /// Windows that were given up before their end.
    given_up: u64,
}

#[derive(Debug)]
struct Page {
    place: Place,
    /// Counted at places that the key has lost to others since.
    lost: u32,
    /// Last seen at its place.
    seen: u32,
    /// The last number that the store has for certain; `None` when it may have none.
    told: Option<u32>,
    /// The exchange in which it was last told or asked about.
    round: u32,
}

/// A number that the store does not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, the same on every box.
    pub key: String,
    /// The end of its window, in seconds since 1970.
    pub ends_s: u32,
    /// What this box has counted.
    pub own: u32,
}

/// What the store has after an [`Entry`] was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learnt {
    /// What all boxes have counted, this one included.
    pub total: u64,
}

impl Ledger {
    /// An empty one, which hears of counters by `opened`.
    pub fn new(opened: Receiver<Opened>) -> Ledger {
        Ledger { opened, pages: HashMap::new(), round: 0, given_up: 0 }
    }

    /// Every number that has changed since it was told, and some that have not been asked about for long, after windows that
    /// are over at `now_s` have been forgotten.
    pub fn due(&mut self, counters: &Counters, now_s: u64) -> Vec<Entry> {
        self.pages.retain(|(_, ends_s), _| u64::from(*ends_s) > now_s);
        for opened in self.opened.try_iter() {
            open(&mut self.pages, opened, counters);
        }
        // Counters that gave way to others are remembered while there is room, and begin anew when they come again later.
        if self.pages.len() > counters.places() {
            self.pages.retain(|(_, ends_s), page| counters.own(page.place, *ends_s).is_some());
        }
        self.shorten(counters);
        self.round = self.round.wrapping_add(1);
        let (mut due, mut idle) = (Vec::new(), Vec::new());
        for (key, page) in &mut self.pages {
            page.look(counters, key.1);
            match page.told == Some(page.own()) {
                false => due.push(page.entry(key, self.round)),
                true if self.round.wrapping_sub(page.round) >= IDLE_ROUNDS => idle.push((key, page)),
                true => {}
            }
        }
        if idle.len() > IDLE_AT_ONCE {
            let unasked = |(_, page): &(_, &mut Page)| std::cmp::Reverse(self.round.wrapping_sub(page.round));
            idle.select_nth_unstable_by_key(IDLE_AT_ONCE, unasked);
        }
        due.extend(idle.into_iter().take(IDLE_AT_ONCE).map(|(key, page)| page.entry(key, self.round)));
        due
    }

    /// Gives up those that have counted least where there are too many.
    fn shorten(&mut self, counters: &Counters) {
        let mut excess = self.pages.len().saturating_sub(SHARED_MAX);
        if excess == 0 {
            return;
        }
        self.given_up += excess as u64;
        let look = |((_, ends_s), page): (&(String, u32), &mut Page)| {
            page.look(counters, *ends_s);
            page.own()
        };
        let mut counted: Vec<u32> = self.pages.iter_mut().map(look).collect();
        let (_, least, _) = counted.select_nth_unstable(excess - 1);
        self.pages.retain(|_, page| {
            let stays = excess == 0 || page.own() > *least;
            excess -= usize::from(!stays);
            stays
        });
    }

    /// How many windows have been given up since this was last asked, because too many were shared.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// The store has this entry now, and so much of all boxes.
    pub fn learn(&mut self, counters: &Counters, entry: Entry, learnt: Learnt) {
        let (ends_s, own) = (entry.ends_s, entry.own);
        let Some(page) = self.pages.get_mut(&(entry.key, ends_s)) else { return };
        page.told = Some(own);
        // What was lost with a place is as good as others': the counter at the new place does not have it.
        let others = learnt.total.saturating_sub(own.into()) + u64::from(page.lost);
        counters.set_others(page.place, Tally { ends_s, count: u32::try_from(others).unwrap_or(u32::MAX) });
    }

    /// The store may have forgotten everything: all is told again.
    pub fn tell_all(&mut self) {
        self.pages.values_mut().for_each(|page| page.told = None);
    }
}

fn open(pages: &mut HashMap<(String, u32), Page>, Opened { place, ends_s, key }: Opened, counters: &Counters) {
    match pages.get_mut(&(key.clone(), ends_s)) {
        // Of two beginnings the earlier one may be heard of later.
        Some(page) if counters.own(page.place, ends_s).is_some() => {}
        // It had lost its place, and has begun anew.
        Some(page) => {
            page.lost = page.own();
            (page.place, page.seen) = (place, 0);
        }
        None => _ = pages.insert((key, ends_s), Page { place, lost: 0, seen: 0, told: None, round: 0 }),
    }
}

impl Page {
    fn entry(&mut self, (key, ends_s): &(String, u32), round: u32) -> Entry {
        self.round = round;
        Entry { key: key.clone(), ends_s: *ends_s, own: self.own() }
    }

    fn look(&mut self, counters: &Counters, ends_s: u32) {
        if let Some(count) = counters.own(self.place, ends_s) {
            self.seen = count;
        }
    }

    fn own(&self) -> u32 {
        self.lost.saturating_add(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::config::model::LimitUnit;
    use crate::filter::limits::counters::{Hits, Window};
    use crate::filter::limits::rules::Key;

    const ENDS_S: u32 = 120;

    /// Counts for a key in a table of one set.
    fn count(counters: &Counters, domain: &str, hits: u32) -> Opened {
        let window = Window { ends_s: ENDS_S, length_s: 60, now_s: 60 };
        let key = Key { domain, entries: &[], shared: 0, unit: LimitUnit::Minute };
        let place = counters.tally(key, window, Hits::Add(hits)).place.unwrap();
        Opened { place, ends_s: ENDS_S, key: domain.to_owned() }
    }

    #[test]
    fn a_beginning_that_is_heard_of_late_or_after_the_next_one_costs_no_count() {
        let counters = Counters::new(1, false);
        let (heard, opened) = sync_channel(16);
        let mut ledger = Ledger::new(opened);
        (1..counters.places()).for_each(|n| _ = count(&counters, &n.to_string(), 1_000));
        let due = |ledger: &mut Ledger| ledger.due(&counters, 60).pop().map(|entry| entry.own);
        heard.send(count(&counters, "x", 50)).unwrap();
        assert_eq!(due(&mut ledger), Some(50));
        // It gives way and comes back to the same place, twice, and the book hears of it too late and the wrong way round.
        let again = [2, 3].map(|hits| {
            count(&counters, "other", 60);
            count(&counters, "x", 100 * hits)
        });
        ledger.tell_all();
        assert_eq!(due(&mut ledger), Some(50), "the new counter is not the one that the book knows");
        let [first, second] = again;
        heard.send(second).unwrap();
        heard.send(first).unwrap();
        assert_eq!(due(&mut ledger), Some(350));
        count(&counters, "x", 1);
        assert_eq!(due(&mut ledger), Some(351));
    }
}
