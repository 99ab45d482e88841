//! What the kernel's side of the gateway is told: `[xdp]`, `[[access]]` and `[[vip]]`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::{ClusterId, ListenerId};

/// Vips at once: as many as the kernel's tables hold. Each has a table of 128 KiB there.
pub const VIPS_MAX: usize = 512;

/// Endpoints of all vips together, each as often as it has vips: as many as the kernel's tables hold.
pub const VIP_ENDPOINTS_MAX: usize = 16_384;

/// `[xdp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// `interfaces`: names; none means that XDP is off.
    pub interfaces: Vec<String>,
    /// `mode`
    pub mode: XdpMode,
    /// `pin`: a directory of a BPF file system. What is pinned there stays when the process ends, so packets are filtered
    /// and forwarded on, and the next process takes over. `None` ("off") ends with the process.
    pub pin: Option<PathBuf>,
    /// `snat_addresses`: what endpoints see as the source in mode `nat`; empty takes the address from which the kernel
    /// would reach them.
    pub snat_addresses: Vec<IpAddr>,
    /// `snat_ports`: the source ports of `snat_addresses`, which the box's own connections must not use. Each address has
    /// this many flows to one endpoint at once.
    pub snat_ports: RangeInclusive<u16>,
    /// `flows`
    pub flows: FlowLimits,
    /// `timeouts`
    pub timeouts: FlowTimeouts,
    /// `limits`
    pub limits: XdpLimits,
    /// `drop_log`: dropped packets in the log; `None` is none of them, the default.
    pub drop_log: Option<DropLog>,
    /// `syn_cookies`: answer SYNs to the box's own listeners in XDP while their queue overflows.
    pub syn_cookies: bool,
}

impl Default for Xdp {
    fn default() -> Self {
        Xdp {
            interfaces: Vec::new(),
            mode: XdpMode::Auto,
            pin: Some(PathBuf::from("/sys/fs/bpf/gateway")),
            snat_addresses: Vec::new(),
            // Above the range that Linux takes ports from by default (32768 to 60999).
            snat_ports: 61_000..=65_535,
            flows: FlowLimits::default(),
            timeouts: FlowTimeouts::default(),
            limits: XdpLimits::default(),
            drop_log: None,
            syn_cookies: false,
        }
    }
}

/// `flows`: how many connections and UDP conversations the kernel's tables hold, for each IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// `established`: flows of which both sides have spoken. The least recently used one makes room. Default 262 144.
    pub established: u32,
    /// `half_open`: flows that nobody has answered yet, kept apart so that a flood of them cannot push out the others.
    /// Default 65 536.
    pub half_open: u32,
    /// `new_per_second`: flows begun in a second on one CPU; more are dropped. Default 125 000 (Katran's).
    pub new_per_second: u32,
}

impl Default for FlowLimits {
    fn default() -> Self {
        FlowLimits { established: 1 << 18, half_open: 1 << 16, new_per_second: 125_000 }
    }
}

/// `timeouts`: how long a silent flow is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// `half_open`: TCP before the handshake is over. Default 10 s.
    pub half_open: Duration,
    /// `established`: TCP. Default 1 h; as long as the endpoints keep silent connections.
    pub established: Duration,
    /// `closing`: TCP after a RST, or the FINs of both sides. Default 10 s.
    pub closing: Duration,
    /// `udp`. Default 60 s.
    pub udp: Duration,
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        FlowTimeouts {
            half_open: Duration::from_secs(10),
            established: Duration::from_secs(3_600),
            closing: Duration::from_secs(10),
            udp: Duration::from_secs(60),
        }
    }
}

/// `limits` of `[xdp]`: what one source may send. A source is a network of `prefix_v4` or `prefix_v6` bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpLimits {
    /// `syn`: TCP connection attempts; `None` is no limit, the default.
    pub syn: Option<PacketRate>,
    /// `packets`: of any kind; `None` is no limit, the default.
    pub packets: Option<PacketRate>,
    /// `prefix_v4`. Default 32.
    pub prefix_v4: u8,
    /// `prefix_v6`. Default 64.
    pub prefix_v6: u8,
    /// `sources`: sources remembered at once, for each IP version; the least recently seen is forgotten. Default 65 536.
    pub sources: u32,
    /// `dry_run`: count what would be dropped, and drop nothing. Default off.
    pub dry_run: bool,
}

impl Default for XdpLimits {
    fn default() -> Self {
        XdpLimits { syn: None, packets: None, prefix_v4: 32, prefix_v6: 64, sources: 1 << 16, dry_run: false }
    }
}

/// `drop_log`: a line of the log for a dropped packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropLog {
    /// `per_second`: lines in a second, at most.
    pub per_second: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRate {
    /// `per_second`
    pub per_second: u32,
    /// `burst`: packets at once after a silence. Default: those of a second.
    pub burst: u32,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, else generic, else off with a warning.
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the kernel's generic hook or not at all.
    Generic,
    /// Not at all.
    Off,
}

/// `[[access]]`: a rule on the peer's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// `name`
    pub name: String,
    /// `action`
    pub action: AccessAction,
    /// `protocol`: of the packets it is about; `None` is any.
    pub protocol: Option<VipProtocol>,
    /// `ports`: destination ports of the packets it is about; none is any, and packets without ports too.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `sources` and the lines of `source_files` that do not end, sorted and without repeats.
    pub sources: Vec<IpNet>,
    /// Those that end, by `expires` of the rule or the line, with the moment. Sorted.
    pub expiring: Vec<(IpNet, SystemTime)>,
}

/// What an access rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessAction {
    /// Drop the packet (XDP) or close the connection at accept (L7 without XDP).
    Deny,
    /// Let it pass although another rule denies it: allow wins over deny.
    Allow,
}

/// `[[vip]]`: an address and port whose packets are load-balanced in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// `name`
    pub name: String,
    /// `address`
    pub address: SocketAddr,
    /// `protocol`
    pub protocol: VipProtocol,
    /// `mode`
    pub mode: VipMode,
    /// `cluster` or `listener`
    pub target: VipTarget,
    /// `affinity`
    pub affinity: VipAffinity,
    /// `drain`: flows it has go on, new ones are refused by silence. Default off.
    pub drain: bool,
}

/// `protocol` of a vip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VipProtocol {
    /// `"tcp"`
    Tcp,
    /// `"udp"`
    Udp,
}

/// `mode` of a vip: how a packet gets to its endpoint, and the answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VipMode {
    /// `"nat"`: source and destination are rewritten, so the answer comes back here wherever the endpoint is. The endpoint
    /// sees the box's address.
    #[default]
    Nat,
    /// `"dnat"`: the destination only. The endpoint sees the client, and must route its answers through the box.
    Dnat,
    /// `"dsr"`: only the MAC address. The endpoint has the VIP on its loopback, is in the same Ethernet, and answers the
    /// client by itself (direct server return).
    Dsr,
    /// `"ipip"`: the packet is sent inside another one (RFC 2003, RFC 2473); the endpoint unpacks it, has the VIP on its
    /// loopback, and answers the client by itself.
    Ipip,
}

/// Who serves a vip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipTarget {
    /// `cluster`: its endpoints.
    Cluster(ClusterId),
    /// `listener`: a listener of this gateway at that address. The packets go to the kernel's stack, and are counted.
    Listener(ListenerId),
}

/// `affinity` of a vip: what decides on the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VipAffinity {
    /// `"flow"`: addresses and ports, so the connections of a client spread.
    #[default]
    Flow,
    /// `"source"`: the source address, so all connections of a client have one endpoint.
    Source,
}
