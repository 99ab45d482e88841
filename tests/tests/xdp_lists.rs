//! What the XDP program does with a source: access lists, their conditions and ends, bans and limits. The frames are run
//! through the program in the kernel (BPF_PROG_TEST_RUN) where nothing else matters, and come over a veth where it does.
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use gateway::config::model::{self, AccessAction, AccessRule, PacketRate, VipProtocol, XdpLimits, XdpMode};
use gateway::xdp::{self, Counters, Probe, Reason, Xdp};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::root_or_skip;
use gateway_tests::wait;
use ipnet::{IpNet, Ipv4Net};
use log::{Level, LevelFilter, Log, Metadata, Record};
use socket2::{Domain, Socket, Type};

use AccessAction::{Allow, Deny};
use VipProtocol::{Tcp, Udp};

/// Longer than any answer inside one machine takes, and what each refused connection costs the test.
const NO_ANSWER: Duration = Duration::from_millis(300);

#[test]
fn conditions_and_ends_decide_as_the_rules_say() {
    root_or_skip!();
    let both = ["10.0.0.0/8", "2001:db8::/32"];
    let access = [
        with(rule("ssh", Deny, &both), Some(Tcp), &[22..=22, 8000..=8100]),
        with(rule("udp", Deny, &["192.0.2.0/24", "2001:db8:2::/48"]), Some(Udp), &[]),
        with(rule("office", Allow, &["10.1.0.0/16", "2001:db8:1::/48"]), None, &[22..=22]),
        with(rule("any-port", Deny, &["10.2.0.9/32", "2001:db8:5::9/128"]), None, &[443..=443]),
        until(rule("ended", Deny, &[]), "203.0.113.1/32", SystemTime::now() - Duration::from_secs(10)),
        until(rule("ends", Deny, &[]), "203.0.113.2/32", SystemTime::now() + Duration::from_secs(3_600)),
        until(rule("ends6", Deny, &[]), "2001:db8:6::/48", SystemTime::now() + Duration::from_secs(3_600)),
    ];
    let gateway = Namespace::new("gateway");
    let xdp = gateway.enter(|| xdp::attach(&on(XdpLimits::default()), &access).unwrap());
    let vlan: &[u16] = &[0x8100];
    let qinq: &[u16] = &[0x88a8, 0x8100];
    let cases = [
        ("a denied port", tcp(&[], "10.9.0.1", 22, SYN), Reason::DeniedV4),
        ("first port of a range", tcp(&[], "10.9.0.1", 8000, SYN), Reason::DeniedV4),
        ("last port of a range", tcp(&[], "10.9.0.1", 8100, ACK), Reason::DeniedV4),
        ("the port behind it", tcp(&[], "10.9.0.1", 8101, SYN), Reason::Pass),
        ("the other protocol", udp(&[], "10.9.0.1", 22), Reason::Pass),
        ("an exception", tcp(&[], "10.1.0.1", 22, SYN), Reason::Allowed),
        ("beside the exception", tcp(&[], "10.1.0.1", 8000, SYN), Reason::DeniedV4),
        ("a protocol without ports", icmp("10.9.0.1"), Reason::Pass),
        ("any port of a protocol", udp(&[], "192.0.2.1", 9), Reason::DeniedV4),
        ("the protocol that is not named", tcp(&[], "192.0.2.1", 9, SYN), Reason::Pass),
        ("a port of any protocol, TCP", tcp(&[], "10.2.0.9", 443, SYN), Reason::DeniedV4),
        ("a port of any protocol, UDP", udp(&[], "10.2.0.9", 443), Reason::DeniedV4),
        ("what a shorter prefix says of a single address", tcp(&[], "10.2.0.9", 22, SYN), Reason::DeniedV4),
        ("has ended", udp(&[], "203.0.113.1", 9), Reason::Pass),
        ("has not ended", udp(&[], "203.0.113.2", 9), Reason::DeniedV4),
        ("in a VLAN", tcp(vlan, "10.9.0.1", 22, SYN), Reason::DeniedV4),
        ("in QinQ", tcp(qinq, "2001:db8:9::1", 22, SYN), Reason::DeniedV6),
        ("IPv6, a denied port", tcp(&[], "2001:db8:9::1", 8050, SYN), Reason::DeniedV6),
        ("IPv6, another port", tcp(&[], "2001:db8:9::1", 80, SYN), Reason::Pass),
        ("IPv6, an exception", tcp(&[], "2001:db8:1::1", 22, SYN), Reason::Allowed),
        ("IPv6, any port of a protocol", udp(&[], "2001:db8:2::1", 9), Reason::DeniedV6),
        ("IPv6, a single address", udp(&[], "2001:db8:5::9", 443), Reason::DeniedV6),
        ("IPv6, the address beside it", udp(&[], "2001:db8:5::8", 443), Reason::Pass),
        ("IPv6, has not ended", udp(&[], "2001:db8:6::1", 9), Reason::DeniedV6),
        ("IPv6, behind an extension header", with_extensions(1, tcp(&[], "2001:db8:9::1", 22, SYN)), Reason::DeniedV6),
        (
            "IPv6, behind as many as are walked through",
            with_extensions(8, tcp(&[], "2001:db8:9::1", 22, SYN)),
            Reason::DeniedV6,
        ),
        ("IPv6, behind one more", with_extensions(9, tcp(&[], "2001:db8:9::1", 22, SYN)), Reason::HiddenPorts),
        (
            "IPv6, behind one more from a source that may",
            with_extensions(9, tcp(&[], "2001:db8:1::1", 22, SYN)),
            Reason::HiddenPorts,
        ),
        (
            "a first fragment that ends inside TCP",
            first_fragment(tcp(&[], "10.9.0.1", 22, SYN), 8),
            Reason::HiddenPorts,
        ),
        ("a first fragment", first_fragment(tcp(&[], "10.9.0.1", 22, SYN), 20), Reason::DeniedV4),
        ("no rule", tcp(&[], "198.51.100.1", 22, SYN), Reason::Pass),
    ];
    for (name, frame, reason) in cases {
        let before = xdp.counters().unwrap();
        run(&xdp, &frame);
        assert_eq!(increase(&before, &xdp.counters().unwrap()), [(reason, 1)], "{name}");
    }
    let rules = xdp.rules().unwrap();
    let packets = |name| rules.iter().find(|rule| rule.0 == name).unwrap().1;
    assert_eq!((packets("ssh"), packets("office"), packets("udp"), packets("ended")), (11, 2, 2, 0));
    let found = xdp.find("203.0.113.2".parse().unwrap()).unwrap().unwrap();
    assert_eq!((found.prefix.to_string(), found.packets), ("203.0.113.2/32".into(), 1));
}

