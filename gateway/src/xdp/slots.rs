//! Numbers for things in the kernel's arrays: whoever has one keeps it while it exists. Pure.

use std::collections::BTreeMap;

/// Which key has which of a fixed number of places.
#[derive(Debug)]
pub(super) struct Slots<K> {
    of: BTreeMap<K, u32>,
    taken: Vec<bool>,
}

/// There are more keys than places.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<K: Ord + Clone> Slots<K> {
    pub fn new(places: usize) -> Slots<K> {
        Slots { of: BTreeMap::new(), taken: vec![false; places] }
    }

    /// Takes down who has a place already. Ignored where the place is taken or does not exist.
    pub fn restore(&mut self, key: K, place: u32) {
        if let Some(taken @ false) = self.taken.get_mut(place as usize)
            && !self.of.contains_key(&key)
        {
            *taken = true;
            self.of.insert(key, place);
        }
    }

    pub fn get(&self, key: &K) -> Option<u32> {
        self.of.get(key).copied()
    }

    /// Everybody who has a place.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.of.iter().map(|(key, place)| (key, *place))
    }

    /// The key's place, a free one if it has none yet.
    pub fn place(&mut self, key: &K) -> Result<u32, Full> {
        if let Some(place) = self.get(key) {
            return Ok(place);
        }
        let free = self.taken.iter().position(|taken| !taken).ok_or(Full)?;
        self.taken[free] = true;
        self.of.insert(key.clone(), free as u32);
        Ok(free as u32)
    }

    /// Frees the places of all keys that are not kept, and says which.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) -> Vec<(K, u32)> {
        let gone: Vec<(K, u32)> =
            self.of.iter().filter(|(key, _)| !keep(key)).map(|(key, place)| (key.clone(), *place)).collect();
        for (key, place) in &gone {
            self.of.remove(key);
            self.taken[*place as usize] = false;
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_place_and_a_free_one_is_used_again() {
        let mut slots = Slots::new(3);
        slots.restore("old", 1);
        slots.restore("same place", 1);
        slots.restore("no place", 3);
        let places: Vec<_> = ["a", "old", "b", "a"].iter().map(|key| slots.place(key).unwrap()).collect();
        assert_eq!(places, [0, 1, 2, 0]);
        assert_eq!(slots.place(&"c"), Err(Full));
        assert_eq!(slots.retain(|key| *key != "a"), [("a", 0)]);
        assert_eq!(slots.place(&"c"), Ok(0));
        assert_eq!(slots.get(&"same place"), None);
    }
}
