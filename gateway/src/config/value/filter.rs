//! How the parts of filters are written.

use super::schema;
use crate::config::decode::{Decode, Node, keywords};
use crate::config::model::Share;
use crate::config::report::Diagnostics;

/// What gives requests buckets of their own, where a word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The client's address.
    ClientIp,
    /// The address of the connection's other end.
    PeerIp,
    /// The host of the request.
    Host,
    /// The client's connection.
    Connection,
}

keywords!(KeySource {
    "client_ip" => KeySource::ClientIp,
    "peer_ip" => KeySource::PeerIp,
    "host" => KeySource::Host,
    "connection" => KeySource::Connection,
});

/// A percentage, 0 or from `0.0001` to 100, in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub Share);

schema!(Percent, "percent", { "type": "number", "minimum": 0, "maximum": 100 });

impl Decode for Percent {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Some(percent) = node.number() else { return node.mismatch("a number", diagnostics) };
        let millionths = (percent * 10_000.0).round();
        // Not-a-number is in no range.
        if percent != 0.0 && !(1.0..=1_000_000.0).contains(&millionths) {
            diagnostics.error(node.span, "out of range: must be 0, or between 0.0001 and 100");
            return None;
        }
        Some(Percent(Share(millionths as u32)))
    }
}
