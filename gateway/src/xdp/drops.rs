//! `drop_log`: dropped packets that the program tells about, as lines of the log.

use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use gateway_ebpf::Reason;
use gateway_ebpf::abi::event::{self, HEAD_BYTES, Tally};
use gateway_ebpf::abi::service::{Ip4, Ip6};
use gateway_ebpf::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, Ip, Packet, Parsed, extensions, protocol};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::XdpError;
use super::batch::Table;
use super::convert::{self, Address};
use crate::config::model::DropLog;

/// How often the program tells, and what was written of it.
pub(super) struct Drops {
    per_tick: Table<u32, u32>,
    tally: PerCpuArray<MapData, Tally>,
    ring: Option<DropRing>,
    pace: Pace,
}

/// What became of dropped packets while there was a `drop_log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounts {
    /// A line of the log each.
    pub logged: u64,
    /// No line, for there were too many.
    pub omitted: u64,
}

/// The ring that the program writes to; [`run`](DropRing::run) it as a task of its own.
#[must_use = "drops that nobody reads are lost once the ring is full"]
pub struct DropRing(RingBuf<MapData>);

/// A dropped packet, as the program tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: Reason,
    /// Who sent it and to whom, when the frame's head says so.
    pub ends: Option<Ends>,
    /// The number of what dropped it, see [`event::Drop::by`].
    pub(super) by: u32,
    pub(super) interface: u32,
    untold: u32,
}

/// The ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who sent it.
    pub source: IpAddr,
    destination: IpAddr,
    /// The transport protocol's number.
    protocol: u32,
    /// Source and destination port, of TCP and UDP.
    ports: Option<(u16, u16)>,
}

/// Each CPU tells as much as the log takes, so the lines of all are counted once more.
#[derive(Default)]
struct Pace {
    per_second: u32,
    second: Option<Instant>,
    lines: u32,
    /// Dropped packets since the last line.
    omitted: u64,
    logged: u64,
    /// Those that the program has told of.
    omitted_here: u64,
}

impl Drops {
    pub fn new(ebpf: &mut Ebpf, wanted: Option<DropLog>) -> Result<Drops, XdpError> {
        let mut drops = Drops {
            per_tick: super::tables::of_object(ebpf, event::DROPS_PER_TICK)?,
            tally: super::load::map(ebpf, event::DROP_TALLY)?,
            ring: Some(DropRing(super::load::map(ebpf, event::DROPS)?)),
            pace: Pace::default(),
        };
        drops.set(wanted)?;
        Ok(drops)
    }

    /// Tells the program how many drops the log takes. A tick is a little more than a second.
    pub fn set(&mut self, wanted: Option<DropLog>) -> Result<(), XdpError> {
        let per_second = wanted.map_or(0, |log| log.per_second);
        let set = self.per_tick.update(&[0], &[per_second]);
        set.map_err(|error| XdpError::map("take `drop_log`", &error))?;
        self.pace.per_second = per_second;
        Ok(())
    }

    pub fn take_ring(&mut self) -> Option<DropRing> {
        self.ring.take()
    }

    /// Whether a drop gets a line; then, how many before it did not.
    pub fn admit(&mut self, dropped: &Dropped, now: Instant) -> Option<u64> {
        self.pace.admit(dropped.untold, now)
    }

    pub fn counts(&self) -> Result<DropCounts, XdpError> {
        let tallies = self.tally.get(&0, 0).map_err(|error| XdpError::map("read the tally of drops", &error))?;
        let untold: u64 = tallies.iter().map(|tally| tally.untold_ever).sum();
        Ok(DropCounts { logged: self.pace.logged, omitted: untold + self.pace.omitted_here })
    }
}

