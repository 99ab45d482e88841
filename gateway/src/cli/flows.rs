//! `gateway flows`: connections and UDP conversations in the kernel.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::table;
use super::vips::protocol;
use crate::config::model::VipMode;
use crate::xdp::{FlowInfo, FlowState, Pinned};

/// Reads and shows those whose client or endpoint is `of`; all if it is `None`.
pub fn flows(pin: &Path, of: Option<IpAddr>, as_json: bool) -> Result<String, String> {
    let pinned = Pinned::open(pin).map_err(|error| error.to_string())?;
    let mut flows = pinned.flows(of).map_err(|error| error.to_string())?;
    flows.sort_by_key(|flow| (flow.vip, flow.client));
    Ok(match as_json {
        true => format!("{:#}\n", json!({ "flows": flows.iter().map(view).collect::<Vec<_>>() })),
        false => text(&flows),
    })
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