#[test]
fn a_source_is_free_when_its_time_is_over_whether_or_not_anybody_looks() {
    root_or_skip!();
    let end = SystemTime::now() + Duration::from_secs(6);
    let access = [
        rule("all", Deny, &["10.0.0.0/8"]),
        until(until(rule("a while", Deny, &[]), "192.0.2.1/32", end), "2001:db8::/64", end),
        until(rule("exception", Allow, &[]), "10.1.0.0/16", end),
    ];
    let gateway = Namespace::new("gateway");
    let mut xdp = gateway.enter(|| xdp::attach(&on(XdpLimits::default()), &access).unwrap());
    let verdict = |xdp: &Xdp, source| run(xdp, &udp(&[], source, 9)).action;
    assert_eq!(
        [verdict(&xdp, "192.0.2.1"), verdict(&xdp, "2001:db8::1"), verdict(&xdp, "10.1.0.1")],
        [DROP, DROP, PASS]
    );
    wait::until_true("the end of the ban", || verdict(&xdp, "192.0.2.1") == PASS);
    assert!(SystemTime::now() >= end, "it ended early");
    wait::until_true("the other ends", || (verdict(&xdp, "2001:db8::1"), verdict(&xdp, "10.1.0.1")) == (PASS, DROP));

    assert_eq!(xdp.entries(), (3, 1));
    let report = gateway.enter(|| xdp.keep_time(&access).unwrap());
    assert_eq!((report.removed, xdp.entries()), (3, (1, 0)));
    assert_eq!(
        [verdict(&xdp, "192.0.2.1"), verdict(&xdp, "2001:db8::1"), verdict(&xdp, "10.1.0.1")],
        [PASS, PASS, DROP]
    );
}

