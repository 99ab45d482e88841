//! A client's connection: TCP, with or without TLS on top, never blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::{Domain, Socket, Type};

/// Plaintext that waits in rustls for its turn.
const TLS_BUFFER: usize = 64 * 1024;

/// A connection, maybe still being made.
pub struct Link {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Link {
    /// Begins to connect. `source` is the last byte of the loopback address it comes from, so that more connections than
    /// one address has ports can be waiting for their end.
    pub fn connect(target: SocketAddr, source: u8, tls: Option<&Arc<ClientConfig>>) -> io::Result<Link> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        choose_port_late(&socket)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)).into())?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let tls = match tls {
            Some(config) => {
                let name = ServerName::try_from(crate::certs::HOST).expect("a host name");
                let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                tls.set_buffer_limit(Some(TLS_BUFFER));
                Some(Box::new(tls))
            }
            None => None,
        };
        Ok(Link { socket: socket.into(), tls })
    }

    /// Its descriptor.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether its TLS handshake resumed a session.
    pub fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Takes what it can of `bytes`; 0 when there is no room.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return if bytes.is_empty() { Ok(0) } else { later(self.socket.write(bytes)) };
        };
        // Before too: room that nobody is told of would never be used.
        flush(tls, &mut self.socket)?;
        let taken = tls.writer().write(bytes)?;
        flush(tls, &mut self.socket)?;
        Ok(taken)
    }

    /// Reads everything there is and hands it to `take`, which says whether it wants more. `scratch` is only room.
    pub fn read(&mut self, scratch: &mut [u8], mut take: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<()> {
        loop {
            let count = match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let wants_more = match &mut self.tls {
                None => take(&scratch[..count])?,
                Some(tls) => {
                    let wants_more = decrypt(tls, &scratch[..count], &mut take)?;
                    flush(tls, &mut self.socket)?;
                    wants_more
                }
            };
            // Edge-triggered: a short read means that nothing was left, and more to come is a new event.
            if count < scratch.len() || !wants_more {
                return Ok(());
            }
        }
    }
}

/// Has the port chosen at the connect (`IP_BIND_ADDRESS_NO_PORT`): it needs to be free towards that peer only.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is a number that lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn decrypt(
    tls: &mut ClientConnection,
    mut wire: &[u8],
    take: &mut impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut wants_more = true;
    let mut plain = [0; 16 * 1024];
    while !wire.is_empty() {
        tls.read_tls(&mut wire)?;
        tls.process_new_packets().map_err(io::Error::other)?;
        loop {
            match tls.reader().read(&mut plain) {
                // The end of TLS may follow the last byte at once.
                Ok(0) if !wants_more => return Ok(false),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => wants_more = take(&plain[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(wants_more)
}

/// Hands ciphertext to the socket, as much as it takes.
fn flush(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn later(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}
