use super::*;

const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;
const IPV6_HEADER: usize = 40;

const V4_SOURCE: V4 = [203, 0, 113, 7];
const V6_SOURCE: V6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

#[test]
fn the_source_is_found_behind_ethernet_and_up_to_two_vlan_tags() {
    let cases: [(&str, Vec<u8>, Source); 10] = [
        ("plain IPv4", frame(&[], ETHERTYPE_IPV4, &ipv4()), Source::V4(V4_SOURCE)),
        ("plain IPv6", frame(&[], ETHERTYPE_IPV6, &ipv6()), Source::V6(V6_SOURCE)),
        ("IPv4 with options", frame(&[], ETHERTYPE_IPV4, &ipv4_with_first_byte(0x4f)), Source::V4(V4_SOURCE)),
        ("IPv4 in a VLAN", frame(&[ETHERTYPE_VLAN], ETHERTYPE_IPV4, &ipv4()), Source::V4(V4_SOURCE)),
        ("IPv6 in a VLAN", frame(&[ETHERTYPE_VLAN], ETHERTYPE_IPV6, &ipv6()), Source::V6(V6_SOURCE)),
        ("QinQ", frame(&[ETHERTYPE_QINQ, ETHERTYPE_VLAN], ETHERTYPE_IPV6, &ipv6()), Source::V6(V6_SOURCE)),
        ("two VLAN tags", frame(&[ETHERTYPE_VLAN, ETHERTYPE_VLAN], ETHERTYPE_IPV4, &ipv4()), Source::V4(V4_SOURCE)),
        ("three tags", frame(&[ETHERTYPE_VLAN; 3], ETHERTYPE_IPV4, &ipv4()), Source::NotIp),
        ("ARP", frame(&[], 0x0806, &[0; 28]), Source::NotIp),
        ("802.3 length in place of an EtherType", frame(&[], 46, &[0; 46]), Source::NotIp),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(source(&bytes), expected, "{name}");
    }
}

#[test]
fn a_header_that_contradicts_itself_is_malformed() {
    let cases = [
        ("version 6 under the EtherType of IPv4", frame(&[], ETHERTYPE_IPV4, &ipv4_with_first_byte(0x65))),
        ("version 4 under the EtherType of IPv6", frame(&[], ETHERTYPE_IPV6, &[0x45; 40])),
        ("header length of 16 bytes", frame(&[], ETHERTYPE_IPV4, &ipv4_with_first_byte(0x44))),
        ("header length of 0 bytes", frame(&[], ETHERTYPE_IPV4, &ipv4_with_first_byte(0x40))),
    ];
    for (name, bytes) in cases {
        assert_eq!(source(&bytes), Source::Malformed, "{name}");
    }
}

#[test]
fn a_frame_cut_at_any_byte_of_its_headers_is_malformed() {
    for tags in [&[][..], &[ETHERTYPE_VLAN], &[ETHERTYPE_QINQ, ETHERTYPE_VLAN]] {
        for whole in [frame(tags, ETHERTYPE_IPV4, &ipv4()), frame(tags, ETHERTYPE_IPV6, &ipv6())] {
            for length in 0..whole.len() {
                // An allocation of exactly this length lets Miri and the sanitizers see a read behind its end.
                let cut = whole[..length].to_vec().into_boxed_slice();
                assert_eq!(source(&cut), Source::Malformed, "{length} of {} bytes", whole.len());
            }
            assert!(matches!(source(&whole), Source::V4(_) | Source::V6(_)));
        }
    }
}

fn source(bytes: &[u8]) -> Source {
    let range = bytes.as_ptr_range();
    // SAFETY: the slice outlives the frame.
    unsafe { Frame::new(range.start, range.end) }.source()
}

/// Addresses, tags in front of the network header, and the header itself.
fn frame(tags: &[u16], ethertype: u16, network: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x02; 12];
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 42]);
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(network);
    bytes
}

fn ipv4() -> Vec<u8> {
    ipv4_with_first_byte(0x45)
}

fn ipv4_with_first_byte(first: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = first;
    header[IPV4_SOURCE..][..4].copy_from_slice(&V4_SOURCE);
    header
}

fn ipv6() -> Vec<u8> {
    let mut header = vec![0; IPV6_HEADER];
    header[0] = 0x60;
    header[IPV6_SOURCE..][..16].copy_from_slice(&V6_SOURCE);
    header
}

/// The least that a transport header must have of each protocol, and one byte of an odd payload.
fn transport(protocol: u8) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40, 0, 80];
    bytes.resize(if u32::from(protocol) == protocol::TCP { 20 } else { 8 }, 0);
    if u32::from(protocol) == protocol::TCP {
        bytes[13] = SYN;
    }
    bytes
}

