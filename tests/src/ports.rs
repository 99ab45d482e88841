//! The loopback address, and ports whose number must be known before the server that listens on them starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// The loopback address that gateways, origins and clients of a test use: `GATEWAY_TEST_LOOPBACK`, else 127.0.0.1.
/// `cargo xtask test` runs the suites a second time with `::1`.
pub fn loopback() -> IpAddr {
    let chosen = std::env::var("GATEWAY_TEST_LOOPBACK").ok();
    chosen.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |text| text.parse().expect("GATEWAY_TEST_LOOPBACK: an IP address"))
}

/// A port of [`loopback`] that the kernel chooses.
pub fn any_port() -> SocketAddr {
    SocketAddr::new(loopback(), 0)
}

/// A port that belongs to the holder and that nothing listens on: a connect to it is refused.
///
/// The socket is bound but does not listen. It has `SO_REUSEPORT`, so a server that sets that too can listen there
/// while the port is held; any other process is kept off. There is no moment in which the port is free.
#[derive(Debug)]
pub struct HeldPort {
    addr: SocketAddr,
    _socket: Socket,
}

impl HeldPort {
    /// Takes a free port of [`loopback`].
    pub fn new() -> HeldPort {
        HeldPort::on(any_port())
    }

    /// Takes a free port of `addr`'s host.
    pub fn on(addr: SocketAddr) -> HeldPort {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("socket");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        socket.bind(&addr.into()).expect("bind a free port");
        let addr = socket.local_addr().expect("local address").as_socket().expect("an IP address");
        HeldPort { addr, _socket: socket }
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// An IPv4 address that was free a moment ago, for a server that refuses one that is held. It is on a loopback address
    /// of its own, where no connection and no other test takes ports.
    pub fn released() -> SocketAddr {
        HeldPort::on(SocketAddr::from(([127, 0, 77, 1], 0))).addr
    }
}

/// A port whose server is so busy that connecting neither succeeds nor fails: its queue is full and nobody accepts.
#[derive(Debug)]
pub struct StuckPort {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl StuckPort {
    /// Takes a free port of [`loopback`] and fills its queue.
    pub fn new() -> StuckPort {
        let listener = Socket::new(Domain::for_address(any_port()), Type::STREAM, None).expect("socket");
        listener.bind(&any_port().into()).expect("bind a free port");
        listener.listen(0).expect("listen");
        let addr = listener.local_addr().expect("local address").as_socket().expect("an IP address");
        // A queue for 0 takes one on Linux; the others stay in SYN_SENT.
        let queued = (0..4).map(|_| start_connecting(addr)).collect();
        StuckPort { addr, _listener: listener, _queued: queued }
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Default for StuckPort {
    fn default() -> Self {
        StuckPort::new()
    }
}

fn start_connecting(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("socket");
    socket.set_nonblocking(true).expect("non-blocking");
    let _in_progress = socket.connect(&addr.into());
    socket
}

/// Whether the kernel knows of an established connection to `addr`. False as soon as a FIN or RST has arrived: the
/// harness's only way to know that the gateway can know.
pub fn is_connected_to(addr: SocketAddr) -> bool {
    // Lines of /proc/net/tcp and tcp6: number, local address, remote address, state; 01 is ESTABLISHED.
    let remote = format!("{:04X}", addr.port());
    let table = std::fs::read_to_string(if addr.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" });
    let table = table.expect("the kernel's table of connections");
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields[2].ends_with(&format!(":{remote}")) && fields[3] == "01"
    })
}

impl Default for HeldPort {
    fn default() -> Self {
        HeldPort::new()
    }
}
