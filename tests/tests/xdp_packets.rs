//! What becomes of a packet of the L4 balancer: a frame in, a verdict and a frame out, through BPF_PROG_TEST_RUN. Each
//! checksum of each frame is verified.
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use std::net::IpAddr;

use gateway::config::model::{self, AccessAction, AccessRule, FlowLimits, VipMode, VipProtocol};
use gateway::xdp::{FlowState, Reason, Service, Target};
use gateway_tests::packet::flags::{ACK, RST, SYN};
use gateway_tests::packet::{self, BOX_MAC, Build, CLIENT_MAC};
use gateway_tests::root_or_skip;
use gateway_tests::xdp::{
    Addresses, BACKEND_MAC, BOTH, ETH0_MAC, Lab, PASS, REDIRECT, V4, V6, at, bracketed, build, ip, service,
    with_backends,
};

#[test]
fn nat_rewrites_a_connection_both_ways() {
    root_or_skip!();
    for a in BOTH {
        for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
            let mut lab = Lab::new();
            lab.serve(&[service(a, protocol, VipMode::Nat, &a.backends[..1])]);
            let first = lab.sent(&lab.first(protocol, a.client, a.vip));
            assert_eq!(first.macs, (BACKEND_MAC, ETH0_MAC));
            assert_eq!(first.to, at(a.backends[0]));
            assert_eq!(first.from.ip(), ip(a.snat));
            assert!((61_000..=65_535).contains(&first.from.port()), "{}", first.from);
            assert_eq!(first.ttl, 63);

            let source = first.from.to_string();
            let answer = lab.sent(&lab.answer(protocol, a.backends[0], &source));
            assert_eq!((answer.from, answer.to), (at(a.vip), at(a.client)));
            assert_eq!(answer.macs, (CLIENT_MAC, BOX_MAC), "the way back to the client is the way it came");

            for _ in 0..3 {
                let next = lab.sent(&lab.next(protocol, a.client, a.vip));
                assert_eq!((next.from, next.to), (first.from, first.to));
                let answer = lab.sent(&lab.answer(protocol, a.backends[0], &source));
                assert_eq!((answer.from, answer.to), (at(a.vip), at(a.client)));
            }
            let flows = lab.xdp.flows(None).unwrap();
            assert_eq!(flows.len(), 1, "{flows:?}");
            assert_eq!(flows[0].state, FlowState::Established);
            assert_eq!((flows[0].client, flows[0].vip), (at(a.client), at(a.vip)));
            assert_eq!((flows[0].source, flows[0].backend), (first.from, first.to));

            let stats = &lab.xdp.service_stats().unwrap()[0];
            let counts = stats.backends[0].counts;
            assert_eq!((counts.flows, counts.packets, counts.answer_packets), (1, 4, 4));
        }
    }
}

#[test]
fn dnat_keeps_the_client_and_its_port() {
    root_or_skip!();
    for a in BOTH {
        for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
            let mut lab = Lab::new();
            lab.serve(&[service(a, protocol, VipMode::Dnat, &a.backends[..1])]);
            for _ in 0..3 {
                let sent = lab.sent(&lab.next(protocol, a.client, a.vip));
                assert_eq!((sent.from, sent.to), (at(a.client), at(a.backends[0])));
                assert_eq!(sent.macs, (BACKEND_MAC, ETH0_MAC));
                let answer = lab.sent(&lab.answer(protocol, a.backends[0], a.client));
                assert_eq!((answer.from, answer.to), (at(a.vip), at(a.client)));
            }
            assert_eq!(lab.states(), [FlowState::Established]);
        }
    }
}

#[test]
fn dsr_changes_the_mac_addresses_only() {
    root_or_skip!();
    for a in BOTH {
        let mut lab = Lab::new();
        lab.serve(&[service(a, VipProtocol::Tcp, VipMode::Dsr, &a.backends[..1])]);
        for (flags, state) in [(SYN, FlowState::HalfOpen), (ACK, FlowState::Established), (ACK, FlowState::Established)]
        {
            let frame = build(VipProtocol::Tcp, flags, a.client, a.vip).frame();
            let (action, out) = lab.run(&frame);
            assert_eq!(action, REDIRECT);
            assert_eq!(out[..12], [BACKEND_MAC, ETH0_MAC].concat());
            assert_eq!(out[12..], frame[12..]);
            assert_eq!(lab.states(), [state]);
        }
    }
}

