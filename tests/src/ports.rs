//! Ports whose number must be known before the server that listens on them starts.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

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
    /// Takes a free port of 127.0.0.1.
    pub fn new() -> HeldPort {
        HeldPort::on(SocketAddr::from(([127, 0, 0, 1], 0)))
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
}

/// Whether the kernel knows of an established IPv4 connection to `addr`. False as soon as a FIN or RST has arrived: the
/// harness's only way to know that the gateway can know.
pub fn is_connected_to(addr: SocketAddr) -> bool {
    // Lines of /proc/net/tcp: number, local address, remote address, state; 01 is ESTABLISHED.
    let remote = format!("{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
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
