//! `[overload]`

use crate::config::decode::{Optional, table};
use crate::config::model::MaxMemory;
use crate::config::value::{Count, DurationOrOff};

table! { "[overload]"
/// What the process does without when it has too little memory, or too little time.
pub struct Overload {
    /// Resident memory of the process at which every request is answered with 503. From 85% of it on connections do not
    /// wait for another request, from 90% on none is accepted, from 95% on only routes with `priority = "high"` are served.
    /// `"auto"` is 90% of what the control group, or else the machine, has; `"off"` is no limit.
    #[schemars(extend("default" = "auto", "examples" = ["2GiB"]))]
    pub max_memory: Optional<MaxMemory>,
    /// When nothing a worker has to do is done sooner than this, it refuses a share of the new connections, and of the
    /// requests, with 503. `"off"` is never.
    #[schemars(extend("default" = "1s", "examples" = ["200ms"]))]
    pub queue_delay: Optional<DurationOrOff>,
    /// When every new connection waits longer than this to be accepted, on top of what all else waits, those that do are
    /// reset, and the kernel keeps fewer of them. `"off"` is never.
    #[schemars(extend("default" = "100ms", "examples" = ["20ms"]))]
    pub accept_delay: Optional<DurationOrOff>,
    /// Clients' connections at once, over all listeners. Without it, as many as the listeners take.
    #[schemars(extend("examples" = [50000]))]
    pub max_connections: Optional<Count<u32, 1, 10_000_000>>,
}
}
