//! Local rate limits: token buckets that all workers share.

mod bucket;
mod connections;

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use bucket::{Pace, Taken};
pub use connections::{ConnectionRates, TooFast};

use super::key_table::KeyTable;
use crate::config::model::{Prefixes, RateKey, RateLimit};
use crate::proto::cookie;
use crate::proto::head::{Headers, Known, Name as _, RequestHead};

/// A `rate_limit` of the configuration, with its buckets.
#[derive(Debug)]
pub struct RateLimiter {
    /// That of the limit, then those of its overrides.
    paces: Box<[Pace]>,
    buckets: Arc<Buckets>,
}

#[derive(Debug)]
enum Buckets {
    /// One for each pace.
    Shared(Box<[Alone]>),
    ByKey(KeyTable),
}

/// On cache lines of its own: every worker writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone(AtomicU64);

/// What keys are made of.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The client, as trusted proxies tell.
    pub client_ip: IpAddr,
    /// The other end of the connection, or what its PROXY header names.
    pub peer_ip: IpAddr,
    /// The host, in lower case and without port.
    pub host: &'a [u8],
    /// The connection's number, which no other has.
    pub connection: u64,
    /// The request.
    pub head: &'a RequestHead,
}

/// What answers say of a limit: the `x-ratelimit-*` fields of draft-ietf-httpapi-ratelimit-headers-03, as Envoy has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens that the bucket holds.
    pub limit: u32,
    /// Tokens left.
    pub remaining: u32,
    /// Seconds until there is a token, rounded up.
    pub reset_s: u64,
}

/// What a limit says to a request.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// Whether there was a token.
    pub is_allowed: bool,
    /// Whether the bucket of another key gave way, and was not full; or this one's could not be made.
    pub evicted: bool,
    /// How things stand now.
    pub allowance: Allowance,
}

impl RateLimiter {
    /// The limiter of `limit`. Buckets that mean the same are taken over from the limit of this name in the generation
    /// before, whatever its quota was.
    pub fn build(limit: &RateLimit, before: Option<(&RateLimit, &RateLimiter)>) -> RateLimiter {
        let quotas = limit.overrides.iter().map(|tier| &tier.quota);
        let paces: Box<[Pace]> = std::iter::once(&limit.quota).chain(quotas).map(Pace::of).collect();
        let buckets = match before {
            Some((old, limiter)) if same_buckets(old, limit) => limiter.buckets.clone(),
            _ => Arc::new(match limit.key {
                None => Buckets::Shared(paces.iter().map(|_| Alone::default()).collect()),
                Some(_) => Buckets::ByKey(KeyTable::new(limit.max_keys)),
            }),
        };
        RateLimiter { paces, buckets }
    }

    /// Takes a token for a request at `now`, in nanoseconds of a clock that never goes back. `tier` is 0 for the limit's own
    /// quota, else the number of an override from 1.
    pub fn take(&self, tier: usize, key: Option<&RateKey>, asker: &Asker<'_>, now: u64) -> Decision {
        let pace = &self.paces[tier];
        let (taken, evicted) = match (&*self.buckets, key) {
            (Buckets::Shared(buckets), _) => (pace.take(&buckets[tier].0, now), false),
            (Buckets::ByKey(table), Some(key)) => pace.take_by_key(table, (tier, KeyOf { key, asker }), now),
            (Buckets::ByKey(table), None) => pace.take_by_key(table, tier, now),
        };
        let (is_allowed, remaining, next_ns) = match taken {
            Taken::Token { left, next_ns } => (true, left, next_ns),
            Taken::Nothing { next_ns } => (false, 0, next_ns),
        };
        let allowance = Allowance { limit: pace.burst(), remaining, reset_s: next_ns.div_ceil(1_000_000_000) };
        Decision { is_allowed, evicted, allowance }
    }

    /// Keys whose buckets are not full; `None` where there are no keys.
    pub fn keys(&self, now: u64) -> Option<usize> {
        match &*self.buckets {
            Buckets::Shared(_) => None,
            Buckets::ByKey(table) => Some(table.count(|full_at| full_at > now)),
        }
    }
}

/// Whether the buckets of one limit mean the same in another: the same keys, and the same overrides in the same places.
fn same_buckets(old: &RateLimit, new: &RateLimit) -> bool {
    let whens = |limit: &RateLimit| limit.overrides.iter().map(|tier| tier.when.clone()).collect::<Vec<_>>();
    old.key == new.key && old.max_keys == new.max_keys && whens(old) == whens(new)
}

/// What a request has in place of a key.
struct KeyOf<'a> {
    key: &'a RateKey,
    asker: &'a Asker<'a>,
}

impl Hash for KeyOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let KeyOf { key, asker } = self;
        match key {
            RateKey::ClientIp(prefixes) => masked(asker.client_ip, *prefixes).hash(state),
            RateKey::PeerIp(prefixes) => masked(asker.peer_ip, *prefixes).hash(state),
            RateKey::Host => asker.host.hash(state),
            RateKey::Connection => asker.connection.hash(state),
            RateKey::Header(name) if name.known() == Known::Host => asker.head.authority.hash(state),
            RateKey::Header(name) => asker.head.headers.get(name).hash(state),
            RateKey::Query(name) => asker.head.param(name.as_bytes()).hash(state),
            RateKey::Cookie(name) => cookie::find(&asker.head.headers, name).hash(state),
        }
    }
}

/// The leading bits of an address.
fn masked(ip: IpAddr, prefixes: Prefixes) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefixes.ipv4)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefixes.ipv6)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

const LIMIT: &[u8] = b"x-ratelimit-limit";
const REMAINING: &[u8] = b"x-ratelimit-remaining";
const RESET: &[u8] = b"x-ratelimit-reset";

/// Of two sets of fields that will be in one response, leaves what [`Allowance`] says, or who else counts, of the limit with the
/// least left: a client cannot tell which of two belongs to which.
pub fn keep_least(one: &mut Headers, other: &mut Headers) {
    if let (Some(left), Some(other_left)) = (remaining(one), remaining(other)) {
        strip_allowance(if other_left < left { one } else { other });
    }
}

fn remaining(headers: &Headers) -> Option<u64> {
    let (_, _, value) = headers.iter().find(|(known, name, _)| *known == Known::Other && *name == REMAINING)?;
    str::from_utf8(value).ok()?.parse().ok()
}

fn strip_allowance(headers: &mut Headers) {
    headers.retain(|known, name, _| known != Known::Other || ![LIMIT, REMAINING, RESET].contains(&name));
}

impl Allowance {
    /// Writes the fields, in place of an origin's.
    pub fn write(self, headers: &mut Headers) {
        strip_allowance(headers);
        let mut text = itoa::Buffer::new();
        headers.append_raw(LIMIT, text.format(self.limit).as_bytes());
        headers.append_raw(REMAINING, text.format(self.remaining).as_bytes());
        headers.append_raw(RESET, text.format(self.reset_s).as_bytes());
    }
}

#[cfg(test)]
mod tests;
