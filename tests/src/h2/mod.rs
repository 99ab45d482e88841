//! HTTP/2 peers that share no code with the gateway: blocking sockets, plain threads, one frame after the other.
//!
//! [`Wire`] says and hears any frame, well-formed or not. [`Connection`] is a well-behaved peer over it, client or
//! server: it answers SETTINGS and PING, keeps to flow control in both directions, and panics when the other side does
//! not.

mod client;
mod connection;
pub mod frame;
mod hpack;
mod wire;

pub use client::{Client, fields, response};
pub use connection::{Connection, Event, Options, Stream};
pub use frame::Frame;
pub use hpack::{Fields, encode};
pub use wire::{PREFACE, Wire};
