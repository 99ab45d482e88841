//! What holds for every frame, tried on frames made at random. Each is in an allocation of its own length, so that Miri
//! and the sanitizers see a read behind its end.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::checksum;
use super::*;
use crate::abi::service::{Ip4, Ip6, MAGLEV_SIZE};

const SOURCE_V4: V4 = [203, 0, 113, 7];
const SOURCE_V6: V6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// What the parser says of a packet of either IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    shape: Shape,
    protocol: u32,
    ports: [u8; 4],
    transport: usize,
}

impl Found {
    /// What the program relies on before it reads and writes a transport header.
    fn has_its_header_in(&self, frame: &[u8]) -> bool {
        let is_there = matches!(self.shape, Shape::Whole | Shape::First(_));
        let has_one = matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6);
        !is_there || !has_one || self.transport + header_min(self.protocol) <= frame.len()
    }
}

/// A packet, without the Ethernet header, and what is to be found in it.
#[derive(Clone, Debug)]
struct Made {
    is_v6: bool,
    bytes: Vec<u8>,
    expected: Found,
}

impl Made {
    /// Behind other bytes.
    fn behind(&self, front: &[u8]) -> (Box<[u8]>, Found) {
        let expected = Found { transport: self.expected.transport + front.len(), ..self.expected };
        ([front, &self.bytes].concat().into_boxed_slice(), expected)
    }

    /// In a frame with these VLAN tags.
    fn frame(&self, tags: &[u16]) -> (Box<[u8]>, Found) {
        let mut front = vec![2; 12];
        for tag in tags {
            front.extend([tag.to_be_bytes(), [0, 42]].concat());
        }
        front.extend(if self.is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes());
        self.behind(&front)
    }
}

fn frame_of(bytes: &[u8]) -> Frame {
    let range = bytes.as_ptr_range();
    // SAFETY: the slices of these tests outlive the frames made of them.
    unsafe { Frame::new(range.start, range.end) }
}

fn parse(bytes: &[u8]) -> Option<Found> {
    let frame = frame_of(bytes);
    match frame.network()? {
        (ETHERTYPE_IPV4, offset) => found(Ip4::parse(frame, offset, extensions::over(frame))),
        (ETHERTYPE_IPV6, offset) => found(Ip6::parse(frame, offset, extensions::over(frame))),
        _ => None,
    }
}

fn parse_quoted(bytes: &[u8], offset: usize, is_v6: bool) -> Option<Found> {
    let frame = frame_of(bytes);
    if is_v6 {
        found(Ip6::parse_quoted(frame, offset, extensions::over(frame)))
    } else {
        found(Ip4::parse_quoted(frame, offset, extensions::over(frame)))
    }
}

fn found<A>(parsed: Parsed<A>) -> Option<Found> {
    let Parsed::Packet(Packet { shape, protocol, ports, transport, .. }) = parsed else { return None };
    Some(Found { shape, protocol, ports: ports.to_ne_bytes(), transport })
}

/// The bytes that a transport header has at least.
fn header_min(protocol: u32) -> usize {
    if protocol == protocol::TCP { 20 } else { 8 }
}

/// A transport header, whose ports are what the parser is to find, and a payload.
fn transport() -> impl Strategy<Value = (u32, Vec<u8>, [u8; 4])> {
    let protocols = select(vec![protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6]);
    (protocols, vec(any::<u8>(), 20..90)).prop_map(|(protocol, mut bytes)| {
        bytes.truncate(bytes.len().max(header_min(protocol)));
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
        let ports = if has_ports { [bytes[0], bytes[1], bytes[2], bytes[3]] } else { [0; 4] };
        (protocol, bytes, ports)
    })
}

prop_compose! {
    fn ipv4()(
        (protocol, rest, ports) in transport(),
        options in (0..=10usize).prop_flat_map(|words| vec(any::<u8>(), words * 4)),
        fragment in prop_oneof![Just(0), Just(0x4000), Just(0x2000), 0x0001..=0x3fffu16],
        id in any::<[u8; 2]>(),
    ) -> Made {
        let length = (20 + options.len() + rest.len()) as u16;
        let mut bytes = vec![0x45 + (options.len() / 4) as u8, 0];
        bytes.extend([length.to_be_bytes(), id, fragment.to_be_bytes(), [64, protocol as u8], [0, 0]].concat());
        bytes.extend([SOURCE_V4, [10, 0, 0, 1]].concat());
        bytes.extend([&options[..], &rest].concat());
        let id = u32::from(u16::from_ne_bytes(id));
        let (shape, ports) = match fragment & 0x3fff {
            0 => (Shape::Whole, ports),
            0x2000 => (Shape::First(id), ports),
            _ => (Shape::Later(id), [0; 4]),
        };
        Made { is_v6: false, expected: Found { shape, protocol, ports, transport: 20 + options.len() }, bytes }
    }
}

