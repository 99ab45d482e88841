//! Which route a request takes, and what a route does to its address.
//!
//! Pure functions of the configuration and one request head. `table` finds the route (`l4` that of a connection which is
//! relayed as it is); `redirect` and `rewrite` work
//! out where to send the client, or what to ask the origin for.

pub mod descriptor;
pub mod host;
pub mod l4;
pub mod path;
pub mod redirect;
pub mod rewrite;
pub mod table;
pub mod when;

mod conditions;
mod edges;

pub use descriptor::descriptors;
pub use l4::{L4Query, L4Table};
pub use table::{MatchRank, Query, Table};
pub use when::Applies;