#[test]
fn counters_of_a_rule_go_on_while_its_list_is_changed_and_exchanged() {
    root_or_skip!();
    let gateway = Namespace::new("gateway");
    let one = [rule("one", Deny, &["192.0.2.1", "10.0.0.0/8"]), rule("two", Deny, &["192.0.2.2"])];
    let mut xdp = gateway.enter(|| xdp::attach(&on(XdpLimits::default()), &one).unwrap());
    let hit = |xdp: &Xdp| run(xdp, &udp(&[], "192.0.2.1", 9)).action;
    assert_eq!(hit(&xdp), DROP);
    let changed = [rule("two", Deny, &["192.0.2.2"]), rule("one", Deny, &["192.0.2.1", "192.0.2.3"])];
    gateway.enter(|| xdp.sync(&on(XdpLimits::default()), &changed).unwrap());
    assert_eq!(hit(&xdp), DROP);
    assert_eq!(run(&xdp, &udp(&[], "10.0.0.1", 9)).action, PASS);
    let exchanged = [many("one", 20_000, 7), rule("new", Deny, &["192.0.2.1"])];
    gateway.enter(|| xdp.sync(&on(XdpLimits::default()), &exchanged).unwrap());
    assert_eq!(hit(&xdp), DROP);
    let mut rules = xdp.rules().unwrap();
    rules.sort();
    assert_eq!(rules, [("new", 1), ("one", 2)], "a rule counts by its name");
}

#[test]
fn a_list_that_was_exchanged_leaves_the_kernel() {
    root_or_skip!();
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(LevelFilter::Warn);
    let gateway = Namespace::new("gateway");
    let config = on(XdpLimits::default());
    let mut xdp = gateway.enter(|| xdp::attach(&config, &[many("first", 20_000, 7)]).unwrap());
    for seed in [11, 13] {
        gateway.enter(|| xdp.sync(&config, &[many("next", 20_000, seed)]).unwrap());
    }
    let warnings = WARNINGS.0.lock().unwrap();
    assert!(!warnings.iter().any(|line| line.contains("kernel's memory")), "{warnings:?}");
}

/// The warnings of all tests of this file.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl Log for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn a_banned_source_is_dropped_unless_a_rule_allows_it() {
    root_or_skip!();
    let access = [rule("friends", Allow, &["192.0.2.7", "2001:db8:7::/48"]), rule("bad", Deny, &["192.0.2.9"])];
    let gateway = Namespace::new("gateway");
    let mut xdp = gateway.enter(|| xdp::attach(&on(XdpLimits::default()), &access).unwrap());
    let later = SystemTime::now() + Duration::from_secs(3_600);
    for source in ["192.0.2.1/32", "192.0.2.7/32", "192.0.2.9/32", "2001:db8:1::/64", "2001:db8:7::/64"] {
        xdp.ban(source.parse().unwrap(), later).unwrap();
    }
    xdp.ban("192.0.2.2/32".parse().unwrap(), SystemTime::now() - Duration::from_secs(5)).unwrap();
    let cases = [
        ("192.0.2.1", Reason::Banned),
        ("192.0.2.2", Reason::Pass),
        ("192.0.2.3", Reason::Pass),
        ("192.0.2.7", Reason::Allowed),
        ("192.0.2.9", Reason::DeniedV4),
        ("2001:db8:1::", Reason::Banned),
        ("2001:db8:1::ffff:0:0:1", Reason::Banned),
        ("2001:db8:1:1::1", Reason::Pass),
        ("2001:db8:7::1", Reason::Allowed),
    ];
    let judge = |xdp: &Xdp| {
        for (source, reason) in cases {
            let before = xdp.counters().unwrap();
            run(xdp, &udp(&[], source, 9));
            assert_eq!(increase(&before, &xdp.counters().unwrap()), [(reason, 1)], "{source}");
        }
    };
    judge(&xdp);
    gateway.enter(|| xdp.sync(&on(XdpLimits::default()), &[&access[..], &[many("more", 20_000, 7)]].concat()).unwrap());
    judge(&xdp);
    assert_eq!(xdp.banned_packets("192.0.2.1/32".parse().unwrap()).unwrap(), 2);
    xdp.unban("192.0.2.1/32".parse().unwrap(), true).unwrap();
    assert_eq!(run(&xdp, &udp(&[], "192.0.2.1", 9)).action, PASS);
    assert_eq!(run(&xdp, &udp(&[], "2001:db8:1::9", 9)).action, DROP);
    xdp.unban("2001:db8:1::/64".parse().unwrap(), false).unwrap();
    assert_eq!(run(&xdp, &udp(&[], "2001:db8:1::9", 9)).action, PASS);
}

