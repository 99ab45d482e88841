//! A word of 64 bits for each of many keys, in memory of fixed size, without locks.
//!
//! A key is kept as 48 bits of a hash, whose secret an attacker does not know; other bits of the hash choose a set of fifteen
//! places, of which any may hold the key. When a key comes that is in none, the word that is the least loss gives way: whoever
//! uses the table says what a loss is. There are twice as many places as keys are wanted, so that few sets (one in 200) are
//! full when the table has as many keys as it should.
//!
//! # Several threads
//!
//! Changing the word of a key that is there is one compare-and-exchange. Only one thread at a time begins a key in a set, or a
//! key might begin in two places; `turns` says whose turn it is. The others wait for it, but not for long: it may have
//! lost its processor. Whoever has waited long enough takes the key for one that nobody has ever counted, and what it would have
//! counted is lost: that is told as a loss, like that of a word which gave way.
//!
//! A place changes hands in this order: the old key goes, the new word comes, the new key comes. So who finds a key finds its
//! word and never that of the key before; and who has found a key, has then read the word, and still finds the key, has read
//! that key's word. What is left: a thread that stops between that and its exchange, while the place goes to another key and
//! the other word gets the very bits of the first. Then the other key has what was meant for the first: one request more.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Places of a set: with `turns`, their keys are two cache lines, which are read one after the other.
const WAYS: usize = 15;

/// Places for each key that is wanted.
const ROOM: usize = 2;

/// How often one looks whether another thread has begun its key, which takes it a few dozen nanoseconds. As many looks are some
/// microseconds.
const PATIENCE: usize = 100;

/// Bits of a key that say in which turn it began.
const TURN_BITS: u32 = 16;

/// Words by key.
#[derive(Debug)]
pub struct KeyTable {
    sets: Box<[Set]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Set {
    /// Twice the number of keys that have begun, and one more while one begins.
    turns: AtomicU64,
    /// Bits of the hash, and the turn: a key that comes back after it had to go is another one. 0 is none.
    keys: [AtomicU64; WAYS],
    words: [AtomicU64; WAYS],
}

/// Where a key is, until it gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number among all places.
    pub index: usize,
    /// As the set has it. No two that were at one place have the same, but by a chance of one in 65 536 for one key.
    key: u64,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed<R> {
    /// What the change told.
    pub told: R,
    /// Where the key is. `None`: nothing was changed, as there was nothing to change, or no turn to be had.
    pub place: Option<Place>,
    /// Whether a word that was a loss gave way: another key's, or the new one of this key, for which there was no turn.
    pub evicted: bool,
}

impl KeyTable {
    /// A table for about `max_keys` keys.
    pub fn new(max_keys: u32) -> KeyTable {
        let sets = (max_keys as usize * ROOM).div_ceil(WAYS).max(1);
        KeyTable { sets: (0..sets).map(|_| Set::default()).collect(), hasher: RandomState::new() }
    }

    /// Changes the word of a key. `change` gets the word, 0 for a new key, and says what it is to be, if it is to change; it
    /// may be asked several times, and what it told last counts. `loss` is what it costs to forget a word, 0 for nothing.
    pub fn change<R>(
        &self,
        key: impl Hash,
        loss: impl Fn(u64) -> u64,
        change: impl Fn(u64) -> (Option<u64>, R),
    ) -> Changed<R> {
        let hash = self.hasher.hash_one(key);
        // The lower half chooses the set, the upper three quarters are kept.
        let number = (((hash & u64::from(u32::MAX)) * self.sets.len() as u64) >> 32) as usize;
        let (set, hash) = (&self.sets[number], (hash >> TURN_BITS).max(1) << TURN_BITS);
        let at = |way: usize, key| Some(Place { index: number * WAYS + way, key });
        for _ in 0..PATIENCE {
            if let Some((way, key)) = set.find(hash) {
                if let Some(told) = set.change(way, key, &change) {
                    return Changed { told, place: at(way, key), evicted: false };
                }
            } else if let Some(turn) = set.take_turn() {
                let (word, told) = change(0);
                let Some(word) = word else { return Changed { told, place: None, evicted: false } };
                // Another thread may have begun it in the turn before.
                if set.find(hash).is_none() {
                    let key = hash | turn.key_bits();
                    let (way, lost) = turn.begin(key, word, &loss);
                    return Changed { told, place: at(way, key), evicted: lost > 0 };
                }
            } else {
                std::hint::spin_loop();
            }
        }
        let (word, told) = change(0);
        Changed { told, place: None, evicted: word.is_some_and(|word| loss(word) > 0) }
    }

