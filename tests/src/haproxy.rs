//! HAProxy, as a proxy in front that we did not write.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use crate::ports::HeldPort;
use crate::process::Process;
use crate::wait;

/// A running HAProxy that relays TCP connections to one server.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    port: HeldPort,
    _dir: TempDir,
}

impl Haproxy {
    /// Starts one in front of `server`; `options` follow the server's address, as `send-proxy` does.
    pub fn in_front_of(server: SocketAddr, options: &str) -> Haproxy {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = HeldPort::new();
        let file = dir.path().join("haproxy.cfg");
        // It sets SO_REUSEPORT, so it listens where the harness holds the port.
        let config = format!(
            "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             listen relay\n  bind {}\n  server gateway {server} {options}\n",
            port.addr()
        );
        std::fs::write(&file, config).expect("write haproxy.cfg");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        let mut haproxy = Haproxy { process: Process::start(command), port, _dir: dir };
        wait::until_true("HAProxy to listen", || {
            let ended = haproxy.process.exited();
            assert!(ended.is_none(), "HAProxy ended ({ended:?}): {}", haproxy.process.stderr.text());
            TcpStream::connect(haproxy.addr()).is_ok()
        });
        haproxy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}