fn ipv4_packet(protocol: u8, options: usize, fragment: u16) -> Vec<u8> {
    let mut header = ipv4_with_first_byte(0x45 + (options / 4) as u8);
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[4..6].copy_from_slice(&[7, 9]);
    header[8] = 63;
    header[9] = protocol;
    header.resize(20 + options, 1);
    header.extend(transport(protocol));
    let length = header.len() as u16;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    frame(&[], ETHERTYPE_IPV4, &header)
}

/// Extension headers by their number and bytes, of which the first is the next header's number.
fn ipv6_packet(protocol: u8, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut header = ipv6();
    header[6] = extensions.first().map_or(protocol, |(number, _)| *number);
    header[7] = 63;
    extensions.iter().for_each(|(_, bytes)| header.extend(*bytes));
    header.extend(transport(protocol));
    let length = (header.len() - 40) as u16;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    frame(&[], ETHERTYPE_IPV6, &header)
}

fn parse<A: Ip>(bytes: &[u8]) -> Parsed<A> {
    let range = bytes.as_ptr_range();
    // SAFETY: the slice outlives the frame.
    let frame = unsafe { Frame::new(range.start, range.end) };
    frame.network().map_or(Parsed::Malformed, |(_, offset)| A::parse(frame, offset, extensions::over(frame)))
}

/// What the tables below look at: shape, protocol, ports as numbers, flags, and where the transport header is.
fn summary<A: Ip>(bytes: &[u8]) -> Option<(Shape, u32, [u16; 2], u8, usize)> {
    let Parsed::Packet(packet) = parse::<A>(bytes) else { return None };
    assert_eq!((packet.ttl, packet.network), (63, 14));
    assert_eq!(packet.length as usize, bytes.len() - 14);
    let [a, b, c, d] = packet.ports.to_ne_bytes();
    let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    Some((packet.shape, packet.protocol, ports, packet.flags, packet.transport))
}

#[test]
fn ports_and_flags_of_ipv4_are_found_behind_options_and_not_in_later_fragments() {
    let id = u32::from(u16::from_ne_bytes([7, 9]));
    let ports = [40_000, 80];
    let cases = [
        ("TCP", ipv4_packet(6, 0, 0), (Shape::Whole, protocol::TCP, ports, SYN, 34)),
        ("DF", ipv4_packet(6, 0, 0x4000), (Shape::Whole, protocol::TCP, ports, SYN, 34)),
        ("UDP", ipv4_packet(17, 0, 0), (Shape::Whole, protocol::UDP, ports, 0, 34)),
        ("the most options", ipv4_packet(6, 40, 0), (Shape::Whole, protocol::TCP, ports, SYN, 74)),
        ("first fragment", ipv4_packet(17, 0, 0x2000), (Shape::First(id), protocol::UDP, ports, 0, 34)),
        ("next fragment", ipv4_packet(17, 0, 0x2001), (Shape::Later(id), protocol::UDP, [0, 0], 0, 34)),
        ("last fragment", ipv4_packet(17, 0, 0x0001), (Shape::Later(id), protocol::UDP, [0, 0], 0, 34)),
        ("ICMP", ipv4_packet(1, 0, 0), (Shape::Whole, protocol::ICMP, [0, 0], 0, 34)),
        ("GRE", ipv4_packet(47, 0, 0), (Shape::Whole, 47, [0, 0], 0, 34)),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(summary::<crate::abi::service::Ip4>(&bytes), Some(expected), "{name}");
    }
}

#[test]
fn ports_and_flags_of_ipv6_are_found_behind_extension_headers() {
    let id = u32::from_ne_bytes([1, 2, 3, 4]);
    let ports = [40_000, 80];
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |place: u8| [17, 0, 0, place, 1, 2, 3, 4];
    let long: Vec<u8> = [vec![6, 2], vec![0; 22]].concat();
    let cases = [
        ("TCP", ipv6_packet(6, &[]), (Shape::Whole, protocol::TCP, ports, SYN, 54)),
        ("UDP", ipv6_packet(17, &[]), (Shape::Whole, protocol::UDP, ports, 0, 54)),
        ("hop-by-hop", ipv6_packet(6, &[(0, &options(6))]), (Shape::Whole, protocol::TCP, ports, SYN, 62)),
        ("a long one", ipv6_packet(6, &[(60, &long)]), (Shape::Whole, protocol::TCP, ports, SYN, 78)),
        (
            "hop-by-hop, routing",
            ipv6_packet(17, &[(0, &options(43)), (43, &options(17))]),
            (Shape::Whole, protocol::UDP, ports, 0, 70),
        ),
        ("the most", ipv6_packet(6, &chain(8)), (Shape::Whole, protocol::TCP, ports, SYN, 118)),
        ("first fragment", ipv6_packet(17, &[(44, &fragment(1))]), (Shape::First(id), protocol::UDP, ports, 0, 62)),
        ("later fragment", ipv6_packet(17, &[(44, &fragment(9))]), (Shape::Later(id), protocol::UDP, [0, 0], 0, 62)),
        ("a fragment that is all", ipv6_packet(17, &[(44, &fragment(0))]), (Shape::Whole, protocol::UDP, ports, 0, 62)),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(summary::<crate::abi::service::Ip6>(&bytes), Some(expected), "{name}");
    }
}

