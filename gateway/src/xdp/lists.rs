//! `[[access]]` compiled into one table: for every prefix that matters, all that the rules say about it, and what changes
//! from one table to the next. Pure.
//!
//! Prefixes nest or are apart, so a sweep over them by their first address keeps those it is inside of on a stack, and
//! what the rules make of a prefix is folded on the way down. The table then has the whole answer at the longest match,
//! and no entry that says what the next shorter one says already.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use gateway_ebpf::abi::access::{CLAUSES_MAX, CONDITIONS_MAX, Clause, Conditions, ENTRIES_MAX, Policy, RULES_MAX};
use gateway_ebpf::packet::protocol::{TCP, UDP};
use ipnet::{IpNet, Ipv4Net};

use super::XdpError;
use crate::config::model::{AccessAction, AccessRule, VipProtocol};

/// An address as a number: `u32` or `u128`.
pub(super) trait Address: Copy + Ord + std::fmt::Debug {
    /// Bits of an address.
    const BITS: u8;

    /// The last address of the prefix of this length that begins here.
    fn last(self, length: u8) -> Self;
}

impl Address for u32 {
    const BITS: u8 = 32;

    fn last(self, length: u8) -> u32 {
        self | u32::MAX.checked_shr(length.into()).unwrap_or(0)
    }
}

impl Address for u128 {
    const BITS: u8 = 128;

    fn last(self, length: u8) -> u128 {
        self | u128::MAX.checked_shr(length.into()).unwrap_or(0)
    }
}

/// What is done with the packets of a prefix: now, and from `until` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub policy: Policy,
    /// Seconds since 1970; [`NEVER`] is never.
    pub until: u64,
    /// What is done afterwards, as far as rules know it: some may end later still.
    pub then: Policy,
}

/// The end of what does not end.
pub(super) const NEVER: u64 = u64::MAX;

/// Nothing is known of the source.
const NOTHING: Outcome = Outcome { policy: Policy(Policy::PASS), until: NEVER, then: Policy(Policy::PASS) };

/// One prefix of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row<A> {
    /// First address.
    pub first: A,
    /// Length of the prefix in bits.
    pub length: u8,
    pub outcome: Outcome,
}

/// The table of a configuration. Rows are in the order of their first address, shorter prefixes first.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    pub v4: Vec<Row<u32>>,
    pub v6: Vec<Row<u128>>,
    /// What conditional policies refer to.
    pub conditions: Vec<Conditions>,
}

/// The way from one table to another, for one IP version. Done as [`Tables`](super::tables::Tables) does it, no packet
/// meets less than one of the two tables says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes<A> {
    /// New rows, and old ones with another outcome.
    pub put: Vec<Row<A>>,
    /// How many of them are new.
    pub added: usize,
    /// Rows to remove.
    pub gone: Vec<Row<A>>,
}

/// The numbers of rules. A rule keeps its number as long as its name is in the configuration, and with it its counters.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleNumbers(Vec<Option<String>>);

impl RuleNumbers {
    /// Gives each name a number, and says which numbers are new. Those of `old` names that are gone are free for the
    /// next table, not for this one: packets may still be counted for them.
    pub fn assign(&self, names: &[&str]) -> Result<(RuleNumbers, Vec<u32>), XdpError> {
        let mut slots = self.0.clone();
        let mut new = Vec::new();
        for name in names {
            if slots.iter().flatten().any(|old| old == name) {
                continue;
            }
            let free = slots.iter().position(Option::is_none).unwrap_or(slots.len());
            if free >= RULES_MAX {
                return Err(XdpError::TooManyRules);
            }
            slots.resize(slots.len().max(free + 1), None);
            slots[free] = Some((*name).to_owned());
            new.push(free as u32);
        }
        Ok((RuleNumbers(slots), new))
    }

