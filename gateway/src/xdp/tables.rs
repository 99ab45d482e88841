//! The kernel's side of the lists: a table is exchanged as a whole, or changed entry by entry where little differs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::lpm_trie::Key;
use aya::maps::{Map, MapData, PerCpuArray};
use aya::{Ebpf, Pod};
use gateway_ebpf::abi::access::{
    self, CONDITIONS_MAX, Conditions, ENTRIES_MAX, Entry, HAS_BANS, HAS_PREFIX_V6, HAS_SINGLE_V6, HAS_V4, Policy,
    PrefixV4, SLOT,
};
use gateway_ebpf::abi::{V4, V6};

use super::batch::{Kind, Table};
use super::front::Front;
use super::lists::{Address, Changes, Lists, NEVER, Outcome, Row};
use super::{XdpError, clock};

/// More differences than this are a new table. Entries that are changed in place go one after the other through their
/// states, in the order that never lets a packet through that both tables drop; that takes microseconds for each.
const CHANGES_IN_PLACE: usize = 4096;

/// The maps of lists, and what is in them.
pub(super) struct Tables {
    word: Table<u32, u32>,
    outer: Outer,
    conditions: Table<u32, Conditions>,
    rule_packets: PerCpuArray<MapData, u64>,
    slot: u32,
    bans: bool,
    inner: Inner,
}

/// The arrays of maps, by slot.
struct Outer {
    front_v4: Table<u32, u32>,
    single_v4: Table<u32, u32>,
    prefix_v4: Table<u32, u32>,
    single_v6: Table<u32, u32>,
    prefix_v6: Table<u32, u32>,
}

/// One list's maps; what it has no entry for has no map.
#[derive(Default)]
struct Inner {
    v4: Option<InnerV4>,
    single_v6: Option<Table<V6, Entry>>,
    prefix_v6: Option<Table<Key<V6>, Entry>>,
}

struct InnerV4 {
    front: Front,
    single: Table<V4, Entry>,
    prefix: Table<Key<PrefixV4>, Entry>,
}

/// How two tables differ.
struct Difference {
    v4: Changes<u32>,
    v6: Changes<u128>,
}

/// The way from one list to another.
pub(super) struct Change {
    difference: Difference,
    /// The new list's maps, where they take the place of the old ones.
    filled: Option<Inner>,
}

impl Tables {
    pub fn new(ebpf: &mut Ebpf) -> Result<Tables, XdpError> {
        Ok(Tables {
            word: of_object(ebpf, access::LISTS)?,
            outer: Outer {
                front_v4: of_object(ebpf, access::FRONT_V4)?,
                single_v4: of_object(ebpf, access::SINGLE_V4)?,
                prefix_v4: of_object(ebpf, access::PREFIX_V4)?,
                single_v6: of_object(ebpf, access::SINGLE_V6)?,
                prefix_v6: of_object(ebpf, access::PREFIX_V6)?,
            },
            conditions: of_object(ebpf, access::CONDITIONS)?,
            rule_packets: super::load::map(ebpf, access::RULE_PACKETS)?,
            slot: 0,
            bans: false,
            inner: Inner::default(),
        })
    }

    /// Puts `new` into force, which `old` is, by the way between them. All or nothing: after an error `old` is in force. Says
    /// how many entries came and went.
    pub fn change(&mut self, old: &Lists, new: &Lists, change: Change) -> Result<(usize, usize), XdpError> {
        let Change { difference, filled } = change;
        let report = (difference.v4.added + difference.v6.added, difference.v4.gone.len() + difference.v6.gone.len());
        let filled = match filled {
            Some(filled) => filled,
            None if self.change_in_place(old, new, &difference).is_ok() => return Ok(report),
            // Some entry had no room.
            None => Inner::filled(new).map_err(not_taken).inspect_err(|_| self.restore(old))?,
        };
        self.exchange(new, filled).inspect_err(|_| self.restore(old))?;
        Ok(report)
    }

    /// Packets each rule decided on.
    pub fn rule_packets(&self, rule: u32) -> Result<u64, XdpError> {
        let packets =
            self.rule_packets.get(&rule, 0).map_err(|error| XdpError::map("read a rule's counter", &error))?;
        Ok(packets.iter().sum())
    }

    /// Begins to count for a new rule.
    pub fn reset_rule(&mut self, rule: u32) -> Result<(), XdpError> {
        super::counts::reset(&mut self.rule_packets, rule)
    }

