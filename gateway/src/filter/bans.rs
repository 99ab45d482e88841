//! Sources that are refused for a while: by XDP where it is on, and when a connection is accepted.
//!
//! Filters that see an attack ban its source; operators do by `gateway bans`. What a header says about the client is not a
//! source: an attacker would have others banned. Neither is a proxy that is trusted, nor whom an access rule allows.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::model::{AccessAction, Config};
use crate::proto::ip_map::IpSet;

/// Bans at once. A ban more is refused: an attacker with many addresses must not push out the bans of others.
pub const BANS_MAX: usize = 1 << 16;

/// Longest ban. What should last longer is an access rule.
pub const TTL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Longest reason and longest evidence, in bytes; what is longer is cut. With [`BANS_MAX`] this bounds the memory.
const TEXT_MAX: usize = 256;

/// Bits of an IPv6 address that are banned together: what one customer is given (RFC 6177).
const IPV6_BITS: u8 = 64;

/// Whom a ban is for. There is no way to make one of what a request says about its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanSource(IpAddr);

impl BanSource {
    /// Whom an operator named.
    pub fn named_by_operator(address: IpAddr) -> BanSource {
        BanSource(address.to_canonical())
    }
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// An IPv4 address or an IPv6 network of 64 bits.
    pub network: IpNet,
    /// When it began.
    pub since: SystemTime,
    /// When it ends.
    pub until: SystemTime,
    /// Why, in a few words.
    pub reason: String,
    /// What was seen.
    pub evidence: String,
}

/// What XDP has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanChange {
    /// Who.
    pub network: IpNet,
    /// The end of the ban; `None` is now.
    pub until: Option<SystemTime>,
}

/// Why there is no ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanError {
    /// The network has a trusted proxy, or somebody whom an access rule allows.
    Trusted,
    /// There are [`BANS_MAX`] already.
    Full,
    /// The time is zero or more than [`TTL_MAX`].
    Ttl,
}

impl fmt::Display for BanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BanError::Trusted => f.write_str(
                "it is a trusted proxy or an access rule allows it, or another of its IPv6 network of 64 bits",
            ),
            BanError::Full => write!(f, "there are {BANS_MAX} bans already; end some, or write an access rule"),
            BanError::Ttl => write!(f, "a ban lasts from a second to {} days", TTL_MAX.as_secs() / 86_400),
        }
    }
}

impl std::error::Error for BanError {}

/// The bans of the process. They outlive reloads.
#[derive(Default)]
pub struct Bans {
    /// Whether there are any, so that a connection pays a load while there are none.
    any: AtomicBool,
    /// Workers read it when a connection begins, and only while there are bans.
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    bans: HashMap<IpNet, Ban>,
    never: Option<IpSet>,
    /// What XDP was not told yet. Each network once.
    changed: HashMap<IpNet, Option<SystemTime>>,
}

