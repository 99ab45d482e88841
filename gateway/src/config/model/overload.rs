//! `[overload]`, and `priority` of a route.

use std::time::Duration;

/// `[overload]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overload {
    /// `max_memory`
    pub max_memory: MaxMemory,
    /// `queue_delay`: how long work may wait for its worker before some is refused; `None` is `"off"`.
    pub queue_delay: Option<Duration>,
    /// `accept_delay`: how long connections may wait to be accepted, on top of what all work of the worker waits, before
    /// some are refused; `None` is `"off"`.
    pub accept_delay: Option<Duration>,
    /// `max_connections`: clients' connections at once, over all listeners; `None` is as many as the listeners take
    /// (Envoy's `global_downstream_max_connections`).
    pub max_connections: Option<u32>,
}

impl Default for Overload {
    fn default() -> Self {
        Overload {
            max_memory: MaxMemory::Auto,
            // A worker that has all it can do is late without being in trouble: 10 000 connections that each wait for an
            // answer of 20 µs make 200 ms, and answering some of them with 503 makes none of them faster. A second is what
            // the least patient clients wait: beyond it the work done is for nobody.
            queue_delay: Some(Duration::from_secs(1)),
            // Far more than a worker that keeps up ever shows, and short enough that the handshake begins while its client
            // waits. It can be that short, for here refusing costs much less than serving.
            accept_delay: Some(Duration::from_millis(100)),
            max_connections: None,
        }
    }
}

/// `max_memory` of `[overload]`: the process's resident bytes at which it does nothing but answer with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxMemory {
    /// `"auto"`: a share of what the control group, or the machine, has.
    Auto,
    /// `"off"`
    Off,
    /// So many bytes.
    Bytes(u64),
}

/// `priority` of a route: which requests go first when there is too much to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// As all others.
    #[default]
    Normal,
    /// Refused when all others are.
    High,
}
