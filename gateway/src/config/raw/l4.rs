//! `[xdp]`, `[[vip]]` and `[[access]]`.

use crate::config::decode::{Given, List, Optional, Required, table};
use crate::config::model::{AccessAction, VipAffinity, VipMode, VipProtocol, XdpMode};
use crate::config::value::{
    Address, Cidr, Count, FilePath, Interface, Ip, Moment, Name, PinDirectory, PortRange, Ports, PositiveDuration,
};

table! { "[xdp]"
/// The XDP program.
pub struct Xdp {
    /// Interfaces to attach it to. Without any, XDP is off.
    #[schemars(extend("default" = [], "examples" = [["eth0"]]))]
    pub interfaces: Optional<List<Interface>>,
    /// How it is attached; `"auto"` is native, else generic, else off with a warning.
    #[schemars(extend("default" = "auto", "examples" = ["native"]))]
    pub mode: Optional<XdpMode>,
    /// A directory of a BPF file system for the program's link and tables. They stay when the process ends, however it
    /// ends: packets are filtered and balanced on, and the next process takes over. `"off"` ends with the process.
    #[schemars(extend("default" = "/sys/fs/bpf/gateway", "examples" = ["off"]))]
    pub pin: Optional<PinDirectory>,
    /// What endpoints see as the source in mode `nat`. Without any, the address from which the kernel would reach them.
    #[schemars(extend("default" = [], "examples" = [["10.0.0.1", "fd00::1"]]))]
    pub snat_addresses: Optional<List<Ip>>,
    /// Source ports of mode `nat`. The box's own connections must not use them: keep them out of
    /// `net.ipv4.ip_local_port_range`. Each address has this many flows to one endpoint at once.
    #[schemars(extend("default" = "61000-65535", "examples" = ["40000-65535"]))]
    pub snat_ports: Optional<PortRange>,
    /// How many connections and UDP conversations the kernel's tables hold.
    pub flows: Optional<Flows>,
    /// How long a silent flow is remembered.
    pub timeouts: Optional<Timeouts>,
    /// What one source may send. What an access rule allows is not limited.
    pub limits: Optional<XdpLimits>,
    /// Lines of the log for dropped packets, a few in a second. Without it, none.
    #[schemars(extend("examples" = [{"per_second": 10}]))]
    pub drop_log: Optional<DropLog>,
    /// Answer SYNs to a listener of this box by a SYN cookie before the stack sees them, while the listener's queue
    /// overflows. Takes effect at a start.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub syn_cookies: Optional<bool>,
}
}

table! { "`drop_log` of [xdp]"
/// A line of the log for a dropped packet: why, from whom, to whom, on which interface. `docs/access.md` shows one.
pub struct DropLog {
    /// Lines in a second, at most. The packets that get none are counted.
    #[schemars(extend("examples" = [10]))]
    pub per_second: Required<Count<u32, 1, 1000>>,
}
}

table! { "`limits` of [xdp]"
/// What one source may send. More is dropped.
pub struct XdpLimits {
    /// TCP connection attempts. Without it, as many as it likes.
    #[schemars(extend("examples" = [{"per_second": 100, "burst": 200}]))]
    pub syn: Optional<PacketRate>,
    /// Packets of any kind, also the answers of endpoints and origins, which an access rule can exempt. Without it, as many
    /// as it likes.
    #[schemars(extend("examples" = [{"per_second": 50_000}]))]
    pub packets: Optional<PacketRate>,
    /// Bits of an IPv4 address that tell sources apart.
    #[schemars(extend("default" = 32, "examples" = [24]))]
    pub prefix_v4: Optional<Count<u8, 1, 32>>,
    /// Bits of an IPv6 address that tell sources apart. One customer has a network of 64 bits or less.
    #[schemars(extend("default" = 64, "examples" = [56]))]
    pub prefix_v6: Optional<Count<u8, 1, 128>>,
    /// Sources remembered at once, for each IP version. When there are more, the least recently seen one starts anew.
    #[schemars(extend("default" = 65_536, "examples" = [1_000_000]))]
    pub sources: Optional<Count<u32, 1024, 16_777_216>>,
    /// Count what would be dropped, and drop nothing.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub dry_run: Optional<bool>,
}
}

table! { "a rate of packets"
/// A rate of packets (token bucket).
pub struct PacketRate {
    /// Packets in a second.
    #[schemars(extend("examples" = [100]))]
    pub per_second: Required<Count<u32, 1, 100_000_000>>,
    /// Packets at once, after a silence. Without it, those of a second.
    #[schemars(extend("examples" = [200]))]
    pub burst: Optional<Count<u32, 1, 100_000_000>>,
}
}

