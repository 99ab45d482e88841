//! One connected socket, plain or TLS, that reads and writes with a deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::tls::Session;
use crate::wait::DEADLINE;

/// The bytes below a [`Conn`](crate::conn::Conn) or an [`h2::Wire`](crate::h2::Wire). A clone is another handle on the
/// same connection: one thread may read while another writes.
#[derive(Clone, Debug)]
pub enum Stream {
    /// TCP. Shared, so that an origin can cut the connections it still has when it ends.
    Plain(Arc<TcpStream>),
    /// TLS, either side.
    Tls(Arc<Session>),
}

impl Stream {
    /// Connects to `addr`.
    pub fn connect(addr: SocketAddr) -> io::Result<Stream> {
        let tcp = TcpStream::connect_timeout(&addr, DEADLINE)?;
        prepare(&tcp)?;
        Ok(Stream::Plain(Arc::new(tcp)))
    }

    /// Connects to `addr` from the address `source`.
    pub fn connect_from(source: IpAddr, addr: SocketAddr) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&addr.into(), DEADLINE)?;
        let tcp = TcpStream::from(socket);
        prepare(&tcp)?;
        Ok(Stream::Plain(Arc::new(tcp)))
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.tcp(),
        }
    }

    /// The protocol that ALPN chose.
    pub fn alpn(&self) -> Option<String> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.alpn(),
        }
    }

    /// How long one read or write may take.
    pub fn set_patience(&self, patience: Duration) {
        self.tcp().set_read_timeout(Some(patience)).expect("a read timeout");
        self.tcp().set_write_timeout(Some(patience)).expect("a write timeout");
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn half_close(&self) {
        if let Stream::Tls(tls) = self {
            tls.send_close_notify();
        }
        // An error means that the peer is gone already, which the next read reports better.
        let _ = self.tcp().shutdown(Shutdown::Write);
    }

    /// Ends the connection in both directions, whoever else has a handle on it.
    pub fn cut(&self) {
        // An error means that it has ended.
        let _ = self.tcp().shutdown(Shutdown::Both);
    }

    /// A handle that does not keep the connection open.
    pub(crate) fn downgrade(&self) -> WeakStream {
        match self {
            Stream::Plain(tcp) => WeakStream::Plain(Arc::downgrade(tcp)),
            Stream::Tls(tls) => WeakStream::Tls(Arc::downgrade(tls)),
        }
    }

    /// Makes the coming close an RST in place of a FIN.
    pub fn reset_on_close(&self) {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}

/// A handle that does not keep the connection open.
#[derive(Debug)]
pub(crate) enum WeakStream {
    Plain(Weak<TcpStream>),
    Tls(Weak<Session>),
}

impl WeakStream {
    /// The connection, when somebody still has it.
    pub(crate) fn upgrade(&self) -> Option<Stream> {
        match self {
            WeakStream::Plain(tcp) => tcp.upgrade().map(Stream::Plain),
            WeakStream::Tls(tls) => tls.upgrade().map(Stream::Tls),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => (&**tcp).read(buf),
            Stream::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => (&**tcp).write(buf),
            Stream::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Neither keeps anything back.
        Ok(())
    }
}

/// Sets what every socket of the harness has: no Nagle delay, and a deadline for each call.
pub(crate) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    tcp.set_write_timeout(Some(DEADLINE))
}
