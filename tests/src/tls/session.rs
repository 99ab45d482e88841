//! One TLS connection that two threads may use: one reads while the other writes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use rustls::Connection;

/// A connection after its handshake. Nobody holds the lock of the TLS state while he waits for the socket.
#[derive(Debug)]
pub struct Session {
    tls: Mutex<Connection>,
    tcp: TcpStream,
    /// Records that were read from the socket and not yet taken by `tls`. Held by whoever reads.
    received: Mutex<Vec<u8>>,
    /// Held by whoever writes, so that records leave in the order in which they were made.
    writing: Mutex<()>,
}

impl Session {
    /// A session over `tcp`, whose handshake is over.
    pub fn new(tls: Connection, tcp: TcpStream) -> Session {
        Session { tls: Mutex::new(tls), tcp, received: Mutex::default(), writing: Mutex::default() }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The protocol that ALPN chose.
    pub fn alpn(&self) -> Option<String> {
        self.tls.lock().unwrap().alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Reads what there is; 0 is the peer's `close_notify`.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut received = self.received.lock().unwrap();
        loop {
            match self.tls.lock().unwrap().reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if received.is_empty() {
                let mut block = [0; 16 * 1024];
                let count = (&self.tcp).read(&mut block)?;
                received.extend_from_slice(&block[..count]);
            }
            // An empty `received` tells rustls of the FIN.
            let mut tls = self.tls.lock().unwrap();
            let taken = tls.read_tls(&mut received.as_slice())?;
            received.drain(..taken);
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Writes all of `buf`.
    pub fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let _writing = self.writing.lock().unwrap();
        // Within rustls's limit of what it holds back.
        for piece in buf.chunks(32 * 1024) {
            let records = {
                let mut tls = self.tls.lock().unwrap();
                tls.writer().write_all(piece)?;
                records(&mut tls)
            };
            (&self.tcp).write_all(&records)?;
        }
        Ok(buf.len())
    }

    /// Says that nothing more will be written.
    pub fn send_close_notify(&self) {
        let _writing = self.writing.lock().unwrap();
        let records = {
            let mut tls = self.tls.lock().unwrap();
            tls.send_close_notify();
            records(&mut tls)
        };
        // An error means that the peer is gone already.
        let _ = (&self.tcp).write_all(&records);
    }
}

fn records(tls: &mut Connection) -> Vec<u8> {
    let mut records = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut records).expect("writing to memory");
    }
    records
}
