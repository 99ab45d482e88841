//! Network load balancer and API gateway for one Linux box.
//!
//! Three rings, one rule: a module uses only modules below it, and the pure ring names no socket, clock, file,
//! random source or runtime. `ARCHITECTURE.md` draws the picture; `cargo xtask tidy` checks the direction.
//!
//! ```text
//! glue   main > cli > control > worker, xdp
//! io     downstream > proxy > upstream > http1 > tls > net
//! pure   snapshot > route, balance, filter, overload > config, proto, metrics
//! ```

pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod downstream;
pub mod filter;
pub mod http1;
pub mod http2;
pub mod metrics;
pub mod net;
pub mod overload;
pub mod proto;
pub mod proxy;
pub mod route;
pub mod snapshot;
pub mod tls;
pub mod upstream;
pub mod worker;
pub mod xdp;