#[test]
fn a_source_gets_its_burst_and_no_more() {
    root_or_skip!();
    // One packet in a thousand seconds does not come while the test runs.
    let few = Some(PacketRate { per_second: 1, burst: 3 });
    let syn = XdpLimits { syn: few, prefix_v4: 24, ..XdpLimits::default() };
    let packets = XdpLimits { packets: few, ..XdpLimits::default() };
    let friends = [rule("friends", Allow, &["192.0.2.7"])];
    let gateway = Namespace::new("gateway");
    let mut xdp = gateway.enter(|| xdp::attach(&on(syn.clone()), &friends).unwrap());
    let reasons = |xdp: &Xdp, frame: &[u8]| {
        let before = xdp.counters().unwrap();
        (0..20).for_each(|_| _ = run(xdp, frame));
        increase(&before, &xdp.counters().unwrap())
    };
    // A second may pass meanwhile, which lets in one packet.
    let is_limited = |counted: &[(Reason, u64)], reason| {
        assert!(counted[0].0 == Reason::Pass && (3..=5).contains(&counted[0].1), "{counted:?}");
        assert_eq!(counted[1..], [(reason, 20 - counted[0].1)]);
    };
    is_limited(&reasons(&xdp, &tcp(&[], "203.0.113.1", 80, SYN)), Reason::SynLimit);
    is_limited(&reasons(&xdp, &tcp(&[], "2001:db8::1", 80, SYN)), Reason::SynLimit);
    let counted = reasons(&xdp, &tcp(&[], "203.0.113.200", 80, SYN));
    assert!(
        counted.iter().any(|(reason, packets)| *reason == Reason::SynLimit && *packets >= 18),
        "{counted:?}: one /24"
    );
    assert_eq!(reasons(&xdp, &tcp(&[], "192.0.2.7", 80, SYN)), [(Reason::Allowed, 20)]);
    assert_eq!(reasons(&xdp, &tcp(&[], "203.0.113.1", 80, ACK)), [(Reason::Pass, 20)]);
    assert_eq!(reasons(&xdp, &udp(&[], "203.0.113.1", 80)), [(Reason::Pass, 20)]);

    gateway.enter(|| xdp.sync(&on(packets.clone()), &friends).unwrap());
    is_limited(&reasons(&xdp, &udp(&[], "198.51.100.1", 80)), Reason::PacketLimit);
    is_limited(&reasons(&xdp, &tcp(&[0x8100], "2001:db8:1::1", 80, ACK)), Reason::PacketLimit);

    gateway.enter(|| xdp.sync(&on(XdpLimits { dry_run: true, ..packets }), &friends).unwrap());
    let counted = reasons(&xdp, &udp(&[], "198.51.100.9", 80));
    assert!(matches!(counted[..], [(Reason::Pass, 20), (Reason::PacketLimitDryRun, 15..=17)]), "{counted:?}");

    gateway.enter(|| xdp.sync(&on(XdpLimits::default()), &friends).unwrap());
    assert_eq!(reasons(&xdp, &tcp(&[], "203.0.113.1", 80, SYN)), [(Reason::Pass, 20)], "no limits");
}

