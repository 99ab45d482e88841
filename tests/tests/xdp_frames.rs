//! Frames that nobody sends on purpose: cut ones, very large ones, and garbage, through BPF_PROG_TEST_RUN.
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use gateway::config::model::{self, AccessAction, AccessRule, FlowLimits, PacketRate, VipMode, VipProtocol, XdpLimits};
use gateway::xdp::{Reason, Service};
use gateway_tests::packet::flags::{ACK, FIN, RST, SYN};
use gateway_tests::packet::{self, Build};
use gateway_tests::root_or_skip;
use gateway_tests::xdp::{Addresses, BOTH, DROP, Lab, PASS, REDIRECT, V4, V6, at, bracketed, build, service};

/// A service of each mode and protocol, at a port of its own.
fn services(a: &Addresses) -> Vec<Service> {
    let modes = [VipMode::Nat, VipMode::Dnat, VipMode::Dsr, VipMode::Ipip];
    let numbered = (80..).zip(modes).flat_map(|(port, mode)| {
        [VipProtocol::Tcp, VipProtocol::Udp].map(|protocol| {
            let mut service = service(a, protocol, mode, &a.backends);
            service.address.set_port(port);
            service
        })
    });
    numbered.collect()
}

/// The virtual address with the port of a mode.
fn vip(a: &Addresses, service: usize) -> String {
    let mut address = at(a.vip);
    address.set_port(80 + service as u16);
    address.to_string()
}

#[test]
fn a_frame_cut_at_any_byte_is_not_forwarded_and_not_changed() {
    root_or_skip!();
    for a in BOTH {
        let mut lab = Lab::new();
        lab.serve(&services(a));
        let mut frames = Vec::new();
        for mode in 0..4 {
            let to = vip(a, mode);
            for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
                lab.sent(&lab.first(protocol, a.client, &to));
                let packet = build(protocol, ACK, a.client, &to);
                frames.push(("an established flow", packet.frame()));
                frames.push(("tags", Build { tags: vec![(0x88a8, 7), (0x8100, 42)], ..packet.clone() }.frame()));
                frames.push(("a new flow", build(protocol, SYN, &a.client.replace(":4", ":5"), &to).frame()));
                let options = if at(a.vip).is_ipv4() { vec![1; 8] } else { vec![packet.protocol, 0, 1, 4, 0, 0, 0, 0] };
                frames.push(("options", Build { options, extension: Some(60), ..packet }.frame()));
            }
            let [first, later] = packet::fragments(&Build { payload: vec![9; 100], ..Build::udp(a.client, &to) }, 64);
            assert_eq!(lab.run(&first).0, REDIRECT);
            frames.extend([("a first fragment", first), ("a later fragment", later)]);
            let quoted = build(VipProtocol::Tcp, ACK, &to, a.client).packet();
            let kind = if at(a.vip).is_ipv4() { 3 } else { 1 };
            frames.push(("an error", packet::icmp(a.router, &at(&to).ip().to_string(), kind, 3, [0; 4], &quoted)));
        }
        let echo = if at(a.vip).is_ipv4() { 8 } else { 128 };
        let client = at(a.client).ip().to_string();
        frames.push(("a ping", packet::icmp(&client, &at(a.vip).ip().to_string(), echo, 0, [0; 4], b"abcdefg")));
        lab.namespace.enter(|| {
            for (name, frame) in frames {
                for length in 14..frame.len() {
                    let cut = lab.xdp.probe(&frame[..length], 1).unwrap().unwrap();
                    assert!([PASS, DROP].contains(&cut.action), "{name}, {length} of {}: {}", frame.len(), cut.action);
                    assert_eq!(cut.frame, frame[..length], "{name}, {length} of {}", frame.len());
                }
                assert_eq!(lab.xdp.probe(&frame, 1).unwrap().unwrap().action, REDIRECT, "{name}, all of it");
            }
        });
    }
}

