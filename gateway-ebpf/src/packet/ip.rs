//! IPv4 and IPv6 headers, and the ports behind them.

use super::extensions::{Chain, Link};
use super::{Frame, Plain};
use crate::abi::service::{Ip4, Ip6};
use crate::abi::{V4, V6};

const IPV4_SOURCE: usize = 12;
const IPV4_HEADER_MIN: usize = 20;
const IPV6_SOURCE: usize = 8;
const IPV6_HEADER: usize = 40;

/// `IPPROTO_TCP`, `IPPROTO_UDP`, …
pub mod protocol {
    /// TCP.
    pub const TCP: u32 = 6;
    /// UDP.
    pub const UDP: u32 = 17;
    /// ICMP for IPv4.
    pub const ICMP: u32 = 1;
    /// ICMP for IPv6.
    pub const ICMPV6: u32 = 58;
}

/// TCP's flag for the last segment.
pub const FIN: u8 = 1;
/// TCP's flag for the first segment.
pub const SYN: u8 = 2;
/// TCP's flag for a refusal.
pub const RST: u8 = 4;
/// TCP's flag for an answer.
pub const ACK: u8 = 16;

const TCP_HEADER_MIN: usize = 20;
const TCP_FLAGS: usize = 13;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

/// IPv4: a bit of the fragment word that says that more follow, and those of the offset (RFC 791 §3.1).
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// An IP packet's addresses and where its parts begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, then destination port, as they stand in the packet; 0 where there are none.
    pub ports: u32,
    /// The transport protocol.
    pub protocol: u32,
    /// Offset of the IP header in the frame.
    pub network: usize,
    /// Offset of the transport header.
    pub transport: usize,
    /// Bytes from the IP header on, as the header says.
    pub length: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP's flags.
    pub flags: u8,
    /// Whether all of the packet is here.
    pub shape: Shape,
}

/// What rules and limits ask about a packet besides its source. One word, so that it fits a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Transport(pub u32);

impl Transport {
    const HAS_PORT: u32 = 1 << 24;
    const IS_SYN: u32 = 1 << 25;

    /// The transport protocol.
    #[inline(always)]
    pub fn protocol(self) -> u32 {
        (self.0 >> 16) & 0xff
    }

    /// The destination port, where there is one: TCP and UDP have it, in the first fragment.
    #[inline(always)]
    pub fn destination_port(self) -> Option<u16> {
        (self.0 & Transport::HAS_PORT != 0).then_some(self.0 as u16)
    }

    /// Whether it asks for a TCP connection.
    #[inline(always)]
    pub fn is_syn(self) -> bool {
        self.0 & Transport::IS_SYN != 0
    }
}

impl<A> Packet<A> {
    /// What rules and limits ask about it besides its source.
    #[inline(always)]
    pub fn kind(&self) -> Transport {
        let has_ports = matches!(self.protocol, protocol::TCP | protocol::UDP);
        let is_there = matches!(self.shape, Shape::Whole | Shape::First(_));
        let mut word = (self.protocol & 0xff) << 16;
        if has_ports && is_there {
            // The second half of the ports as they stand in the packet.
            word |= Transport::HAS_PORT | u32::from(u16::from_be((self.ports >> 16) as u16));
        }
        if self.protocol == protocol::TCP && self.flags & (SYN | ACK) == SYN {
            word |= Transport::IS_SYN;
        }
        Transport(word)
    }
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of it.
    Whole,
    /// The fragment with the transport header, and the packet's identification as it stands there.
    First(u32),
    /// Another fragment.
    Later(u32),
    /// The frame ends inside the transport header.
    Cut,
    /// The receiver may find a transport header that is not in sight here: it is behind too many extension headers, or
    /// behind the end of the first fragment (RFC 1858 §3, RFC 7112 §5) or of the bytes that may be read directly.
    Hidden,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<A> {
    /// A packet. Whole ones and first fragments of TCP, UDP and ICMP have their whole transport header.
    Packet(Packet<A>),
    /// The frame ends inside the IP header, or that contradicts the EtherType or itself.
    Malformed,
}

/// An IP version, by its address.
pub trait Ip: Copy + PartialEq + 'static {
    /// Whether this is version 6.
    const V6: bool;
    /// ICMP's number in this version.
    const ICMP: u32;
    /// Length of the IP header without options and extensions.
    const HEADER: usize;