impl Bans {
    /// Refuses a source for `ttl` from `now` on; a ban that it has is replaced. Says what was banned.
    pub fn add(
        &self,
        source: BanSource,
        ttl: Duration,
        reason: &str,
        evidence: &str,
        now: SystemTime,
    ) -> Result<IpNet, BanError> {
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(BanError::Ttl);
        }
        let network = network_of(source.0);
        let mut table = self.lock();
        // The program drops the packets of the whole network.
        if table.never.as_ref().is_some_and(|never| never.overlaps(network)) {
            return Err(BanError::Trusted);
        }
        if table.bans.len() >= BANS_MAX && !table.bans.contains_key(&network) {
            return Err(BanError::Full);
        }
        let until = now + ttl;
        let ban = Ban { network, since: now, until, reason: cut(reason), evidence: cut(evidence) };
        table.bans.insert(network, ban);
        table.changed.insert(network, Some(until));
        self.any.store(true, Relaxed);
        Ok(network)
    }

    /// Ends the ban of an address. Says which it was.
    pub fn undo(&self, address: IpAddr) -> Option<Ban> {
        let mut table = self.lock();
        let ban = table.bans.remove(&network_of(address.to_canonical()))?;
        table.changed.insert(ban.network, None);
        self.any.store(!table.bans.is_empty(), Relaxed);
        Some(ban)
    }

    /// Whether this address is refused.
    pub fn has(&self, address: IpAddr, now: SystemTime) -> bool {
        self.any.load(Relaxed) && self.read().find(address, now).is_some()
    }

    /// The ban of an address, unless it has ended or the address has become one that is never banned.
    pub fn find(&self, address: IpAddr, now: SystemTime) -> Option<Ban> {
        self.read().find(address, now).cloned()
    }

    /// Every ban, the latest first.
    pub fn list(&self) -> Vec<Ban> {
        let mut bans: Vec<Ban> = self.read().bans.values().cloned().collect();
        bans.sort_by(|a, b| (b.since, a.network).cmp(&(a.since, b.network)));
        bans
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.read().bans.len()
    }

    /// Forgets the bans that have ended.
    pub fn expire(&self, now: SystemTime) {
        if !self.any.load(Relaxed) {
            return;
        }
        let mut table = self.lock();
        let ended: Vec<IpNet> = table.bans.values().filter(|ban| ban.until <= now).map(|ban| ban.network).collect();
        for network in ended {
            table.bans.remove(&network);
            table.changed.insert(network, None);
        }
        self.any.store(!table.bans.is_empty(), Relaxed);
    }

    /// Nobody of these networks is banned from now on, nor anybody in one IPv6 network of 64 bits with them, and who is, no
    /// longer. See [`trusted`].
    pub fn set_trusted(&self, never: &[IpNet]) {
        let never = IpSet::of(never);
        let mut table = self.lock();
        let freed: Vec<IpNet> = table.bans.keys().filter(|network| never.overlaps(**network)).copied().collect();
        for network in freed {
            table.bans.remove(&network);
            table.changed.insert(network, None);
        }
        self.any.store(!table.bans.is_empty(), Relaxed);
        table.never = Some(never);
    }

    /// What has changed since the last call, for XDP, and whether any ban is left.
    pub fn take_changes(&self) -> (Vec<BanChange>, bool) {
        let mut table = self.lock();
        let changed = table.changed.drain().map(|(network, until)| BanChange { network, until }).collect();
        (changed, !table.bans.is_empty())
    }

    /// Has XDP told all of them again: its tables are new.
    pub fn repeat_all(&self) {
        let mut table = self.lock();
        let all: Vec<(IpNet, SystemTime)> = table.bans.values().map(|ban| (ban.network, ban.until)).collect();
        table.changed.extend(all.into_iter().map(|(network, until)| (network, Some(until))));
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&self, address: IpAddr, now: SystemTime) -> Option<&Ban> {
        let address = address.to_canonical();
        let ban = self.bans.get(&network_of(address)).filter(|ban| ban.until > now)?;
        let never = self.never.as_ref().is_some_and(|never| never.contains(address));
        (!never).then_some(ban)
    }
}

/// Whom a configuration trusts or allows.
pub fn trusted(config: &Config) -> Vec<IpNet> {
    let listeners = config.listeners.iter().flat_map(|listener| &listener.trusted_proxies);
    let allowing = config.access.iter().filter(|rule| rule.action == AccessAction::Allow);
    let allowed = allowing.flat_map(|rule| rule.sources.iter().chain(rule.expiring.iter().map(|(network, _)| network)));
    config.gateway.trusted_proxies.iter().chain(listeners).chain(allowed).copied().collect()
}

fn network_of(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::from(address)),
        // 64 bits are a prefix of an IPv6 address.
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new(address, IPV6_BITS).unwrap_or_default().trunc()),
    }
}

