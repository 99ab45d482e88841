//! What the gateway counts and what it writes about each request.
//!
//! - [`names`]: every metric, once
//! - [`shard`]: counters with one writer each, so that counting is a plain load, add and store
//! - [`registry`]: the counters of each listener, route and cluster, kept by name across reloads
//! - [`render`]: the Prometheus text form
//! - [`flags`]: Envoy's response flags
//! - [`access_log`]: one line for each request
//!
//! Pure: time, host name and file come from above; the only way out is the channel in [`access_log::queue`].

pub mod access_log;
pub mod flags;
pub mod names;
pub mod registry;
pub mod render;
pub mod shard;
