//! The kernel's side of the running configuration.

use serde_json::{Value, json};

use super::duration;
use crate::config::model::*;

pub fn view_xdp(xdp: &Xdp) -> Value {
    let Xdp { interfaces, mode, pin, snat_addresses, snat_ports, flows, timeouts, limits, drop_log, syn_cookies } = xdp;
    let mode = match mode {
        XdpMode::Auto => "auto",
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
        XdpMode::Off => "off",
    };
    let FlowLimits { established, half_open, new_per_second } = flows;
    json!({
        "interfaces": interfaces,
        "mode": mode,
        "pin": pin.as_ref().map_or("off".into(), |pin| pin.to_string_lossy()),
        "snat_addresses": snat_addresses,
        "snat_ports": format!("{}-{}", snat_ports.start(), snat_ports.end()),
        "flows": { "established": established, "half_open": half_open, "new_per_second": new_per_second },
        "timeouts": view_timeouts(timeouts),
        "limits": view_limits(limits),
        "drop_log": drop_log.map(|DropLog { per_second }| json!({ "per_second": per_second })),
        "syn_cookies": syn_cookies,
    })
}

fn view_timeouts(FlowTimeouts { half_open, established, closing, udp }: &FlowTimeouts) -> Value {
    json!({
        "half_open": duration(*half_open),
        "established": duration(*established),
        "closing": duration(*closing),
        "udp": duration(*udp),
    })
}

fn view_limits(XdpLimits { syn, packets, prefix_v4, prefix_v6, sources, dry_run }: &XdpLimits) -> Value {
    let rate = |rate: &Option<PacketRate>| {
        rate.map(|PacketRate { per_second, burst }| json!({ "per_second": per_second, "burst": burst }))
    };
    json!({
        "syn": rate(syn),
        "packets": rate(packets),
        "prefix_v4": prefix_v4,
        "prefix_v6": prefix_v6,
        "sources": sources,
        "dry_run": dry_run,
    })
}

pub fn view_vip(vip: &Vip, config: &Config) -> Value {
    let Vip { name, address, protocol, mode, target, affinity, drain } = vip;
    let protocol = match protocol {
        VipProtocol::Tcp => "tcp",
        VipProtocol::Udp => "udp",
    };
    let mode = match mode {
        VipMode::Nat => "nat",
        VipMode::Dnat => "dnat",
        VipMode::Dsr => "dsr",
        VipMode::Ipip => "ipip",
    };
    let affinity = match affinity {
        VipAffinity::Flow => "flow",
        VipAffinity::Source => "source",
    };
    let (kind, target) = match target {
        VipTarget::Cluster(id) => ("cluster", &config.clusters[id.index()].name),
        VipTarget::Listener(id) => ("listener", &config.listeners[id.index()].name),
    };
    json!({
        "name": name,
        "address": address,
        "protocol": protocol,
        "mode": mode,
        kind: target,
        "affinity": affinity,
        "drain": drain,
    })
}