/// An extension header: its number, and its bytes without the first, which is the next one's number.
fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let options = (select(vec![0u8, 43, 60]), 0..3u8).prop_map(|(number, words)| {
        // Of a routing header the fourth byte says how many stops are left: none.
        (number, [vec![words, 4, 0], vec![0; 4 + 8 * usize::from(words)]].concat())
    });
    let place = prop_oneof![Just(0u16), Just(1), any::<u16>()];
    let fragment = (place, any::<[u8; 4]>()).prop_map(|(place, id)| {
        let [high, low] = (place & !6).to_be_bytes();
        (44, [&[0, high, low][..], &id].concat())
    });
    prop_oneof![3 => options, 1 => fragment]
}

prop_compose! {
    /// Extension headers of all kinds in any order, also more than one of a kind.
    fn ipv6()((protocol, rest, ports) in transport(), extensions in vec(extension(), 0..=extensions::EXTENSIONS_MAX)) -> Made {
        let numbers = extensions.iter().map(|(number, _)| *number).chain([protocol as u8]);
        let next: Vec<u8> = numbers.collect();
        let mut expected = Found { shape: Shape::Whole, protocol, ports, transport: 40 };
        let mut chain = Vec::new();
        for ((number, bytes), next) in extensions.iter().zip(&next[1..]) {
            chain.extend([&[*next][..], bytes].concat());
            if !matches!(expected.shape, Shape::Later(_)) {
                expected.transport = 40 + chain.len();
                if *number == 44 {
                    expected.shape = shape(bytes);
                }
                if matches!(expected.shape, Shape::Later(_)) {
                    (expected.protocol, expected.ports) = (u32::from(*next), [0; 4]);
                }
            }
        }
        let length = (chain.len() + rest.len()) as u16;
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend([length.to_be_bytes(), [next[0], 64]].concat());
        bytes.extend([SOURCE_V6, [0xfd; 16]].concat());
        bytes.extend([chain, rest].concat());
        Made { is_v6: true, bytes, expected }
    }
}

/// Of a fragment header without its first byte.
fn shape(header: &[u8]) -> Shape {
    let place = u16::from_be_bytes([header[1], header[2]]);
    let id = u32::from_ne_bytes([header[3], header[4], header[5], header[6]]);
    match (place >> 3, place & 1) {
        (0, 0) => Shape::Whole,
        (0, _) => Shape::First(id),
        _ => Shape::Later(id),
    }
}

fn packet() -> impl Strategy<Value = Made> {
    prop_oneof![ipv4(), ipv6()]
}

fn tags() -> impl Strategy<Value = Vec<u16>> {
    vec(select(vec![ETHERTYPE_VLAN, ETHERTYPE_QINQ]), 0..=VLAN_TAGS_MAX)
}

