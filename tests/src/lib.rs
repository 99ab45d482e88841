//! Harness of the whole-gateway tests: the real binary between scripted origins and raw clients.
//!
//! A test reads as a dialogue: it starts a [`Gateway`](crate::gateway::Gateway) from a [`Config`](config::Config), plays one
//! end with a [`Conn`](conn::Conn) and the other with an [`Origin`](origin::Origin) or a
//! [`Script`](origin::Script), and says what each must have seen. Where the version of HTTP makes no difference, the ends are
//! an [`AnyClient`](asked::AnyClient) and a handler of [`Served`](origin::Served) requests; [`every_pair`] runs a test for
//! all versions on both sides, and [`h2::Wire`] says what no well-behaved peer of HTTP/2 would. Three rules keep it fast and
//! steady:
//!
//! - every port is chosen by the kernel ([`ports`] where a number has to be known before);
//! - nothing sleeps: a test waits for an event, and each wait has a deadline ([`wait`]);
//! - plain threads and blocking sockets: the peers must be simpler than the program under test.

pub mod asked;
pub mod certs;
pub mod client;
pub mod config;
pub mod conn;
pub mod curl;
pub mod empty_xdp;
pub mod envoy;
pub mod etcd;
pub mod fuzz;
pub mod gateway;
pub mod h2;
pub mod haproxy;
pub mod lab;
pub mod limit_client;
pub mod limit_service;
pub mod load;
pub mod metrics;
pub mod nginx;
pub mod origin;
pub mod packet;
pub mod pattern;
pub mod pebble;
pub mod ports;
pub mod process;
pub mod proxy_header;
pub mod redis;
pub mod stream;
pub mod tls;
pub mod wait;
pub mod websocket;
pub mod xdp;

/// What nearly every test names.
pub mod prelude {
    pub use crate::asked::{AnyClient, Http, Pair};
    pub use crate::client::Response;
    pub use crate::config::Config;
    pub use crate::conn::{Conn, End, ReadError};
    pub use crate::gateway::Gateway;
    pub use crate::origin::{Origin, Script};
    pub use crate::wait;
}
