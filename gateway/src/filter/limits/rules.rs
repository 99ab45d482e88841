//! From a descriptor to its limit, as envoyproxy/ratelimit finds it: entry by entry, a rule for the value first, then the
//! first in the file whose wildcard matches, then the rule for the key alone. A limit is for descriptors that end where it
//! stands.
//!
//! There, `key_value` is one word, so that the key `a_b` and the key `a` with the value `b` are the same. Here they are not.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use aws_lc_rs::digest;

use super::unit_of_code;
use crate::config::model::{LimitDomain, LimitQuota, LimitRule, LimitUnit, LimitValue};
use crate::proto::rate_limit_service::{Entry, RateLimitDescriptor};

/// Longest text of a key: a value may be as long as the head of a request.
const TEXT_MAX: usize = 256;

/// The limits of every domain.
#[derive(Debug, Default)]
pub struct Rules {
    domains: HashMap<Box<str>, Level>,
    rules: Vec<Rule>,
}

/// A limit.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number among the rules of its set.
    pub id: usize,
    /// What it is called in metrics: the domain, then `KEY_VALUE` or `KEY` of each level.
    pub label: String,
    /// Its name, by which others replace it; empty for none.
    pub name: Box<str>,
    /// Whether it only counts.
    pub shadow_mode: bool,
    /// The names of those that do not count for a request that it counts for.
    pub replaces: Box<[Box<str>]>,
    /// `None` is unlimited.
    quota: Option<LimitQuota>,
}

/// What may come next in a descriptor.
#[derive(Debug, Default)]
struct Level(HashMap<Box<str>, OfKey>);

/// The rules for a key.
#[derive(Debug, Default)]
struct OfKey {
    values: HashMap<Box<str>, Node>,
    /// In the order of the file.
    prefixes: Vec<(Box<str>, Node)>,
    any: Option<Node>,
}

#[derive(Debug)]
struct Node {
    /// Index into `rules`.
    rule: Option<usize>,
    shares_count: bool,
    next: Level,
}

/// The limit of a descriptor.
#[derive(Debug)]
pub struct Found<'a> {
    from: From<'a>,
    /// Bit N: the value of entry N does not tell counters apart.
    shared: u32,
}

#[derive(Clone, Copy, Debug)]
enum From<'a> {
    Rule(&'a Rule),
    /// The descriptor brought it.
    Descriptor(LimitQuota),
}

impl Rules {
    pub fn build(domains: &[LimitDomain]) -> Rules {
        let mut built = Rules::default();
        for domain in domains {
            let level = built.level(&domain.rules, &domain.name);
            built.domains.insert(domain.name.as_str().into(), level);
        }
        built
    }

    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The limit of a descriptor; `None` where it has none. One that the descriptor brings goes before all rules, in a
    /// domain that is known.
    pub fn find<'a>(&'a self, domain: &str, descriptor: &RateLimitDescriptor) -> Option<Found<'a>> {
        let mut level = self.domains.get(domain)?;
        if let Some(limit) = descriptor.limit {
            let quota = LimitQuota { requests: limit.requests_per_unit, unit: unit_of_code(limit.unit())? };
            return Some(Found { from: From::Descriptor(quota), shared: 0 });
        }
        let (last, entries) = descriptor.entries.split_last()?;
        let mut shared = 0;
        for (at, entry) in entries.iter().enumerate() {
            let node = level.node(entry)?;
            shared |= node.shared_bit(at);
            level = &node.next;
        }
        let node = level.node(last)?;
        shared |= node.shared_bit(entries.len());
        Some(Found { from: From::Rule(&self.rules[node.rule?]), shared })
    }

    fn level(&mut self, rules: &[LimitRule], path: &str) -> Level {
        let mut level = Level::default();
        for rule in rules {
            let path = match &rule.value {
                LimitValue::Any => format!("{path}.{}", rule.key),
                LimitValue::Exact(value) => format!("{path}.{}_{value}", rule.key),
                LimitValue::Prefix(prefix) => format!("{path}.{}_{prefix}*", rule.key),
            };
            let node = Node {
                rule: self.rule(rule, &path),
                shares_count: rule.shares_count,
                next: self.level(&rule.rules, &path),
            };
            let of_key = level.0.entry(rule.key.as_str().into()).or_default();
            match &rule.value {
                LimitValue::Any => of_key.any = Some(node),
                LimitValue::Exact(value) => _ = of_key.values.insert(value.as_str().into(), node),
                LimitValue::Prefix(prefix) => of_key.prefixes.push((prefix.as_str().into(), node)),
            }
        }
        level
    }

    fn rule(&mut self, rule: &LimitRule, label: &str) -> Option<usize> {
        let limit = rule.limit.as_ref()?;
        let id = self.rules.len();
        self.rules.push(Rule {
            id,
            label: label.to_owned(),
            name: limit.name.as_str().into(),
            shadow_mode: rule.shadow_mode,
            replaces: limit.replaces.iter().map(|name| name.as_str().into()).collect(),
            quota: limit.quota,
        });
        Some(id)
    }
}