impl Pace {
    fn admit(&mut self, untold: u32, now: Instant) -> Option<u64> {
        self.omitted += u64::from(untold);
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            (self.second, self.lines) = (Some(now), 0);
        }
        if self.lines >= self.per_second {
            self.omitted += 1;
            self.omitted_here += 1;
            return None;
        }
        self.lines += 1;
        self.logged += 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

impl DropRing {
    /// Hands on drops as they come, until the future is dropped. Needs tokio's I/O driver. The program limits how many
    /// there are, so the loop leaves the thread to others.
    pub async fn run(self, mut tell: impl FnMut(Dropped)) -> io::Result<()> {
        // SAFETY: the ring owns its descriptor, and it is the same one until the ring is dropped.
        let mut ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        loop {
            let mut guard = ring.readable_mut().await?;
            while let Some(event) = guard.get_inner_mut().next() {
                if let Some(dropped) = Dropped::read(&event) {
                    tell(dropped);
                }
            }
            guard.clear_ready();
        }
    }
}

impl Dropped {
    /// From the bytes of an [`event::Drop`]. `None` is of another program's.
    fn read(bytes: &[u8]) -> Option<Dropped> {
        let (words, head) = bytes.split_at_checked(size_of::<event::Drop>() - HEAD_BYTES)?;
        let mut words = words.chunks_exact(4).filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
        let (reason, by, interface, untold, length) =
            (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Dropped {
            reason: *Reason::ALL.get(reason as usize)?,
            ends: head.get(..length as usize).and_then(Ends::read),
            by,
            interface,
            untold,
        })
    }
}

impl Ends {
    fn read(head: &[u8]) -> Option<Ends> {
        let bytes = head.as_ptr_range();
        // SAFETY: the slice's bytes, which nobody writes while it is borrowed; the frame does not leave this function.
        let frame = unsafe { Frame::new(bytes.start, bytes.end) };
        match frame.network()? {
            (ETHERTYPE_IPV4, offset) => Ends::of(Ip4::parse(frame, offset, extensions::over(frame))),
            (ETHERTYPE_IPV6, offset) => Ends::of(Ip6::parse(frame, offset, extensions::over(frame))),
            _ => None,
        }
    }

    fn of<A: Ip + Address>(parsed: Parsed<A>) -> Option<Ends> {
        let Parsed::Packet(packet) = parsed else { return None };
        let Packet { source, destination, ports, protocol, .. } = packet;
        let (from, to) = convert::ends(source, destination, ports);
        let ports = packet.kind().destination_port().map(|_| (from.port(), to.port()));
        Some(Ends { source: from.ip(), destination: to.ip(), protocol, ports })
    }
}

/// `protocol=tcp source=192.0.2.7:1234 destination=198.51.100.1:80`
impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ends { source, destination, protocol, ports } = *self;
        match name(protocol) {
            Some(name) => write!(f, "protocol={name}")?,
            None => write!(f, "protocol={protocol}")?,
        }
        match ports {
            Some((from, to)) => {
                let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
                write!(f, " source={source} destination={destination}")
            }
            None => write!(f, " source={source} destination={destination}"),
        }
    }
}

fn name(protocol: u32) -> Option<&'static str> {
    match protocol {
        protocol::TCP => Some("tcp"),
        protocol::UDP => Some("udp"),
        protocol::ICMP => Some("icmp"),
        protocol::ICMPV6 => Some("icmpv6"),
        _ => None,
    }
}