proptest! {
    #[test]
    fn every_packet_is_read_as_it_was_made(made in packet(), tags in tags()) {
        let (frame, expected) = made.frame(&tags);
        prop_assert_eq!(parse(&frame), Some(expected));
        let source = if made.is_v6 { Source::V6(SOURCE_V6) } else { Source::V4(SOURCE_V4) };
        prop_assert_eq!(frame_of(&frame).source(), source);
    }

    #[test]
    fn the_front_of_a_frame_is_read_as_the_whole_or_as_cut_or_hidden(made in packet(), tags in tags()) {
        let (frame, expected) = made.frame(&tags);
        for length in 0..frame.len() {
            let front = frame[..length].to_vec().into_boxed_slice();
            match parse(&front) {
                None => prop_assert!(length < frame.len() - made.bytes.len() + 40),
                Some(Found { shape: Shape::Cut | Shape::Hidden, ports, .. }) => prop_assert_eq!(ports, [0; 4]),
                Some(whole) => {
                    prop_assert_eq!(whole, expected);
                    prop_assert!(whole.has_its_header_in(&front));
                }
            }
        }
    }

    #[test]
    fn what_is_whole_has_its_transport_header_in_the_frame_whatever_the_bytes(
        made in packet(),
        tags in tags(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
    ) {
        let (mut frame, _) = made.frame(&tags);
        changes.iter().for_each(|(at, byte)| frame[at.index(frame.len())] = *byte);
        let frame = frame[..=length.index(frame.len())].to_vec().into_boxed_slice();
        prop_assert!(parse(&frame).is_none_or(|found| found.has_its_header_in(&frame)));
    }

    #[test]
    fn eight_bytes_of_a_quoted_packet_are_enough(made in packet(), front in vec(any::<u8>(), 0..100)) {
        let quoted = Made { bytes: made.bytes[..made.expected.transport + 8].to_vec(), ..made };
        let (bytes, expected) = quoted.behind(&front);
        prop_assert_eq!(parse_quoted(&bytes, front.len(), quoted.is_v6), Some(expected));
        let cut = bytes[..bytes.len() - 1].to_vec().into_boxed_slice();
        let cut = parse_quoted(&cut, front.len(), quoted.is_v6);
        let is_cut = matches!(cut, Some(Found { shape: Shape::Cut | Shape::Hidden, .. }));
        prop_assert!(is_cut || matches!(expected.shape, Shape::Later(_)));
    }

    #[test]
    fn a_rewritten_segment_has_the_checksum_that_one_computed_anew_has(
        segment in vec(any::<u8>(), 20..200),
        old in any::<[u128; 2]>(),
        new in any::<[u128; 2]>(),
        old_v4 in any::<[u32; 2]>(),
        new_v4 in any::<[u32; 2]>(),
        ports in any::<u32>(),
    ) {
        let wide = |address: u128| Ip6((address >> 64) as u64, address as u64);
        rewrite_and_verify(segment.clone(), old.map(wide), new.map(wide), ports)?;
        rewrite_and_verify(segment, old_v4, new_v4, ports)?;
    }
}

/// Exchanges addresses and ports as the program does, by differences, and computes the checksum anew.
fn rewrite_and_verify<A: Ip>(mut segment: Vec<u8>, old: [A; 2], new: [A; 2], ports: u32) -> Result<(), TestCaseError> {
    const CHECKSUM: usize = 16;
    let sum_of = |addresses: [A; 2], segment: &[u8]| {
        let words = segment.chunks(2).map(|word| u16::from_ne_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        let [source, destination] = addresses.map(A::sum);
        checksum::fold(source + destination + words.map(u64::from).sum::<u64>())
    };
    segment[CHECKSUM..][..2].fill(0);
    let right = !sum_of(old, &segment);
    segment[CHECKSUM..][..2].copy_from_slice(&right.to_ne_bytes());
    prop_assert_eq!(sum_of(old, &segment), u16::MAX);

    let words = |ports: u32| u64::from(ports & 0xffff) + u64::from(ports >> 16);
    let ends = |addresses: [A; 2]| addresses.map(A::sum).iter().sum::<u64>();
    let old_ports = u32::from_ne_bytes([segment[0], segment[1], segment[2], segment[3]]);
    let delta = checksum::delta(ends(old) + words(old_ports), ends(new) + words(ports));
    let written = checksum::add(right, u32::from(delta));
    segment[..4].copy_from_slice(&ports.to_ne_bytes());
    segment[CHECKSUM..][..2].copy_from_slice(&written.to_ne_bytes());
    prop_assert_eq!(sum_of(new, &segment), u16::MAX);
    Ok(())
}

/// As `begin::choose` does it.
fn place(hash: u32) -> usize {
    ((u64::from(hash) * MAGLEV_SIZE as u64) >> 32) as usize
}

#[test]
fn flows_that_differ_in_one_field_are_spread_evenly_over_a_table() {
    type Words = fn(u32) -> [u32; 3];
    let cases: [(&str, Words); 4] = [
        ("ports of one client", |n| [0xc633_6407, n.to_be(), 0xcb00_7101]),
        ("ports in the upper half", |n| [0xc633_6407, n << 16, 0xcb00_7101]),
        ("neighbours without ports", |n| [n.to_be(), 0, 0xcb00_7101]),
        ("neighbours as they stand in a packet", |n| [n << 16, 0, 0xcb00_7101]),
    ];
    const FLOWS: u32 = 1 << 16;
    const BACKENDS: usize = 64;
    for (name, words) in cases {
        let mut of_backend = [0i64; BACKENDS];
        let mut of_pair = [[0i64; 4]; 4];
        for n in 0..FLOWS {
            let hash = hash(words(n), protocol::TCP);
            of_backend[place(hash) * BACKENDS / MAGLEV_SIZE] += 1;
            // The other half of the hash chooses the source address of mode `nat`; the two choices are independent.
            let address = ((u64::from(hash.rotate_left(16)) * 4) >> 32) as usize;
            of_pair[place(hash) * 4 / MAGLEV_SIZE][address] += 1;
        }
        // 1024 of each backend are expected, with a standard deviation of 32; of each pair 4096, and 62.
        assert!(of_backend.iter().all(|flows| (flows - 1024).abs() < 5 * 32), "{name}: {of_backend:?}");
        assert!(of_pair.iter().flatten().all(|flows| (flows - 4096).abs() < 5 * 62), "{name}: {of_pair:?}");
    }
}

#[test]
fn neighbours_of_ipv6_are_spread_evenly_over_a_table() {
    type Source = fn(u64) -> Ip6;
    const SOURCES: u64 = 1 << 16;
    let cases: [(&str, Source); 3] = [
        ("of one network", |n| Ip6(0x0120_b80d_0000_0120, n.to_be())),
        ("of neighbouring networks", |n| Ip6((0x2001_0db8_0000_0000 + n).to_be(), 1u64.to_be())),
        ("whose halves are alike", |n| Ip6(n.to_be(), n.to_be())),
    ];
    for (name, source) in cases {
        let mut of_backend = [0i64; 64];
        for n in 0..SOURCES {
            let hash = hash([source(n).mix(), 0, 7], protocol::UDP);
            of_backend[place(hash) * 64 / MAGLEV_SIZE] += 1;
        }
        assert!(of_backend.iter().all(|flows| (flows - 1024).abs() < 5 * 32), "{name}: {of_backend:?}");
    }
}
