use super::*;

const ICMP: u8 = 1;

#[test]
fn the_transport_is_found_behind_options_extension_headers_and_tags() {
    let hop_by_hop = [&[UDP, 0][..], &[0; 6]].concat();
    let long_options = [&[TCP, 2][..], &[0; 22]].concat();
    let first_fragment = [UDP, 0, 0, 1, 0, 0, 0, 9];
    let later_fragment = [UDP, 0, 0, 9, 0, 0, 0, 9];
    let chain = [&[DESTINATION_OPTIONS, 0][..], &[0; 6], &[TCP, 0][..], &[0; 6]].concat();
    let cases = [
        ("TCP SYN", v4(5, 0, TCP, &tcp(0x02)), (TCP, Some(443), true)),
        ("TCP SYN with ECN", v4(5, 0, TCP, &tcp(0xc2)), (TCP, Some(443), true)),
        ("TCP SYN ACK", v4(5, 0, TCP, &tcp(0x12)), (TCP, Some(443), false)),
        ("TCP behind options", v4(15, 0, TCP, &tcp(0x02)), (TCP, Some(443), true)),
        ("TCP that ends behind its ports", v4(5, 0, TCP, &tcp(0x02)[..4]), (TCP, Some(443), false)),
        ("UDP", v4(5, 0, UDP, &tcp(0)), (UDP, Some(443), false)),
        ("UDP that ends at once", v4(5, 0, UDP, &[]), (UDP, None, false)),
        ("ICMP", v4(5, 0, ICMP, &tcp(0x02)), (ICMP, None, false)),
        ("first fragment", v4(5, 0x2000, UDP, &tcp(0)), (UDP, Some(443), false)),
        ("later fragment", v4(5, 0x2001, TCP, &tcp(0x02)), (TCP, None, false)),
        ("IPv6", v6(TCP, &[], &tcp(0x02)), (TCP, Some(443), true)),
        ("IPv6 hop by hop", v6(HOP_BY_HOP, &hop_by_hop, &tcp(0)), (UDP, Some(443), false)),
        ("IPv6 options of 24 bytes", v6(DESTINATION_OPTIONS, &long_options, &tcp(0x02)), (TCP, Some(443), true)),
        ("IPv6 two extension headers", v6(ROUTING, &chain, &tcp(0x02)), (TCP, Some(443), true)),
        ("IPv6 first fragment", v6(FRAGMENT, &first_fragment, &tcp(0)), (UDP, Some(443), false)),
        ("IPv6 later fragment", v6(FRAGMENT, &later_fragment, &tcp(0)), (UDP, None, false)),
        ("IPv6 extension header cut", v6(ROUTING, &[TCP], &[]), (0, None, false)),
    ];
    for (name, frame, (protocol, port, is_syn)) in cases {
        let found = segment(&frame);
        assert_eq!(
            (found.protocol, found.has_port.then_some(found.port), found.is_syn),
            (protocol, port, is_syn),
            "{name}"
        );
    }
}

#[test]
fn nothing_is_read_behind_the_end() {
    for whole in [v4(15, 0, TCP, &tcp(0x02)), v6(ROUTING, &[TCP, 0, 0, 0, 0, 0, 0, 0], &tcp(0x02))] {
        for length in 0..=whole.len() {
            // An allocation of exactly this length lets Miri and the sanitizers see a read behind its end.
            segment(&whole[..length].to_vec().into_boxed_slice());
        }
    }
}

fn segment(bytes: &[u8]) -> Segment {
    let range = bytes.as_ptr_range();
    // SAFETY: the slice outlives the frame.
    Segment::of(unsafe { Frame::new(range.start, range.end) })
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[2..4].copy_from_slice(&443u16.to_be_bytes());
    header[13] = flags;
    header
}

fn v4(words: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; usize::from(words) * 4];
    header[0] = 0x40 | words;
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    [&[2; 12][..], &ETHERTYPE_IPV4.to_be_bytes(), &header, payload].concat()
}

fn v6(next: u8, extensions: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[6] = next;
    [&[2; 12][..], &ETHERTYPE_IPV6.to_be_bytes(), &header, extensions, payload].concat()
}