#[test]
fn a_denied_port_gets_no_answer_and_the_others_do() {
    root_or_skip!();
    let (client, gateway) = two_hosts();
    let listeners: Vec<TcpListener> = [GATEWAY_V4, GATEWAY_V6, GATEWAY_V4, GATEWAY_V6]
        .iter()
        .map(|address| gateway.enter(|| TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap()))
        .collect();
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let denied = [ports[0]..=ports[0], ports[1]..=ports[1]];
    let access = [with(rule("ports", Deny, &[CLIENT_V4, CLIENT_V6]), Some(Tcp), &denied)];
    let config = model::Xdp { interfaces: vec!["eth0".into()], mode: XdpMode::Native, ..on(XdpLimits::default()) };
    let xdp = gateway.enter(|| xdp::attach(&config, &access).unwrap());
    let connects = |listener: &TcpListener| connects(&client, listener.local_addr().unwrap());
    assert!(!listeners[..2].iter().any(connects));
    // A veth stands still for a moment when its program comes or goes, and loses what comes meanwhile.
    wait::until_true("the other ports to be served", || listeners[2..].iter().all(connects));
    drop(xdp);
    wait::until_true("all ports to be served", || listeners.iter().all(connects));
}

#[test]
fn a_million_entries_are_loaded_and_exchanged_without_letting_a_listed_source_pass() {
    root_or_skip!();
    let (client, gateway) = two_hosts();
    let socket = |namespace: &Namespace, address: &str| {
        namespace.enter(|| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap())
    };
    let (sender, receiver) = (socket(&client, CLIENT_V4), socket(&gateway, GATEWAY_V4));
    receiver.set_nonblocking(true).unwrap();
    let to = receiver.local_addr().unwrap();
    let bad = rule("bad", Deny, &["10.97.0.0/16", CLIENT_V6]);
    let lists = [7, 11].map(|seed| [many("million", 1_000_000, seed), bad.clone()]);
    let small = [bad.clone(), rule("few", Deny, &["192.0.2.0/24", "10.97.0.0/24"])];
    let config = model::Xdp { interfaces: vec!["eth0".into()], mode: XdpMode::Native, ..on(XdpLimits::default()) };
    let mut xdp = gateway.enter(|| xdp::attach(&config, &small).unwrap());

    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut lines = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                let _ = sender.send_to(b"x", to);
                sent.fetch_add(1, Relaxed);
            }
        });
        wait::until_true("a stream of packets", || sent.load(Relaxed) > 1_000);
        for access in [&lists[0][..], &lists[1], &small, &lists[0], &small[..1], &small, std::slice::from_ref(&bad)] {
            let started = Instant::now();
            let report = gateway.enter(|| xdp.sync(&config, access).unwrap());
            lines.push(format!("{report:?} in {:?}", started.elapsed()));
            let before = sent.load(Relaxed);
            wait::until_true("more packets", || sent.load(Relaxed) > before + 1_000);
        }
        stop.store(true, Relaxed);
    });
    let error = receiver.recv(&mut [0; 8]).expect_err("a packet of a listed source passed");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(xdp.counters().unwrap().packets(Reason::DeniedV4) > 7_000);
    io::stderr().write_all(format!("\n{}\n", lines.join("\n")).as_bytes()).unwrap();
    drop(xdp);
    sender.send_to(b"x", to).unwrap();
    wait::until_true("a packet after the program is detached", || receiver.recv(&mut [0; 8]).is_ok());
}

const DROP: u32 = 1;
const PASS: u32 = 2;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const GATEWAY_V4: &str = "10.97.0.1";
const GATEWAY_V6: &str = "fd97::1";
const CLIENT_V4: &str = "10.97.0.2";
const CLIENT_V6: &str = "fd97::2";

/// A client and a gateway, joined by their `eth0`.
fn two_hosts() -> (Namespace, Namespace) {
    let (client, gateway) = (Namespace::new("client"), Namespace::new("gateway"));
    lab::connect((&client, "eth0"), (&gateway, "eth0"));
    for (namespace, v4, v6) in [(&client, CLIENT_V4, CLIENT_V6), (&gateway, GATEWAY_V4, GATEWAY_V6)] {
        namespace.add_address("eth0", v4.parse().unwrap(), 24);
        namespace.add_address("eth0", v6.parse().unwrap(), 64);
    }
    (client, gateway)
}

fn connects(client: &Namespace, to: SocketAddr) -> bool {
    client.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.connect_timeout(&to.into(), NO_ANSWER).is_ok()
    })
}

