//! `drop_log` of `[xdp]`: what the XDP program tells of dropped packets, as lines of the log.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use super::shared::Shared;
use crate::xdp::{DropRing, Dropped, Reason};

/// Writes a line for each drop that the program tells, as far as `per_second` allows; until the future is dropped.
pub async fn write(ring: DropRing, shared: Arc<Shared>) {
    if let Err(error) = ring.run(|dropped| write_line(&shared, &dropped)).await {
        log::error!("xdp: dropped packets are logged no more: {error}; restart the gateway");
    }
}

fn write_line(shared: &Shared, dropped: &Dropped) {
    let Some(mut line) = shared.drop_line(dropped) else { return };
    if dropped.reason == Reason::Banned
        && let Some(ends) = dropped.ends
        && let Some(ban) = shared.bans.find(ends.source, SystemTime::now())
    {
        // Writing to a string does not fail.
        let _ = write!(line, " ban={:?}", ban.reason);
    }
    log::info!("{line}");
}
