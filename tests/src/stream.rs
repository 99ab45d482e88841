//! One connected socket, plain or TLS, that reads and writes with a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use socket2::SockRef;

use crate::wait::DEADLINE;

/// The bytes below a [`Conn`](crate::conn::Conn).
#[derive(Debug)]
pub enum Stream {
    /// TCP. Shared, so that an origin can cut the connections it still has when it ends.
    Plain(Arc<TcpStream>),
    /// TLS, client side.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects to `addr`.
    pub fn connect(addr: SocketAddr) -> io::Result<Stream> {
        let tcp = TcpStream::connect_timeout(&addr, DEADLINE)?;
        prepare(&tcp)?;
        Ok(Stream::Plain(Arc::new(tcp)))
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// How long one read or write may take.
    pub fn set_patience(&self, patience: Duration) {
        self.tcp().set_read_timeout(Some(patience)).expect("a read timeout");
        self.tcp().set_write_timeout(Some(patience)).expect("a write timeout");
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn half_close(&mut self) {
        if let Stream::Tls(tls) = self {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        // An error means that the peer is gone already, which the next read reports better.
        let _ = self.tcp().shutdown(Shutdown::Write);
    }

    /// Makes the coming close an RST in place of a FIN.
    pub fn reset_on_close(&self) {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
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
        match self {
            Stream::Plain(tcp) => (&**tcp).flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// Sets what every socket of the harness has: no Nagle delay, and a deadline for each call.
pub(crate) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    tcp.set_write_timeout(Some(DEADLINE))
}