/// The kernel gives the program the first part of such a frame, and the rest in other buffers.
#[test]
fn jumbo_frames_are_forwarded_and_refused_like_others() {
    root_or_skip!();
    for a in BOTH {
        let mut lab = Lab::new();
        lab.namespace.run(&["ip", "link", "set", "eth0", "mtu", "9000"]);
        lab.serve(&services(a));
        for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
            let big = |from: &str, to: &str, size: usize| {
                let payload = (0..size).map(|n| (n % 251) as u8).collect();
                Build { payload, ..build(protocol, ACK, from, to) }
            };
            for mode in 0..4 {
                let packet = big(a.client, &vip(a, mode), 8_900);
                let sent = lab.sent(&packet.frame());
                match mode {
                    0 | 1 => {
                        assert_eq!(sent.payload, packet.payload);
                        let answer = big(&sent.to.to_string(), &sent.from.to_string(), 8_901);
                        let answered = lab.sent(&answer.frame());
                        assert_eq!((answered.from, answered.to), (packet.to, packet.from));
                        assert_eq!(answered.payload, answer.payload);
                    }
                    2 => assert_eq!(sent.payload, packet.payload),
                    _ => {
                        let inner = packet::see_packet(&sent.payload).unwrap();
                        assert_eq!((inner.to, inner.payload), (packet.to, packet.payload));
                    }
                }
                let told = lab.sent(&big(a.client, &vip(a, mode), 9_200).frame());
                assert_eq!(told.to.ip(), at(a.client).ip());
                assert_eq!(packet::see_quoted(&told.payload[8..]).unwrap(), (at(a.client), at(&vip(a, mode))));
                let mut cut = packet_frame_cut(&big(a.client, &vip(a, mode), 8_900));
                assert_eq!(lab.refused(&cut), Reason::Malformed);
                cut.truncate(100);
                assert_eq!(lab.refused(&cut), Reason::Malformed);
            }
        }
    }
}

/// Rules and limits could not be asked about its port and flags, which the stack finds.
#[test]
fn a_jumbo_frame_whose_ports_are_behind_the_bytes_in_sight_is_dropped() {
    root_or_skip!();
    let lab = Lab::new();
    for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
        let packet = build(protocol, SYN, V6.client, V6.vip);
        let options = |next: u8| [&[next, 255][..], &[0; 2046]].concat();
        let chain = [options(60), options(packet.protocol)].concat();
        let hidden = Build { extension: Some(0), options: chain, payload: vec![7; 99], ..packet.clone() };
        assert_eq!(lab.refused(&hidden.frame()), Reason::HiddenPorts);
        let seen = Build { extension: Some(0), options: options(packet.protocol), payload: vec![7; 4_000], ..packet };
        assert_eq!(lab.refused(&seen.frame()), Reason::Pass);
    }
}

fn packet_frame_cut(packet: &Build) -> Vec<u8> {
    let mut frame = packet.frame();
    frame.pop();
    frame
}