    /// Packets that met this entry.
    pub fn packets_v4(&self, row: &Row<u32>) -> io::Result<u64> {
        let Some(v4) = &self.inner.v4 else { return Ok(0) };
        let entry = if row.is_single() { v4.single.get(&key_v4(row))? } else { v4.prefix.get(&prefix_v4(row))? };
        Ok(entry.map_or(0, |entry| entry.packets))
    }

    /// Packets that met this entry.
    pub fn packets_v6(&self, row: &Row<u128>) -> io::Result<u64> {
        let entry = match (row.is_single(), &self.inner.single_v6, &self.inner.prefix_v6) {
            (true, Some(single), _) => single.get(&key_v6(row))?,
            (false, _, Some(prefix)) => prefix.get(&prefix_v6(row))?,
            _ => None,
        };
        Ok(entry.map_or(0, |entry| entry.packets))
    }

    /// Says whether the program is to look for bans.
    pub fn set_bans(&mut self, bans: bool) -> Result<(), XdpError> {
        self.bans = bans;
        self.publish().map_err(|error| XdpError::map("say whether there are bans", &error))
    }

    fn restore(&mut self, old: &Lists) {
        let restored = Inner::filled(old).map_err(not_taken).and_then(|filled| self.exchange(old, filled));
        if let Err(error) = restored {
            ::log::error!("xdp: the lists in force are a mixture of the old and the new ones: {error}");
        }
    }

    /// Fails when there is no map for a new entry, or no room in it.
    fn change_in_place(&mut self, old: &Lists, new: &Lists, difference: &Difference) -> Result<(), InPlace> {
        let Difference { v4, v6 } = difference;
        self.write_conditions(self.slot, old.conditions.len(), new)?;
        if !v4.put.is_empty() || !v4.gone.is_empty() {
            self.inner.v4.as_ref().ok_or(InPlace::NoMap)?.change(v4)?;
        }
        self.inner.change_v6(v6)
    }

    /// Puts the maps of `lists` into the other slot and makes it the one in force. Nothing of the old list is taken away
    /// before no packet is under way that met it.
    fn exchange(&mut self, lists: &Lists, inner: Inner) -> Result<(), XdpError> {
        let slot = self.slot ^ SLOT;
        self.write_conditions(slot, 0, lists).map_err(not_taken)?;
        self.outer.set(slot, &inner).map_err(not_taken)?;
        let (old_slot, old_inner) = (self.slot, std::mem::replace(&mut self.inner, inner));
        self.slot = slot;
        if let Err(error) = self.publish() {
            (self.slot, self.inner) = (old_slot, old_inner);
            return Err(not_taken(error));
        }
        let waited = self.outer.wait(slot, &self.inner);
        if let Err(error) = waited.and_then(|()| self.outer.clear(old_slot, &old_inner)) {
            ::log::warn!("xdp: the old lists stay in the kernel's memory: {error}");
        }
        Ok(())
    }

    fn write_conditions(&self, slot: u32, from: usize, lists: &Lists) -> io::Result<()> {
        let first = slot as usize * CONDITIONS_MAX;
        let keys: Vec<u32> = (from..lists.conditions.len()).map(|at| (first + at) as u32).collect();
        self.conditions.update(&keys, &lists.conditions[from..])
    }

    fn publish(&self) -> io::Result<()> {
        let has = [
            (self.inner.v4.is_some(), HAS_V4),
            (self.inner.single_v6.is_some(), HAS_SINGLE_V6),
            (self.inner.prefix_v6.is_some(), HAS_PREFIX_V6),
            (self.bans, HAS_BANS),
        ];
        let word = has.iter().filter(|(has, _)| *has).fold(self.slot, |word, (_, bit)| word | bit);
        self.word.update(&[0], &[word])
    }
}

impl Change {
    /// Fills the maps of `new` where the difference is large: that takes long, and nobody has to wait for it.
    pub fn between(old: &Lists, new: &Lists) -> Result<Change, XdpError> {
        let (v4, v6) = (Changes::between(&old.v4, &new.v4), Changes::between(&old.v6, &new.v6));
        let count = v4.put.len() + v4.gone.len() + v6.put.len() + v6.gone.len();
        let is_small = count <= CHANGES_IN_PLACE && new.conditions.starts_with(&old.conditions);
        let filled = if is_small { None } else { Some(Inner::filled(new).map_err(not_taken)?) };
        Ok(Change { difference: Difference { v4, v6 }, filled })
    }
}