    /// The word of the key at `place`; `None` when the key is not there any more.
    pub fn get(&self, place: Place) -> Option<u64> {
        let (set, way) = (&self.sets[place.index / WAYS], place.index % WAYS);
        set.word(way, place.key)
    }

    /// How many keys there may be at once.
    pub fn places(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// How many words are such.
    pub fn count(&self, is_such: impl Fn(u64) -> bool) -> usize {
        let of_set = |set: &Set| set.words.iter().filter(|word| is_such(word.load(Relaxed))).count();
        self.sets.iter().map(of_set).sum()
    }
}

impl Place {
    /// 32 bits which say of a number that it is about the key at this place, and `about` what of it.
    pub fn seal(self, about: u32) -> u32 {
        let mixed = (self.key ^ u64::from(about)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) as u32
    }
}

impl Set {
    /// Where a key is, by the bits of its hash, and what it is kept as.
    fn find(&self, hash: u64) -> Option<(usize, u64)> {
        // With the key comes the word that it began with.
        let mut keys = self.keys.iter().map(|key| key.load(Acquire)).enumerate();
        keys.find(|(_, key)| key >> TURN_BITS == hash >> TURN_BITS)
    }

    /// The word of a key that was found there; `None` when it has gone since.
    fn word(&self, way: usize, key: u64) -> Option<u64> {
        // Who reads the next key's word sees that this key has gone.
        let word = self.words[way].load(Acquire);
        (self.keys[way].load(Relaxed) == key).then_some(word)
    }

    fn change<R>(&self, way: usize, key: u64, change: impl Fn(u64) -> (Option<u64>, R)) -> Option<R> {
        loop {
            let before = self.word(way, key)?;
            let (after, told) = change(before);
            let Some(after) = after else { return Some(told) };
            // Nothing else is ordered by it, and an exchange that fails means that another has succeeded, or a key has gone.
            if self.words[way].compare_exchange_weak(before, after, Relaxed, Relaxed).is_ok() {
                return Some(told);
            }
        }
    }

    /// The right to begin a key, unless another thread has it.
    fn take_turn(&self) -> Option<Turn<'_>> {
        let turns = self.turns.load(Relaxed);
        let is_free = turns.is_multiple_of(2);
        // What was done in the turns before is to be seen in this one.
        let taken = is_free && self.turns.compare_exchange(turns, turns + 1, Acquire, Relaxed).is_ok();
        // Not `then_some`: a turn that nobody has taken must not end.
        taken.then(|| Turn { set: self, number: turns / 2 })
    }
}

/// The right to begin a key in a set.
struct Turn<'a> {
    set: &'a Set,
    number: u64,
}

