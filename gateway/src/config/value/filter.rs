//! How the parts of filters are written.

use crate::config::decode::keywords;

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