    /// Frees the numbers of all other rules.
    pub fn keep_only(&mut self, names: &[&str]) {
        for slot in &mut self.0 {
            slot.take_if(|name| !names.contains(&name.as_str()));
        }
    }

    /// Every rule with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.0.iter().zip(0..).filter_map(|(name, number)| Some((number, name.as_deref()?)))
    }

    /// The rule of this number.
    pub fn name(&self, number: u32) -> Option<&str> {
        self.0.get(number as usize)?.as_deref()
    }

    fn number(&self, name: &str) -> u32 {
        let at = self.0.iter().position(|slot| slot.as_deref() == Some(name));
        at.expect("`assign` has given every rule a number") as u32
    }
}

impl Lists {
    /// Compiles the rules as they are at `now` (seconds since 1970). `conditions` are those of the table in force: they
    /// keep their places, so that a table that differs little can be had by changing that one.
    pub fn compile(
        rules: &[AccessRule],
        numbers: &RuleNumbers,
        conditions: &[Conditions],
        now: u64,
    ) -> Result<Lists, XdpError> {
        let rules: Vec<Rule> = rules.iter().map(|rule| Rule::new(rule, numbers)).collect();
        let mut compiler = Compiler { rules: &rules, conditions: conditions.to_vec(), now };
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (rule, at) in rules.iter().zip(0..) {
            for &(network, until) in &rule.sources {
                match network {
                    _ if until <= now => {}
                    IpNet::V4(net) => {
                        v4.push(Item { first: net.addr().to_bits(), length: net.prefix_len(), rule: at, until });
                    }
                    IpNet::V6(net) => {
                        v6.push(Item { first: net.addr().to_bits(), length: net.prefix_len(), rule: at, until });
                    }
                }
            }
        }
        let (v4, v6) = (compiler.sweep(v4)?, compiler.sweep(v6)?);
        Ok(Lists { v4, v6, conditions: compiler.conditions })
    }

    /// When the table says something else than the rules, in seconds since 1970.
    pub fn next_change(&self) -> u64 {
        let v4 = self.v4.iter().map(|row| row.outcome.until);
        v4.chain(self.v6.iter().map(|row| row.outcome.until)).min().unwrap_or(NEVER)
    }
}

/// The row that decides about an address: the longest prefix that has it.
pub(super) fn find<A: Address>(rows: &[Row<A>], address: A) -> Option<&Row<A>> {
    let before = rows.partition_point(|row| row.first <= address);
    rows[..before].iter().rev().find(|row| row.first.last(row.length) >= address)
}

impl<A: Address> Changes<A> {
    pub fn between(old: &[Row<A>], new: &[Row<A>]) -> Changes<A> {
        let mut changes = Changes { put: Vec::new(), added: 0, gone: Vec::new() };
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let key = |row: &&Row<A>| (row.first, row.length);
            match (old.peek().map(key), new.peek().map(key)) {
                (None, None) => return changes,
                (Some(was), Some(is)) if was == is => {
                    let (was, is) = (old.next(), new.next());
                    if was.map(|row| row.outcome) != is.map(|row| row.outcome) {
                        changes.put.extend(is);
                    }
                }
                (Some(was), is) if is.is_none_or(|is| was < is) => changes.gone.extend(old.next()),
                (_, _) => {
                    changes.put.extend(new.next());
                    changes.added += 1;
                }
            }
        }
    }
}

/// What a rule says of its sources.
struct Rule {
    number: u32,
    allows: bool,
    /// One for each protocol and range of ports; none is no condition.
    conditions: Vec<(u32, RangeInclusive<u16>)>,
    sources: Vec<(IpNet, u64)>,
}

impl Rule {
    fn new(rule: &AccessRule, numbers: &RuleNumbers) -> Rule {
        let forever = rule.sources.iter().map(|network| (as_on_the_wire(network), NEVER));
        let for_a_while = rule.expiring.iter().map(|(network, until)| (as_on_the_wire(network), unix_s(*until)));
        Rule {
            number: numbers.number(&rule.name),
            allows: rule.action == AccessAction::Allow,
            conditions: conditions(rule),
            sources: forever.chain(for_a_while).collect(),
        }
    }