    /// Reads the packet whose IP header is at `offset`. `walk` is [`extensions::over`](super::extensions::over) the
    /// same frame, and is called for packets that have extension headers only.
    fn parse(frame: Frame, offset: usize, walk: impl FnOnce(Link) -> Chain) -> Parsed<Self>;
    /// Reads the packet that an ICMP error quotes at `offset`, which has eight bytes of its transport header at least.
    fn parse_quoted(frame: Frame, offset: usize, walk: impl FnOnce(Link) -> Chain) -> Parsed<Self>;
    /// The address's words added up, for checksums.
    fn sum(self) -> u64;
    /// The address in one word, for hashes.
    fn mix(self) -> u32;
}

impl Ip for Ip4 {
    const V6: bool = false;
    const ICMP: u32 = protocol::ICMP;
    const HEADER: usize = IPV4_HEADER_MIN;

    #[inline(always)]
    fn parse(frame: Frame, offset: usize, _: impl FnOnce(Link) -> Chain) -> Parsed<Ip4> {
        v4(frame, offset, Wanted::All).map_or(Parsed::Malformed, Parsed::Packet)
    }

    #[inline(always)]
    fn parse_quoted(frame: Frame, offset: usize, _: impl FnOnce(Link) -> Chain) -> Parsed<Ip4> {
        v4(frame, offset, Wanted::EightBytes).map_or(Parsed::Malformed, Parsed::Packet)
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(self)
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        self
    }
}

impl Ip for Ip6 {
    const V6: bool = true;
    const ICMP: u32 = protocol::ICMPV6;
    const HEADER: usize = IPV6_HEADER;

    #[inline(always)]
    fn parse(frame: Frame, offset: usize, walk: impl FnOnce(Link) -> Chain) -> Parsed<Ip6> {
        v6(frame, offset, Wanted::All, walk).map_or(Parsed::Malformed, Parsed::Packet)
    }

    #[inline(always)]
    fn parse_quoted(frame: Frame, offset: usize, walk: impl FnOnce(Link) -> Chain) -> Parsed<Ip6> {
        v6(frame, offset, Wanted::EightBytes, walk).map_or(Parsed::Malformed, Parsed::Packet)
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        (self.0 & 0xffff_ffff) + (self.0 >> 32) + (self.1 & 0xffff_ffff) + (self.1 >> 32)
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        super::hash([(self.0 ^ (self.0 >> 32)) as u32, self.1 as u32, (self.1 >> 32) as u32], 0)
    }
}

/// The fields of an IPv4 header (RFC 791 §3.1) as they stand in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header4 {
    version_words: u8,
    service: u8,
    length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: Ip4,
    destination: Ip4,
}
// SAFETY: integers without padding.
unsafe impl Plain for Header4 {}

/// The fields of an IPv6 header (RFC 8200 §3) as they stand in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header6 {
    version_class_flow: u32,
    length: u16,
    next: u8,
    hop_limit: u8,
    source: Ip6,
    destination: Ip6,
}
// SAFETY: integers without padding.
unsafe impl Plain for Header6 {}

#[inline(always)]
fn v4(frame: Frame, network: usize, wanted: Wanted) -> Option<Packet<Ip4>> {
    let header: Header4 = frame.read(network)?;
    let words = header.version_words & 0xf;
    if header.version_words >> 4 != 4 || words < 5 {
        return None;
    }
    let fragment = u16::from_be(header.fragment);
    let mut packet = Packet {
        source: header.source,
        destination: header.destination,
        ports: 0,
        protocol: u32::from(header.protocol),
        network,
        transport: network + usize::from(words) * 4,
        length: u32::from(u16::from_be(header.length)),
        ttl: header.ttl,
        flags: 0,
        shape: match fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) {
            0 => Shape::Whole,
            MORE_FRAGMENTS => Shape::First(u32::from(header.id)),
            _ => Shape::Later(u32::from(header.id)),
        },
    };
    read_transport(frame, &mut packet, wanted);
    Some(packet)
}