/// Numbers that look random and are the same in each run (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// A packet to or from something that the program knows, with fields at random and checksums that are right.
fn packet(numbers: &mut Numbers) -> Vec<u8> {
    let a = numbers.of(&BOTH);
    let client = format!("{}:{}", ip_of(a.client), 40_000 + numbers.below(20));
    let snat = format!("{}:{}", ip_of(a.snat), 61_000 + numbers.below(64));
    let (backend, to_vip) = (numbers.of(&a.backends).to_owned(), vip(a, numbers.below(5)));
    let denied = if at(a.vip).is_ipv4() { "203.0.113.200:9" } else { "[2001:db8:bad::9]:9" };
    let (from, to) = match numbers.below(10) {
        0 => (denied.to_owned(), to_vip),
        1 => (backend, client),
        2 | 3 => (backend, snat),
        4 => (client, snat),
        5 => (to_vip, client),
        _ => (client, to_vip),
    };
    if numbers.one_in(6) {
        let quoted = build(VipProtocol::Tcp, ACK, &to, &from).packet();
        let (kind, code) = (numbers.below(16) as u8, numbers.below(5) as u8);
        let body = &quoted[..numbers.below(quoted.len() + 1)];
        return packet::icmp(&at(&from).ip().to_string(), &at(&to).ip().to_string(), kind, code, [0, 0, 5, 0], body);
    }
    let protocol = numbers.of(&[VipProtocol::Tcp, VipProtocol::Udp]);
    let flags = numbers.of(&[SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, 0xff]);
    let (tags, size) = (numbers.below(4), numbers.below(400));
    let packet = Build {
        tags: (0..tags).map(|_| (numbers.of(&[0x8100, 0x88a8]), 42)).collect(),
        ttl: numbers.of(&[0, 1, 2, 64, 255]),
        payload: numbers.bytes(size),
        no_checksum: numbers.one_in(10),
        fragment: numbers.of(&[0x4000, 0x4000, 0, 0x2000, 0x2005, 7]),
        ..build(protocol, flags, &from, &to)
    };
    let options = numbers.below(3);
    match at(&from).is_ipv4() {
        true => Build { options: vec![1; 4 * options], ..packet }.frame(),
        false if options == 0 => packet.frame(),
        false => {
            let chain = [&[packet.protocol, options as u8][..], &vec![0; 6 + 8 * options]].concat();
            Build { extension: Some(numbers.of(&[0, 43, 60])), options: chain, ..packet }.frame()
        }
    }
}

/// The address as it stands before a colon and a port; its own port is left out.
fn ip_of(address: &str) -> String {
    bracketed(address.parse().unwrap_or_else(|_| at(address).ip()))
}

#[test]
fn no_garbage_makes_the_program_fail_or_send_a_wrong_checksum() {
    root_or_skip!();
    let rule = |name: &str, source: &str| AccessRule {
        name: name.into(),
        action: AccessAction::Deny,
        protocol: None,
        ports: Vec::new(),
        sources: vec![source.parse().unwrap()],
        expiring: Vec::new(),
    };
    let access = [rule("v4", "203.0.113.128/25"), rule("v6", "2001:db8:bad::/48")];
    let flows = FlowLimits { established: 64, half_open: 64, ..FlowLimits::default() };
    let rate = Some(PacketRate { per_second: 1_000_000, burst: 1_000_000 });
    let limits = XdpLimits { syn: rate, packets: rate, ..XdpLimits::default() };
    let mut lab =
        Lab::with_access(model::Xdp { flows, limits, snat_ports: 61_000..=61_063, ..model::Xdp::default() }, &access);
    lab.serve(&[services(&V4), services(&V6)].concat());
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let mut verdicts = [0; 5];
    let mut right = 0;
    lab.namespace.enter(|| {
        for n in 0..20_000 {
            let mut frame = packet(&mut numbers);
            if n % 2 == 1 {
                for _ in 0..=numbers.below(6) {
                    let place = numbers.below(frame.len());
                    frame[place] = numbers.of(&[0, 1, 6, 17, 44, 58, 0x45, 0x60, 0xff, place as u8]);
                }
                let length = 14 + numbers.below(frame.len() - 13);
                frame.truncate(if numbers.one_in(3) { length } else { frame.len() });
            }
            let out = lab.xdp.probe(&frame, 1).unwrap().unwrap();
            verdicts[out.action as usize] += 1;
            let leaves_or_changed = out.action == REDIRECT || out.frame != frame;
            if leaves_or_changed && packet::see(&frame).is_ok() {
                right += 1;
                let seen = packet::see(&out.frame);
                assert!(seen.is_ok(), "{n}: {seen:?}, action {}\n{frame:02x?}\n{:02x?}", out.action, out.frame);
            }
        }
    });
    let [aborted, dropped, passed, answered, sent] = verdicts;
    assert_eq!((aborted, answered), (0, 0));
    assert!([dropped, passed, sent, right].iter().all(|count| *count > 1_000), "{verdicts:?}, {right}");
}
