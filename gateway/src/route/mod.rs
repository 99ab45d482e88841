//! Which route a request takes, and what a route does to its address.
//!
//! Pure functions of the configuration and one request head. `table` finds the route; `redirect` and `rewrite` work
//! out where to send the client, or what to ask the origin for.

pub mod host;
pub mod path;
pub mod redirect;
pub mod rewrite;
pub mod table;

mod conditions;
mod edges;

pub use table::{MatchRank, Query, Table};
