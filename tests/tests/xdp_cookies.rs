//! SYN cookies for the box's own listeners: the answers, byte by byte, through the program in the kernel
//! (BPF_PROG_TEST_RUN), and real connections over a veth.
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gateway::config::model::{
    self, AccessAction, AccessRule, PacketRate, VipAffinity, VipMode, VipProtocol, XdpLimits, XdpMode,
};
use gateway::xdp::{self, Backend, Counters, Reason, Service, Target, Xdp};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::prelude::*;
use gateway_tests::root_or_skip;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Of `net.ipv4.tcp_syncookies`.
const OVERFLOWING: &str = "1";
const ALWAYS: &str = "2";

#[test]
fn connections_are_opened_by_cookies_when_the_listener_wants_them() {
    root_or_skip!();
    let (client, gateway) = two_hosts();
    let listener = gateway.enter(|| TcpListener::bind(("::", 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let xdp = gateway.enter(|| xdp::attach(&on("eth0", true), &[]).unwrap());
    for (setting, expected) in [(ALWAYS, 1), (OVERFLOWING, 0)] {
        syncookies(&gateway, setting);
        for address in [GATEWAY_V4, GATEWAY_V6] {
            let before = xdp.counters().unwrap();
            exchange(&client, &listener, SocketAddr::new(address.parse().unwrap(), port));
            let cookies = xdp.counters().unwrap().packets(Reason::SynCookie) - before.packets(Reason::SynCookie);
            assert_eq!(cookies, expected, "{address} with tcp_syncookies = {setting}");
        }
    }
    drop(xdp);
    let xdp = gateway.enter(|| xdp::attach(&on("eth0", false), &[]).unwrap());
    syncookies(&gateway, ALWAYS);
    exchange(&client, &listener, SocketAddr::new(GATEWAY_V4.parse().unwrap(), port));
    assert_eq!(xdp.counters().unwrap().packets(Reason::SynCookie), 0, "syn_cookies is off");
}

#[test]
fn a_listener_whose_queue_overflows_still_takes_connections() {
    root_or_skip!();
    let (client, gateway) = two_hosts();
    syncookies(&gateway, OVERFLOWING);
    let listener: TcpListener = gateway.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        socket.listen(2).unwrap();
        socket.into()
    });
    let port = listener.local_addr().unwrap().port();
    let xdp = gateway.enter(|| xdp::attach(&on("eth0", true), &[]).unwrap());
    let cookies = || xdp.counters().unwrap().packets(Reason::SynCookie);
    for (source, to) in FLOODS {
        let mut flood = Flood::new(&client, source, to, port);
        let before = cookies();
        wait::until_true("an answer to the flood", || {
            flood.send(1);
            cookies() > before
        });
        // What is still on its way of the flood gets cookies, too, but never sends one back.
        let before = cookies_returned(&gateway);
        exchange(&client, &listener, SocketAddr::new(to.parse().unwrap(), port));
        assert_eq!(cookies_returned(&gateway), before + 1, "{to}");
    }
}

/// How many connections cookies have opened in `namespace`: `SyncookiesRecv` of its `/proc/net/netstat`, which has a
/// line of names and then one of values.
fn cookies_returned(namespace: &Namespace) -> u64 {
    let netstat = namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, value) = names.zip(values).find(|(name, _)| *name == "SyncookiesRecv").unwrap();
    value.parse().unwrap()
}

#[test]
fn clients_get_their_answers_during_a_flood_and_metrics_count_the_cookies() {
    root_or_skip!();
    let (client, machine) = two_hosts();
    syncookies(&machine, OVERFLOWING);
    machine.run(&["sysctl", "-qw", "net.core.somaxconn=16"]);
    let config = Config::new()
        .tables("[xdp]\ninterfaces = ['eth0']\npin = 'off'\nsyn_cookies = true\n")
        .listener_at("web", "[::]:0".parse().unwrap(), "")
        .route("all", "respond = { status = 200, body = 'served' }");
    let gateway = machine.enter(|| Gateway::start(&config));
    let port = gateway.addr("web").port();
    let cookies = || {
        let metrics = machine.enter(|| gateway.metrics());
        metrics.sum("gateway_xdp_packets_total", &[("reason", "syn_cookie")]) as u64
    };
    for (source, to) in FLOODS {
        let before = cookies();
        let over = AtomicBool::new(false);
        let mut flood = Flood::new(&client, source, to, port);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Not for ever, should a client have failed.
                let end = Instant::now() + wait::DEADLINE;
                while !over.load(Ordering::Relaxed) && Instant::now() < end {
                    flood.send(100);
                }
            });
            wait::until_true("an answer to the flood", || cookies() > before);
            for _ in 0..20 {
                let answer = get(&client, SocketAddr::new(to.parse().unwrap(), port));
                assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("served"), "{answer:?}");
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(cookies() - before > 20, "{to}");
    }
}

