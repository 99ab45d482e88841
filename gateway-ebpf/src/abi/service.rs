//! Services, backends and flows.
//!
//! Addresses and ports are kept as they stand in the packet, read as native integers, so the program compares and copies
//! them without a conversion. IPv6 addresses are two `u64`: an array would be copied by a loop of bytes.

/// An IPv4 address, its bytes in the order of the packet.
pub type Ip4 = u32;

/// An IPv6 address, its bytes in the order of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Ip6(pub u64, pub u64);

/// Services at once. Each has a Maglev table of 128 KiB.
pub const SERVICES_MAX: usize = 512;

/// Slots for backends, each an endpoint of one service. [`NO_BACKEND`] is not one of them.
pub const BACKENDS_MAX: usize = 16_384;

/// Addresses that mode `nat` takes its sources from, for each IP version.
pub const SNAT_MAX: usize = 64;

/// The size of a Maglev table: a prime (Eisenbud et al., "Maglev", NSDI 2016, §3.4), and large enough that 100 backends
/// get their shares within 1 %.
pub const MAGLEV_SIZE: usize = 65_537;

/// In a Maglev table: nobody.
pub const NO_BACKEND: u16 = u16::MAX;

/// Nanoseconds are shifted right by this to make ticks, the unit of [`Timeouts`]; a tick is 1.07 s.
pub const TICK_SHIFT: u32 = 30;

/// Ticks from `then` to `now`. Ticks begin again after zero, and the clocks of two CPUs may be one apart: what seems to be
/// ahead is now.
#[inline(always)]
pub fn ticks_since(then: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// How packets get to a backend: `VipMode`.
pub mod mode {
    /// Source and destination are rewritten.
    pub const NAT: u32 = 0;
    /// The destination is rewritten.
    pub const DNAT: u32 = 1;
    /// The MAC address is rewritten.
    pub const DSR: u32 = 2;
    /// The packet is sent inside another one.
    pub const IPIP: u32 = 3;
    /// Not at all: the kernel's stack has the service.
    pub const LOCAL: u32 = 4;
}

/// How far a flow has got, as one direction knows it.
pub mod heard {
    /// This direction has had no packet.
    pub const SILENCE: u8 = 0;
    /// It has had one.
    pub const SPEECH: u8 = 1;
    /// And so has the other, or nobody will see whether it has. Only the client's direction is told.
    pub const ANSWER: u8 = 2;
}

/// Key of the services' maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey<A> {
    /// The virtual address.
    pub address: A,
    /// The port.
    pub port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u16,
    /// Zero. With it the key of IPv6 has no padding.
    pub zero: u32,
}

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// Its Maglev table and counters.
    pub id: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// 1: the source address alone decides on the backend.
    pub by_source: u32,
    /// 1: new flows are dropped.
    pub drain: u32,
}

/// A service's choice for each hash: a slot of the backends, or [`NO_BACKEND`].
///
/// One more than [`MAGLEV_SIZE`]: the verifier sees the index only as a fraction of a power of two.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Table(pub [u16; MAGLEV_SIZE + 1]);

/// An endpoint of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Backend {
    /// Its address; an [`Ip4`] is in the low half of the first word.
    pub address: Ip6,
    /// What it sees as the source in mode `nat` when [`Settings::snat`] has no address.
    pub snat: Ip6,
    /// Its service.
    pub service: u32,
    /// Its port.
    pub port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u16,
    /// Which use of the slot this is, never 0. A flow remembers the one that it began with.
    pub epoch: u32,
    /// 0 while it is alive, else its flows choose another.
    pub dead: u32,
}

impl Backend {
    /// What flows compare with the epoch they began with.
    #[inline(always)]
    pub const fn living_epoch(&self) -> u32 {
        if self.dead == 0 { self.epoch } else { 0 }
    }
}

/// What the whole program is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// How long a silent flow is remembered.
    pub timeouts: Timeouts,
    /// Flows begun in a tick on one CPU.
    pub new_per_tick: u32,
    /// Source addresses in the map `SNAT`, IPv4 and IPv6.
    pub snat: [u32; 2],
    /// The first source port of mode `nat`.
    pub port_first: u32,
    /// How many there are.
    pub port_count: u32,
}

/// In ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Timeouts {
    /// TCP before the handshake is over.
    pub half_open: u32,
    /// TCP.
    pub established: u32,
    /// TCP after a RST or the FINs of both sides.
    pub closing: u32,
    /// UDP.
    pub udp: u32,
}

/// A bit for each port that the program looks at: by the packet's destination for TCP and UDP, then by its source for TCP
/// and UDP (the answers of mode `dnat` come from a backend's port).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PortBits(pub [u64; 4 * PORT_WORDS]);

