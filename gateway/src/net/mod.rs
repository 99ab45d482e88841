//! Sockets over io_uring: the only module that names tokio-uring.
//!
//! # Rules
//!
//! * **A buffer belongs to its operation until the completion arrives.** Dropping a tokio-uring future does not cancel
//!   the operation: it stays in flight, holds the descriptor open and swallows the bytes it later reads. So operations
//!   live *in the socket half* ([`Reader`], [`Writer`], [`Listener`]), and the futures only borrow it. A future may be
//!   dropped at any time (a deadline passed, another branch won): the next call takes up the same operation and no byte
//!   is lost.
//! * **Closing is shutting down.** When the last half is dropped, `shutdown(2)` ends whatever is still in flight, the
//!   completion returns the buffer and the descriptor closes. Nothing leaks.
//! * **An idle connection holds a [`TINY`] buffer**, in the receive that will bring its next request. A poll operation would
//!   hold none, and cost each request a second operation; cancelling receives of connections that stay idle costs the
//!   kernel a search of all operations for each.
//! * **The end of a small message is handed over** ([`Writer::send_last`]): nobody waits for its completion, which would wake a
//!   task that has nothing to do. The next send looks at it, or [`Writer::settle`] before the connection ends.
//! * **A large stream is spliced.** Where both ends are plain TCP, nobody needs to look at its bytes, and they move through
//!   a pipe without being copied ([`splice`]). splice(2) waits unless the descriptor is `O_NONBLOCK`, so both sockets become
//!   that with their first large stream, and stay so: the ring does the waiting, with a poll operation where a receive or
//!   a send says `EAGAIN`.
//! * **Deadlines cost a store.** A [`Deadline`] is set by writing one cell; the worker's timer task finds out late and
//!   once ([`timer`]).
//! * **Everything has a limit**, written where it is defined: ring entries, pooled buffers, backlog.
//!
//! `adapter` is for code that brings memory of its own, as the `h2` crate does.

mod adapter;
mod buf;
mod op;
mod ring;
mod socket;
mod splice;
mod tcp;
mod timer;
mod udp;
mod until;

pub use buf::{Buf, HEADROOM, LARGE, SMALL, TINY};
pub use ring::{Probe, RingError, cores, pin_to_core, probe, spawn, start};
pub use socket::{Transport, bind_reuseport, bound_addr, check_unused, raise_descriptor_limit};
pub use splice::{SpliceError, SpliceFrom, SpliceTo, splice};
pub use tcp::{HANDED_OVER, Listener, Reader, Writer, connect};
pub use timer::{Deadline, Timers, now_ms, now_ns};
pub use udp::{DATAGRAM, Datagram, UdpListener, UdpSocket};
pub use until::{Passed, Until};
