use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::super::tables;
use super::*;

use AccessAction::{Allow, Deny};

/// Seconds since 1970 at which every table here is compiled.
const NOW: u64 = 1_000;

#[test]
fn the_longest_match_has_the_whole_answer_and_no_entry_repeats_a_shorter_one() {
    let (any, tcp, udp) = (None, Some(VipProtocol::Tcp), Some(VipProtocol::Udp));
    let cases: [(&str, Vec<AccessRule>, &str); 15] = [
        ("nothing", vec![], ""),
        ("a denied prefix", vec![rule(Deny, &["192.0.2.0/24"])], "192.0.2.0/24 drop 0"),
        (
            "allow inside deny",
            vec![rule(Deny, &["10.0.0.0/8"]), rule(Allow, &["10.1.0.0/16"])],
            "10.0.0.0/8 drop 0, 10.1.0.0/16 allow 1",
        ),
        (
            "deny inside allow says nothing",
            vec![rule(Deny, &["10.1.2.3/32", "10.1.0.0/16"]), rule(Allow, &["10.0.0.0/8"])],
            "10.0.0.0/8 allow 1",
        ),
        (
            "a deny inside another of an earlier rule says nothing",
            vec![rule(Deny, &["10.0.0.0/8"]), rule(Deny, &["10.1.0.0/16", "11.0.0.0/8"])],
            "10.0.0.0/8 drop 0, 11.0.0.0/8 drop 1",
        ),
        (
            "a deny inside another of a later rule is the earlier rule's",
            vec![rule(Deny, &["10.1.0.0/16"]), rule(Deny, &["10.0.0.0/8"])],
            "10.0.0.0/8 drop 1, 10.1.0.0/16 drop 0",
        ),
        (
            "the same prefix twice",
            vec![rule(Deny, &["192.0.2.1/32"]), rule(Deny, &["192.0.2.1/32"])],
            "192.0.2.1/32 drop 0",
        ),
        ("IPv4-mapped", vec![rule(Deny, &["::ffff:192.0.2.0/120"])], "192.0.2.0/24 drop 0"),
        ("all of both", vec![rule(Deny, &["0.0.0.0/0", "::/0"])], "0.0.0.0/0 drop 0, ::/0 drop 0"),
        ("a condition", vec![with(rule(Deny, &["10.0.0.0/8"]), tcp, &[22..=22])], "10.0.0.0/8 [tcp 22-22 drop 0]"),
        (
            "a condition inside an unconditional deny says nothing",
            vec![rule(Deny, &["10.0.0.0/8"]), with(rule(Deny, &["10.1.0.0/16"]), udp, &[])],
            "10.0.0.0/8 drop 0",
        ),
        (
            "allows come before denies, and what comes after a deny of everything is left out",
            vec![
                with(rule(Deny, &["10.1.0.0/16"]), udp, &[53..=53]),
                rule(Deny, &["10.0.0.0/8"]),
                with(rule(Deny, &["10.1.0.0/16"]), tcp, &[80..=80]),
                with(rule(Allow, &["10.1.0.0/16"]), any, &[443..=443, 8000..=8100]),
            ],
            "10.0.0.0/8 drop 1, 10.1.0.0/16 [any 443-443 allow 3, any 8000-8100 allow 3, udp 53-53 drop 0, any 0-65535 drop 1]",
        ),
        ("an end", vec![until(rule(Deny, &[]), "192.0.2.1/32", 2_000)], "192.0.2.1/32 drop 0 until 2000 then pass"),
        (
            "an exception that ends",
            vec![rule(Deny, &["10.0.0.0/8"]), until(rule(Allow, &[]), "10.1.0.0/16", 2_000)],
            "10.0.0.0/8 drop 0, 10.1.0.0/16 allow 1 until 2000 then drop 0",
        ),
        (
            "what has ended says nothing, and of two ends the later counts",
            vec![
                until(rule(Deny, &[]), "10.0.0.0/8", 1_000),
                until(until(rule(Deny, &[]), "192.0.2.1/32", 3_000), "192.0.2.1/32", 2_000),
            ],
            "192.0.2.1/32 drop 1 until 3000 then pass",
        ),
    ];
    for (name, mut rules, expected) in cases {
        number(&mut rules);
        assert_eq!(show(&compile(&rules)), expected, "{name}");
    }
}