#[test]
fn ipip_sends_the_packet_inside_another_one() {
    root_or_skip!();
    for a in BOTH {
        for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
            let mut lab = Lab::new();
            lab.serve(&[service(a, protocol, VipMode::Ipip, &a.backends[..1])]);
            for tags in [vec![], vec![(0x8100, 42)], vec![(0x88a8, 7), (0x8100, 42)]] {
                let payload = vec![7; 99];
                let packet = Build { tags: tags.clone(), payload, ..build(protocol, ACK, a.client, a.vip) };
                let outer = lab.sent(&packet.frame());
                assert_eq!(outer.macs, (BACKEND_MAC, ETH0_MAC));
                assert_eq!(outer.tags, tags);
                assert_eq!((outer.from.ip(), outer.to.ip()), (ip(a.snat), at(a.backends[0]).ip()));
                assert_eq!((outer.protocol, outer.ttl), (if a.vip == V4.vip { 4 } else { 41 }, 64));
                let inner = packet::see_packet(&outer.payload).unwrap();
                assert_eq!((inner.from, inner.to, inner.ttl), (at(a.client), at(a.vip), 63));
                assert_eq!(inner.payload, [7; 99]);
            }
        }
    }
}

#[test]
fn fragments_go_through_a_tunnel_as_they_are() {
    root_or_skip!();
    for a in BOTH {
        let mut lab = Lab::new();
        lab.serve(&[service(a, VipProtocol::Udp, VipMode::Ipip, &a.backends[..1])]);
        let large = Build { payload: vec![9; 1_001], ..Build::udp(a.client, a.vip) };
        let inner = packet::fragments(&large, 512).map(|fragment| {
            let outer = lab.sent(&fragment);
            assert_eq!(outer.to.ip(), at(a.backends[0]).ip());
            [&fragment[..14], &outer.payload].concat()
        });
        let whole = packet::joined([&inner[0], &inner[1]]).unwrap();
        assert_eq!((whole.from, whole.to, whole.payload), (at(a.client), at(a.vip), large.payload));
    }
}

#[test]
fn a_packet_that_may_be_fragmented_may_be_so_in_a_tunnel() {
    root_or_skip!();
    let mut lab = Lab::new();
    lab.serve(&[service(&V4, VipProtocol::Udp, VipMode::Ipip, &V4.backends[..1])]);
    for (fragment, size, action) in [(0x4000, 100, REDIRECT), (0, 100, REDIRECT), (0, 1_470, PASS)] {
        let packet = Build { payload: vec![7; size], fragment, ..Build::udp(V4.client, V4.vip) };
        let (verdict, out) = lab.run(&packet.frame());
        assert_eq!((verdict, packet::see(&out).unwrap().to.ip()), (action, at(V4.backends[0]).ip()));
        assert_eq!(out[20] & 0x40 != 0, fragment != 0, "the outer packet's DF");
        assert_eq!(out[18..20] == [0, 0], fragment != 0, "a packet that may be fragmented has an identification");
    }
}