impl Level {
    fn node(&self, entry: &Entry) -> Option<&Node> {
        let of_key = self.0.get(entry.key.as_str())?;
        let by_prefix = || of_key.prefixes.iter().find(|(prefix, _)| entry.value.starts_with(&**prefix));
        let node = of_key.values.get(entry.value.as_str()).or_else(|| by_prefix().map(|(_, node)| node));
        node.or(of_key.any.as_ref())
    }
}

impl Node {
    /// Rules do not nest as deep as there are bits.
    fn shared_bit(&self, at: usize) -> u32 {
        u32::from(self.shares_count) << at
    }
}

impl<'a> Found<'a> {
    /// The rule; `None` where the descriptor brought the limit.
    pub fn rule(&self) -> Option<&'a Rule> {
        match self.from {
            From::Rule(rule) => Some(rule),
            From::Descriptor(_) => None,
        }
    }

    /// The quota; `None` is unlimited.
    pub fn quota(&self) -> Option<LimitQuota> {
        match self.from {
            From::Rule(rule) => rule.quota,
            From::Descriptor(quota) => Some(quota),
        }
    }

    /// What is counted by itself.
    pub fn key<'b>(&self, domain: &'b str, descriptor: &'b RateLimitDescriptor, unit: LimitUnit) -> Key<'b> {
        Key { domain, entries: &descriptor.entries, shared: self.shared, unit }
    }
}

/// What has a counter of its own: a domain, the entries of a descriptor, and a unit of time.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub(super) domain: &'a str,
    pub(super) entries: &'a [Entry],
    /// Bit N: the value of entry N does not count.
    pub(super) shared: u32,
    pub(super) unit: LimitUnit,
}

impl<'a> Key<'a> {
    /// Keys and values; a value that does not count is `None`.
    fn parts(self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let is_shared = move |at: usize| self.shared.checked_shr(at as u32).is_some_and(|bits| bits & 1 == 1);
        let value = move |at, entry: &'a Entry| (!is_shared(at)).then_some(entry.value.as_str());
        self.entries.iter().enumerate().map(move |(at, entry)| (entry.key.as_str(), value(at, entry)))
    }

    /// The key in words, the same on every box: no two keys have the same.
    pub fn text(&self) -> String {
        let mut text = String::new();
        escape(self.domain, &mut text);
        for (key, value) in self.parts() {
            text.push('|');
            escape(key, &mut text);
            match value {
                Some(value) => {
                    text.push('=');
                    escape(value, &mut text);
                }
                None => text.push_str("=*"),
            }
        }
        _ = write!(text, "|{}", self.unit.as_str());
        if text.len() > TEXT_MAX { shortened(&text) } else { text }
    }
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.domain.hash(state);
        for part in self.parts() {
            part.hash(state);
        }
        self.unit.hash(state);
    }
}

/// How a text that is too long begins, and what it is: there is no other with this hash.
fn shortened(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let begin = &text[..text.floor_char_boundary(TEXT_MAX / 2)];
    format!("{begin}|#{}", data_encoding::HEXLOWER.encode(hash.as_ref()))
}

/// Appends `text`, in which what has a meaning in keys is percent-encoded.
fn escape(text: &str, out: &mut String) {
    for part in text.chars() {
        match part {
            '|' | '=' | '*' | '%' | '\0'..=' ' | '\x7f' => _ = write!(out, "%{:02X}", part as u32),
            _ => out.push(part),
        }
    }
}
