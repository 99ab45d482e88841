/// Why a packet was passed or dropped: the index of its counter in the map `PACKETS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// Passed: no list has the source.
    Pass = 0,
    /// Passed: a deny list has the source and an allow list has it too.
    Allowed = 1,
    /// Passed: not an IP packet (ARP, LLDP …).
    NotIp = 2,
    /// Passed: the frame ends inside its headers or contradicts itself. The stack drops it by its own rules, and an
    /// operator finds it there with the usual tools.
    Malformed = 3,
    /// Dropped: a deny list has the IPv4 source.
    DeniedV4 = 4,
    /// Dropped: a deny list has the IPv6 source.
    DeniedV6 = 5,
}

impl Reason {
    /// Every reason, in the order of its counter.
    pub const ALL: [Reason; 6] =
        [Reason::Pass, Reason::Allowed, Reason::NotIp, Reason::Malformed, Reason::DeniedV4, Reason::DeniedV6];

    /// The index of the counter.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether the packet is dropped.
    pub const fn drops(self) -> bool {
        matches!(self, Reason::DeniedV4 | Reason::DeniedV6)
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
