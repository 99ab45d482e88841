//! The halves of a socket for code that brings memory of its own: bytes go between it and the kernel with no buffer of
//! ours in between.
//!
//! An operation on the ring owns its buffer until it is complete, which memory that is only lent for a call cannot be.
//! So the ring does the waiting (a poll operation, kept in the half like every other), and the bytes move in a system
//! call that does not block. One such call moves what many streams have to say, so it is paid for by all of them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::task::{Context, Poll, ready};

use super::op;
use super::tcp::{Pending, Reader, Writer};

impl Reader {
    /// Receives into `room`; says how many bytes of it are written now. `Ok(0)` is the end of the stream.
    ///
    /// Bytes that [`Reader::data`] has come first. `drained` is the caller's memory between calls: whether the last receive
    /// took all there was, so that trying again before something new has come would be in vain.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [MaybeUninit<u8>],
        drained: &mut bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.data().is_empty() {
                let n = room.len().min(self.data().len());
                room[..n].write_copy_of_slice(&self.data()[..n]);
                self.consume(n);
                return Poll::Ready(Ok(n));
            }
            match &mut self.pending {
                // A receive that was started before: its bytes come first.
                Pending::Receive(_) => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(0));
                    }
                    continue;
                }
                Pending::Poll(op) => {
                    let (result, ()) = ready!(op.poll(cx));
                    self.pending = Pending::Nothing;
                    result?;
                    *drained = false;
                }
                Pending::Nothing => {}
            }
            if !*drained {
                match receive(self.socket.fd.raw(), room) {
                    Ok(n) => {
                        *drained = n < room.len();
                        return Poll::Ready(Ok(n));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            self.pending = Pending::Poll(op::poll(&self.socket.fd, libc::POLLIN));
        }
    }
}

impl Writer {
    /// Sends as much of `parts`, one after the other, as the socket takes now, at least a byte.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |fd| send(fd, parts))
    }

    /// Calls `write` with something to write to that does not block, until it says something else than
    /// [`io::ErrorKind::WouldBlock`].
    pub fn poll_write_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut dyn io::Write) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(cx, |fd| write(&mut Direct(fd)))
    }

    fn poll_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(RawFd) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if let Some(op) = &mut self.writable {
                let (result, ()) = ready!(op.poll(cx));
                self.writable = None;
                result?;
            }
            match write(self.socket.fd.raw()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = Some(op::poll(&self.socket.fd, libc::POLLOUT));
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

/// A socket as a place to write to, for as long as the half is borrowed.
struct Direct(RawFd);

impl io::Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        send(self.0, parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receive(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of one slice, which the kernel only writes to.
    let n = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Most parts of one message: `IOV_MAX` of Linux.
const PARTS: usize = 1024;

fn send(fd: RawFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all zeros is a valid `msghdr` without address, parts and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of `iovec`; the kernel reads the parts and writes nothing.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len().min(PARTS);
    // SAFETY: `message` and all it points to outlive the call.
    let n = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}
