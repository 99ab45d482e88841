//! nginx, as an origin that we did not write. One process, so that killing it kills all of it.

use std::net::{SocketAddr, TcpStream};
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
    port: HeldPort,
    _dir: TempDir,
}

impl Nginx {
    /// Starts one. `server` is what its `server {}` block has beside `listen`.
    pub fn start(server: &str) -> Nginx {
        Nginx::start_with("", server)
    }

    /// The same with parameters of `listen`, such as `ssl`.
    pub fn start_with(listen: &str, server: &str) -> Nginx {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = HeldPort::new();
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config(dir.path(), port.addr(), listen, server)).expect("write nginx.conf");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).arg("-e").arg("stderr").arg("-c").arg(file);
        let mut nginx = Nginx { process: Process::start(command), port, _dir: dir };
        wait::until_true("nginx to listen", || {
            let ended = nginx.process.exited();
            assert!(ended.is_none(), "nginx ended ({ended:?}): {}", nginx.process.stderr.text());
            TcpStream::connect(nginx.addr()).is_ok()
        });
        nginx
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(mut self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait_exit(wait::DEADLINE);
    }
}

fn config(dir: &Path, addr: SocketAddr, listen: &str, server: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n", dir = dir.display()))
        .concat();
    // `reuseport` lets it listen where the harness holds the port.
    format!(
        "daemon off; master_process off; pid {dir}/nginx.pid;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; client_max_body_size 0; keepalive_requests 1000000000; {temporary}
            server {{ listen {addr} reuseport {listen}; {server} }}
        }}",
        dir = dir.display()
    )
}
