//! `[[vip]]`

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::{Tables, only_one};
use crate::config::model::{
    Cluster, ClusterId, EndpointAddress, Listener, ListenerId, ListenerProtocol, VIP_ENDPOINTS_MAX, VIPS_MAX, Vip,
    VipMode, VipProtocol, VipTarget, Xdp, XdpMode,
};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};

/// What a vip has to fit to. Parts that are wrong themselves are `None`, which has been reported.
pub struct Surroundings<'a> {
    pub xdp: &'a Xdp,
    pub listeners: Option<&'a [Listener]>,
    pub clusters: Option<&'a [Cluster]>,
}

/// Where the address of each vip is given first.
#[derive(Default)]
pub struct Taken(HashMap<(VipProtocol, SocketAddr), Span>);

/// Checks a vip. `taken` are the addresses of those before it.
pub fn check(
    raw: At<raw::Vip>,
    names: &Tables,
    around: &Surroundings<'_>,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) -> Option<Vip> {
    let At { value: raw, span } = raw;
    let span = raw.name.0.as_ref().map_or(span, |name| name.span);
    let protocol = raw.protocol.map_or(VipProtocol::Tcp, |protocol| protocol.value);
    let mode = raw.mode.map_or(VipMode::Nat, |mode| mode.value);
    if let Some(address) = raw.address.0 {
        check_address(address.value.0, protocol, address.span, taken, diagnostics);
    }
    if around.xdp.interfaces.is_empty() || around.xdp.mode == XdpMode::Off {
        let help = "name the interfaces its packets come in by in `[xdp] interfaces`";
        diagnostics.warning(span, "this vip has no effect: XDP is off").help(help);
    }
    let given = [raw.cluster.as_ref().map(|key| key.span), raw.listener.as_ref().map(|key| key.span)];
    only_one(given, "`cluster` and `listener`", diagnostics);
    if given == [None, None] {
        let help = "`cluster` names the endpoints that serve it, `listener` a listener of this gateway";
        diagnostics.error(span, "this vip has neither `cluster` nor `listener`").help(help);
    }
    if raw.listener.is_some() {
        let of_clusters = [
            ("mode", raw.mode.map(|key| key.span)),
            ("affinity", raw.affinity.map(|key| key.span)),
            ("drain", raw.drain.map(|key| key.span)),
        ];
        for (key, span) in of_clusters {
            if let Some(span) = span {
                diagnostics.warning(span, format!("`{key}` is not used: it is for vips with a `cluster`"));
            }
        }
    }
    let wanted = raw.address.0.map(|address| Wanted { address: address.value.0, protocol, mode });
    let cluster = raw.cluster.map(|At { value, span }| {
        let id = ClusterId(names.clusters.find(&At { value: value.0?, span }, diagnostics)?);
        wanted?.check_cluster(id, span, around, diagnostics);
        Some(VipTarget::Cluster(id))
    });
    let listener = raw.listener.map(|At { value, span }| {
        let id = ListenerId(names.listeners.find(&At { value: value.0?, span }, diagnostics)?);
        wanted?.check_listener(id, span, around, diagnostics);
        Some(VipTarget::Listener(id))
    });
    Some(Vip {
        name: raw.name.0?.value.0,
        address: raw.address.0?.value.0,
        protocol,
        mode,
        target: cluster.or(listener)??,
        affinity: raw.affinity.map_or_else(Default::default, |affinity| affinity.value),
        drain: raw.drain.is_some_and(|drain| drain.value),
    })
}

/// Reports the vip with which there are more than the kernel's tables hold. Names count when they are resolved.
pub fn check_numbers(vips: &[Vip], spans: &[Span], clusters: &[Cluster], diagnostics: &mut Diagnostics) {
    let addresses = |vip: &Vip| match vip.target {
        VipTarget::Cluster(id) => socket_addresses(&clusters[id.index()]),
        VipTarget::Listener(_) => 0,
    };
    let mut endpoints = 0;
    for ((number, vip), span) in (1..).zip(vips).zip(spans) {
        endpoints += addresses(vip);
        let (what, limit) = if number > VIPS_MAX {
            ("vips", VIPS_MAX)
        } else if endpoints > VIP_ENDPOINTS_MAX {
            ("endpoints of vips", VIP_ENDPOINTS_MAX)
        } else {
            continue;
        };
        let message =
            format!("with `{}` there are more than {limit} {what}, which is all the kernel's tables hold", vip.name);
        diagnostics.error(*span, message).help("serve the rest by another gateway, or by listeners and routes");
        return;
    }
}

/// An address that is there twice is one endpoint.
fn socket_addresses(cluster: &Cluster) -> usize {
    let address = |address: &EndpointAddress| match address {
        EndpointAddress::Socket(address) => Some(*address),
        EndpointAddress::Name(..) => None,
    };
    let addresses: BTreeSet<_> = cluster.endpoints.iter().filter_map(|endpoint| address(&endpoint.address)).collect();
    addresses.len()
}

