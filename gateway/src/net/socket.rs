//! Socket system calls that are not on the data path: making, binding, addresses, options.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::op::SockAddr;
use crate::proto::limits;

/// Connections the kernel keeps for a worker that is busy. `net.core.somaxconn` (4096 by default) is the other limit.
pub(super) const BACKLOG: i32 = limits::BACKLOG as i32;

/// What a listening socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    fn socket(self, address: SocketAddr) -> io::Result<Socket> {
        let (kind, protocol) = match self {
            Transport::Tcp => (Type::STREAM, Protocol::TCP),
            Transport::Udp => (Type::DGRAM, Protocol::UDP),
        };
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        Ok(socket)
    }
}

/// A listening socket that shares its address with the other workers' (`SO_REUSEPORT`): the kernel gives each of them the
/// connections, or the datagrams, of some pairs of addresses and ports, always the same ones.
///
/// `[::]` takes IPv4 too. Accepted connections inherit `TCP_NODELAY`. Datagrams come with the address they were sent to.
pub fn bind_reuseport(address: SocketAddr, transport: Transport) -> io::Result<OwnedFd> {
    let socket = transport.socket(address)?;
    socket.set_reuse_port(true)?;
    match transport {
        Transport::Tcp => {
            socket.set_reuse_address(true)?;
            socket.set_tcp_nodelay(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
        }
        Transport::Udp => {
            tell_destination(&socket, address)?;
            socket.bind(&address.into())?;
        }
    }
    Ok(socket.into())
}

/// Has the destination's address come with each datagram (ip(7), ipv6(7)).
fn tell_destination(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    set_option(socket.as_raw_fd(), level, option, 1)
}

/// Whether nobody listens on the address. `SO_REUSEPORT` alone would let two processes of one user share it, each
/// getting some of the connections.
pub fn check_unused(address: SocketAddr, transport: Transport) -> io::Result<()> {
    let socket = transport.socket(address)?;
    // For TCP this is about connections that linger; for UDP it would be sharing.
    socket.set_reuse_address(transport == Transport::Tcp)?;
    socket.bind(&address.into())
}

/// Whether a listening socket is deaf to new connections (SYN), while those whose handshake is under way come through. A
/// client whose SYN is dropped sends it again, to whoever listens then.
///
/// A deaf socket takes nothing that has passed a router or came from a host with a usual first time to live, and the
/// kernel looks at that for a SYN, not for the end of a handshake. A packet filter would say it more plainly, but there are
/// kernels that let nobody without a capability attach one. What is accepted from a deaf socket is deaf as well.
pub(super) fn set_deaf(fd: RawFd, deaf: bool) -> io::Result<()> {
    const LONGEST: libc::c_int = 255;
    /// ipv6(7); the kernel's ABI fixes it.
    const IPV6_MINHOPCOUNT: libc::c_int = 73;
    let least = if deaf { LONGEST } else { 0 };
    if local_addr(fd)?.is_ipv6() {
        set_option(fd, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, least)?;
    }
    // For an IPv6 socket too: it may take IPv4's connections.
    set_option(fd, libc::IPPROTO_IP, libc::IP_MINTTL, least)
}

fn set_option(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is a `c_int` of that length.
    match unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The address a listening socket got.
pub fn bound_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    local_addr(fd.as_raw_fd())
}

/// An unconnected socket for connections to `address`.
pub(super) fn stream_for(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Lets the process open as many descriptors as its hard limit allows: the soft one is often 1024, for programs that
/// use select(2), and each connection takes a descriptor.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to read from and write to. When either call fails the limit stays as it is.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// A socket connected to `address`, on a port that the kernel chooses.
pub(super) fn datagram_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Transport::Udp.socket(address)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

pub(super) fn local_addr(fd: RawFd) -> io::Result<SocketAddr> {
    with(fd, |socket| socket.local_addr())?.as_socket().ok_or_else(not_inet)
}

/// Sets `O_NONBLOCK`.
pub(super) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    with(fd, |socket| socket.set_nonblocking(true))
}

/// How long ago, in milliseconds, a TCP connection's last bytes came, or its handshake ended when there were none yet.
pub(super) fn quiet_ms(fd: RawFd) -> io::Result<u32> {
    // SAFETY: all zeros is a valid `tcp_info`, which is numbers only.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is a valid place for `length` bytes; an older kernel writes fewer.
    match unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length) } {
        0 => Ok(info.tcpi_last_data_recv),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops the connection with a reset, at once, and ends what is in flight on it. `SO_LINGER` would do the same only at the
/// last close, which an operation in flight delays behind an orderly shutdown.
pub(super) fn abort(fd: RawFd) {
    // SAFETY: all zeros is a valid `sockaddr`; its family is AF_UNSPEC, which asks to disconnect (connect(2)).
    unsafe {
        let unspecified: libc::sockaddr = std::mem::zeroed();
        libc::connect(fd, &raw const unspecified, size_of::<libc::sockaddr>() as libc::socklen_t);
    }
}

/// Whether an accept would find a connection at once, or a receive bytes, an end or an error.
pub(super) fn is_readable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid entry.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

pub(super) fn encode(address: SocketAddr) -> Box<SockAddr> {
    let encoded = socket2::SockAddr::from(address);
    let mut out = SockAddr::empty();
    out.len = encoded.len();
    // SAFETY: `encoded` is valid for `len` bytes, which fit a `sockaddr_storage`, and the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(encoded.as_ptr().cast::<u8>(), (&raw mut out.storage).cast(), out.len as usize);
    }
    out
}