/// What dropped a packet, by the configuration's names.
pub(super) enum By<'a> {
    Rule(&'a str),
    Vip(&'a str),
    Limit(u32),
}

/// The line of the log. `omitted` packets before it have none.
pub(super) fn line(dropped: &Dropped, by: Option<By<'_>>, interface: Option<&str>, omitted: u64) -> String {
    let mut line = format!("xdp: drop reason={}", dropped.reason.name());
    // Writing to a string does not fail.
    let _ = match by {
        Some(By::Rule(name)) => write!(line, " rule={name:?}"),
        Some(By::Vip(name)) => write!(line, " vip={name:?}"),
        Some(By::Limit(per_second)) => write!(line, " limit={per_second}/s"),
        None => Ok(()),
    };
    let _ = dropped.ends.map_or(Ok(()), |ends| write!(line, " {ends}"));
    let _ = match interface {
        Some(name) => write!(line, " interface={name}"),
        None => write!(line, " interface={}", dropped.interface),
    };
    if omitted > 0 {
        let _ = write!(line, " omitted={omitted}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of an event about a frame of IPv4 that begins with these.
    fn event(reason: Reason, by: u32, untold: u32, ip: &[u8]) -> Vec<u8> {
        let mut head = [&[2; 12][..], &[8, 0], ip].concat();
        let length = head.len() as u32;
        head.resize(HEAD_BYTES, 0xff);
        let words = [reason.index(), by, 7, untold, length];
        words.into_iter().flat_map(u32::to_ne_bytes).chain(head).collect()
    }

    fn ipv4(protocol: u8, fragment: [u8; 2], rest: &[u8]) -> Vec<u8> {
        let header = [&[0x45, 0, 0, 40, 0, 1][..], &fragment, &[64, protocol, 0, 0, 192, 0, 2, 7, 10, 0, 0, 1]];
        [&header.concat(), rest].concat()
    }

    #[test]
    fn a_line_says_what_is_known() {
        let ports = [&[4, 210, 0, 80][..], &[0; 16]].concat();
        let cases = [
            (
                event(Reason::DeniedV4, 3, 0, &ipv4(6, [0x40, 0], &ports)),
                Some(By::Rule("bad")),
                0,
                "reason=denied_v4 rule=\"bad\" protocol=tcp source=192.0.2.7:1234 destination=10.0.0.1:80 interface=eth0",
            ),
            (
                event(Reason::NoBackend, 1, 0, &ipv4(17, [0, 0], &ports)),
                Some(By::Vip("dns")),
                12,
                "reason=no_backend vip=\"dns\" protocol=udp source=192.0.2.7:1234 destination=10.0.0.1:80 \
                 interface=eth0 omitted=12",
            ),
            (
                event(Reason::PacketLimit, 0, 0, &ipv4(1, [0, 0], &[8, 0, 0, 0, 0, 0, 0, 0])),
                Some(By::Limit(50)),
                0,
                "reason=packet_limit limit=50/s protocol=icmp source=192.0.2.7 destination=10.0.0.1 interface=eth0",
            ),
            (
                event(Reason::DeniedV4, 1, 0, &ipv4(17, [0, 9], &ports)),
                None,
                0,
                "reason=denied_v4 protocol=udp source=192.0.2.7 destination=10.0.0.1 interface=eth0",
            ),
            (
                event(Reason::Banned, 0, 0, &ipv4(47, [0, 0], &[])),
                None,
                0,
                "reason=banned protocol=47 source=192.0.2.7 destination=10.0.0.1 interface=eth0",
            ),
            (event(Reason::DeniedV6, 0, 0, &[]), None, 0, "reason=denied_v6 interface=eth0"),
        ];
        for (bytes, by, omitted, expected) in cases {
            let dropped = Dropped::read(&bytes).unwrap();
            assert_eq!(line(&dropped, by, Some("eth0"), omitted), format!("xdp: drop {expected}"));
        }
        let gone = Dropped::read(&event(Reason::Banned, 0, 0, &[])).unwrap();
        assert_eq!(line(&gone, None, None, 0), "xdp: drop reason=banned interface=7");
    }

    #[test]
    fn bytes_that_are_no_event_are_none() {
        let whole = event(Reason::Banned, 0, 0, &[]);
        let mut unknown = whole.clone();
        unknown[..4].copy_from_slice(&1000_u32.to_ne_bytes());
        let mut too_long = whole;
        too_long[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(Dropped::read(&unknown), None);
        assert_eq!(Dropped::read(&[0; 19]), None);
        assert_eq!(Dropped::read(&too_long).unwrap().ends, None);
    }

    #[test]
    fn lines_keep_to_their_rate_and_every_packet_is_counted() {
        let mut pace = Pace { per_second: 2, ..Pace::default() };
        let start = Instant::now();
        let mut admit = |ms, untold| pace.admit(untold, start + Duration::from_millis(ms));
        let cases =
            [(0, 0, Some(0)), (1, 5, Some(5)), (999, 1, None), (999, 0, None), (1000, 3, Some(6)), (1001, 0, Some(0))];
        for (ms, untold, expected) in cases {
            assert_eq!(admit(ms, untold), expected, "at {ms} ms");
        }
        assert_eq!((pace.logged, pace.omitted_here), (4, 2));
    }
}