/// What one answer of the gateway says.
fn get(client: &Namespace, to: SocketAddr) -> String {
    let mut stream = client.enter(|| TcpStream::connect_timeout(&to, wait::DEADLINE).unwrap());
    stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_answer_has_the_clients_numbers_the_cookies_mss_and_right_checksums() {
    root_or_skip!();
    let lab = Lab::new(&[]);
    // What the kernel's cookies can say of an MSS, at most as much as the SYN did; its defaults when that said nothing.
    for (source, to, mss, default) in
        [("10.0.0.9", "127.0.0.1", 1460, 536), ("2001:db8::9", "::1", 1440, 1220), ("2001:db8::9", "::1", 1440, 1220)]
    {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            for options in [0, 4, 20, 40] {
                let syn = Syn { port: lab.port, options, tags: tags.to_vec(), ..Syn::new(source, to) };
                let (action, answer, counted) = lab.run(&syn.frame());
                let name = format!("{to}, tags {tags:x?}, {options} bytes of options");
                assert_eq!((action, counted), (REDIRECT, vec![(Reason::SynCookie, 1)]), "{name}");
                check_answer(&syn, &answer, if options == 0 { default } else { mss }, &name);
            }
        }
    }
}

#[test]
fn what_is_no_syn_to_a_listener_of_the_box_goes_its_way() {
    root_or_skip!();
    let rule = AccessRule {
        name: "bad".into(),
        action: AccessAction::Deny,
        protocol: None,
        ports: Vec::new(),
        sources: vec!["192.0.2.1/32".parse().unwrap()],
        expiring: Vec::new(),
    };
    let allowed = AccessRule {
        name: "friends".into(),
        action: AccessAction::Allow,
        sources: vec!["192.0.2.2/32".parse().unwrap()],
        ..rule.clone()
    };
    let mut lab = Lab::new(&[rule, allowed]);
    let backend = Backend { address: "127.9.9.9:1".parse().unwrap(), weight: 1, alive: false };
    let target = Target::Backends { mode: VipMode::Dnat, affinity: VipAffinity::Flow, backends: vec![backend] };
    let vip = |address: &str, target| Service {
        name: address.into(),
        address: SocketAddr::new(address.parse().unwrap(), lab.port),
        protocol: VipProtocol::Tcp,
        target,
        drain: false,
    };
    let services = [vip("127.0.0.2", Target::Local), vip("127.0.0.3", target)];
    lab.serve(&services);
    lab.namespace.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    lab.namespace.run(&["ip", "link", "add", "elsewhere", "type", "veth"]);
    lab.namespace.run(&["ip", "link", "set", "elsewhere", "up"]);
    for network in ["198.51.100.0/24", "2001:db8:9::/48"] {
        lab.namespace.run(&["ip", "route", "add", network, "dev", "elsewhere"]);
    }

    let port = lab.port;
    let v4 = Syn { port, ..Syn::new("10.0.0.9", "127.0.0.1") };
    let v6 = Syn { port, ..Syn::new("2001:db8::9", "::1") };
    let with_ip_options = {
        let mut frame = Syn { options: 4, ..v4.clone() }.frame();
        frame[14] = 0x46;
        frame.splice(34..34, [1; 4]);
        frame[17] += 4;
        frame
    };
    let changed = |at: usize, byte: u8| {
        let mut frame = v4.frame();
        frame[at] = byte;
        frame
    };
    let cases = [
        ("a SYN", v4.frame(), Reason::SynCookie),
        ("a SYN of IPv6", v6.frame(), Reason::SynCookie),
        (
            "a SYN of an allowed source",
            Syn { source: "192.0.2.2".parse().unwrap(), ..v4.clone() }.frame(),
            Reason::SynCookie,
        ),
        (
            "a SYN to a vip of the box itself",
            Syn { to: "127.0.0.2".parse().unwrap(), ..v4.clone() }.frame(),
            Reason::SynCookie,
        ),
        ("to a vip of a cluster", Syn { to: "127.0.0.3".parse().unwrap(), ..v4.clone() }.frame(), Reason::NoBackend),
        ("a denied source", Syn { source: "192.0.2.1".parse().unwrap(), ..v4.clone() }.frame(), Reason::DeniedV4),
        ("nobody listens", Syn { port: port ^ 1, ..v4.clone() }.frame(), Reason::Pass),
        (
            "an allowed source, nobody listens",
            Syn { source: "192.0.2.2".parse().unwrap(), port: port ^ 1, ..v4.clone() }.frame(),
            Reason::Allowed,
        ),
        ("goes through the box", Syn { to: "198.51.100.1".parse().unwrap(), ..v4.clone() }.frame(), Reason::Pass),
        (
            "goes through the box, IPv6",
            Syn { to: "2001:db8:9::1".parse().unwrap(), ..v6.clone() }.frame(),
            Reason::Pass,
        ),
        ("SYN and ACK", Syn { flags: 0x12, ..v4.clone() }.frame(), Reason::Pass),
        ("an ACK", Syn { flags: 0x10, ..v6.clone() }.frame(), Reason::Pass),
        ("SYN and RST", Syn { flags: 0x06, ..v4.clone() }.frame(), Reason::Pass),
        ("SYN and FIN", Syn { flags: 0x03, ..v4.clone() }.frame(), Reason::Pass),
        ("a header shorter than the least", changed(46, 0x40), Reason::Pass),
        ("a header longer than the frame", changed(46, 0xf0), Reason::Pass),
        ("a first fragment", changed(20, 0x20), Reason::Pass),
        ("a broadcast", changed(0, 0xff), Reason::Pass),
        ("to another station, by its first byte", changed(0, 0x02), Reason::Pass),
        ("to another station, by its last byte", changed(5, 0x01), Reason::Pass),
        ("IP options", with_ip_options, Reason::Pass),
    ];
    for (name, frame, expected) in cases {
        let (action, answer, counted) = lab.run(&frame);
        assert_eq!(counted, [(expected, 1)], "{name}");
        if action == PASS {
            assert_eq!(answer, frame, "{name}: the stack gets it as it came");
        }
    }
}

