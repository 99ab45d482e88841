/// Why a packet was passed or dropped: the index of its counter in the map `PACKETS`.
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
    /// Dropped: the source is banned for a while.
    Banned = 6,
    /// Dropped: the source has asked for too many TCP connections.
    SynLimit = 7,
    /// Dropped: the source has sent too many packets.
    PacketLimit = 8,
    /// Would have been dropped as [`SynLimit`](Reason::SynLimit). Counted beside what became of the packet.
    SynLimitDryRun = 9,
    /// Would have been dropped as [`PacketLimit`](Reason::PacketLimit). Counted beside what became of the packet.
    PacketLimitDryRun = 10,
}

impl Reason {
    /// Every reason, in the order of its counter.
    pub const ALL: [Reason; 11] = [
        Reason::Pass,
        Reason::Allowed,
        Reason::NotIp,
        Reason::Malformed,
        Reason::DeniedV4,
        Reason::DeniedV6,
        Reason::Banned,
        Reason::SynLimit,
        Reason::PacketLimit,
        Reason::SynLimitDryRun,
        Reason::PacketLimitDryRun,
    ];

    /// The index of the counter.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether the packet is dropped.
    pub const fn drops(self) -> bool {
        matches!(self, Reason::DeniedV4 | Reason::DeniedV6 | Reason::Banned | Reason::SynLimit | Reason::PacketLimit)
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
            Reason::Banned => "banned",
            Reason::SynLimit => "syn_limit",
            Reason::PacketLimit => "packet_limit",
            Reason::SynLimitDryRun => "syn_limit_dry_run",
            Reason::PacketLimitDryRun => "packet_limit_dry_run",
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