    fn policy(&self) -> Policy {
        Policy(self.number | if self.allows { Policy::ALLOW } else { Policy::DROP })
    }
}

fn conditions(rule: &AccessRule) -> Vec<(u32, RangeInclusive<u16>)> {
    let protocol = match rule.protocol {
        None => Clause::ANY_PROTOCOL,
        Some(VipProtocol::Tcp) => TCP,
        Some(VipProtocol::Udp) => UDP,
    };
    match (rule.protocol, rule.ports.as_slice()) {
        (None, []) => Vec::new(),
        (Some(_), []) => vec![(protocol, 0..=u16::MAX)],
        (_, ports) => ports.iter().map(|ports| (protocol, ports.clone())).collect(),
    }
}

/// Seconds since 1970, rounded up: what ends now has not ended yet.
pub(super) fn unix_s(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}

/// An IPv4-mapped prefix (`::ffff:192.0.2.0/120`, RFC 4291 §2.5.5.2) means IPv4 peers: such an address exists in
/// sockets, never in packets.
fn as_on_the_wire(prefix: &IpNet) -> IpNet {
    let mapped = match prefix {
        IpNet::V4(_) => None,
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
    };
    match mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()) {
        Some(v4) => IpNet::V4(v4.trunc()),
        None => prefix.trunc(),
    }
}

/// A rule's word about a prefix.
#[derive(Clone, Copy)]
struct Item<A> {
    first: A,
    length: u8,
    rule: u32,
    until: u64,
}

/// What the rules say about a prefix, its shorter ones included. Of the rules that say the same of all packets for all
/// time, the first of the file counts; the others are kept.
#[derive(Clone, Default)]
struct Fold {
    allow: Option<u32>,
    deny: Option<u32>,
    /// Rules with conditions, or with an end.
    others: Vec<(u32, u64)>,
}

/// A prefix the sweep is inside of.
struct Inside<A> {
    last: A,
    fold: Fold,
    outcome: Outcome,
}

struct Compiler<'a> {
    rules: &'a [Rule],
    conditions: Vec<Conditions>,
    now: u64,
}