#[test]
fn a_source_within_its_limit_gets_a_cookie_and_none_beyond_it() {
    root_or_skip!();
    let limits = XdpLimits { syn: Some(PacketRate { per_second: 1, burst: 2 }), ..XdpLimits::default() };
    let lab = Lab::with(model::Xdp { limits, ..on("lo", true) }, &[]);
    let syn = Syn { port: lab.port, ..Syn::new("10.0.0.9", "127.0.0.1") };
    let reasons: Vec<Reason> = (0..3).map(|_| lab.run(&syn.frame()).2[0].0).collect();
    assert_eq!(reasons, [Reason::SynCookie, Reason::SynCookie, Reason::SynLimit]);
}

/// Prints what a SYN costs: `cargo test -p gateway-tests --test xdp_cookies -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_syn() {
    root_or_skip!();
    for (name, config) in [("off", on("lo", false)), ("on", on("lo", true))] {
        let started = Instant::now();
        let lab = Lab::with(config, &[]);
        let mut out = io::stdout();
        writeln!(out, "syn_cookies {name}: load, verify and attach {:?}", started.elapsed()).unwrap();
        for (queue, setting) in [("has room", OVERFLOWING), ("overflows", ALWAYS)] {
            syncookies(&lab.namespace, setting);
            for (source, to) in [("10.0.0.9", "127.0.0.1"), ("2001:db8::9", "::1")] {
                let frame = Syn { port: lab.port, options: 20, ..Syn::new(source, to) }.frame();
                // One at a time: the program turns the frame into another one.
                let mut runs: Vec<Duration> = (0..2_001)
                    .map(|_| lab.namespace.enter(|| lab.xdp.probe(&frame, 1).unwrap().unwrap().per_packet))
                    .collect();
                runs.sort();
                writeln!(out, "  queue {queue}, to {to}: {:?} (median)", runs[1_000]).unwrap();
            }
        }
    }
}

const PASS: u32 = 2;
const REDIRECT: u32 = 4;

const GATEWAY_V4: &str = "10.97.0.1";
const GATEWAY_V6: &str = "fd97::1";

/// Sources that exist nowhere, so that nobody resets what they ask for, and whom they ask.
const FLOODS: [(&str, &str); 2] = [("10.97.0.77", GATEWAY_V4), ("fd97::77", GATEWAY_V6)];

