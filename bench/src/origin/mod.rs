//! What the proxies are in front of: HTTP/1.1, WebSockets and TCP that comes back, all on one thread; gRPC on another.
//!
//! `GET /bytes/N` is answered with N bytes, any other request with [`SMALL`] of them when all of its body is there.

mod conn;
mod grpc;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::core;
use crate::poll::Poll;
use conn::Conn;

/// Bytes of an ordinary answer's body.
pub const SMALL: u64 = 128;

const SCRATCH: usize = 256 * 1024;
/// Numbers of the listeners; connections follow.
const HTTP: u64 = 0;
const TCP: u64 = 1;
const FIRST_CONN: u64 = 2;

/// A running origin. It ends with the program.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    /// Where it sends back what comes.
    pub tcp: SocketAddr,
    /// Where it speaks gRPC.
    pub grpc: SocketAddr,
}

impl Origin {
    /// Starts one on the load's core.
    pub fn start() -> Result<Origin> {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            io::Result::Ok(listener)
        };
        let (http, tcp) = (listen()?, listen()?);
        let origin = Origin { http: http.local_addr()?, tcp: tcp.local_addr()?, grpc: grpc::start()? };
        let poll = Poll::new()?;
        poll.add(http.as_raw_fd(), HTTP)?;
        poll.add(tcp.as_raw_fd(), TCP)?;
        thread::Builder::new().name("origin".into()).spawn(move || {
            let pinned = core::pin(core::LOAD);
            let served = pinned.and_then(|()| Loop { poll, http, tcp, conns: Vec::new() }.run());
            panic!("the origin ended: {served:?}");
        })?;
        Ok(origin)
    }
}

struct Loop {
    poll: Poll,
    http: TcpListener,
    tcp: TcpListener,
    conns: Vec<Option<Conn>>,
}

impl Loop {
    fn run(mut self) -> io::Result<()> {
        let mut scratch = vec![0; SCRATCH];
        let mut ready = Vec::new();
        loop {
            self.poll.wait(Duration::from_secs(1), &mut ready)?;
            for number in &ready {
                match *number {
                    HTTP => self.accept(false)?,
                    TCP => self.accept(true)?,
                    number => self.advance((number - FIRST_CONN) as usize, &mut scratch),
                }
            }
        }
    }

    fn accept(&mut self, is_tcp: bool) -> io::Result<()> {
        loop {
            let listener = if is_tcp { &self.tcp } else { &self.http };
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let free = self.conns.iter().position(Option::is_none);
            let slot = free.unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            self.poll.add(socket.as_raw_fd(), slot as u64 + FIRST_CONN)?;
            self.conns[slot] = Some(Conn::new(socket, is_tcp));
        }
    }

    fn advance(&mut self, slot: usize, scratch: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else { return };
        if conn.advance(scratch).is_err() {
            self.conns[slot] = None;
        }
    }
}