#[inline(always)]
fn v6(frame: Frame, network: usize, wanted: Wanted, walk: impl FnOnce(Link) -> Chain) -> Option<Packet<Ip6>> {
    let header: Header6 = frame.read(network)?;
    if u32::from_be(header.version_class_flow) >> 28 != 6 {
        return None;
    }
    let mut packet = Packet {
        source: header.source,
        destination: header.destination,
        ports: 0,
        protocol: u32::from(header.next),
        network,
        transport: network + IPV6_HEADER,
        length: IPV6_HEADER as u32 + u32::from(u16::from_be(header.length)),
        ttl: header.hop_limit,
        flags: 0,
        shape: Shape::Whole,
    };
    let plain = matches!(packet.protocol, protocol::TCP | protocol::UDP | protocol::ICMPV6);
    if !plain {
        let chain = walk(Link::new(packet.transport, header.next));
        packet.transport = chain.offset();
        packet.protocol = u32::from(chain.number());
        packet.shape = chain.shape();
    }
    read_transport(frame, &mut packet, wanted);
    Some(packet)
}

/// How much of the transport header must be there.
#[derive(Clone, Copy)]
enum Wanted {
    All,
    /// What an ICMP error quotes at least (RFC 792): the ports, and no flags of TCP.
    EightBytes,
}

#[inline(always)]
fn read_transport<A>(frame: Frame, packet: &mut Packet<A>, wanted: Wanted) {
    if matches!(packet.shape, Shape::Later(_) | Shape::Hidden) || transport(frame, packet, wanted).is_some() {
        return;
    }
    packet.shape = if matches!(packet.shape, Shape::First(_)) { Shape::Hidden } else { Shape::Cut };
}

#[inline(always)]
fn transport<A>(frame: Frame, packet: &mut Packet<A>, wanted: Wanted) -> Option<()> {
    match (packet.protocol, wanted) {
        (protocol::TCP, Wanted::All) => {
            has(packet, TCP_HEADER_MIN)?;
            frame.at(packet.transport, TCP_HEADER_MIN)?;
            packet.ports = frame.read(packet.transport)?;
            packet.flags = frame.read(packet.transport + TCP_FLAGS)?;
        }
        (protocol::UDP, Wanted::All) => {
            has(packet, UDP_HEADER)?;
            frame.at(packet.transport, UDP_HEADER)?;
            packet.ports = frame.read(packet.transport)?;
        }
        (protocol::TCP | protocol::UDP, _) => {
            frame.at(packet.transport, UDP_HEADER)?;
            packet.ports = frame.read(packet.transport)?;
        }
        (protocol::ICMP | protocol::ICMPV6, _) => {
            frame.at(packet.transport, ICMP_HEADER)?;
        }
        _ => {}
    }
    Some(())
}

/// Whether the IP packet has a transport header of this length. What is behind a short packet fills up the Ethernet
/// frame, and is not of the header.
#[inline(always)]
fn has<A>(packet: &Packet<A>, header: usize) -> Option<()> {
    ((packet.transport - packet.network + header) as u32 <= packet.length).then_some(())
}

/// The source, if the whole fixed header is there, its version is 4 and its length covers the fixed part.
#[inline(always)]
pub(super) fn v4_source(frame: Frame, offset: usize) -> Option<V4> {
    let header: [u8; IPV4_HEADER_MIN] = frame.read(offset)?;
    let (version, words) = (header[0] >> 4, header[0] & 0xf);
    if version != 4 || usize::from(words) * 4 < IPV4_HEADER_MIN {
        return None;
    }
    frame.read(offset + IPV4_SOURCE)
}

/// The source, if the whole header is there and its version is 6.
#[inline(always)]
pub(super) fn v6_source(frame: Frame, offset: usize) -> Option<V6> {
    let header: [u8; IPV6_HEADER] = frame.read(offset)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    frame.read(offset + IPV6_SOURCE)
}