#[test]
fn too_many_conditions_at_one_prefix_are_refused() {
    let mut rules: Vec<_> =
        (0..=CLAUSES_MAX as u16).map(|port| with(rule(Deny, &["10.0.0.0/8"]), None, &[port + 1..=port + 1])).collect();
    number(&mut rules);
    let (numbers, _) = RuleNumbers::default().assign(&names(&rules)).unwrap();
    assert_eq!(Lists::compile(&rules, &numbers, &[], NOW).unwrap_err(), XdpError::TooManyConditions);
    assert!(Lists::compile(&rules[1..], &numbers, &[], NOW).is_ok());
}

#[test]
fn a_rule_keeps_its_number_while_its_name_is_there() {
    let (mut numbers, new) = RuleNumbers::default().assign(&["a", "b"]).unwrap();
    assert_eq!(new, [0, 1]);
    let (next, new) = numbers.assign(&["c", "b"]).unwrap();
    assert_eq!((new, next.number("b")), (vec![2], 1), "0 is a's until c's table is in force");
    numbers = next;
    numbers.keep_only(&["c", "b"]);
    let (numbers, new) = numbers.assign(&["b", "c", "d"]).unwrap();
    assert_eq!((new, numbers.number("c")), (vec![0], 2));
    let many: Vec<String> = (0..RULES_MAX).map(|number| format!("r{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(numbers.assign(&many).unwrap_err(), XdpError::TooManyRules);
}

#[test]
fn only_what_differs_is_put_and_removed() {
    let cases = [
        (&[][..], &["10.0.0.0/8"][..], "10.0.0.0/8", 1, ""),
        (&["10.0.0.0/8"], &["10.0.0.0/8"], "", 0, ""),
        (&["10.0.0.0/8", "192.0.2.1/32"], &["192.0.2.1/32", "192.0.2.2/32"], "192.0.2.2/32", 1, "10.0.0.0/8"),
        (&["10.0.0.0/8", "10.1.0.0/16"], &[], "", 0, "10.0.0.0/8"),
    ];
    for (old, new, put, added, gone) in cases {
        let [old, new] = [old, new].map(|sources| compile(&[rule(Deny, sources)]).v4);
        let changes = Changes::between(&old, &new);
        assert_eq!(
            (show_prefixes(&changes.put), changes.added, show_prefixes(&changes.gone)),
            (put.into(), added, gone.into())
        );
    }
    let [denied, allowed] = [Deny, Allow].map(|action| compile(&[rule(action, &["10.0.0.0/8"])]).v4);
    let changes = Changes::between(&denied, &allowed);
    assert_eq!((changes.put, changes.added, changes.gone), (allowed, 0, vec![]));
}

#[test]
fn a_million_sources_are_compiled_without_losing_one() {
    // A step that is prime to 2^32 visits each address once.
    let sources = (0..1_000_000u32).map(|at| IpNet::from(IpAddr::from(at.wrapping_mul(2_654_435_761).to_be_bytes())));
    let mut sources: Vec<IpNet> = sources.collect();
    sources.sort();
    let lists = compile(&[AccessRule { sources, ..rule(Deny, &[]) }]);
    assert_eq!(lists.v4.len(), 1_000_000);
    assert!(find(&lists.v4, 2_654_435_761).is_some() && find(&lists.v4, 1).is_none());
}

proptest! {
    /// Against trying every rule on every address.
    #[test]
    fn an_address_gets_what_trying_every_rule_gives(
        rules in prop::collection::vec(any_rule(), 0..8),
        packets in prop::collection::vec((0u32..256, any::<bool>(), 0u16..4, 0u64..40), 24),
    ) {
        let mut rules = rules;
        number(&mut rules);
        let (numbers, _) = RuleNumbers::default().assign(&names(&rules)).unwrap();
        // More than 16 clauses at a prefix are refused, which another test looks at.
        let Ok(lists) = Lists::compile(&rules, &numbers, &[], NOW) else { return Ok(()) };
        for (address, is_tcp, port, later) in packets {
            let protocol = if is_tcp { VipProtocol::Tcp } else { VipProtocol::Udp };
            // Behind the first change of a row, user space compiles anew.
            let now = find(&lists.v4, address).map_or(NOW + later, |row| (NOW + later).min(then_ends(&rules, row) - 1));
            let got = by_table(&lists, address, protocol, port, now);
            let expected = by_rules(&rules, address, protocol, port, now);
            // Which of several rules allowed it is nobody's question, and an allow of everything needs no clauses.
            let same = got == expected || (got.kind(), expected.kind()) == (Policy::ALLOW, Policy::ALLOW);
            prop_assert!(same, "{address} {protocol:?} {port} at {now}: {got:?}, not {expected:?}");
        }
    }

    /// A table that is changed into another entry by entry never gives a source what neither of the two says.
    #[test]
    fn a_change_entry_by_entry_goes_from_one_table_straight_to_the_other(
        old in prop::collection::vec(any_rule(), 0..6),
        new in prop::collection::vec(any_rule(), 0..6),
    ) {
        let (mut old, mut new) = (old, new);
        number(&mut old);
        number(&mut new);
        let all = |rules: &mut Vec<AccessRule>| rules.iter_mut().for_each(|rule| (rule.protocol, rule.ports) = (None, vec![]));
        all(&mut old);
        all(&mut new);
        let (old, new) = (compile(&old).v4, compile(&new).v4);
        let changes = Changes::between(&old, &new);
        let mut live: Vec<Row<u32>> = old.clone();
        let outcome = |rows: &[Row<u32>], address: u32| {
            let covering = rows.iter().filter(|row| row.first <= address && address <= row.first.last(row.length));
            covering.max_by_key(|row| row.length).map_or(NOTHING, |row| row.outcome)
        };
        let check = |live: &[Row<u32>]| {
            for address in 0..256 {
                let is = outcome(live, address);
                prop_assert!(is == outcome(&old, address) || is == outcome(&new, address), "{}", address);
            }
            Ok(())
        };
        for row in tables::in_order(&changes.put, tables::Order::LongestFirst) {
            live.retain(|other| (other.first, other.length) != (row.first, row.length));
            live.push(*row);
            check(&live)?;
        }
        for row in tables::in_order(&changes.gone, tables::Order::ShortestFirst) {
            live.retain(|other| (other.first, other.length) != (row.first, row.length));
            check(&live)?;
        }
        live.sort_by_key(|row| (row.first, row.length));
        prop_assert_eq!(live, new);
    }
}

fn any_rule() -> impl Strategy<Value = AccessRule> {
    let source = || (0u32..256, 24u8..=32);
    let net = |(address, length): (u32, u8)| IpNet::V4(Ipv4Net::new(address.into(), length).unwrap().trunc());
    let action = prop_oneof![2 => Just(Deny), 1 => Just(Allow)];
    let protocol = prop_oneof![Just(None), Just(Some(VipProtocol::Tcp)), Just(Some(VipProtocol::Udp))];
    let ports = prop::option::of((0u16..4, 0u16..4));
    let sources = prop::collection::vec(source(), 0..4);
    let expiring = prop::collection::vec((source(), 0u64..40), 0..3);
    (action, protocol, ports, sources, expiring).prop_map(move |(action, protocol, ports, sources, expiring)| {
        AccessRule {
            protocol,
            ports: ports.map(|(a, b)| a.min(b)..=a.max(b)).into_iter().collect(),
            sources: sources.into_iter().map(net).collect(),
            expiring: expiring.into_iter().map(|(source, end)| (net(source), at(NOW + end - 10))).collect(),
            ..rule(action, &[])
        }
    })
}

/// What the program does with the tables.
fn by_table(lists: &Lists, address: u32, protocol: VipProtocol, port: u16, now: u64) -> Policy {
    let Some(row) = find(&lists.v4, address) else { return NOTHING.policy };
    let policy = if now >= row.outcome.until { row.outcome.then } else { row.outcome.policy };
    if policy.kind() != Policy::CONDITIONAL {
        return policy;
    }
    let number = if protocol == VipProtocol::Tcp { TCP } else { UDP };
    let conditions = &lists.conditions[policy.number() as usize];
    let met = conditions.clauses[..conditions.count as usize].iter().find(|clause| {
        [Clause::ANY_PROTOCOL, number].contains(&clause.protocol)
            && (clause.port_first..=clause.port_last).contains(&port)
    });
    met.map_or(NOTHING.policy, |clause| clause.policy)
}

fn by_rules(rules: &[AccessRule], address: u32, protocol: VipProtocol, port: u16, now: u64) -> Policy {
    let ip = IpAddr::V4(address.into());
    let has = |rule: &AccessRule| {
        let forever = rule.sources.iter().any(|net| net.contains(&ip));
        let expiring = rule.expiring.iter().any(|(net, end)| net.contains(&ip) && unix_s(*end) > now);
        (forever || expiring)
            && rule.protocol.is_none_or(|wanted| wanted == protocol)
            && (rule.ports.is_empty() || rule.ports.iter().any(|ports| ports.contains(&port)))
    };
    let first = |action| rules.iter().position(|rule| rule.action == action && has(rule));
    match (first(Allow), first(Deny)) {
        (Some(rule), _) => Policy(Policy::ALLOW | rule as u32),
        (None, Some(rule)) => Policy(Policy::DROP | rule as u32),
        (None, None) => NOTHING.policy,
    }
}

/// When `then` of a row stops being true: the next end behind `until` of a source that covers it.
fn then_ends(rules: &[AccessRule], row: &Row<u32>) -> u64 {
    let ends = rules.iter().flat_map(|rule| &rule.expiring).map(|(_, end)| unix_s(*end));
    ends.filter(|&end| end > row.outcome.until).min().unwrap_or(NEVER)
}

fn compile(rules: &[AccessRule]) -> Lists {
    let (numbers, _) = RuleNumbers::default().assign(&names(rules)).unwrap();
    Lists::compile(rules, &numbers, &[], NOW).unwrap()
}

fn names(rules: &[AccessRule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.name.as_str()).collect()
}

/// Names by place, so that a rule's number is its place.
fn number(rules: &mut [AccessRule]) {
    for (at, rule) in rules.iter_mut().enumerate() {
        rule.name = at.to_string();
    }
}

fn rule(action: AccessAction, sources: &[&str]) -> AccessRule {
    let sources = sources.iter().map(|prefix| prefix.parse().unwrap()).collect();
    AccessRule { name: "0".into(), action, protocol: None, ports: vec![], sources, expiring: vec![] }
}

fn with(rule: AccessRule, protocol: Option<VipProtocol>, ports: &[RangeInclusive<u16>]) -> AccessRule {
    AccessRule { protocol, ports: ports.to_vec(), ..rule }
}

fn until(mut rule: AccessRule, source: &str, end: u64) -> AccessRule {
    rule.expiring.push((source.parse().unwrap(), at(end)));
    rule
}

fn at(unix: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix)
}

fn show(lists: &Lists) -> String {
    let policy = |policy: Policy| match policy.kind() {
        Policy::PASS => "pass".into(),
        Policy::DROP => format!("drop {}", policy.number()),
        Policy::ALLOW => format!("allow {}", policy.number()),
        _ => show_conditions(&lists.conditions[policy.number() as usize]),
    };
    let row = |prefix: String, outcome: Outcome| match outcome.until {
        NEVER => format!("{prefix} {}", policy(outcome.policy)),
        until => format!("{prefix} {} until {until} then {}", policy(outcome.policy), policy(outcome.then)),
    };
    let v4 = lists.v4.iter().map(|r| row(show_prefixes(&[*r]), r.outcome));
    let v6 = lists.v6.iter().map(|r| row(format!("{}/{}", std::net::Ipv6Addr::from(r.first), r.length), r.outcome));
    v4.chain(v6).collect::<Vec<_>>().join(", ")
}

fn show_conditions(conditions: &Conditions) -> String {
    let clause = |clause: &Clause| {
        let protocol = match clause.protocol {
            Clause::ANY_PROTOCOL => "any",
            6 => "tcp",
            _ => "udp",
        };
        let verb = if clause.policy.kind() == Policy::ALLOW { "allow" } else { "drop" };
        format!("{protocol} {}-{} {verb} {}", clause.port_first, clause.port_last, clause.policy.number())
    };
    let clauses: Vec<String> = conditions.clauses[..conditions.count as usize].iter().map(clause).collect();
    format!("[{}]", clauses.join(", "))
}

fn show_prefixes(rows: &[Row<u32>]) -> String {
    let rows = rows.iter().map(|row| format!("{}/{}", std::net::Ipv4Addr::from(row.first), row.length));
    rows.collect::<Vec<_>>().join(", ")
}
