//! UDP sockets. The ring tells when there is something to receive; datagrams are then moved by plain system calls that do
//! not wait, into and out of the caller's one buffer. So a session that waits holds no memory for datagrams, and nobody
//! has to own a buffer of 64 KiB for each operation in flight.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::task::Poll;

use super::op::{self, Fd, Op, SockAddr};
use super::socket;

/// Room for the longest datagram: 65 527 bytes of payload in IPv6, 65 507 in IPv4.
pub const DATAGRAM: usize = 64 * 1024;

/// One worker's socket of a UDP listener.
pub struct UdpListener {
    socket: Waiting,
    port: u16,
}

/// A socket connected to one peer: it receives from nobody else, and learns of ICMP errors.
pub struct UdpSocket(Waiting);

/// A datagram as it came; its bytes are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// How many bytes it has.
    pub len: usize,
    /// Who sent it.
    pub peer: SocketAddr,
    /// The address it was sent to, from which an answer must leave: one of many where the socket listens on all.
    pub local: SocketAddr,
}

/// A socket and the poll that waits for it. The poll is kept, so a future that is dropped loses nothing.
struct Waiting {
    fd: Fd,
    poll: std::cell::RefCell<Option<Op<()>>>,
}

/// Ancillary data of one message: `struct in6_pktinfo`, the larger of the two kinds, with its header. In words, for the
/// alignment of `struct cmsghdr`.
type Control = [u64; 8];

impl Waiting {
    fn new(fd: OwnedFd) -> Waiting {
        Waiting { fd: Fd::new(fd), poll: std::cell::RefCell::default() }
    }

    /// Waits until there is a datagram or an error to receive.
    async fn readable(&self) {
        std::future::poll_fn(|cx| {
            let mut pending = self.poll.borrow_mut();
            let op = pending.get_or_insert_with(|| op::poll(&self.fd, libc::POLLIN));
            match op.poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(_) => {
                    *pending = None;
                    Poll::Ready(())
                }
            }
        })
        .await;
    }
}

impl Drop for Waiting {
    /// Ends a poll that is in flight, which would hold the descriptor open.
    fn drop(&mut self) {
        if self.poll.borrow().is_some() {
            // SAFETY: the descriptor is open as long as `self` is. The result says nothing that matters now.
            unsafe { libc::shutdown(self.fd.raw(), libc::SHUT_RDWR) };
        }
    }
}

impl UdpListener {
    /// A socket of [`bind_reuseport`](super::bind_reuseport).
    pub fn new(fd: OwnedFd) -> io::Result<UdpListener> {
        let port = super::bound_addr(&fd)?.port();
        Ok(UdpListener { socket: Waiting::new(fd), port })
    }

    /// Waits until there is something to receive.
    pub async fn readable(&self) {
        self.socket.readable().await;
    }

