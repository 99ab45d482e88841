//! Sends frames as fast as an interface takes them, past the queueing of the sender's own stack.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Frames handed over in one system call.
const BATCH: usize = 64;

/// Sends `frames` in turn for `time`.
pub fn send(interface: &str, frames: &[Vec<u8>], time: Duration) -> io::Result<()> {
    let socket = open(interface)?;
    let mut parts: Vec<libc::iovec> = (0..BATCH)
        .map(|at| &frames[at % frames.len()])
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeros is a valid header without address, control data and flags.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let end = Instant::now() + time;
    while Instant::now() < end {
        // SAFETY: there are BATCH messages, whose parts and frames outlive the call; the kernel only reads the frames.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            // ENOBUFS: the interface's ring is full, which is what is wanted.
            if error.raw_os_error() != Some(libc::ENOBUFS) && error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// A packet socket that only sends, directly to the interface (`PACKET_QDISC_BYPASS`).
fn open(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: protocol 0 receives nothing; the descriptor is nobody else's. The address and the option are valid for their
    // sizes until the calls return.
    unsafe {
        let socket =
            OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = check(libc::if_nametoindex(name.as_ptr()) as libc::c_int)?;
        let on: libc::c_int = 1;
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS);
        let length = size_of_val(&on) as libc::socklen_t;
        check(libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length))?;
        let length = size_of_val(&address) as libc::socklen_t;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length))?;
        Ok(socket)
    }
}