impl Compiler<'_> {
    fn sweep<A: Address>(&mut self, mut items: Vec<Item<A>>) -> Result<Vec<Row<A>>, XdpError> {
        items.sort_unstable_by_key(|item| (item.first, item.length, item.rule));
        let mut rows = Vec::with_capacity(items.len());
        let mut inside: Vec<Inside<A>> = Vec::new();
        for same in items.chunk_by(|a, b| (a.first, a.length) == (b.first, b.length)) {
            let Item { first, length, .. } = same[0];
            while inside.pop_if(|outer| outer.last < first).is_some() {}
            let (mut fold, around) = match inside.last() {
                Some(outer) => (outer.fold.clone(), outer.outcome),
                None => (Fold::default(), NOTHING),
            };
            for item in same {
                fold.add(item.rule, item.until, &self.rules[item.rule as usize]);
            }
            let outcome = self.outcome(&fold)?;
            if outcome != around {
                rows.push(Row { first, length, outcome });
            }
            inside.push(Inside { last: first.last(length), fold, outcome });
        }
        match rows.len() {
            ..=ENTRIES_MAX => Ok(rows),
            count => Err(XdpError::TooManyPrefixes { count }),
        }
    }

    /// What the rules make of packets until the first moment that changes it.
    fn outcome(&mut self, fold: &Fold) -> Result<Outcome, XdpError> {
        let policy = self.policy(fold, self.now)?;
        let mut ends: Vec<u64> = fold.others.iter().map(|&(_, until)| until).filter(|&until| until != NEVER).collect();
        ends.sort_unstable();
        for until in ends {
            let then = self.policy(fold, until)?;
            if then != policy {
                return Ok(Outcome { policy, until, then });
            }
        }
        Ok(Outcome { policy, until: NEVER, then: Policy(Policy::PASS) })
    }

    fn policy(&mut self, fold: &Fold, now: u64) -> Result<Policy, XdpError> {
        if fold.others.is_empty() {
            let rule = fold.allow.or(fold.deny);
            return Ok(rule.map_or(NOTHING.policy, |rule| self.rules[rule as usize].policy()));
        }
        let forever = fold.allow.into_iter().chain(fold.deny).map(|rule| (rule, NEVER));
        let valid = forever.chain(fold.others.iter().copied()).filter(|&(_, until)| until > now);
        let mut rules: Vec<u32> = valid.map(|(rule, _)| rule).collect();
        // Allow wins over deny, then the first rule of the file.
        rules.sort_unstable_by_key(|&rule| (!self.rules[rule as usize].allows, rule));
        rules.dedup();
        let is_unconditional = |rule: &u32| self.rules[*rule as usize].conditions.is_empty();
        let of = |rule: u32| self.rules[rule as usize].policy();
        // An allow of everything makes all else pointless; a deny of everything what comes after it.
        if let Some(&rule) = rules.iter().find(|rule| is_unconditional(rule) && self.rules[**rule as usize].allows) {
            return Ok(of(rule));
        }
        if let Some(end) = rules.iter().position(is_unconditional) {
            rules.truncate(end + 1);
        }
        match rules.as_slice() {
            [] => Ok(NOTHING.policy),
            [rule] if is_unconditional(rule) => Ok(of(*rule)),
            rules => self.conditional(rules),
        }
    }

    /// The policy of several clauses, which is the same number for the same clauses.
    fn conditional(&mut self, rules: &[u32]) -> Result<Policy, XdpError> {
        let clauses: Vec<Clause> = rules.iter().flat_map(|&rule| self.rules[rule as usize].clauses()).collect();
        if clauses.len() > CLAUSES_MAX {
            return Err(XdpError::TooManyConditions);
        }
        let empty = Clause { protocol: 0, port_first: 0, port_last: 0, policy: NOTHING.policy };
        let mut conditions = Conditions { count: clauses.len() as u32, clauses: [empty; CLAUSES_MAX] };
        conditions.clauses[..clauses.len()].copy_from_slice(&clauses);
        let at = self.conditions.iter().position(|known| *known == conditions).unwrap_or(self.conditions.len());
        if at == CONDITIONS_MAX {
            return Err(XdpError::TooManyConditions);
        }
        if at == self.conditions.len() {
            self.conditions.push(conditions);
        }
        Ok(Policy(Policy::CONDITIONAL | at as u32))
    }
}

impl Rule {
    fn clauses(&self) -> Vec<Clause> {
        let clause = |protocol, ports: &RangeInclusive<u16>| Clause {
            protocol,
            port_first: *ports.start(),
            port_last: *ports.end(),
            policy: self.policy(),
        };
        match self.conditions.as_slice() {
            [] => vec![clause(Clause::ANY_PROTOCOL, &(0..=u16::MAX))],
            conditions => conditions.iter().map(|(protocol, ports)| clause(*protocol, ports)).collect(),
        }
    }
}

impl Fold {
    fn add(&mut self, at: u32, until: u64, rule: &Rule) {
        if !rule.conditions.is_empty() || until != NEVER {
            match self.others.iter_mut().find(|(other, _)| *other == at) {
                Some((_, known)) => *known = until.max(*known),
                None => self.others.push((at, until)),
            }
            return;
        }
        let first = if rule.allows { &mut self.allow } else { &mut self.deny };
        *first = Some(first.map_or(at, |known| known.min(at)));
    }
}

#[cfg(test)]
mod tests;