fn not_taken(error: io::Error) -> XdpError {
    XdpError::map("take the [[access]] lists", &error)
}

/// Why a table is not changed in place.
enum InPlace {
    /// The list in force has no map for a new entry.
    NoMap,
    /// A map is full, or the kernel has no memory. Which one, the exchange that follows says.
    Failed,
}

impl From<io::Error> for InPlace {
    fn from(_: io::Error) -> InPlace {
        InPlace::Failed
    }
}

impl Outer {
    fn set(&self, slot: u32, inner: &Inner) -> io::Result<()> {
        self.of(inner).iter().try_for_each(|(outer, inner)| outer.update(&[slot], &[inner.as_raw_fd() as u32]))
    }

    fn clear(&self, slot: u32, inner: &Inner) -> io::Result<()> {
        self.of(inner).iter().try_for_each(|(outer, _)| outer.remove_one(&slot))
    }

    /// Returns when no packet is under way that met another list. The kernel returns from a change of a map of maps when
    /// every program that could see the state before has ended, so this stores what is there. A list without entries has
    /// nothing to store, and nothing to wait for: all packets pass.
    fn wait(&self, slot: u32, inner: &Inner) -> io::Result<()> {
        self.of(inner).first().map_or(Ok(()), |(outer, inner)| outer.update(&[slot], &[inner.as_raw_fd() as u32]))
    }

    /// The maps of a list with their places.
    fn of<'a>(&'a self, inner: &'a Inner) -> Vec<(&'a Table<u32, u32>, BorrowedFd<'a>)> {
        let v4 = inner.v4.iter().flat_map(|v4| {
            [
                (&self.single_v4, v4.single.as_fd()),
                (&self.prefix_v4, v4.prefix.as_fd()),
                (&self.front_v4, v4.front.map().as_fd()),
            ]
        });
        let single_v6 = inner.single_v6.iter().map(|single| (&self.single_v6, single.as_fd()));
        let prefix_v6 = inner.prefix_v6.iter().map(|prefix| (&self.prefix_v6, prefix.as_fd()));
        v4.chain(single_v6).chain(prefix_v6).collect()
    }
}

impl Inner {
    fn filled(lists: &Lists) -> io::Result<Inner> {
        let v4 = if lists.v4.is_empty() { None } else { Some(InnerV4::filled(&lists.v4)?) };
        let (single, prefix): (Vec<_>, Vec<_>) = lists.v6.iter().partition(|row| row.is_single());
        Ok(Inner {
            v4,
            single_v6: filled(Kind::Hash, &single, key_v6)?,
            prefix_v6: filled(Kind::Trie, &prefix, prefix_v6)?,
        })
    }

    fn change_v6(&self, changes: &Changes<u128>) -> Result<(), InPlace> {
        for row in in_order(&changes.put, Order::LongestFirst) {
            match row.is_single() {
                true => put(self.single_v6.as_ref().ok_or(InPlace::NoMap)?, key_v6(row), row)?,
                false => put(self.prefix_v6.as_ref().ok_or(InPlace::NoMap)?, prefix_v6(row), row)?,
            }
        }
        for row in in_order(&changes.gone, Order::ShortestFirst) {
            match row.is_single() {
                true => self.single_v6.as_ref().ok_or(InPlace::NoMap)?.remove(&[key_v6(row)])?,
                false => self.prefix_v6.as_ref().ok_or(InPlace::NoMap)?.remove(&[prefix_v6(row)])?,
            }
        }
        Ok(())
    }
}

impl InnerV4 {
    fn filled(rows: &[Row<u32>]) -> io::Result<InnerV4> {
        let front = Front::create()?;
        let (single, prefix): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_single());
        let v4 = InnerV4 {
            single: with_room(Kind::Hash, single.len())?,
            prefix: with_room(Kind::Trie, prefix.len())?,
            front,
        };
        fill(&v4.single, &single, key_v4)?;
        fill(&v4.prefix, &prefix, prefix_v4)?;
        rows.iter().for_each(|row| v4.front.mark(row));
        Ok(v4)
    }

    fn change(&self, changes: &Changes<u32>) -> Result<(), InPlace> {
        for row in in_order(&changes.put, Order::LongestFirst) {
            match row.is_single() {
                true => put(&self.single, key_v4(row), row)?,
                false => put(&self.prefix, prefix_v4(row), row)?,
            }
            self.front.mark(row);
        }
        for row in in_order(&changes.gone, Order::ShortestFirst) {
            match row.is_single() {
                true => self.single.remove(&[key_v4(row)])?,
                false => self.prefix.remove(&[prefix_v4(row)])?,
            }
        }
        Ok(())
    }
}

