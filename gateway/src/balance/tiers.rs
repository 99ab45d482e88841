//! A cluster's endpoints, or a subset of them, in tiers: those of the first take everything while enough of them are up.
//!
//! Everything here is worked out once, when a snapshot is built, but for how many endpoints are up. That each worker works out
//! again when it finds that some endpoint's state has changed, and keeps in a place of its own: no lock, no allocation,
//! and nothing to do while nothing changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::alias::Alias;
use super::hash::{Bits, mix};
use super::load::{self, Count, Part};
use super::maglev::{self, NOBODY, Share};
use super::ring::Ring;
use super::round_robin::RoundRobin;
use crate::config::model::Balance;

/// What is known of the endpoints now. Endpoints are known by their index in the cluster.
pub trait Hosts {
    /// Whether it takes new requests.
    fn is_up(&self, at: usize) -> bool;
    /// Requests it has at this moment, over all workers.
    fn active(&self, at: usize) -> u32;
    /// How much of its share it takes, from 1 to [`WARM`].
    fn warmth(&self, at: usize) -> u32;
    /// Whether this request may go to it.
    fn may(&self, at: usize) -> bool;
    /// Counts the changes of what `is_up` says.
    fn flips(&self) -> u64;
}

/// The warmth of an endpoint that takes its full share.
pub const WARM: u32 = 1000;

/// An endpoint's place in the order of things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index in the cluster.
    pub at: u32,
    /// Where it is.
    pub address: SocketAddr,
    /// Its share among those of its tier: at least 1.
    pub weight: u16,
    /// Which tier; the smallest comes first.
    pub tier: u16,
    /// It gets nothing new, however bad things are. It keeps its keys, until it is taken out.
    pub drain: bool,
}

/// What a pick depends on besides the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The worker's number.
    pub worker: usize,
    /// Random bits.
    pub random: u64,
    /// The key of those who must meet the same endpoint; random where there is none.
    pub key: Option<u64>,
}

/// The tiers, compiled.
pub struct Tiers {
    plan: Plan,
    tiers: Box<[Tier]>,
    seats: Box<[Seat]>,
}

/// What they are made from: equal plans make equal tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    balance: Balance,
    panic_threshold: u8,
    places: Vec<Place>,
}

struct Tier {
    members: Box<[Member]>,
    order: Order,
}

struct Member {
    at: u32,
    weight: u16,
    drain: bool,
    digest: u64,
}

enum Order {
    RoundRobin(RoundRobin),
    LeastRequest(Alias),
    Random(Alias),
    Ring(Ring),
    Maglev(Box<[u16]>),
}

/// What one worker remembers. Only it writes here, so it has cache lines of its own.
#[repr(align(128))]
struct Seat {
    /// [`Hosts::flips`] when the parts were worked out.
    seen: AtomicU64,
    /// By tier.
    tiers: Box<[SeatTier]>,
}

struct SeatTier {
    /// A [`Part`] in one word: the percent, and above them whether there is panic.
    part: AtomicU32,
    /// The place in the round.
    cursor: AtomicU64,
}

/// A number of flips that never is: nothing has been worked out.
const NEVER: u64 = u64::MAX;

const PANIC: u32 = 1 << 8;

/// Endpoints looked at in the order of the policy. When none of these takes the request, nearly all are down, and each
/// is looked at: with half of them down, that is for one request in four billion.
const PROBES: usize = 32;

/// Tiers that are told apart: one for each priority, twice where some endpoints are preferred.
pub const TIERS_MAX: usize = 256;

/// The places in the Maglev table: Envoy's `table_size`, and that of the packet program.
const MAGLEV_SIZE: usize = 65_537;