    /// The next datagram, if there is one. `buffer` should have room for [`DATAGRAM`] bytes.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let (mut address, mut control) = (SockAddr::empty(), Control::default());
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message = header(&mut address, &mut part, &mut control);
        // SAFETY: every pointer in `message` is to a local or to `buffer`, with its length.
        let received = unsafe { libc::recvmsg(self.socket.fd.raw(), &raw mut message, libc::MSG_DONTWAIT) };
        let Some(len) = done(received)? else { return Ok(None) };
        address.len = message.msg_namelen;
        let local = destination(&message).ok_or_else(|| io::Error::other("a datagram without its destination"))?;
        Ok(Some(Datagram { len, peer: socket::decode(&address)?, local: SocketAddr::new(local, self.port) }))
    }

    /// Sends a datagram to `peer` from the address `local`. Says whether the kernel took it.
    pub fn send(&self, bytes: &[u8], peer: SocketAddr, local: IpAddr) -> io::Result<bool> {
        let (mut address, mut control) = (socket::encode(peer), Control::default());
        // The kernel only reads what it sends.
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut message = header(&mut address, &mut part, &mut control);
        set_source(&mut message, local);
        // SAFETY: every pointer in `message` is to a local or to `bytes`, with its length.
        let sent =
            unsafe { libc::sendmsg(self.socket.fd.raw(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        Ok(done(sent)?.is_some())
    }
}

impl UdpSocket {
    /// A socket of its own port, connected to `peer`.
    pub fn connect(peer: SocketAddr) -> io::Result<UdpSocket> {
        Ok(UdpSocket(Waiting::new(socket::datagram_to(peer)?)))
    }

    /// Waits until there is something to receive.
    pub async fn readable(&self) {
        self.0.readable().await;
    }

    /// The next datagram's length, if there is one. An ICMP error that came for what was sent is an error here, or of
    /// [`UdpSocket::send`]: once.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: the pointer and the length are those of `buffer`.
        done(unsafe { libc::recv(self.0.fd.raw(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
    }

    /// Sends a datagram. Says whether the kernel took it.
    pub fn send(&self, bytes: &[u8]) -> io::Result<bool> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pointer and the length are those of `bytes`.
        let sent = done(unsafe { libc::send(self.0.fd.raw(), bytes.as_ptr().cast(), bytes.len(), flags) })?;
        Ok(sent.is_some())
    }

    /// Our end.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket::local_addr(self.0.fd.raw())
    }
}

/// The result of a call that does not wait; `None` when it would have had to, or the queue for it is full.
fn done(result: isize) -> io::Result<Option<usize>> {
    if let Ok(length) = usize::try_from(result) {
        return Ok(Some(length));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => Ok(None),
        _ => Err(error),
    }
}

fn header(address: &mut SockAddr, part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    if address.len == 0 {
        address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }
    // SAFETY: all zeros is a valid `msghdr`, which is numbers and null pointers.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw mut address.storage).cast();
    message.msg_namelen = address.len;
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    message
}

/// The address a received message was sent to.
fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: `message` was filled in by the kernel, and its control buffer is alive: the macros stay within it. What a
    // control message of these types carries is the structure that is read, which may not be aligned.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(message);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // Not `ipi_addr`: that may be a broadcast address, from which nothing can be sent.
                    return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => at = libc::CMSG_NXTHDR(message, at),
            }
        }
    }
    None
}

/// Makes `local` the source of a message to be sent.
fn set_source(message: &mut libc::msghdr, local: IpAddr) {
    match local {
        IpAddr::V4(ip) => {
            let source = libc::in_addr { s_addr: u32::from(ip).to_be() };
            let any = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: any };
            set_control(message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(ip) => {
            let source = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            set_control(message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
}

fn set_control<T>(message: &mut libc::msghdr, level: i32, kind: i32, info: T) {
    const { assert!(size_of::<T>() <= size_of::<libc::in6_pktinfo>()) };
    // SAFETY: the control buffer has room for a header and an `in6_pktinfo`, and `T` is no larger; it is aligned for the
    // header, and what follows the header is written without asking for alignment.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as usize;
        let at = libc::CMSG_FIRSTHDR(message);
        (*at).cmsg_level = level;
        (*at).cmsg_type = kind;
        (*at).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as usize;
        libc::CMSG_DATA(at).cast::<T>().write_unaligned(info);
    }
}

const _: () = assert!(
    // SAFETY: CMSG_SPACE is arithmetic.
    size_of::<Control>() >= unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) } as usize
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Transport, bind_reuseport};

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        let cases =
            [("0.0.0.0:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")];
        for (bound, asked) in cases {
            let fd = bind_reuseport(bound.parse().unwrap(), Transport::Udp).unwrap();
            let listener = UdpListener::new(fd).unwrap();
            let asked = SocketAddr::new(asked.parse().unwrap(), listener.port);
            let client = std::net::UdpSocket::bind(SocketAddr::new(asked.ip(), 0)).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let mut buffer = vec![0; DATAGRAM];
            assert_eq!(listener.receive(&mut buffer).unwrap(), None);
            let long = vec![7; 65_507];
            client.send_to(&long, asked).unwrap();
            let datagram = listener.receive(&mut buffer).unwrap().expect("a datagram on loopback is there at once");
            assert_eq!((datagram.len, datagram.local.ip().to_canonical()), (long.len(), asked.ip()), "{bound} {asked}");
            assert_eq!(datagram.peer.ip().to_canonical(), asked.ip());
            assert!(listener.send(b"answer", datagram.peer, datagram.local.ip()).unwrap());
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], asked), "{bound}");
        }
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_an_error_once() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::connect(closed).unwrap();
        assert!(socket.send(b"anybody?").unwrap());
        let mut buffer = [0; 16];
        assert_eq!(socket.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(socket.receive(&mut buffer).unwrap(), None);
    }
}