/// SYNs of one source, each from another port.
struct Flood {
    socket: Socket,
    to: SockAddr,
    syn: Syn,
}

impl Flood {
    fn new(from: &Namespace, source: &str, to: &str, port: u16) -> Flood {
        let syn = Syn { source_port: 1024, port, ..Syn::new(source, to) };
        let domain = if syn.to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = from.enter(|| Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap());
        // The port of a raw socket's address of IPv6 is a protocol, and has to be 0.
        Flood { socket, to: SocketAddr::new(syn.to, 0).into(), syn }
    }

    fn send(&mut self, syns: usize) {
        for _ in 0..syns {
            self.syn.source_port = self.syn.source_port.wrapping_add(1);
            self.socket.send_to(&self.syn.packet(), &self.to).unwrap();
        }
    }
}

/// A listener on any address of a namespace, and the program there, for frames that are run through it.
struct Lab {
    xdp: Xdp,
    namespace: Namespace,
    port: u16,
    _listener: TcpListener,
}

impl Lab {
    fn new(access: &[AccessRule]) -> Lab {
        Lab::with(on("lo", true), access)
    }

    fn with(config: model::Xdp, access: &[AccessRule]) -> Lab {
        let namespace = Namespace::new("gateway");
        syncookies(&namespace, ALWAYS);
        let listener = namespace.enter(|| TcpListener::bind(("::", 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let xdp = namespace.enter(|| xdp::attach(&config, access).unwrap());
        Lab { xdp, namespace, port, _listener: listener }
    }

    fn serve(&mut self, services: &[Service]) {
        let Lab { xdp, namespace, .. } = self;
        namespace.enter(|| xdp.sync_services(services).unwrap());
    }

    /// The verdict, the frame afterwards, and the counters that rose.
    fn run(&self, frame: &[u8]) -> (u32, Vec<u8>, Vec<(Reason, u64)>) {
        let before = self.xdp.counters().unwrap();
        // The kernel looks for sockets and routes in the namespace of the caller.
        let probe = self.namespace.enter(|| self.xdp.probe(frame, 1).unwrap().expect("XDP is on"));
        (probe.action, probe.frame, increase(&before, &self.xdp.counters().unwrap()))
    }
}

/// A SYN, unless `flags` say something else.
#[derive(Clone)]
struct Syn {
    tags: Vec<u16>,
    source: IpAddr,
    to: IpAddr,
    source_port: u16,
    port: u16,
    flags: u8,
    /// Bytes of TCP options: none, or the MSS and padding.
    options: usize,
}

const SEQUENCE: u32 = u32::MAX;

impl Syn {
    fn new(source: &str, to: &str) -> Syn {
        let [source, to] = [source, to].map(|address| address.parse().unwrap());
        Syn { tags: Vec::new(), source, to, source_port: 40_000, port: 0, flags: 0x02, options: 0 }
    }

    fn frame(&self) -> Vec<u8> {
        // To the loopback's own address: what BPF_PROG_TEST_RUN runs comes in by that interface.
        let mut frame = vec![0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 42]);
        }
        frame.extend(if self.to.is_ipv4() { 0x0800u16 } else { 0x86dd }.to_be_bytes());
        frame.extend(self.packet());
        frame
    }

    fn packet(&self) -> Vec<u8> {
        let mut segment = vec![0; 20 + self.options];
        segment[..2].copy_from_slice(&self.source_port.to_be_bytes());
        segment[2..4].copy_from_slice(&self.port.to_be_bytes());
        segment[4..8].copy_from_slice(&SEQUENCE.to_be_bytes());
        segment[12] = ((20 + self.options as u8) / 4) << 4;
        segment[13] = self.flags;
        if self.options > 0 {
            let mss: u16 = if self.to.is_ipv4() { 1460 } else { 1440 };
            let [high, low] = mss.to_be_bytes();
            segment[20..].fill(1);
            segment[20..24].copy_from_slice(&[2, 4, high, low]);
        }
        let sum = !transport_sum(self.source, self.to, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        [header(self.source, self.to, segment.len()), segment].concat()
    }
}

fn header(source: IpAddr, to: IpAddr, payload: usize) -> Vec<u8> {
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 20 + payload as u8, 0, 1, 0, 0, 64, 6, 0, 0];
            header.extend([source.octets(), to.octets()].concat());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, payload as u8, 6, 64];
            header.extend([source.octets(), to.octets()].concat());
            header
        }
        _ => unreachable!("a packet has one IP version"),
    }
}