#[test]
fn headers_of_every_shape_are_translated() {
    root_or_skip!();
    let nops = |n: usize| vec![1; n];
    let extension = |next: u8, words: u8| [vec![next, words, 1, 4], vec![0; 4 + 8 * usize::from(words)]].concat();
    let udp = |a: &Addresses| Build::udp(a.client, a.vip);
    let cases = [
        ("IPv4 options", Build { options: nops(4), ..udp(&V4) }),
        ("the most IPv4 options", Build { options: nops(40), ..udp(&V4) }),
        ("no UDP checksum", Build { no_checksum: true, ..udp(&V4) }),
        ("an empty datagram", Build { payload: vec![], ..udp(&V4) }),
        ("an odd length", Build { payload: vec![0xff; 333], ..udp(&V6) }),
        ("hop-by-hop options", Build { extension: Some(0), options: extension(17, 0), ..udp(&V6) }),
        ("long destination options", Build { extension: Some(60), options: extension(17, 3), ..udp(&V6) }),
        (
            "hop-by-hop, then destination options",
            Build { extension: Some(0), options: [extension(60, 1), extension(17, 0)].concat(), ..udp(&V6) },
        ),
        ("a VLAN", Build { tags: vec![(0x8100, 42)], ..udp(&V4) }),
        ("QinQ", Build { tags: vec![(0x88a8, 7), (0x8100, 42)], ..udp(&V6) }),
    ];
    for (name, packet) in cases {
        let a = if packet.from.is_ipv4() { &V4 } else { &V6 };
        let mut lab = Lab::new();
        lab.serve(&[service(a, VipProtocol::Udp, VipMode::Nat, &a.backends[..1])]);
        for _ in 0..2 {
            let sent = lab.sent(&packet.frame());
            assert_eq!((sent.from.ip(), sent.to), (ip(a.snat), at(a.backends[0])), "{name}");
            assert_eq!((&sent.payload, &sent.tags, sent.ttl), (&packet.payload, &packet.tags, 63), "{name}");
        }
    }
}

#[test]
fn later_fragments_follow_the_first_both_ways() {
    root_or_skip!();
    for a in BOTH {
        for mode in [VipMode::Nat, VipMode::Dnat] {
            let mut lab = Lab::new();
            lab.serve(&[service(a, VipProtocol::Udp, mode, &a.backends[..1])]);
            let large = |from: &str, to: &str| Build { payload: vec![9; 1_001], ..Build::udp(from, to) };
            let send = |packet: &Build| {
                let [first, later] = packet::fragments(packet, 512).map(|frame| lab.run(&frame));
                assert_eq!((first.0, later.0), (REDIRECT, REDIRECT), "{mode:?} {packet:?}");
                packet::joined([&first.1, &later.1]).unwrap()
            };
            for _ in 0..3 {
                let sent = send(&large(a.client, a.vip));
                assert_eq!((sent.to, &sent.payload[..]), (at(a.backends[0]), &[9; 1_001][..]));
                let answer = send(&large(a.backends[0], &sent.from.to_string()));
                assert_eq!((answer.from, answer.to), (at(a.vip), at(a.client)));
            }
            let counts = lab.xdp.service_stats().unwrap()[0].backends[0].counts;
            assert_eq!((counts.packets, counts.answer_packets), (6, 6), "each fragment is a packet");
            let other = large(&a.client.replace("::7", "::8").replace(".7:", ".8:"), a.vip);
            let [_, early] = packet::fragments(&other, 512);
            assert_eq!(lab.refused(&early), Reason::Fragment);
        }
    }
}

#[test]
fn what_is_not_forwarded_is_counted_by_its_reason() {
    root_or_skip!();
    for a in BOTH {
        let mut lab = Lab::new();
        let tcp = service(a, VipProtocol::Tcp, VipMode::Nat, &a.backends[..1]);
        lab.serve(std::slice::from_ref(&tcp));
        let other = format!("{}:{}", bracketed(at(a.vip).ip()), 81);
        let cases = [
            ("another port", Build::tcp(SYN, a.client, &other), Reason::Pass),
            ("another protocol", Build::udp(a.client, a.vip), Reason::Pass),
            ("no hop left", Build { ttl: 1, ..Build::tcp(SYN, a.client, a.vip) }, Reason::Expired),
            ("a RST of no flow", Build::tcp(RST, a.client, a.vip), Reason::NoFlow),
        ];
        for (name, packet, reason) in cases {
            assert_eq!(lab.refused(&packet.frame()), reason, "{name}");
        }
        let mut cut = Build::tcp(SYN, a.client, a.vip).frame();
        cut.truncate(cut.len() - 1);
        assert_eq!(lab.refused(&cut), Reason::Malformed);

        let syn = Build::tcp(SYN, a.client, a.vip).frame();
        lab.serve(&[Service { drain: true, ..tcp.clone() }]);
        assert_eq!(lab.refused(&syn), Reason::Draining);
        lab.serve(&[with_backends(&tcp, |backend| backend.alive = false)]);
        assert_eq!(lab.refused(&syn), Reason::NoBackend);
        lab.serve(&[with_backends(&tcp, |backend| backend.weight = 0)]);
        assert_eq!(lab.refused(&syn), Reason::NoBackend);
        lab.serve(&[Service { target: Target::Local, ..tcp.clone() }]);
        assert_eq!(lab.refused(&syn), Reason::Local);
        let stats = &lab.xdp.service_stats().unwrap()[0];
        assert_eq!((stats.local_packets, stats.dropped), (1, 4));
        lab.serve(&[]);
        assert_eq!(lab.refused(&syn), Reason::Pass);
        assert_eq!(lab.xdp.service_stats().unwrap(), []);
    }
}