pub(super) fn decode(address: &SockAddr) -> io::Result<SocketAddr> {
    // SAFETY: the kernel wrote an address of `len` bytes into the storage.
    let (_, decoded) = unsafe {
        socket2::SockAddr::try_init(|storage, len| {
            std::ptr::copy_nonoverlapping(&raw const address.storage, storage.cast(), 1);
            *len = address.len;
            Ok(())
        })?
    };
    decoded.as_socket().ok_or_else(not_inet)
}

fn with<R>(fd: RawFd, f: impl FnOnce(SockRef<'_>) -> R) -> R {
    // SAFETY: the caller keeps the descriptor open during the call; it is not closed here.
    let owned = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
    f(SockRef::from(&*owned))
}

fn not_inet() -> io::Error {
    io::Error::other("not an IPv4 or IPv6 address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:443", "[fe80::1%3]:1", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address)).unwrap(), address);
        }
    }

    #[test]
    fn an_address_that_somebody_listens_on_is_seen_as_used() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let listening = bind_reuseport("127.0.0.1:0".parse().unwrap(), transport).unwrap();
            let address = bound_addr(&listening).unwrap();
            assert_eq!(check_unused(address, transport).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(listening);
            check_unused(address, transport).unwrap();
        }
    }

    #[test]
    fn workers_share_an_address() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let first = bind_reuseport("127.0.0.1:0".parse().unwrap(), transport).unwrap();
            let address = bound_addr(&first).unwrap();
            assert_eq!(bound_addr(&bind_reuseport(address, transport).unwrap()).unwrap(), address);
        }
    }

    #[test]
    fn a_deaf_socket_takes_no_new_connection_and_keeps_those_it_has() {
        let patience = std::time::Duration::from_millis(50);
        for (bound, reached) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
        {
            let listening = bind_reuseport(bound.parse().unwrap(), Transport::Tcp).unwrap();
            let address = SocketAddr::new(reached.parse().unwrap(), bound_addr(&listening).unwrap().port());
            let mut before = std::net::TcpStream::connect(address).unwrap();
            set_deaf(listening.as_raw_fd(), true).unwrap();
            let after = std::net::TcpStream::connect_timeout(&address, patience);
            assert_eq!(after.unwrap_err().kind(), io::ErrorKind::TimedOut, "{bound} from {reached}");
            let (mut accepted, _) = std::net::TcpListener::from(listening).accept().unwrap();
            io::Write::write_all(&mut before, b"x").unwrap();
            accepted.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            io::Read::read_exact(&mut accepted, &mut [0]).unwrap();
        }
    }
}