/// Cut at a border between characters.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn source(address: &str) -> BanSource {
        BanSource::named_by_operator(address.parse().unwrap())
    }

    fn add(bans: &Bans, address: &str) -> Result<String, BanError> {
        bans.add(source(address), HOUR, "test", "", NOW).map(|network| network.to_string())
    }

    fn has(bans: &Bans, address: &str, now: SystemTime) -> bool {
        bans.has(address.parse().unwrap(), now)
    }

    #[test]
    fn a_ban_is_of_an_ipv4_address_or_of_an_ipv6_network_until_it_ends() {
        let bans = Bans::default();
        assert_eq!(add(&bans, "192.0.2.1").unwrap(), "192.0.2.1/32");
        assert_eq!(add(&bans, "2001:db8::1").unwrap(), "2001:db8::/64");
        assert_eq!(add(&bans, "::ffff:192.0.2.9").unwrap(), "192.0.2.9/32");
        for (address, banned) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::ffff", true),
            ("2001:db8:0:1::", false),
        ] {
            assert_eq!(has(&bans, address, NOW), banned, "{address}");
        }
        assert!(!has(&bans, "192.0.2.1", NOW + HOUR));
        bans.take_changes();
        bans.expire(NOW + HOUR);
        let (changes, any) = bans.take_changes();
        assert_eq!((changes.len(), any, bans.count()), (3, false, 0));
        assert!(changes.iter().all(|change| change.until.is_none()));
    }

    #[test]
    fn who_is_trusted_or_allowed_is_not_banned_and_no_longer_so_after_a_reload() {
        let bans = Bans::default();
        for address in ["10.0.0.1", "10.1.0.1", "10.2.0.1", "10.3.0.1"] {
            add(&bans, address).unwrap();
        }
        bans.take_changes();
        bans.set_trusted(&["10.0.0.0/16", "10.2.0.0/16"].map(|network| network.parse().unwrap()));
        let left: Vec<String> = bans.list().iter().map(|ban| ban.network.to_string()).collect();
        assert_eq!(left, ["10.1.0.1/32", "10.3.0.1/32"]);
        assert_eq!(bans.take_changes().0.len(), 2);
        assert_eq!(add(&bans, "10.0.0.9"), Err(BanError::Trusted));
        assert_eq!(add(&bans, "10.2.0.9"), Err(BanError::Trusted));
        assert!(add(&bans, "10.4.0.9").is_ok());
    }

    #[test]
    fn who_shares_an_ipv6_network_with_a_trusted_proxy_is_not_banned() {
        let proxy = "2001:db8::1/128".parse().unwrap();
        let bans = Bans::default();
        add(&bans, "2001:db8::66").unwrap();
        add(&bans, "2001:db8:0:1::66").unwrap();
        bans.set_trusted(&[proxy]);
        let left: Vec<String> = bans.list().iter().map(|ban| ban.network.to_string()).collect();
        assert_eq!(left, ["2001:db8:0:1::/64"]);
        assert_eq!(add(&bans, "2001:db8::66"), Err(BanError::Trusted));
    }

    #[test]
    fn all_bans_are_told_again_to_new_tables() {
        let bans = Bans::default();
        add(&bans, "192.0.2.1").unwrap();
        add(&bans, "192.0.2.2").unwrap();
        bans.take_changes();
        bans.undo("192.0.2.2".parse().unwrap());
        bans.repeat_all();
        let (mut changes, any) = bans.take_changes();
        changes.sort_by_key(|change| change.network);
        let told: Vec<_> = changes.iter().map(|change| (change.network.to_string(), change.until)).collect();
        assert_eq!((told, any), (vec![("192.0.2.1/32".into(), Some(NOW + HOUR)), ("192.0.2.2/32".into(), None)], true));
    }

    #[test]
    fn bans_are_bounded_in_number_time_and_text() {
        let bans = Bans::default();
        for at in 0..BANS_MAX as u32 {
            let source = BanSource::named_by_operator(IpAddr::V4(at.into()));
            bans.add(source, HOUR, "", "", NOW).unwrap();
        }
        assert_eq!(add(&bans, "192.0.2.1"), Err(BanError::Full));
        assert!(add(&bans, "0.0.0.1").is_ok(), "one that is there may be longer");
        assert!(bans.undo("0.0.0.2".parse().unwrap()).is_some());
        assert!(bans.undo("0.0.0.2".parse().unwrap()).is_none());
        assert!(add(&bans, "192.0.2.1").is_ok());
        for ttl in [Duration::ZERO, TTL_MAX + Duration::from_secs(1)] {
            assert_eq!(bans.add(source("192.0.2.1"), ttl, "", "", NOW), Err(BanError::Ttl));
        }
        bans.add(source("192.0.2.1"), HOUR, &"ä".repeat(1_000), "", NOW).unwrap();
        assert_eq!(bans.find("192.0.2.1".parse().unwrap(), NOW).unwrap().reason, "ä".repeat(128));
    }
}
