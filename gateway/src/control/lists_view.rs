//! What the kernel's lists hold, as JSON.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::config::model::{AccessAction, AccessRule};
use crate::snapshot::Snapshot;
use crate::xdp::{Xdp, XdpError};

/// Every rule with the packets it decided on, and how many entries there are.
pub fn rules(xdp: &Xdp, current: Option<&Snapshot>) -> Result<Value, XdpError> {
    let packets = xdp.rules()?;
    let rule = |rule: &AccessRule| {
        let packets = packets.iter().find(|(name, _)| *name == rule.name).map(|(_, packets)| *packets);
        json!({
            "name": rule.name,
            "action": match rule.action {
                AccessAction::Allow => "allow",
                AccessAction::Deny => "deny",
            },
            "sources": rule.sources.len() + rule.expiring.len(),
            "packets": packets,
        })
    };
    let rules: Vec<Value> = current.map_or_else(Vec::new, |current| current.config.access.iter().map(rule).collect());
    let (v4, v6) = xdp.entries();
    Ok(json!({ "rules": rules, "entries": { "v4": v4, "v6": v6 } }))
}

/// The entry that decides about an address.
pub fn find(xdp: &Xdp, address: IpAddr) -> Result<Value, XdpError> {
    let found = xdp.find(address)?;
    let entry = found.map(|found| json!({ "prefix": found.prefix, "packets": found.packets }));
    Ok(json!({ "address": address, "entry": entry }))
}
