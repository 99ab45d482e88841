//! One-shot ring operations of our own, through tokio-uring's public submission type.
//!
//! tokio-uring's socket types read with `IORING_OP_READ`, allocate per call and own the future; receive and send
//! operations of our own cost less and can be kept by the socket half.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{cqueue, opcode, squeue, types};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::buf::Buf;

/// A descriptor shared by the halves of a socket and by its operations in flight.
///
/// The kernel looks a descriptor up when it starts an operation, so every operation holds one of these until it is
/// complete: the number cannot be reused under it.
#[derive(Clone, Debug)]
pub(super) struct Fd(Rc<OwnedFd>);

impl Fd {
    pub(super) fn new(fd: OwnedFd) -> Fd {
        Fd(Rc::new(fd))
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn entry(&self) -> types::Fd {
        types::Fd(self.raw())
    }
}

/// An operation in flight. `T` is what the kernel may touch until the completion arrives.
pub(super) struct Op<T: Unpin + 'static>(InFlightOneshot<(Fd, T), Raw<T>>);

/// What came back: the result, and what was lent to the kernel.
pub(super) type Completion<T> = (io::Result<u32>, T);

impl<T: Unpin + 'static> Op<T> {
    /// # Safety
    ///
    /// Every pointer in `entry` is into memory that `lent` owns and that does not move when `lent` is moved.
    unsafe fn submit(fd: &Fd, lent: T, entry: squeue::Entry) -> Op<T> {
        Op(UnsubmittedOneshot::new((fd.clone(), lent), Raw(PhantomData), entry).submit())
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion<T>> {
        Pin::new(&mut self.0).poll(cx)
    }

    pub(super) async fn done(mut self) -> Completion<T> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

struct Raw<T>(PhantomData<T>);

impl<T> Unpin for Raw<T> {}

impl<T> OneshotOutputTransform for Raw<T> {
    type Output = Completion<T>;
    type StoredData = (Fd, T);

    fn transform_oneshot_output(self, (_, lent): (Fd, T), cqe: cqueue::Entry) -> Completion<T> {
        let result = cqe.result();
        (if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u32) }, lent)
    }
}

/// What a receive may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Bytes are probably there: try at once.
    Now,
    /// They will come later: wait first, which saves the kernel a vain try.
    Later,
}

/// Receives into the room behind the buffer's content; the completion's number is not yet part of the content.
pub(super) fn recv(fd: &Fd, mut buf: Buf, expect: Expect) -> Op<Buf> {
    let room = buf.spare_mut();
    let mut entry = opcode::Recv::new(fd.entry(), room.as_mut_ptr(), room.len() as u32).build();
    if expect == Expect::Later {
        set_poll_first(&mut entry);
    }
    // SAFETY: the pointer is into the buffer's heap allocation, which stays where it is when the `Buf` moves, and nobody
    // else reaches it: the operation owns the `Buf`.
    unsafe { Op::submit(fd, buf, entry) }
}

/// `IORING_RECVSEND_POLL_FIRST` (Linux 5.19), for which this version of the io-uring crate has no method on `Recv`.
fn set_poll_first(entry: &mut squeue::Entry) {
    const POLL_FIRST: u16 = 1;
    /// Where `struct io_uring_sqe` has its `ioprio`; the kernel's ABI fixes it.
    const IOPRIO_AT: usize = 2;
    // SAFETY: `Entry` is `repr(C)` and nothing but an `io_uring_sqe`, so the field is at this offset, aligned for `u16`.
    unsafe { std::ptr::from_mut(entry).byte_add(IOPRIO_AT).cast::<u16>().write(POLL_FIRST) };
}

/// What follows the bytes of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nobody knows, so they go out now.
    Unknown,
    /// More bytes, at once: what does not fill a segment waits for them (`MSG_MORE`).
    More,
    /// Nothing, and nobody waits for the completion, so that a send that took a part has to go on by itself
    /// (`MSG_WAITALL`, Linux 5.19).
    Nothing,
}

/// Sends the buffer's content, or the first part of it.
pub(super) fn send(fd: &Fd, buf: Buf, then: Then) -> Op<Buf> {
    let content = buf.as_slice();
    let flags = match then {
        Then::Unknown => libc::MSG_NOSIGNAL,
        Then::More => libc::MSG_NOSIGNAL | libc::MSG_MORE,
        Then::Nothing => libc::MSG_NOSIGNAL | libc::MSG_WAITALL,
    };
    let entry = opcode::Send::new(fd.entry(), content.as_ptr(), content.len() as u32).flags(flags).build();
    // SAFETY: as for `recv`.
    unsafe { Op::submit(fd, buf, entry) }
}

/// Waits until the descriptor has one of `events` (`POLLIN`, `POLLOUT`), an error or a hang-up.
pub(super) fn poll(fd: &Fd, events: libc::c_short) -> Op<()> {
    let entry = opcode::PollAdd::new(fd.entry(), events as u32).build();
    // SAFETY: the entry has no pointers.
    unsafe { Op::submit(fd, (), entry) }
}

/// Asks the kernel to cancel one operation on the descriptor; that operation's own completion says how it ended.
pub(super) fn cancel(fd: &Fd) -> Op<()> {
    let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd.entry())).build();
    // SAFETY: the entry has no pointers.
    unsafe { Op::submit(fd, (), entry) }
}

/// Accepts one connection; the completion's number is its descriptor.
pub(super) fn accept(fd: &Fd, address: Box<SockAddr>) -> Op<Box<SockAddr>> {
    let mut address = address;
    address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let entry = opcode::Accept::new(fd.entry(), (&raw mut address.storage).cast(), &raw mut address.len)
        .flags(libc::SOCK_CLOEXEC)
        .build();
    // SAFETY: both pointers are into the box's allocation, which stays where it is when the box moves.
    unsafe { Op::submit(fd, address, entry) }
}

/// Connects to the address.
pub(super) fn connect(fd: &Fd, address: Box<SockAddr>) -> Op<Box<SockAddr>> {
    let entry = opcode::Connect::new(fd.entry(), (&raw const address.storage).cast(), address.len).build();
    // SAFETY: as for `accept`.
    unsafe { Op::submit(fd, address, entry) }
}

/// A socket address as the kernel reads and writes it.
pub(super) struct SockAddr {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

impl SockAddr {
    pub(super) fn empty() -> Box<SockAddr> {
        // SAFETY: all zeros is a valid `sockaddr_storage` (family AF_UNSPEC).
        Box::new(SockAddr { storage: unsafe { std::mem::zeroed() }, len: 0 })
    }
}