table! { "`flows` of [xdp]"
/// How many connections and UDP conversations the kernel's tables hold, for each IP version. Other sizes mean other
/// tables: flows are forgotten when one of the first two changes.
pub struct Flows {
    /// Flows of which both sides have spoken. When there are more, the least recently used one is forgotten.
    #[schemars(extend("default" = 262_144, "examples" = [1_000_000]))]
    pub established: Optional<Count<u32, 1024, 16_777_216>>,
    /// Flows that nobody has answered yet, kept apart so that a flood of them cannot push out the others.
    #[schemars(extend("default" = 65_536, "examples" = [262_144]))]
    pub half_open: Optional<Count<u32, 1024, 16_777_216>>,
    /// Flows begun in a second on one CPU; more are dropped.
    #[schemars(extend("default" = 125_000, "examples" = [50_000]))]
    pub new_per_second: Optional<Count<u32, 1, 100_000_000>>,
}
}

table! { "`timeouts` of [xdp]"
/// How long a silent flow is remembered.
pub struct Timeouts {
    /// TCP before the handshake is over.
    #[schemars(extend("default" = "10s", "examples" = ["5s"]))]
    pub half_open: Optional<PositiveDuration>,
    /// TCP; as long as the endpoints keep silent connections.
    #[schemars(extend("default" = "1h", "examples" = ["15m"]))]
    pub established: Optional<PositiveDuration>,
    /// TCP after a RST, or the FINs of both sides.
    #[schemars(extend("default" = "10s", "examples" = ["30s"]))]
    pub closing: Optional<PositiveDuration>,
    /// UDP.
    #[schemars(extend("default" = "60s", "examples" = ["30s"]))]
    pub udp: Optional<PositiveDuration>,
}
}

table! { "[[vip]]"
/// An address and port whose packets are balanced in the kernel. One of `cluster` and `listener` says who serves it.
pub struct Vip {
    /// What it is called in metrics.
    #[schemars(extend("examples" = ["web-v4"]))]
    pub name: Required<Name>,
    /// IP address and port.
    #[schemars(extend("examples" = ["192.0.2.10:443"]))]
    pub address: Required<Address>,
    /// The transport protocol.
    #[schemars(extend("default" = "tcp", "examples" = ["udp"]))]
    pub protocol: Optional<VipProtocol>,
    /// How a packet gets to its endpoint and the answer back: both addresses rewritten; the destination only, for
    /// endpoints that route their answers through this box; the MAC address only (direct server return); or inside
    /// another packet. `docs/l4.md` says which is for which network.
    #[schemars(extend("default" = "nat", "examples" = ["dsr"]))]
    pub mode: Optional<VipMode>,
    /// The cluster whose endpoints serve it. Of its names, the addresses of the vip's IP version are used.
    #[schemars(extend("examples" = ["api"]))]
    pub cluster: Optional<Given<Name>>,
    /// The listener of this gateway that serves it. Its packets are counted, and go to the kernel's stack.
    #[schemars(extend("examples" = ["web"]))]
    pub listener: Optional<Given<Name>>,
    /// What decides on the endpoint: addresses and ports, or the source address alone, so that all connections of a
    /// client have one endpoint.
    #[schemars(extend("default" = "flow", "examples" = ["source"]))]
    pub affinity: Optional<VipAffinity>,
    /// Take no new flows: those it has go on, packets that would begin one are dropped.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub drain: Optional<bool>,
}
}

table! { "[[access]]"
/// A rule on the address a packet comes from, and if it says so on protocol and port. Of the rules that have a packet, one
/// with `allow` wins over all with `deny`, however long the networks are.
pub struct Access {
    /// What it is called in metrics.
    #[schemars(extend("examples" = ["bad-actors"]))]
    pub name: Required<Name>,
    /// `"deny"` drops the packets in XDP, or closes the connection where XDP is off.
    #[schemars(extend("examples" = ["deny"]))]
    pub action: Required<AccessAction>,
    /// The transport protocol it is about. Without it, all packets.
    #[schemars(extend("examples" = ["tcp"]))]
    pub protocol: Optional<VipProtocol>,
    /// The destination ports it is about, of TCP and UDP. Without it, all packets of `protocol`.
    #[schemars(extend("default" = [], "examples" = [[22, "8000-8100"]]))]
    pub ports: Optional<List<Ports>>,
    /// When it ends (RFC 3339).
    #[schemars(extend("examples" = ["2099-12-01T00:00:00Z"]))]
    pub expires: Optional<Moment>,
    /// Addresses and networks.
    #[schemars(extend("default" = [], "examples" = [["203.0.113.0/24", "2001:db8::/32"]]))]
    pub sources: Optional<List<Cidr>>,
    /// Files with an address or network on each line; `#` begins a comment. A line may end in
    /// `expires=2026-12-01T00:00:00Z`. A file that changes is read again, and only what differs is changed.
    #[schemars(extend("default" = [], "examples" = [["blacklist.txt"]]))]
    pub source_files: Optional<List<FilePath>>,
}
}
