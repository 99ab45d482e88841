//! HTTP/2 messages over streams of the `h2` crate, the same for both sides: heads ([`head`]), bodies in ([`Source`]) and
//! out ([`Sink`]).

pub mod head;

mod frame;
mod metered;
mod server;
mod sink;
mod source;

pub use frame::Frame;
pub use metered::{Meter, Metered};
pub use server::builder;
pub use sink::{Flight, Sink};
pub use source::Source;

use std::io;

use h2::Reason;

/// Bytes of a stream that h2 holds for us at most: [`Sink`] gives it the next ones when these are written.
pub const SEND_BUFFER: usize = 2 * crate::net::LARGE;

/// The meaning of an error on a stream for whoever moves its body.
///
/// [`io::ErrorKind::InvalidData`]: what came is not HTTP/2. [`io::ErrorKind::ConnectionReset`]: the stream or the
/// connection ended before the message did.
fn to_io(error: h2::Error) -> io::Error {
    let kind = match (error.is_library(), error.reason()) {
        (true, Some(Reason::PROTOCOL_ERROR | Reason::FRAME_SIZE_ERROR | Reason::COMPRESSION_ERROR)) => {
            io::ErrorKind::InvalidData
        }
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, error)
}

/// Whether an error on a stream is the peer's RST_STREAM: the connection goes on.
pub fn is_peers_reset(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>());
    inner.is_some_and(|error| error.is_reset() && error.is_remote())
}