/// Words of [`PortBits`] for one protocol and direction.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Key of the flow tables: a packet as it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, then destination port.
    pub ports: u32,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u32,
}

/// One direction of a flow: what becomes of its packets.
///
/// Bytes are written by one side each, so that two CPUs lose nothing of each other without atomic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow<A> {
    /// The packet's new source. Mode `ipip`: the outer packet's.
    pub source: A,
    /// The packet's new destination. Modes `dsr` and `ipip`: the backend, to which the next hop leads.
    pub destination: A,
    /// The packet's new ports.
    pub ports: u32,
    /// What the rewriting adds to the one's complement of the transport checksum.
    pub transport_delta: u16,
    /// The same for the IPv4 header checksum.
    pub ip_delta: u16,
    /// The frame's new MAC addresses, destination first.
    pub macs: [u32; 3],
    /// The interface it leaves by.
    pub interface: u32,
    /// The slot of the backend.
    pub backend: u32,
    /// The id of the service.
    pub service: u32,
    /// The backend's epoch when the flow began.
    pub epoch: u32,
    /// The tick of the last packet.
    pub seen: u32,
    /// The tick in which the next hop was looked up.
    pub resolved: u32,
    /// The tick in which the flow began.
    pub begun: u32,
    /// The largest IP packet that the next hop takes; 0 is not known.
    pub mtu: u16,
    /// One of [`mode`].
    pub mode: u8,
    /// 1: from the backend to the client.
    pub reverse: u8,
    /// One of [`heard`].
    pub spoken: u8,
    /// 1: this direction has sent a FIN.
    pub fin: u8,
    /// 1: the other direction has sent a FIN.
    pub peer_fin: u8,
    /// 1: one of them has sent a RST.
    pub reset: u8,
}

impl<A: Copy> FlowKey<A> {
    /// The key of the flow's other direction: a packet that answers what became of this one.
    #[inline(always)]
    pub fn answering(flow: &Flow<A>, protocol: u32) -> FlowKey<A> {
        FlowKey { source: flow.destination, destination: flow.source, ports: flow.ports.rotate_left(16), protocol }
    }
}

/// What a backend was sent and what it answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendCounts {
    /// Packets to the backend.
    pub packets: u64,
    /// Their IP bytes.
    pub bytes: u64,
    /// Packets of the backend that went through the box (modes `nat` and `dnat`).
    pub answer_packets: u64,
    /// Their IP bytes.
    pub answer_bytes: u64,
    /// Flows begun.
    pub flows: u64,
}

/// What happened to a service's packets that no flow has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceCounts {
    /// Packets passed to the box's own stack (mode `local`).
    pub local_packets: u64,
    /// Their IP bytes.
    pub local_bytes: u64,
    /// Packets dropped because the service drains or has no backend, or a limit is reached.
    pub dropped: u64,
}

// The kernel compares keys by their bytes and user space copies whole values: there must be no padding.
const _: () = {
    assert!(size_of::<Ip6>() == 16);
    assert!(size_of::<ServiceKey<Ip4>>() == 12 && size_of::<ServiceKey<Ip6>>() == 24);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<Backend>() == 48);
    assert!(size_of::<Settings>() == 36);
    assert!(size_of::<FlowKey<Ip4>>() == 16 && size_of::<FlowKey<Ip6>>() == 40);
    assert!(size_of::<Flow<Ip4>>() == 64 && size_of::<Flow<Ip6>>() == 88);
    assert!(size_of::<BackendCounts>() == 40 && size_of::<ServiceCounts>() == 24);
    assert!(BACKENDS_MAX <= NO_BACKEND as usize);
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::*;

    /// # Safety
    ///
    /// The layouts are `repr(C)` of integers, and the assertions above leave no room for padding.
    macro_rules! pod {
        ($($type:ty),* $(,)?) => { $(
            // SAFETY: integers without padding: every pattern of bytes is a value.
            unsafe impl aya::Pod for $type {}
        )* };
    }

    pod!(
        Ip6,
        ServiceKey<Ip4>,
        ServiceKey<Ip6>,
        Service,
        Table,
        Backend,
        Settings,
        PortBits,
        FlowKey<Ip4>,
        FlowKey<Ip6>,
        Flow<Ip4>,
        Flow<Ip6>,
        BackendCounts,
        ServiceCounts,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_count_on_around_zero_and_a_clock_that_is_ahead_is_now() {
        for (then, now, expected) in
            [(5, 5, 0), (5, 8, 3), (8, 7, 0), (u32::MAX, 0, 1), (u32::MAX - 1, 3, 5), (0, u32::MAX, 0)]
        {
            assert_eq!(ticks_since(then, now), expected, "{then} to {now}");
        }
    }
}