/// The order in which entries are changed one by one. An address goes from what the old table says straight to what the
/// new one says: it has its new longest match before shorter ones, and keeps its old one until no shorter one is left that
/// goes.
#[derive(Clone, Copy)]
pub(super) enum Order {
    LongestFirst,
    ShortestFirst,
}

pub(super) fn in_order<A: Address>(rows: &[Row<A>], order: Order) -> Vec<&Row<A>> {
    let mut rows: Vec<&Row<A>> = rows.iter().collect();
    rows.sort_by_key(|row| match order {
        Order::LongestFirst => A::BITS - row.length,
        Order::ShortestFirst => row.length,
    });
    rows
}

/// Changes one entry, which goes on counting.
fn put<K: Pod, A: Address>(table: &Table<K, Entry>, key: K, row: &Row<A>) -> io::Result<()> {
    let packets = table.get(&key)?.map_or(0, |entry| entry.packets);
    table.update(&[key], &[Entry { packets, ..entry(&row.outcome) }])
}

/// A map with these rows; none when there are none.
fn filled<K: Pod, A: Address>(
    kind: Kind,
    rows: &[&Row<A>],
    key: impl Fn(&Row<A>) -> K,
) -> io::Result<Option<Table<K, Entry>>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let table = with_room(kind, rows.len())?;
    fill(&table, rows, key)?;
    Ok(Some(table))
}

fn fill<K: Pod, A: Address>(table: &Table<K, Entry>, rows: &[&Row<A>], key: impl Fn(&Row<A>) -> K) -> io::Result<()> {
    let keys: Vec<K> = rows.iter().map(|row| key(row)).collect();
    let entries: Vec<Entry> = rows.iter().map(|row| entry(&row.outcome)).collect();
    table.update(&keys, &entries)
}

/// Room for as many changes in place as there may be before the next exchange, and for a list of one to become longer.
fn with_room<K: Pod>(kind: Kind, rows: usize) -> io::Result<Table<K, Entry>> {
    Table::create(kind, (rows + 2 * CHANGES_IN_PLACE).min(ENTRIES_MAX + CHANGES_IN_PLACE) as u32)
}

fn entry(outcome: &Outcome) -> Entry {
    let Outcome { policy, until, then } = *outcome;
    let (expires_s, then) = match until {
        NEVER => (0, Policy(Policy::PASS)),
        until => (clock::boot_s(until), then),
    };
    Entry { packets: 0, policy, expires_s, then, unused: 0 }
}

impl<A: Address> Row<A> {
    fn is_single(&self) -> bool {
        self.length == A::BITS
    }
}

fn key_v4(row: &Row<u32>) -> V4 {
    row.first.to_be_bytes()
}

fn prefix_v4(row: &Row<u32>) -> Key<PrefixV4> {
    let [a, b, c, d] = key_v4(row);
    Key::new(u32::from(row.length) + 32, [0, 0, 0, 0, a, b, c, d])
}

fn key_v6(row: &Row<u128>) -> V6 {
    row.first.to_be_bytes()
}

fn prefix_v6(row: &Row<u128>) -> Key<V6> {
    Key::new(row.length.into(), key_v6(row))
}

/// A map of the object, as a table.
pub(super) fn of_object<K: Pod, V: Pod>(ebpf: &Ebpf, name: &str) -> Result<Table<K, V>, XdpError> {
    table(ebpf.map(name).ok_or(XdpError::WrongObject)?)
}

/// A map as a table.
pub(super) fn table<K: Pod, V: Pod>(map: &Map) -> Result<Table<K, V>, XdpError> {
    let data = match map {
        Map::Array(data) | Map::ArrayOfMaps(data) | Map::HashMap(data) | Map::LruHashMap(data) => data,
        _ => return Err(XdpError::WrongObject),
    };
    Table::open(data.fd().as_fd()).map_err(|error| XdpError::map("show a map of its own", &error))
}