#[test]
fn pings_to_a_virtual_address_are_answered() {
    root_or_skip!();
    for (a, echo, reply) in [(&V4, 8, 0), (&V6, 128, 129)] {
        let mut lab = Lab::new();
        let (client, vip) = (at(a.client).ip().to_string(), at(a.vip).ip().to_string());
        let ping = packet::icmp(&client, &vip, echo, 0, [0x12, 0x34, 0, 1], b"abcdefg");
        assert_eq!(lab.refused(&ping), Reason::Pass);
        lab.serve(&[service(a, VipProtocol::Tcp, VipMode::Nat, &a.backends)]);
        let pong = lab.sent(&ping);
        assert_eq!((pong.from.ip(), pong.to.ip()), (ip(&vip), ip(&client)));
        assert_eq!(pong.macs, (CLIENT_MAC, BOX_MAC));
        assert_eq!(pong.payload[..2], [reply, 0]);
        assert_eq!(&pong.payload[4..], b"\x12\x34\0\x01abcdefg");
    }
}

#[test]
fn what_a_rule_allows_is_counted_so_whichever_stage_passes_it() {
    root_or_skip!();
    for (a, echo, bits) in [(&V4, 8, 32), (&V6, 128, 128)] {
        let allowed = AccessRule {
            name: "office".into(),
            action: AccessAction::Allow,
            protocol: None,
            ports: Vec::new(),
            sources: vec![format!("{}/{bits}", at(a.client).ip()).parse().unwrap()],
            expiring: Vec::new(),
        };
        let flows = FlowLimits { established: 4_096, half_open: 4_096, ..FlowLimits::default() };
        let mut lab = Lab::with_access(model::Xdp { flows, ..model::Xdp::default() }, &[allowed]);
        lab.serve(&[VipProtocol::Tcp, VipProtocol::Udp].map(|of| service(a, of, VipMode::Nat, &a.backends)));
        let other = format!("{}:80", bracketed(ip(a.router)));
        let large = Build { payload: vec![9; 1_001], ..Build::udp(a.client, &other) };
        let [first, later] = packet::fragments(&large, 512);
        let ping = packet::icmp(&at(a.client).ip().to_string(), a.router, echo, 0, [0; 4], b"abcdefg");
        for frame in [Build::tcp(SYN, a.client, &other).frame(), first, later, ping] {
            assert_eq!(lab.refused(&frame), Reason::Allowed);
        }
    }
}

#[test]
fn frames_to_a_group_of_stations_are_left_to_the_stack() {
    root_or_skip!();
    for (a, echo) in [(&V4, 8), (&V6, 128)] {
        let mut lab = Lab::new();
        lab.serve(&[service(a, VipProtocol::Tcp, VipMode::Nat, &a.backends)]);
        let (client, vip) = (at(a.client).ip().to_string(), at(a.vip).ip().to_string());
        let ping = packet::icmp(&client, &vip, echo, 0, [0x12, 0x34, 0, 1], b"abcdefg");
        for frame in [ping, lab.first(VipProtocol::Tcp, a.client, a.vip)] {
            for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
                assert_eq!(lab.refused(&[&group[..], &frame[6..]].concat()), Reason::Pass);
            }
            lab.sent(&frame);
        }
    }
}