impl Tiers {
    /// Compiles tiers for so many workers. Those of `before` that are the same are used again, with what workers remember.
    /// `places` are in the order of the cluster.
    pub fn build<'a>(
        balance: Balance,
        panic_threshold: u8,
        places: Vec<Place>,
        workers: usize,
        mut before: impl Iterator<Item = &'a Arc<Tiers>>,
    ) -> Arc<Tiers> {
        let plan = Plan { balance, panic_threshold, places };
        if let Some(same) = before.find(|before| before.plan == plan && before.seats.len() == workers) {
            return same.clone();
        }
        let mut ranks: Vec<u16> = plan.places.iter().map(|place| place.tier).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks.truncate(TIERS_MAX);
        let of_rank = |rank: &u16| Tier::new(balance, plan.places.iter().filter(|place| place.tier == *rank));
        let tiers: Box<[Tier]> = ranks.iter().map(of_rank).collect();
        let seats = (0..workers).map(|worker| Seat::new(&tiers, worker, workers)).collect();
        Arc::new(Tiers { plan, tiers, seats })
    }

    /// Whether the endpoint of this index is among these.
    pub fn has(&self, at: u32) -> bool {
        self.plan.places.binary_search_by_key(&at, |place| place.at).is_ok()
    }

    /// Whether some endpoint of these is up.
    pub fn any_up(&self, hosts: &impl Hosts) -> bool {
        self.tiers.iter().flat_map(|tier| &tier.members).any(|member| hosts.is_up(member.at as usize))
    }

    /// An endpoint for a request; `None` when none takes it.
    pub fn pick(&self, draw: Draw, hosts: &impl Hosts) -> Option<usize> {
        let seat = &self.seats[draw.worker];
        let mut bits = Bits::of(draw.random);
        // Twice: the last endpoint that was up may go down between the two looks at it.
        for _ in 0..2 {
            let flips = self.refresh(seat, hosts);
            let picked = self.pick_tier(seat, &draw, &mut bits).and_then(|first| {
                let others = (0..self.tiers.len()).filter(|tier| *tier != first);
                std::iter::once(first).chain(others).find_map(|tier| self.pick_in(tier, seat, &draw, &mut bits, hosts))
            });
            if picked.is_some() || hosts.flips() == flips {
                return picked;
            }
        }
        None
    }

    /// Works the parts out where they may have changed.
    fn refresh(&self, seat: &Seat, hosts: &impl Hosts) -> u64 {
        let flips = hosts.flips();
        if seat.seen.load(Relaxed) == flips {
            return flips;
        }
        let mut counts = [Count::default(); TIERS_MAX];
        let mut parts = [Part::default(); TIERS_MAX];
        for (tier, count) in self.tiers.iter().zip(&mut counts) {
            for member in tier.members.iter().filter(|member| !member.drain) {
                count.all += 1;
                count.up += u32::from(hosts.is_up(member.at as usize));
            }
        }
        let len = self.tiers.len();
        load::split(&counts[..len], self.plan.panic_threshold, &mut parts[..len]);
        for (part, tier) in parts.iter().zip(&seat.tiers) {
            tier.part.store(u32::from(part.up_to) | if part.panic { PANIC } else { 0 }, Relaxed);
        }
        seat.seen.store(flips, Relaxed);
        flips
    }

    /// The tier whose turn it is; `None` when there is no endpoint that could be used.
    fn pick_tier(&self, seat: &Seat, draw: &Draw, bits: &mut Bits) -> Option<usize> {
        if let [only] = &seat.tiers[..] {
            return (only.part.load(Relaxed) & 0xff > 0).then_some(0);
        }
        // Apart from the bits of the key that choose within the tier.
        let mut bits = draw.key.filter(|_| self.plan.balance.hashes()).map_or(*bits, |key| Bits::of(mix(!key)));
        let point = bits.below(100) as u32;
        seat.tiers.iter().position(|tier| point < tier.part.load(Relaxed) & 0xff)
    }

    fn pick_in(&self, tier: usize, seat: &Seat, draw: &Draw, bits: &mut Bits, hosts: &impl Hosts) -> Option<usize> {
        let (tier, seat) = (&self.tiers[tier], &seat.tiers[tier]);
        let panic = seat.part.load(Relaxed) & PANIC != 0;
        let takes = |member: usize| {
            let Member { at, drain, .. } = tier.members[member];
            !drain && (panic || hosts.is_up(at as usize)) && hosts.may(at as usize)
        };
        let warm = |member: usize, bits: &mut Bits| {
            let warmth = hosts.warmth(tier.members[member].at as usize);
            warmth >= WARM || bits.below(WARM.into()) < warmth.into()
        };
        let member = match &tier.order {
            Order::RoundRobin(round) => {
                let mut cursor = seat.cursor.load(Relaxed);
                let picked = round.pick(&mut cursor, PROBES, |member| takes(member) && warm(member, bits));
                seat.cursor.store(cursor, Relaxed);
                picked.or_else(|| tier.any(bits, hosts, takes))
            }
            Order::Random(alias) => draw_from(alias, bits, |member, bits| takes(member) && warm(member, bits))
                .or_else(|| tier.any(bits, hosts, takes)),
            Order::LeastRequest(alias) => {
                let one = draw_from(alias, bits, |member, bits| takes(member) && warm(member, bits))
                    .or_else(|| tier.any(bits, hosts, takes))?;
                // With few endpoints the second may be hard to draw; then there is hardly another one.
                let other = draw_from(alias, bits, |member, bits| member != one && takes(member) && warm(member, bits));
                Some(other.map_or(one, |other| tier.less_busy(one, other, hosts)))
            }
            Order::Ring(ring) => {
                let key = draw.key.unwrap_or_else(|| bits.draw());
                // An endpoint has many points in a row only when there is no other.
                ring.walk(key).take(PROBES).find(|&member| takes(member)).or_else(|| tier.rendezvous(key, takes))
            }
            Order::Maglev(table) => {
                let key = draw.key.unwrap_or_else(|| bits.draw());
                // The keys of one that is down are strewn over all others, as they would be without it.
                let mut places = Bits::of(key);
                (0..PROBES)
                    .map(|_| table[places.below(MAGLEV_SIZE as u64) as usize])
                    .filter(|place| *place != NOBODY)
                    .map(usize::from)
                    .find(|&member| takes(member))
                    .or_else(|| tier.rendezvous(key, takes))
            }
        };
        member.map(|member| tier.members[member].at as usize)
    }
}