impl Turn<'_> {
    fn key_bits(&self) -> u64 {
        self.number & ((1 << TURN_BITS) - 1)
    }

    /// Puts a key where it costs least. Says where, and what it has cost.
    fn begin(&self, key: u64, word: u64, loss: impl Fn(u64) -> u64) -> (usize, u64) {
        let Set { keys, words, .. } = self.set;
        let lost = |way: usize| if keys[way].load(Relaxed) == 0 { 0 } else { loss(words[way].load(Relaxed)) };
        let (lost, way) = (0..WAYS).map(|way| (lost(way), way)).min().unwrap_or_default();
        keys[way].store(0, Relaxed);
        words[way].store(word, Release);
        keys[way].store(key, Release);
        (way, lost)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.set.turns.store((self.number + 1) * 2, Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Adds to the word of a key.
    fn add(table: &KeyTable, key: u32, more: u64) -> Changed<u64> {
        table.change(key, |word| word, |word| (Some(word + more), word + more))
    }

    fn get(table: &KeyTable, key: u32) -> u64 {
        table.change(key, |word| word, |word| (None, word)).told
    }

    /// Runs `each` on as many threads as would be workers, for each round; all of them begin a round at the same time.
    fn in_step(threads: usize, rounds: u32, each: impl Fn(usize, u32) + Sync) {
        let arrived = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (arrived, each) = (&arrived, &each);
                scope.spawn(move || {
                    for round in 0..rounds {
                        arrived.fetch_add(1, Relaxed);
                        while arrived.load(Relaxed) < (round as usize + 1) * threads {
                            std::thread::yield_now();
                        }
                        each(thread, round);
                    }
                });
            }
        });
    }

    #[test]
    fn each_key_has_a_word_of_its_own() {
        let table = KeyTable::new(1_000);
        let evicted = (0..1_000).filter(|&key| add(&table, key, u64::from(key) + 10).evicted).count();
        let lost = (0..1_000).filter(|&key| get(&table, key) != u64::from(key) + 10).count();
        // One set in 200 has more than fifteen of them, and there are 134 sets; this many would be one chance in millions.
        assert!(evicted <= 20 && lost <= 40, "{evicted} evicted, {lost} lost");
        assert_eq!((table.places(), table.count(|word| word > 0)), (134 * 15, 1_000 - evicted));
    }

    #[test]
    fn the_word_that_is_the_least_loss_gives_way() {
        let table = KeyTable::new(1);
        (1..=15).for_each(|key| assert!(!add(&table, key, 100 + u64::from(key)).evicted, "there is room for {key}"));
        assert!(add(&table, 16, 500).evicted);
        assert_eq!((get(&table, 1), get(&table, 2), get(&table, 16)), (0, 102, 500));
        // What is no loss gives way unnoticed.
        let small_is_no_loss = |word: u64| if word < 104 { 0 } else { word };
        assert!(!table.change(17, small_is_no_loss, |word| (Some(word + 600), ())).evicted);
    }

    #[test]
    fn a_key_that_comes_back_to_its_place_is_another_one() {
        let table = KeyTable::new(1);
        (1..=14).for_each(|key| _ = add(&table, key, 1_000));
        let first = add(&table, 15, 1).place.unwrap();
        assert!(add(&table, 16, 2).evicted && add(&table, 15, 3).evicted);
        let second = add(&table, 15, 0).place.unwrap();
        assert_eq!((first.index, table.get(first), table.get(second)), (second.index, None, Some(3)));
        assert_ne!(first.seal(7), second.seal(7));
        assert_ne!(first.seal(7), first.seal(8));
    }

    #[test]
    fn nobody_waits_for_long_for_a_thread_that_has_stopped() {
        let table = KeyTable::new(1);
        add(&table, 1, 5);
        let _turn = table.sets[0].take_turn().unwrap();
        assert_eq!(add(&table, 1, 1).told, 6, "a key that is there needs no turn");
        assert_eq!(add(&table, 2, 7), Changed { told: 7, place: None, evicted: true }, "its count is lost");
        assert_eq!(get(&table, 2), 0, "where there is nothing to count, nothing is lost");
        assert!(!table.change(2, |word| word, |word| (None, word)).evicted);
        assert!(!table.change(2, |_| 0, |word| (Some(word + 1), ())).evicted);
    }

    #[test]
    fn threads_that_begin_the_same_keys_at_once_lose_no_count_and_have_one_word_for_each() {
        // Four times the room: no set overflows.
        let (table, rounds, threads) = (KeyTable::new(80_000), 2_000, 4);
        let uncounted = AtomicUsize::new(0);
        // Each thread in an order of its own, so that different keys begin at once as well.
        in_step(threads, rounds, |thread, round| {
            for n in 0..10 {
                let key = round * 10 + (n + thread as u32 * 3) % 10;
                uncounted.fetch_add(usize::from(add(&table, key, 1).place.is_none()), Relaxed);
            }
        });
        let keys = table.count(|word| word > 0);
        let counted: u64 = (0..rounds * 10).map(|key| get(&table, key)).sum();
        let expected = (rounds as usize * 10 * threads) as u64;
        assert_eq!((keys, counted + uncounted.load(Relaxed) as u64), (rounds as usize * 10, expected));
    }

    #[test]
    fn threads_that_fight_for_one_set_never_count_for_another_key() {
        // Each key counts in its own digit, so a word tells whose counts it has.
        let (table, digit) = (KeyTable::new(1), |key: u32| 1_u64 << (key % 20 * 3));
        in_step(4, 20_000, |thread, round| {
            let key = (round * 7 + thread as u32 * 5) % 20;
            let own = digit(key) * 7;
            let told =
                table.change(key, |word| word, |word| (Some(if word == own { word } else { word + digit(key) }), word));
            assert_eq!(told.told & !own, 0, "{key} has another's counts");
        });
    }
}