/// Type and code of the errors that are about packets: unreachable, too big, time exceeded, parameter problem.
const ERRORS: [(&Addresses, u8, u8); 8] =
    [(&V4, 3, 4), (&V4, 3, 3), (&V4, 11, 0), (&V4, 12, 0), (&V6, 1, 4), (&V6, 2, 0), (&V6, 3, 0), (&V6, 4, 1)];

#[test]
fn icmp_errors_about_a_flow_reach_its_other_end() {
    root_or_skip!();
    for (a, mode) in BOTH.into_iter().flat_map(|a| [(a, VipMode::Nat), (a, VipMode::Dnat)]) {
        let mut lab = Lab::new();
        let protocols = [VipProtocol::Tcp, VipProtocol::Udp];
        lab.serve(&protocols.map(|protocol| service(a, protocol, mode, &a.backends[..1])));
        for protocol in protocols {
            let flow = lab.sent(&lab.first(protocol, a.client, a.vip));
            let source = flow.from.to_string();
            for (_, kind, code) in ERRORS.into_iter().filter(|(of, _, _)| of.vip == a.vip) {
                let error = |from: &str, to: IpAddr, quoted: &[u8]| {
                    packet::icmp(from, &to.to_string(), kind, code, [0, 0, 5, 0], quoted)
                };
                // About what the box sent to the backend: the client is told.
                let quoted = build(protocol, ACK, &source, a.backends[0]).packet();
                for length in [quoted.len(), if a.vip == V4.vip { 28 } else { 48 }] {
                    let told = lab.sent(&error(a.router, flow.from.ip(), &quoted[..length]));
                    assert_eq!((told.from.ip(), told.to.ip()), (at(a.vip).ip(), at(a.client).ip()));
                    assert_eq!(told.payload[..2], [kind, code]);
                    assert_eq!(told.payload[6..8], [5, 0]);
                    assert_eq!(packet::see_quoted(&told.payload[8..]).unwrap(), (at(a.client), at(a.vip)));
                }
                // About what the box sent to the client: the backend is told.
                let quoted = build(protocol, ACK, a.vip, a.client).packet();
                let told = lab.sent(&error(&at(a.client).ip().to_string(), at(a.vip).ip(), &quoted));
                assert_eq!((told.from.ip(), told.to.ip()), (flow.from.ip(), at(a.backends[0]).ip()));
                assert_eq!(packet::see_quoted(&told.payload[8..]).unwrap(), (at(a.backends[0]), flow.from));
                // About what nobody sent.
                let quoted = build(protocol, ACK, a.vip, a.backends[1]).packet();
                assert_eq!(lab.refused(&error(a.router, at(a.vip).ip(), &quoted)), Reason::Pass);
            }
        }
    }
}

/// The box has not seen the answers, but errors about them come to the virtual address, which is the box's.
#[test]
fn icmp_errors_about_answers_that_went_another_way_reach_the_backend() {
    root_or_skip!();
    for (a, mode) in BOTH.into_iter().flat_map(|a| [(a, VipMode::Dsr), (a, VipMode::Ipip)]) {
        let mut lab = Lab::new();
        let protocols = [VipProtocol::Tcp, VipProtocol::Udp];
        lab.serve(&protocols.map(|protocol| service(a, protocol, mode, &a.backends[..1])));
        for protocol in protocols {
            lab.sent(&lab.first(protocol, a.client, a.vip));
            for (_, kind, code) in ERRORS.into_iter().filter(|(of, _, _)| of.vip == a.vip) {
                let quoted = build(protocol, ACK, a.vip, a.client).packet();
                let vip = at(a.vip).ip();
                let error = packet::icmp(a.router, &vip.to_string(), kind, code, [0, 0, 5, 0], &quoted);
                let told = lab.sent(&error);
                assert_eq!(told.macs, (BACKEND_MAC, ETH0_MAC));
                let told = match mode {
                    VipMode::Ipip => packet::see_packet(&told.payload).unwrap(),
                    _ => told,
                };
                assert_eq!((told.from.ip(), told.to.ip(), told.ttl), (ip(a.router), vip, 63));
                assert_eq!(told.payload[..2], [kind, code]);
                assert_eq!(told.payload[8..], quoted);
            }
        }
    }
}

