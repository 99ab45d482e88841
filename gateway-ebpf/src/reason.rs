/// What became of a packet and why: the index of its counter in the map `PACKETS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// Passed: no rule has the source.
    Pass = 0,
    /// Passed: a rule allows it, whatever others say.
    Allowed = 1,
    /// Passed: not an IP packet (ARP, LLDP …).
    NotIp = 2,
    /// Passed: the frame ends inside its headers or contradicts itself. The stack drops it by its own rules, and an
    /// operator finds it there with the usual tools.
    Malformed = 3,
    /// Dropped: a rule denies the IPv4 source.
    DeniedV4 = 4,
    /// Dropped: a rule denies the IPv6 source.
    DeniedV6 = 5,
    /// Forwarded: a packet of a flow.
    Forwarded = 6,
    /// Passed: a packet to a service that the box itself has.
    Local = 7,
    /// Answered: a ping to a service's address.
    Ping = 8,
    /// Dropped: its TTL or hop limit is used up, on the way to an endpoint or back. The sender is not told: the stack,
    /// which could do that, would take the packet for its own where the box has the address.
    Expired = 9,
    /// Passed: a fragment that did not come after the first one of its packet.
    Fragment = 10,
    /// Passed: translated, and the stack looks for the next hop, which has no known MAC address.
    Unresolved = 11,
    /// Answered: larger than the next hop takes; the sender is told how much it may be.
    TooBig = 12,
    /// Dropped: the service has no backend that is alive.
    NoBackend = 13,
    /// Dropped: the service drains and takes no new flow.
    Draining = 14,
    /// Dropped: more new flows in a second than `new_per_second`.
    NewFlowLimit = 15,
    /// Dropped: every source port that was tried is taken.
    NoPort = 16,
    /// Dropped: a RST that belongs to no flow.
    NoFlow = 17,
    /// Dropped: the MAC address of a backend of mode `dsr` is not known.
    NoNeighbour = 18,
    /// Dropped: the kernel had no room for the outer header or for the flow.
    NoRoom = 19,
    /// Dropped: the source is banned for a while.
    Banned = 20,
    /// Dropped: the source has asked for too many TCP connections.
    SynLimit = 21,
    /// Dropped: the source has sent too many packets.
    PacketLimit = 22,
    /// Would have been dropped as [`SynLimit`](Reason::SynLimit). Counted beside what became of the packet.
    SynLimitDryRun = 23,
    /// Would have been dropped as [`PacketLimit`](Reason::PacketLimit). Counted beside what became of the packet.
    PacketLimitDryRun = 24,
    /// Dropped: the transport header is not in sight, so no rule with ports could be asked about the packet.
    HiddenPorts = 25,
    /// Answered: a SYN to a listener of the box whose queue overflows, by a SYN cookie.
    SynCookie = 26,
}

impl Reason {
    /// Every reason, in the order of its counter.
    pub const ALL: [Reason; 27] = [
        Reason::Pass,
        Reason::Allowed,
        Reason::NotIp,
        Reason::Malformed,
        Reason::DeniedV4,
        Reason::DeniedV6,
        Reason::Forwarded,
        Reason::Local,
        Reason::Ping,
        Reason::Expired,
        Reason::Fragment,
        Reason::Unresolved,
        Reason::TooBig,
        Reason::NoBackend,
        Reason::Draining,
        Reason::NewFlowLimit,
        Reason::NoPort,
        Reason::NoFlow,
        Reason::NoNeighbour,
        Reason::NoRoom,
        Reason::Banned,
        Reason::SynLimit,
        Reason::PacketLimit,
        Reason::SynLimitDryRun,
        Reason::PacketLimitDryRun,
        Reason::HiddenPorts,
        Reason::SynCookie,
    ];

    /// The index of the counter.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether the packet is dropped.
    pub const fn drops(self) -> bool {
        matches!(
            self,
            Reason::DeniedV4
                | Reason::DeniedV6
                | Reason::Expired
                | Reason::NoBackend
                | Reason::Draining
                | Reason::NewFlowLimit
                | Reason::NoPort
                | Reason::NoFlow
                | Reason::NoNeighbour
                | Reason::NoRoom
                | Reason::Banned
                | Reason::SynLimit
                | Reason::PacketLimit
                | Reason::HiddenPorts
        )
    }

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Pass => "pass",
            Reason::Allowed => "allowed",
            Reason::NotIp => "not_ip",
            Reason::Malformed => "malformed",
            Reason::DeniedV4 => "denied_v4",
            Reason::DeniedV6 => "denied_v6",
            Reason::Forwarded => "forwarded",
            Reason::Local => "local",
            Reason::Ping => "ping",
            Reason::Expired => "expired",
            Reason::Fragment => "fragment",
            Reason::Unresolved => "unresolved",
            Reason::TooBig => "too_big",
            Reason::NoBackend => "no_backend",
            Reason::Draining => "draining",
            Reason::NewFlowLimit => "new_flow_limit",
            Reason::NoPort => "no_port",
            Reason::NoFlow => "no_flow",
            Reason::NoNeighbour => "no_neighbour",
            Reason::NoRoom => "no_room",
            Reason::Banned => "banned",
            Reason::SynLimit => "syn_limit",
            Reason::PacketLimit => "packet_limit",
            Reason::SynLimitDryRun => "syn_limit_dry_run",
            Reason::PacketLimitDryRun => "packet_limit_dry_run",
            Reason::HiddenPorts => "hidden_ports",
            Reason::SynCookie => "syn_cookie",
        }
    }
}

const _: () = {
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!(Reason::ALL[i].index() as usize == i, "Reason::ALL must be in the order of the counters");
        i += 1;
    }
};