fn draw_from(alias: &Alias, bits: &mut Bits, mut takes: impl FnMut(usize, &mut Bits) -> bool) -> Option<usize> {
    (0..PROBES).find_map(|_| {
        let member = alias.draw(bits)?;
        takes(member, bits).then_some(member)
    })
}

impl Tier {
    fn new<'a>(balance: Balance, places: impl Iterator<Item = &'a Place>) -> Tier {
        let mut places: Vec<&Place> = places.collect();
        if balance.hashes() {
            // Who gets which key is a matter of the addresses and not of the order of the file, or of an answer of DNS.
            places.sort_by_key(|place| place.address);
        }
        let weights: Vec<u16> = places.iter().map(|place| place.weight).collect();
        let shares = || -> Vec<Share> {
            places.iter().map(|place| Share { address: place.address, weight: place.weight.into() }).collect()
        };
        let order = match balance {
            Balance::RoundRobin => Order::RoundRobin(RoundRobin::new(&weights)),
            Balance::LeastRequest => Order::LeastRequest(Alias::new(&weights)),
            Balance::Random => Order::Random(Alias::new(&weights)),
            Balance::RingHash => Order::Ring(Ring::new(&shares())),
            Balance::Maglev => Order::Maglev(maglev::table(&shares(), MAGLEV_SIZE).into()),
        };
        let member = |place: &&Place| {
            let Place { at, address, weight, tier: _, drain } = **place;
            Member { at, weight, drain, digest: maglev::digest(address, 3) }
        };
        Tier { members: places.iter().map(member).collect(), order }
    }

    /// The one with fewer requests for its weight; the first when both have as many, so that idle endpoints are picked by
    /// weight alone.
    fn less_busy(&self, first: usize, second: usize, hosts: &impl Hosts) -> usize {
        let of = |member: usize| {
            let Member { at, weight, .. } = &self.members[member];
            (u64::from(hosts.active(*at as usize)), u64::from(*weight) * u64::from(hosts.warmth(*at as usize)))
        };
        let ((active, share), (other_active, other_share)) = (of(first), of(second));
        if other_active * share < active * other_share { second } else { first }
    }

    /// Any that takes the request, by weight. Looks at each.
    fn any(&self, bits: &mut Bits, hosts: &impl Hosts, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let share = |member: usize| {
            let Member { at, weight, .. } = &self.members[member];
            if takes(member) { u64::from(*weight) * u64::from(hosts.warmth(*at as usize)) } else { 0 }
        };
        let total: u64 = (0..self.members.len()).map(share).sum();
        let mut point = if total > 0 { bits.below(total) } else { return None };
        (0..self.members.len()).find(|&member| {
            let share = share(member);
            let is_here = point < share;
            point = point.saturating_sub(share);
            is_here
        })
    }

    /// The same one for a key as long as it takes requests, by weight (Thaler and Ravishankar, "Using Name-Based Mappings
    /// to Increase Hit Rates", 1998, with weights as by Schindelhauer and Schomaker). Looks at each.
    fn rendezvous(&self, key: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let distance = |member: &Member| {
            let fraction = (mix(key ^ member.digest) >> 11) as f64 / (1u64 << 53) as f64;
            -fraction.max(f64::MIN_POSITIVE).ln() / f64::from(member.weight)
        };
        let taking = (0..self.members.len()).filter(|&member| takes(member));
        taking.min_by(|&a, &b| distance(&self.members[a]).total_cmp(&distance(&self.members[b])))
    }
}

impl Seat {
    fn new(tiers: &[Tier], worker: usize, workers: usize) -> Seat {
        let start = |tier: &Tier| match &tier.order {
            Order::RoundRobin(round) => round.start(worker, workers),
            _ => 0,
        };
        let tier = |tier: &Tier| SeatTier { part: AtomicU32::new(0), cursor: AtomicU64::new(start(tier)) };
        Seat { seen: AtomicU64::new(NEVER), tiers: tiers.iter().map(tier).collect() }
    }
}

#[cfg(test)]
mod tests;
