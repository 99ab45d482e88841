//! `[xdp]`

use super::duration;
use crate::config::decode::Optional;
use crate::config::model::{DropLog, FlowLimits, FlowTimeouts, PacketRate, Xdp, XdpLimits, XdpMode};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;

/// Checks how and where XDP is attached, and what its tables hold.
pub fn check(raw: Optional<raw::Xdp>, diagnostics: &mut Diagnostics) -> Xdp {
    let default = Xdp::default();
    let Some(At { value: raw, span }) = raw else { return default };
    let interfaces = raw.interfaces.map_or_else(Vec::new, |list| list.value);
    let mode = raw.mode.map_or(default.mode, |mode| mode.value);
    if interfaces.is_empty() && mode != XdpMode::Off {
        diagnostics.hint(span, "XDP is off: no `interfaces` to attach it to");
    }
    let snat_addresses = raw.snat_addresses.map_or_else(Vec::new, |list| list.value);
    for address in &snat_addresses {
        let ip = address.value.0;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            let help = "name an address of this box that the endpoints can answer";
            diagnostics.error(address.span, format!("no packet can come from {ip}")).help(help);
        }
    }
    Xdp {
        interfaces: interfaces.into_iter().map(|interface| interface.value.0).collect(),
        mode,
        pin: raw.pin.map_or(default.pin, |pin| pin.value.0),
        snat_addresses: snat_addresses.into_iter().map(|address| address.value.0).collect(),
        snat_ports: raw.snat_ports.map_or(default.snat_ports, |ports| ports.value.0),
        flows: flows(raw.flows),
        timeouts: timeouts(raw.timeouts),
        limits: limits(raw.limits),
        drop_log: raw.drop_log.and_then(drop_log),
        syn_cookies: raw.syn_cookies.map_or(default.syn_cookies, |on| on.value),
    }
}

fn flows(raw: Optional<raw::Flows>) -> FlowLimits {
    let default = FlowLimits::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    FlowLimits {
        established: raw.established.map_or(default.established, |count| count.value.0),
        half_open: raw.half_open.map_or(default.half_open, |count| count.value.0),
        new_per_second: raw.new_per_second.map_or(default.new_per_second, |count| count.value.0),
    }
}

fn timeouts(raw: Optional<raw::Timeouts>) -> FlowTimeouts {
    let default = FlowTimeouts::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    FlowTimeouts {
        half_open: duration(raw.half_open, default.half_open),
        established: duration(raw.established, default.established),
        closing: duration(raw.closing, default.closing),
        udp: duration(raw.udp, default.udp),
    }
}

fn limits(raw: Optional<raw::XdpLimits>) -> XdpLimits {
    let default = XdpLimits::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    XdpLimits {
        syn: raw.syn.and_then(rate),
        packets: raw.packets.and_then(rate),
        prefix_v4: raw.prefix_v4.map_or(default.prefix_v4, |count| count.value.0),
        prefix_v6: raw.prefix_v6.map_or(default.prefix_v6, |count| count.value.0),
        sources: raw.sources.map_or(default.sources, |count| count.value.0),
        dry_run: raw.dry_run.map_or(default.dry_run, |dry_run| dry_run.value),
    }
}

/// `None` when the rate is missing, which has been reported.
fn drop_log(raw: At<raw::DropLog>) -> Option<DropLog> {
    Some(DropLog { per_second: raw.value.per_second.0?.value.0 })
}

/// `None` when the rate is missing, which has been reported.
fn rate(raw: At<raw::PacketRate>) -> Option<PacketRate> {
    let per_second = raw.value.per_second.0?.value.0;
    Some(PacketRate { per_second, burst: raw.value.burst.map_or(per_second, |burst| burst.value.0) })
}
