//! Packets built by hand, and what is in packets that come back, with every checksum verified.
//!
//! Made for tables of frame in, verdict, frame out; not a general library.

use std::net::{IpAddr, SocketAddr};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// TCP flags.
pub mod flags {
    /// The last segment.
    pub const FIN: u8 = 1;
    /// The first segment.
    pub const SYN: u8 = 2;
    /// A refusal.
    pub const RST: u8 = 4;
    /// An acknowledgement.
    pub const ACK: u8 = 16;
}

/// The MAC addresses of what comes in.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
/// The MAC address of the box.
pub const BOX_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A packet to be made.
#[derive(Clone, Debug)]
pub struct Build {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    /// VLAN tags: EtherType and tag.
    pub tags: Vec<(u16, u16)>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 options, a multiple of four bytes; in IPv6 an extension header, `(its number, its bytes)`.
    pub options: Vec<u8>,
    /// The number of the IPv6 extension header in `options`.
    pub extension: Option<u8>,
    /// Behind the transport header.
    pub payload: Vec<u8>,
    /// A UDP packet without a checksum.
    pub no_checksum: bool,
    /// IPv4's flags and fragment offset.
    pub fragment: u16,
}

/// A UDP packet in two fragments, cut behind `first` bytes of what follows the IP header, a multiple of eight.
pub fn fragments(whole: &Build, first: usize) -> [Vec<u8>; 2] {
    let transport = whole.transport();
    let parts = [(&transport[..first], 0u16, 1u16), (&transport[first..], (first / 8) as u16, 0)];
    parts.map(|(bytes, offset, more)| {
        let is_v4 = whole.from.is_ipv4();
        let place = (offset << 3 | more).to_be_bytes();
        let build = Build {
            fragment: more << 13 | offset,
            options: if is_v4 { vec![] } else { vec![whole.protocol, 0, place[0], place[1], 1, 2, 3, 4] },
            extension: Some(44),
            ..whole.clone()
        };
        let mut frame = [BOX_MAC, CLIENT_MAC].concat();
        frame.extend(if is_v4 { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(ip_packet(whole.from.ip(), whole.to.ip(), &build, bytes));
        frame
    })
}

/// Puts two fragments of a packet together; each has its IPv4 header checksum verified, and the packet its own.
pub fn joined([first, second]: [&[u8]; 2]) -> Result<Seen, String> {
    let (from, to, protocol, ttl, head) = see_ip(&first[14..], true)?;
    let (from2, to2, protocol2, ttl2, rest) = see_ip(&second[14..], true)?;
    if (from, to, protocol, ttl) != (from2, to2, protocol2, ttl2) || first[..12] != second[..12] {
        return Err("the fragments go two ways".into());
    }
    if first[14] >> 4 == 4 {
        return see_transport(from, to, protocol, ttl, &[head, rest].concat());
    }
    see_transport(from, to, head[0], ttl, &[&head[8..], &rest[8..]].concat())
}

impl Build {
    /// A packet without payload.
    pub fn new(protocol: u8, from: &str, to: &str) -> Build {
        Build {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol,
            flags: 0,
            tags: Vec::new(),
            ttl: 64,
            options: Vec::new(),
            extension: None,
            payload: Vec::new(),
            no_checksum: false,
            fragment: 0x4000,
        }
    }

    /// A TCP segment.
    pub fn tcp(flags: u8, from: &str, to: &str) -> Build {
        Build { flags, ..Build::new(TCP, from, to) }
    }

    /// A UDP datagram.
    pub fn udp(from: &str, to: &str) -> Build {
        Build { payload: b"question".to_vec(), ..Build::new(UDP, from, to) }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [BOX_MAC, CLIENT_MAC].concat();
        for (kind, tag) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        let ethertype: u16 = if self.from.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(self.packet());
        frame
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        ip_packet(self.from.ip(), self.to.ip(), self, &transport)
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let at = match self.protocol {
            TCP => {
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            _ => {
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
        };
        bytes.extend(&self.payload);
        if !self.no_checksum {
            let sum = with_pseudo_header(self.from.ip(), self.to.ip(), self.protocol, &bytes);
            let sum = if sum == 0 && self.protocol == UDP { 0xffff } else { sum };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// An ICMP message in a frame: an echo request, or an error that quotes `quoted`.
pub fn icmp(from: &str, to: &str, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let build = Build::new(0, &format!("{}:0", bracketed(from)), &format!("{}:0", bracketed(to)));
    let is_v4 = build.from.is_ipv4();
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(body);
    let sum =
        if is_v4 { checksum(&message) } else { with_pseudo_header(build.from.ip(), build.to.ip(), ICMPV6, &message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let build = Build { protocol: if is_v4 { ICMP } else { ICMPV6 }, ..build };
    let mut frame = [BOX_MAC, CLIENT_MAC].concat();
    frame.extend(if is_v4 { [8, 0] } else { [0x86, 0xdd] });
    frame.extend(ip_packet(build.from.ip(), build.to.ip(), &build, &message));
    frame
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

fn ip_packet(from: IpAddr, to: IpAddr, build: &Build, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = 20 + build.options.len();
            packet.extend([0x40 | (header / 4) as u8, 0]);
            packet.extend(((header + payload.len()) as u16).to_be_bytes());
            packet.extend([0x12, 0x34]);
            packet.extend(build.fragment.to_be_bytes());
            packet.extend([build.ttl, build.protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(&build.options);
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(((build.options.len() + payload.len()) as u16).to_be_bytes());
            packet.extend([build.extension.unwrap_or(build.protocol), build.ttl]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(&build.options);
        }
        _ => panic!("{from} and {to} are of two IP versions"),
    }
    packet.extend(payload);
    packet
}

/// What is in a frame. Made only when every checksum in it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The destination and source MAC addresses.
    pub macs: ([u8; 6], [u8; 6]),
    /// VLAN tags: EtherType and tag.
    pub tags: Vec<(u16, u16)>,
    /// Sender; the port is 0 for ICMP and for a packet in a packet.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// The transport protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Behind the transport header: of ICMP, everything from the type on; of a packet in a packet, the inner one.
    pub payload: Vec<u8>,
}

/// Reads a frame; an error says which checksum is wrong or what is missing.
pub fn see(frame: &[u8]) -> Result<Seen, String> {
    let mac = |at: usize| part(frame, at, 6).map(|bytes| <[u8; 6]>::try_from(bytes).unwrap());
    let mut at = 12;
    let mut tags = Vec::new();
    while matches!(u16_at(frame, at)?, 0x8100 | 0x88a8) {
        tags.push((u16_at(frame, at)?, u16_at(frame, at + 2)?));
        at += 4;
    }
    let seen = see_packet(frame.get(at + 2..).unwrap_or_default())?;
    Ok(Seen { macs: (mac(0)?, mac(6)?), tags, ..seen })
}

/// Reads an IP packet.
pub fn see_packet(packet: &[u8]) -> Result<Seen, String> {
    let (from, to, protocol, ttl, rest) = see_ip(packet, true)?;
    if from.is_ipv4() && u16_at(packet, 6)? & 0x1fff != 0 {
        return Err("a later fragment, which has no transport header".into());
    }
    see_transport(from, to, protocol, ttl, rest)
}

/// Addresses and ports of a packet that an ICMP error quotes, which may be cut.
pub fn see_quoted(packet: &[u8]) -> Result<(SocketAddr, SocketAddr), String> {
    let (from, to, _, _, rest) = see_ip(packet, false)?;
    Ok((SocketAddr::new(from, u16_at(rest, 0)?), SocketAddr::new(to, u16_at(rest, 2)?)))
}

fn part(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], String> {
    let missing = || format!("{length} bytes at {at} are not all there, but {} in all", bytes.len());
    bytes.get(at..at + length).ok_or_else(missing)
}

fn byte_at(bytes: &[u8], at: usize) -> Result<u8, String> {
    Ok(part(bytes, at, 1)?[0])
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    let two = part(bytes, at, 2)?;
    Ok(u16::from_be_bytes([two[0], two[1]]))
}

fn see_ip(packet: &[u8], whole: bool) -> Result<(IpAddr, IpAddr, u8, u8, &[u8]), String> {
    if byte_at(packet, 0)? >> 4 == 4 {
        let header = usize::from(packet[0] & 0xf) * 4;
        if checksum(part(packet, 0, header)?) != 0 {
            return Err("the IPv4 header's checksum is wrong".into());
        }
        let ip = |at: usize| part(packet, at, 4).map(|bytes| IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()));
        let end = if whole { usize::from(u16_at(packet, 2)?) } else { packet.len() };
        let rest = part(packet, header, end.checked_sub(header).ok_or("the IPv4 packet ends in its header")?)?;
        return Ok((ip(12)?, ip(16)?, byte_at(packet, 9)?, byte_at(packet, 8)?, rest));
    }
    let ip = |at: usize| part(packet, at, 16).map(|bytes| IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()));
    let end = if whole { 40 + usize::from(u16_at(packet, 4)?) } else { packet.len() };
    let (mut next, mut at) = (byte_at(packet, 6)?, 40);
    while matches!(next, 0 | 43 | 60) {
        (next, at) = (byte_at(packet, at)?, at + (usize::from(byte_at(packet, at + 1)?) + 1) * 8);
    }
    let rest = part(packet, at, end.checked_sub(at).ok_or("the IPv6 packet ends in its headers")?)?;
    Ok((ip(8)?, ip(24)?, next, byte_at(packet, 7)?, rest))
}

fn see_transport(from: IpAddr, to: IpAddr, protocol: u8, ttl: u8, rest: &[u8]) -> Result<Seen, String> {
    let (ports, header) = match protocol {
        TCP => ((u16_at(rest, 0)?, u16_at(rest, 2)?), usize::from(byte_at(rest, 12)? >> 4) * 4),
        UDP => ((u16_at(rest, 0)?, u16_at(rest, 2)?), 8),
        _ => ((0, 0), 0),
    };
    let right = match protocol {
        TCP | ICMPV6 => with_pseudo_header(from, to, protocol, rest) == 0,
        UDP if u16_at(rest, 6)? == 0 => from.is_ipv4(),
        UDP => with_pseudo_header(from, to, protocol, rest) == 0,
        ICMP => checksum(rest) == 0,
        _ => true,
    };
    if !right {
        return Err(format!("the checksum of protocol {protocol} is wrong"));
    }
    Ok(Seen {
        macs: ([0; 6], [0; 6]),
        tags: Vec::new(),
        from: SocketAddr::new(from, ports.0),
        to: SocketAddr::new(to, ports.1),
        protocol,
        ttl,
        payload: rest.get(header..).ok_or("the transport header is cut")?.to_vec(),
    })
}

/// RFC 1071, by its definition.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn with_pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let mut all = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => all.extend(address.octets()),
            IpAddr::V6(address) => all.extend(address.octets()),
        }
    }
    all.extend((bytes.len() as u32).to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(bytes);
    checksum(&all)
}
