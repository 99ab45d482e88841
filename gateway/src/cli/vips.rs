//! `gateway vips`: the virtual addresses in the kernel.

use std::path::Path;

use serde_json::{Value, json};

use super::table;
use crate::config::model::VipProtocol;
use crate::xdp::{Pinned, ServiceStats};

/// Reads and shows them.
pub fn vips(pin: &Path, as_json: bool) -> Result<String, String> {
    let pinned = Pinned::open(pin).map_err(|error| error.to_string())?;
    let services = pinned.services().map_err(|error| error.to_string())?;
    if !as_json {
        return Ok(text(&services));
    }
    let packets: serde_json::Map<String, Value> =
        pinned.counters().iter().map(|(reason, packets)| (reason.name().into(), packets.into())).collect();
    let vips: Vec<Value> = services.iter().map(view).collect();
    Ok(format!("{:#}\n", json!({ "vips": vips, "packets": packets })))
}

fn text(services: &[ServiceStats]) -> String {
    let heads = ["VIP", "ENDPOINT", "STATE", "FLOWS", "PACKETS", "BYTES", "ANSWER PACKETS", "ANSWER BYTES", "DROPPED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for service in services {
        let vip = format!("{} {}", protocol(service.protocol), service.address);
        if service.backends.is_empty() {
            let local = [service.local_packets, service.local_bytes].map(|count| count.to_string());
            let [packets, bytes] = local;
            let cells = [vip.clone(), "-".into(), "-".into(), "-".into(), packets, bytes, "-".into(), "-".into()];
            rows.push([&cells[..], &[service.dropped.to_string()]].concat());
        }
        for backend in &service.backends {
            let counts = &backend.counts;
            let numbers = [
                counts.flows,
                counts.packets,
                counts.bytes,
                counts.answer_packets,
                counts.answer_bytes,
                service.dropped,
            ];
            let state = if backend.alive { "alive" } else { "dead" };
            let names = [vip.clone(), backend.address.to_string(), state.to_owned()];
            rows.push(names.into_iter().chain(numbers.map(|count| count.to_string())).collect());
        }
    }
    table(&rows)
}

fn view(service: &ServiceStats) -> Value {
    let backend = |backend: &crate::xdp::BackendStats| {
        let counts = &backend.counts;
        json!({
            "address": backend.address,
            "alive": backend.alive,
            "flows": counts.flows,
            "packets": counts.packets,
            "bytes": counts.bytes,
            "answer_packets": counts.answer_packets,
            "answer_bytes": counts.answer_bytes,
        })
    };
    json!({
        "address": service.address,
        "protocol": protocol(service.protocol),
        "local_packets": service.local_packets,
        "local_bytes": service.local_bytes,
        "dropped": service.dropped,
        "endpoints": service.backends.iter().map(backend).collect::<Vec<_>>(),
    })
}

/// As the configuration has it.
pub fn protocol(protocol: VipProtocol) -> &'static str {
    match protocol {
        VipProtocol::Tcp => "tcp",
        VipProtocol::Udp => "udp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::BackendStats;

    #[test]
    fn each_endpoint_has_a_line_and_a_vip_without_any_has_one_too() {
        let backend = |address: &str, alive| BackendStats {
            address: address.parse().unwrap(),
            alive,
            weight: 0,
            counts: Default::default(),
        };
        let service = |address: &str, backends| ServiceStats {
            name: String::new(),
            address: address.parse().unwrap(),
            protocol: VipProtocol::Tcp,
            local_packets: 7,
            local_bytes: 900,
            dropped: 3,
            backends,
        };
        let services = [
            service("192.0.2.1:80", vec![backend("10.0.0.1:80", true), backend("10.0.0.22:80", false)]),
            service("[2001:db8::1]:80", vec![]),
        ];
        let expected = "\
VIP                   ENDPOINT      STATE  FLOWS  PACKETS  BYTES  ANSWER PACKETS  ANSWER BYTES  DROPPED
tcp 192.0.2.1:80      10.0.0.1:80   alive  0      0        0      0               0             3
tcp 192.0.2.1:80      10.0.0.22:80  dead   0      0        0      0               0             3
tcp [2001:db8::1]:80  -             -      -      7        900    -               -             3
";
        assert_eq!(text(&services), expected);
    }
}