#[test]
fn a_packet_larger_than_the_next_hop_takes_is_refused_with_the_size_that_fits() {
    root_or_skip!();
    for (a, kind, code, mtu_at) in [(&V4, 3, 4, 6), (&V6, 2, 0, 6)] {
        for mode in [VipMode::Nat, VipMode::Ipip] {
            let mut lab = Lab::new();
            lab.namespace.run(&["ip", "link", "set", "eth0", "mtu", "1300"]);
            lab.serve(&[service(a, VipProtocol::Tcp, mode, &a.backends[..1])]);
            for tags in [vec![], vec![(0x8100, 42)]] {
                let big = Build { payload: vec![7; 1400], tags: tags.clone(), ..Build::tcp(ACK, a.client, a.vip) };
                let told = lab.sent(&big.frame());
                assert_eq!((told.from.ip(), told.to.ip()), (at(a.vip).ip(), at(a.client).ip()));
                assert_eq!((told.macs, told.tags), ((CLIENT_MAC, BOX_MAC), tags));
                assert_eq!(told.payload[..2], [kind, code]);
                let header = if a.vip == V4.vip { 20 } else { 40 };
                let fits = 1300 - if mode == VipMode::Ipip { header } else { 0 };
                assert_eq!(told.payload[mtu_at..mtu_at + 2], (fits as u16).to_be_bytes());
                assert_eq!(packet::see_quoted(&told.payload[8..]).unwrap(), (at(a.client), at(a.vip)));
            }
            let hidden = match a.vip == V4.vip {
                true => Build { options: vec![1; 40], ..Build::tcp(ACK, a.client, a.vip) },
                false => Build {
                    extension: Some(60),
                    options: [&[6, 4][..], &[0; 38]].concat(),
                    ..Build::tcp(ACK, a.client, a.vip)
                },
            };
            let told = lab.sent(&Build { payload: vec![7; 1400], ..hidden }.frame());
            let quoted = packet::see_quoted(&told.payload[8..]).unwrap();
            assert_eq!(quoted, (at(a.client), at(a.vip)), "the quotation reaches the ports");
        }
    }
    let mut lab = Lab::new();
    lab.namespace.run(&["ip", "link", "set", "eth0", "mtu", "1300"]);
    lab.serve(&[service(&V4, VipProtocol::Udp, VipMode::Nat, &V4.backends[..1])]);
    let may_be_cut = Build { payload: vec![7; 1400], fragment: 0, ..Build::udp(V4.client, V4.vip) };
    let (action, out) = lab.run(&may_be_cut.frame());
    assert_eq!((action, packet::see(&out).unwrap().to), (PASS, at(V4.backends[0])), "the stack can cut it");
}

#[test]
fn without_a_next_hop_the_stack_gets_the_packet_as_it_should_leave() {
    root_or_skip!();
    for a in BOTH {
        let mut lab = Lab::new();
        let stranger = if a.vip == V4.vip { "10.0.0.99:80" } else { "[fd00::99]:80" };
        lab.serve(&[service(a, VipProtocol::Tcp, VipMode::Nat, &[stranger])]);
        let syn = lab.first(VipProtocol::Tcp, a.client, a.vip);
        let (action, out) = lab.run(&syn);
        let seen = packet::see(&out).unwrap();
        assert_eq!((action, seen.from.ip(), seen.to), (PASS, ip(a.snat), at(stranger)));
        assert_eq!(lab.xdp.counters().unwrap().packets(Reason::Unresolved), 1);
        let resolve = format!("ip neigh add {} lladdr 02:00:00:00:00:0e dev eth0 nud permanent", at(stranger).ip());
        lab.namespace.run(&resolve.split(' ').collect::<Vec<_>>());
        let next = lab.sent(&syn);
        assert_eq!((next.from, next.to), (seen.from, seen.to), "it is the same flow");

        lab.serve(&[service(a, VipProtocol::Tcp, VipMode::Dsr, &[&stranger.replace("99", "98")])]);
        assert_eq!(lab.refused(&syn), Reason::NoNeighbour);
    }
}
