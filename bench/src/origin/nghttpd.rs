//! nghttpd, which answers HTTP/2 with what was sent to it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::SMALL;
use crate::core;
use crate::server::Server;

/// A running nghttpd.
pub struct Nghttpd {
    /// Where it listens, without TLS.
    pub addr: SocketAddr,
    _server: Server,
}

impl Nghttpd {
    /// Starts one on the load's core, with its files in `dir`. Each answer ends with the trailer that gRPC wants.
    pub fn start(dir: &Path) -> Result<Nghttpd> {
        let docs = dir.join("htdocs");
        fs::create_dir_all(&docs)?;
        fs::write(docs.join("index.html"), vec![b'y'; SMALL as usize])?;
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new("nghttpd");
        command.args(["--no-tls", "--echo-upload", "--trailer", "grpc-status: 0", "--max-concurrent-streams=1000"]);
        command.arg("--address=127.0.0.1").arg("-d").arg(&docs).arg(addr.port().to_string());
        let mut server = Server::start("nghttpd", command, core::LOAD, dir)?;
        server.wait_for(addr)?;
        Ok(Nghttpd { addr, _server: server })
    }
}
