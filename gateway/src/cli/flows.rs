//! `gateway flows`: connections and UDP conversations in the kernel.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::table;
use super::vips::protocol;
use crate::config::model::VipMode;
use crate::xdp::{FlowInfo, FlowRoom, FlowState, Pinned};

/// Reads and shows those whose client or endpoint is `of`; all if it is `None`. `count`: only how many there are.
pub fn flows(pin: &Path, of: Option<IpAddr>, count: bool, as_json: bool) -> Result<String, String> {
    let pinned = Pinned::open(pin).map_err(|error| error.to_string())?;
    let mut flows = pinned.flows(of).map_err(|error| error.to_string())?;
    if count {
        let counted = counted(&flows, pinned.room());
        return Ok(if as_json { format!("{:#}\n", view_counted(&counted)) } else { text_counted(&counted) });
    }
    flows.sort_by_key(|flow| (flow.vip, flow.client));
    Ok(match as_json {
        true => format!("{:#}\n", json!({ "flows": flows.iter().map(view).collect::<Vec<_>>() })),
        false => text(&flows),
    })
}

/// Flows of an IP version in a table, and how many fit.
type Counted = (&'static str, &'static str, usize, u32);

fn counted(flows: &[FlowInfo], room: FlowRoom) -> Vec<Counted> {
    let versions = [("IPv4", false), ("IPv6", true)];
    let of_version = versions.into_iter().flat_map(|(version, is_v6)| {
        let count = |half_open: bool| {
            let of = |flow: &&FlowInfo| flow.vip.is_ipv6() == is_v6 && (flow.state == FlowState::HalfOpen) == half_open;
            flows.iter().filter(of).count()
        };
        [(version, "established", count(false), room.established), (version, "half_open", count(true), room.half_open)]
    });
    of_version.collect()
}

fn text_counted(counted: &[Counted]) -> String {
    let line = |(version, table, flows, room): &Counted| {
        let percent = *flows as f64 * 100.0 / f64::from(*room).max(1.0);
        format!("{version} {table}: {flows} of {room} ({percent:.1} %)\n")
    };
    counted.iter().map(line).collect()
}

fn view_counted(counted: &[Counted]) -> Value {
    let table = |(version, table, flows, room): &Counted| json!({ "version": version, "table": table, "flows": flows, "room": room });
    json!({ "tables": counted.iter().map(table).collect::<Vec<_>>() })
}

fn text(flows: &[FlowInfo]) -> String {
    let heads = ["CLIENT", "VIP", "ENDPOINT", "SOURCE THERE", "MODE", "STATE", "AGE", "IDLE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for flow in flows {
        rows.push(vec![
            flow.client.to_string(),
            format!("{} {}", protocol(flow.protocol), flow.vip),
            flow.backend.to_string(),
            flow.source.to_string(),
            mode(flow.mode).into(),
            state(flow.state).into(),
            format!("{}s", flow.age.as_secs()),
            format!("{}s", flow.idle.as_secs()),
        ]);
    }
    table(&rows)
}

fn view(flow: &FlowInfo) -> Value {
    json!({
        "client": flow.client,
        "vip": flow.vip,
        "protocol": protocol(flow.protocol),
        "endpoint": flow.backend,
        "source": flow.source,
        "mode": mode(flow.mode),
        "state": state(flow.state),
        "age_s": flow.age.as_secs(),
        "idle_s": flow.idle.as_secs(),
    })
}

fn mode(mode: VipMode) -> &'static str {
    match mode {
        VipMode::Nat => "nat",
        VipMode::Dnat => "dnat",
        VipMode::Dsr => "dsr",
        VipMode::Ipip => "ipip",
    }
}

fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::HalfOpen => "half_open",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::VipProtocol;

    fn flow(client: &str, vip: &str, state: FlowState) -> FlowInfo {
        FlowInfo {
            protocol: VipProtocol::Udp,
            client: client.parse().unwrap(),
            vip: vip.parse().unwrap(),
            source: "10.0.0.5:61000".parse().unwrap(),
            backend: "10.0.0.21:53".parse().unwrap(),
            mode: VipMode::Nat,
            state,
            age: Duration::from_secs(70),
            idle: Duration::from_secs(2),
        }
    }

    #[test]
    fn flows_are_lines_and_counts() {
        let flows = [
            flow("198.51.100.7:4000", "192.0.2.1:53", FlowState::Established),
            flow("198.51.100.8:4000", "192.0.2.1:53", FlowState::HalfOpen),
            flow("[2001:db8::7]:4000", "[2001:db8::1]:53", FlowState::Closing),
        ];
        let expected = "\
CLIENT             VIP               ENDPOINT      SOURCE THERE    MODE  STATE        AGE  IDLE
198.51.100.7:4000  udp 192.0.2.1:53  10.0.0.21:53  10.0.0.5:61000  nat   established  70s  2s
198.51.100.8:4000  udp 192.0.2.1:53  10.0.0.21:53  10.0.0.5:61000  nat   half_open    70s  2s
";
        assert_eq!(text(&flows[..2]), expected);
        let room = FlowRoom { established: 8, half_open: 4 };
        let expected = "\
IPv4 established: 1 of 8 (12.5 %)
IPv4 half_open: 1 of 4 (25.0 %)
IPv6 established: 1 of 8 (12.5 %)
IPv6 half_open: 0 of 4 (0.0 %)
";
        assert_eq!(text_counted(&counted(&flows, room)), expected);
    }
}
