//! What the transport header says that rules and limits ask about: protocol, destination port, TCP flags.

use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// IPv6 extension headers looked through. RFC 8200 section 4.1 knows six in front of a transport header; more is a trick.
pub const EXTENSION_HEADERS_MAX: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const TCP_FLAGS: usize = 13;

/// A packet's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// IP protocol number; behind more than [`EXTENSION_HEADERS_MAX`] extension headers, that of the next one.
    pub protocol: u8,
    /// Whether there is a destination port: TCP and UDP have one, in the first fragment.
    pub has_port: bool,
    /// The destination port, else 0.
    pub port: u16,
    /// Whether it asks for a TCP connection: SYN without ACK.
    pub is_syn: bool,
    /// Where the transport header begins.
    pub offset: usize,
}

impl Segment {
    /// The transport of an IP packet whose fixed header is whole. What is missing behind it counts as absent.
    #[inline(always)]
    pub fn of(frame: Frame) -> Segment {
        let found = match frame.network() {
            Some((ETHERTYPE_IPV4, offset)) => behind_ipv4(frame, offset),
            Some((ETHERTYPE_IPV6, offset)) => behind_ipv6(frame, offset),
            _ => None,
        };
        match found {
            Some((protocol, offset, true)) => Segment::first(frame, protocol, offset),
            Some((protocol, offset, false)) => Segment::without_header(protocol, offset),
            None => Segment::without_header(0, 0),
        }
    }

    #[inline(always)]
    fn without_header(protocol: u8, offset: usize) -> Segment {
        Segment { protocol, has_port: false, port: 0, is_syn: false, offset }
    }

    #[inline(always)]
    fn first(frame: Frame, protocol: u8, offset: usize) -> Segment {
        let mut segment = Segment::without_header(protocol, offset);
        if (protocol == TCP || protocol == UDP)
            && let Some([high, low]) = frame.read::<2>(offset + 2)
        {
            segment.has_port = true;
            segment.port = u16::from_be_bytes([high, low]);
        }
        if protocol == TCP
            && let Some([flags]) = frame.read::<1>(offset + TCP_FLAGS)
        {
            segment.is_syn = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        }
        segment
    }
}

/// Protocol, offset of the transport header, and whether it is there: only the first fragment has it.
type Found = (u8, usize, bool);

#[inline(always)]
fn behind_ipv4(frame: Frame, offset: usize) -> Option<Found> {
    let [first] = frame.read::<1>(offset)?;
    let fragment: [u8; 2] = frame.read(offset + 6)?;
    let [protocol] = frame.read::<1>(offset + 9)?;
    let is_first = u16::from_be_bytes(fragment) & 0x1fff == 0;
    Some((protocol, offset + usize::from(first & 0xf) * 4, is_first))
}

#[inline(always)]
fn behind_ipv6(frame: Frame, offset: usize) -> Option<Found> {
    let [mut protocol] = frame.read::<1>(offset + 6)?;
    let mut offset = offset + 40;
    for _ in 0..EXTENSION_HEADERS_MAX {
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let [next, length] = frame.read::<2>(offset)?;
                protocol = next;
                offset += (usize::from(length) + 1) * 8;
            }
            FRAGMENT => {
                let [next, _, high, low] = frame.read::<4>(offset)?;
                protocol = next;
                offset += 8;
                // 13 bits of offset; the lower three are flags.
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Some((protocol, offset, false));
                }
            }
            _ => break,
        }
    }
    Some((protocol, offset, true))
}

#[cfg(test)]
mod tests;
