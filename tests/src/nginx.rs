//! nginx, as an origin that we did not write. One process, so that killing it kills all of it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::ports::HeldPort;
use crate::process::Process;
use crate::wait;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    addr: SocketAddr,
    _port: Option<HeldPort>,
    _dir: TempDir,
}

impl Nginx {
    /// Starts one. `server` is what its `server {}` block has beside `listen`.
    pub fn start(server: &str) -> Nginx {
        Nginx::start_with("", server)
    }

    /// The same with parameters of `listen`, such as `ssl`.
    pub fn start_with(listen: &str, server: &str) -> Nginx {
        let port = HeldPort::new();
        let addr = port.addr();
        // `reuseport` lets it listen where the harness holds the port.
        Nginx::start_at(addr, &format!("listen {addr} reuseport {listen}; {server}"), Some(port))
    }

    /// Starts one that listens on this port of all addresses of the calling thread's network namespace.
    pub fn start_on_all(port: u16, server: &str) -> Nginx {
        let addr = (Ipv4Addr::LOCALHOST, port).into();
        Nginx::start_at(addr, &format!("listen {port}; listen [::]:{port}; {server}"), None)
    }

    fn start_at(addr: SocketAddr, server: &str, port: Option<HeldPort>) -> Nginx {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config(dir.path(), server)).expect("write nginx.conf");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).arg("-e").arg("stderr").arg("-c").arg(file);
        let mut nginx = Nginx { process: Process::start(command), addr, _port: port, _dir: dir };
        wait::until_true("nginx to listen", || {
            let ended = nginx.process.exited();
            assert!(ended.is_none(), "nginx ended ({ended:?}): {}", nginx.process.stderr.text());
            TcpStream::connect(nginx.addr()).is_ok()
        });
        nginx
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills it as `kill -9` does.
    pub fn kill(mut self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait_exit(wait::DEADLINE);
    }
}

fn config(dir: &Path, server: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n", dir = dir.display()))
        .concat();
    format!(
        "daemon off; master_process off; pid {dir}/nginx.pid;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; client_max_body_size 0; keepalive_requests 1000000000; {temporary}
            server {{ {server} }}
        }}",
        dir = dir.display()
    )
}
