//! What happens to a message on its way through, one filter per file. Pure: heads in, heads or verdicts out.

pub mod access;
pub mod bans;
pub mod breaker;
pub mod client_cert;
pub mod fault;
pub mod forwarded;
pub mod global_limit;
pub mod headers;
pub mod limits;
pub mod rate_limit;
