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