/// So many headers of destination options before TCP.
fn chain(headers: usize) -> Vec<(u8, &'static [u8])> {
    let mut chain: Vec<(u8, &[u8])> = vec![(60, &[60, 0, 1, 4, 0, 0, 0, 0]); headers - 1];
    chain.push((60, &[6, 0, 1, 4, 0, 0, 0, 0]));
    chain
}

#[test]
fn a_transport_header_that_only_the_receiver_finds_is_hidden() {
    let no_end = ipv6_packet(60, &[(60, &[60, 0, 1, 4, 0, 0, 0, 0])]);
    let cases = [
        ("more extension headers than are walked", ipv6_packet(6, &chain(9))),
        (
            "options as long as can be, behind the end of the frame",
            ipv6_packet(6, &[(60, &[60, 255, 1, 4, 0, 0, 0, 0])]),
        ),
        ("a chain that ends in the middle of a header", no_end[..no_end.len() - 7].to_vec()),
        ("a first fragment that ends before TCP", cut(ipv6_packet(6, &[(44, &[6, 0, 0, 1, 0, 0, 0, 1])]), 20)),
        ("a first fragment that ends inside TCP", cut(ipv6_packet(6, &[(44, &[6, 0, 0, 1, 0, 0, 0, 1])]), 1)),
        ("the same, filled up by Ethernet", padded(cut(ipv6_packet(6, &[(44, &[6, 0, 0, 1, 0, 0, 0, 1])]), 12))),
    ];
    for (name, bytes) in cases {
        let Parsed::Packet(packet) = parse::<crate::abi::service::Ip6>(&bytes) else { panic!("{name}") };
        assert_eq!((packet.shape, packet.kind().destination_port()), (Shape::Hidden, None), "{name}");
    }
    for bytes in [cut(ipv4_packet(6, 0, 0x2000), 12), padded(cut(ipv4_packet(6, 0, 0x2000), 12))] {
        let Parsed::Packet(packet) = parse::<crate::abi::service::Ip4>(&bytes) else { panic!() };
        assert_eq!(packet.shape, Shape::Hidden);
    }
}

/// The packet without its last bytes, which its header does not count either.
fn cut(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.truncate(frame.len() - bytes);
    let length = (frame.len() - 14) as u16;
    match frame[14] >> 4 {
        4 => frame[16..18].copy_from_slice(&length.to_be_bytes()),
        _ => frame[18..20].copy_from_slice(&(length - 40).to_be_bytes()),
    }
    frame
}

/// The frame as Ethernet sends short ones, and one that is not so short.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len() + 26, 0);
    frame
}

#[test]
fn a_chain_is_read_as_it_was_written() {
    let id = 0xfedc_ba98;
    for shape in [Shape::Whole, Shape::First(id), Shape::Later(id), Shape::Hidden] {
        for (offset, number) in [(0, 0), (62, 6), (16_383, 255)] {
            let chain = extensions::Chain::new(extensions::Link::new(offset, number), shape);
            assert_eq!((chain.offset(), chain.number(), chain.shape()), (offset, number, shape));
        }
    }
}

#[test]
fn a_transport_header_cut_at_any_byte_is_told_from_a_whole_one() {
    for bytes in [ipv4_packet(6, 8, 0), ipv4_packet(17, 0, 0), ipv4_packet(1, 0, 0)] {
        let network = 34;
        for length in network..bytes.len() {
            let Parsed::Packet(packet) =
                parse::<crate::abi::service::Ip4>(&bytes[..length].to_vec().into_boxed_slice())
            else {
                panic!("{length}");
            };
            assert_eq!(packet.shape, Shape::Cut, "{length} of {}", bytes.len());
        }
    }
    for (bytes, transport) in [(ipv6_packet(6, &[(0, &[6, 0, 0, 0, 0, 0, 0, 0])]), 62), (ipv6_packet(58, &[]), 54)] {
        for length in transport..bytes.len() {
            let Parsed::Packet(packet) =
                parse::<crate::abi::service::Ip6>(&bytes[..length].to_vec().into_boxed_slice())
            else {
                panic!("{length}");
            };
            assert_eq!(packet.shape, Shape::Cut, "{length} of {}", bytes.len());
        }
    }
}