fn check_address(
    address: SocketAddr,
    protocol: VipProtocol,
    span: Span,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) {
    let ip = address.ip();
    let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        let help = "name the one address that clients connect to";
        diagnostics.error(span, format!("{ip} cannot be the address of a vip")).help(help);
    } else if mapped {
        diagnostics.error(span, format!("{ip} is an IPv4 address written as IPv6; write it as IPv4"));
    }
    if address.port() == 0 {
        diagnostics.error(span, "a vip has one port, and 0 is none");
    }
    match taken.0.get(&(protocol, address)) {
        None => _ = taken.0.insert((protocol, address), span),
        Some(first) => {
            let message = format!("there are two vips for {} {address}", name(protocol));
            diagnostics.error(span, message).related(*first, "the first one");
        }
    }
}

/// What a vip asks of who serves it.
#[derive(Clone, Copy)]
struct Wanted {
    address: SocketAddr,
    protocol: VipProtocol,
    mode: VipMode,
}

impl Wanted {
    fn check_cluster(&self, id: ClusterId, span: Span, around: &Surroundings<'_>, diagnostics: &mut Diagnostics) {
        self.check_snat(span, around.xdp, diagnostics);
        let mut listeners = around.listeners.into_iter().flatten();
        if let Some(listener) =
            listeners.find(|listener| (transport(listener), listener.address) == (self.protocol, self.address))
        {
            let message = format!("listener `{}` has this address too, and gets no packets", listener.name);
            diagnostics.warning(span, message).help("`listener` in place of `cluster` lets it serve the vip");
        }
        let Some(cluster) = around.clusters.map(|clusters| &clusters[id.index()]) else { return };
        for endpoint in &cluster.endpoints {
            self.check_endpoint(&cluster.name, &endpoint.address, span, diagnostics);
        }
        for (key, given) in [("tls", cluster.tls.is_some()), ("proxy_protocol", cluster.proxy_protocol.is_some())] {
            if given {
                let message = format!("`{key}` of cluster `{}` is not used for a vip", cluster.name);
                let help = "packets are passed on as they are; a listener and a route can do that";
                diagnostics.warning(span, message).help(help);
            }
        }
        let has_tiers = !cluster.prefer.is_empty() || cluster.endpoints.iter().any(|endpoint| endpoint.priority > 0);
        if has_tiers {
            let message = format!("`priority` and `prefer` of cluster `{}` are not used for a vip", cluster.name);
            diagnostics
                .warning(span, message)
                .help("all of its endpoints get their share; make a cluster without them");
        }
    }

    fn check_endpoint(&self, cluster: &str, endpoint: &EndpointAddress, span: Span, diagnostics: &mut Diagnostics) {
        let (port, text) = match endpoint {
            EndpointAddress::Socket(address) => (address.port(), address.to_string()),
            EndpointAddress::Name(name, port) => (*port, format!("{name}:{port}")),
        };
        if let EndpointAddress::Socket(address) = endpoint
            && address.is_ipv4() != self.address.is_ipv4()
        {
            let message = format!("cluster `{cluster}` has the endpoint {text}, and the vip {} is not", self.address);
            let help = "packets keep their IP version: make a cluster for each";
            diagnostics.error(span, message + &format!(" {}", version(address.ip()))).help(help);
        }
        let keeps_port = match self.mode {
            VipMode::Dsr => "dsr",
            VipMode::Ipip => "ipip",
            VipMode::Nat | VipMode::Dnat => return,
        };
        if port != self.address.port() {
            let message = format!("cluster `{cluster}` has the endpoint {text}, and \"{keeps_port}\" keeps the port");
            let help =
                format!("let the endpoint listen on port {}, or take mode \"nat\" or \"dnat\"", self.address.port());
            diagnostics.error(span, message).help(help);
        }
    }

    fn check_snat(&self, span: Span, xdp: &Xdp, diagnostics: &mut Diagnostics) {
        let fits = |address: &IpAddr| address.is_ipv4() == self.address.is_ipv4();
        if self.mode == VipMode::Nat && !xdp.snat_addresses.is_empty() && !xdp.snat_addresses.iter().any(fits) {
            let message = format!("`[xdp] snat_addresses` has no {} address for this vip", version(self.address.ip()));
            diagnostics.error(span, message).help("add one, or leave the key out for the kernel's own choice");
        }
    }

    fn check_listener(&self, id: ListenerId, span: Span, around: &Surroundings<'_>, diagnostics: &mut Diagnostics) {
        let Some(listener) = around.listeners.map(|listeners| &listeners[id.index()]) else { return };
        let protocol = transport(listener);
        let (own, vip) = (listener.address, self.address);
        // A socket on `[::]` has IPv4 peers too.
        let all = own.ip().is_unspecified() && (own.is_ipv6() || vip.is_ipv4());
        let misfit = if protocol != self.protocol {
            format!("is {}, and the vip is {}", name(protocol), name(self.protocol))
        } else if own.port() != vip.port() || (own.ip() != vip.ip() && !all) {
            format!("listens on {own}, and the vip is {vip}")
        } else {
            return;
        };
        let help = "packets go to the kernel as they are, so the listener has to have the vip's address";
        diagnostics.error(span, format!("listener `{}` {misfit}", listener.name)).help(help);
    }
}

fn transport(listener: &Listener) -> VipProtocol {
    match listener.protocol {
        ListenerProtocol::Udp => VipProtocol::Udp,
        ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough => VipProtocol::Tcp,
    }
}

fn name(protocol: VipProtocol) -> &'static str {
    match protocol {
        VipProtocol::Tcp => "TCP",
        VipProtocol::Udp => "UDP",
    }
}

fn version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
