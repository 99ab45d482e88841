//! `[overload]`, and `priority` of a route.

use serde_json::{Value, json};

use super::duration;
use crate::config::model::{MaxMemory, Overload, Priority};

pub(super) fn view_overload(Overload { max_memory, queue_delay, accept_delay, max_connections }: &Overload) -> Value {
    let max_memory = match max_memory {
        MaxMemory::Auto => json!("auto"),
        MaxMemory::Off => json!("off"),
        MaxMemory::Bytes(bytes) => json!(bytes),
    };
    json!({
        "max_memory": max_memory,
        "queue_delay": queue_delay.map_or("off".to_owned(), duration),
        "accept_delay": accept_delay.map_or("off".to_owned(), duration),
        "max_connections": max_connections,
    })
}

pub(super) fn view_priority(priority: Priority) -> &'static str {
    match priority {
        Priority::Normal => "normal",
        Priority::High => "high",
    }
}