fn on(limits: XdpLimits) -> model::Xdp {
    model::Xdp { interfaces: vec!["lo".into()], mode: XdpMode::Auto, pin: None, limits, ..model::Xdp::default() }
}

/// A rule; an address stands for the prefix that has only it.
fn rule(name: &str, action: AccessAction, sources: &[&str]) -> AccessRule {
    let prefix = |text: &&str| match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().unwrap(),
    };
    let sources = sources.iter().map(prefix).collect();
    AccessRule { name: name.into(), action, protocol: None, ports: Vec::new(), sources, expiring: Vec::new() }
}

fn with(rule: AccessRule, protocol: Option<VipProtocol>, ports: &[RangeInclusive<u16>]) -> AccessRule {
    AccessRule { protocol, ports: ports.to_vec(), ..rule }
}

fn until(mut rule: AccessRule, source: &str, end: SystemTime) -> AccessRule {
    rule.expiring.push((source.parse().unwrap(), end));
    rule
}

/// A deny list: 70 % single addresses, 20 % /24 and 10 % /28, none of them in 240.0.0.0/4.
fn many(name: &str, count: u32, seed: u32) -> AccessRule {
    let prefix = |at: u32| {
        let length = [32, 32, 32, 32, 32, 32, 32, 24, 24, 28][at as usize % 10];
        IpNet::V4(Ipv4Net::new(source_of(at, seed).into(), length).unwrap().trunc())
    };
    let mut sources: Vec<IpNet> = (0..count).map(prefix).collect();
    sources.sort();
    sources.dedup();
    AccessRule { sources, ..rule(name, Deny, &[]) }
}

fn source_of(at: u32, seed: u32) -> u32 {
    // Knuth's multiplicative hash, outside of 10.97.0.0/16 and of class E.
    let address = (at.wrapping_add(seed << 20)).wrapping_mul(2_654_435_761);
    if address >> 28 == 15 || address >> 16 == 0x0a61 { address ^ 0x8000_0000 } else { address }
}

fn increase(before: &Counters, after: &Counters) -> Vec<(Reason, u64)> {
    let changes = after.iter().map(|(reason, packets)| (reason, packets - before.packets(reason)));
    changes.filter(|(_, packets)| *packets > 0).collect()
}

fn run(xdp: &Xdp, frame: &[u8]) -> Probe {
    xdp.probe(frame, 1).unwrap().expect("XDP is on")
}

fn tcp(tags: &[u16], source: &str, port: u16, flags: u8) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&40_000u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    ip(tags, source, 6, &segment)
}

fn udp(tags: &[u16], source: &str, port: u16) -> Vec<u8> {
    let mut datagram = [0; 20];
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    ip(tags, source, 17, &datagram)
}

fn icmp(source: &str) -> Vec<u8> {
    ip(&[], source, 1, &[0; 20])
}

fn ip(tags: &[u16], source: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match source.parse().unwrap() {
        IpAddr::V4(source) => {
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            header[8..10].copy_from_slice(&[64, protocol]);
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&[198, 18, 0, 1]);
            ethernet(tags, 0x0800, &[&header, payload].concat())
        }
        IpAddr::V6(source) => {
            let mut header = [0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            header[6..8].copy_from_slice(&[protocol, 64]);
            header[8..24].copy_from_slice(&source.octets());
            header[39] = 1;
            ethernet(tags, 0x86dd, &[&header, payload].concat())
        }
    }
}

/// An IPv6 frame without tags, with so many headers of destination options before its transport.
fn with_extensions(headers: u8, mut frame: Vec<u8>) -> Vec<u8> {
    for _ in 0..headers {
        let next = std::mem::replace(&mut frame[14 + 6], 60);
        frame[14 + 5] += 8;
        frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame
}

/// An IPv4 packet as the first fragment of itself, with so many bytes behind the IP header.
fn first_fragment(mut frame: Vec<u8>, bytes: u8) -> Vec<u8> {
    frame[16..18].copy_from_slice(&[0, 20 + bytes]);
    frame[20] = 0x20;
    frame.truncate(34 + usize::from(bytes));
    // As Ethernet fills it up.
    frame.resize(60, 0);
    frame
}

fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 42]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}