/// The sum that the checksum is the complement of (RFC 9293 §3.1); all ones when the checksum is in it and right.
fn transport_sum(source: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let pseudo = [octets(source), octets(to), vec![0, 6], (segment.len() as u16).to_be_bytes().to_vec()];
    sum(&[&pseudo.concat(), segment].concat())
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn check_answer(syn: &Syn, answer: &[u8], mss: u16, name: &str) {
    let asked = syn.frame();
    let ethernet = 14 + 4 * syn.tags.len();
    assert_eq!([&answer[..6], &answer[6..12]], [&asked[6..12], &asked[..6]], "{name}: MAC addresses");
    assert_eq!(answer[12..ethernet], asked[12..ethernet], "{name}: tags and EtherType");
    let ip_header = header(syn.to, syn.source, 24);
    let (ip, segment) = answer[ethernet..].split_at(ip_header.len());
    let segment = &segment[..24];
    assert!(answer.len() == 60.max(ethernet + ip.len() + 24), "{name}: {} bytes", answer.len());
    if syn.to.is_ipv4() {
        assert_eq!(sum(ip), u16::MAX, "{name}: the header's checksum");
        assert_eq!((ip[..4].to_vec(), &ip[8..10]), (ip_header[..4].to_vec(), &[64, 6][..]), "{name}");
        assert_eq!(ip[12..], ip_header[12..], "{name}: addresses");
    } else {
        assert_eq!(ip, ip_header, "{name}: the header");
    }
    assert_eq!(transport_sum(syn.to, syn.source, segment), u16::MAX, "{name}: TCP's checksum");
    let ports = [syn.port.to_be_bytes(), syn.source_port.to_be_bytes()].concat();
    assert_eq!(segment[..4], ports, "{name}: ports");
    assert_eq!(segment[8..12], SEQUENCE.wrapping_add(1).to_be_bytes(), "{name}: acknowledgement");
    assert_eq!(segment[12..14], [0x60, 0x12], "{name}: length and flags");
    let [high, low] = mss.to_be_bytes();
    assert_eq!(segment[20..], [2, 4, high, low], "{name}: the MSS");
}

/// Opens a connection and sends something both ways.
fn exchange(client: &Namespace, listener: &TcpListener, to: SocketAddr) {
    let mut there = client.enter(|| TcpStream::connect_timeout(&to, wait::DEADLINE).unwrap());
    let (mut here, _) = listener.accept().unwrap();
    for stream in [&there, &here] {
        stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    }
    let question: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
    let mut received = vec![0; question.len()];
    thread::scope(|scope| {
        scope.spawn(|| there.write_all(&question).unwrap());
        here.read_exact(&mut received).unwrap();
    });
    assert!(received == question, "{to}: what the client sent");
    here.write_all(b"answer").unwrap();
    there.read_exact(&mut received[..6]).unwrap();
    assert_eq!(&received[..6], b"answer", "{to}");
}

/// A client and a gateway, joined by their `eth0`.
fn two_hosts() -> (Namespace, Namespace) {
    let (client, gateway) = (Namespace::new("client"), Namespace::new("gateway"));
    lab::connect((&client, "eth0"), (&gateway, "eth0"));
    for (namespace, v4, v6) in [(&client, "10.97.0.2", "fd97::2"), (&gateway, GATEWAY_V4, GATEWAY_V6)] {
        namespace.add_address("eth0", v4.parse().unwrap(), 24);
        namespace.add_address("eth0", v6.parse().unwrap(), 64);
    }
    (client, gateway)
}

fn syncookies(namespace: &Namespace, setting: &str) {
    namespace.run(&["sysctl", "-qw", &format!("net.ipv4.tcp_syncookies={setting}")]);
}

fn on(interface: &str, syn_cookies: bool) -> model::Xdp {
    model::Xdp {
        interfaces: vec![interface.into()],
        mode: XdpMode::Auto,
        pin: None,
        syn_cookies,
        ..model::Xdp::default()
    }
}

fn increase(before: &Counters, after: &Counters) -> Vec<(Reason, u64)> {
    let changes = after.iter().map(|(reason, packets)| (reason, packets - before.packets(reason)));
    changes.filter(|(_, packets)| *packets > 0).collect()
}
