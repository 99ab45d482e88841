//! A Redis, whose data is in memory only: killed, it forgets everything.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use crate::ports::HeldPort;
use crate::process::Process;
use crate::wait;

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Redis {
    /// Starts one. `options` are as on its command line.
    pub fn start(options: &[&str]) -> Redis {
        // It does not listen where the harness holds the port.
        Redis::start_at(HeldPort::released(), options)
    }

    /// Starts one on an address that has been one's before.
    pub fn start_at(addr: SocketAddr, options: &[&str]) -> Redis {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--appendonly", "no", "--bind", &addr.ip().to_string()]);
        command.args(["--port", &addr.port().to_string()]).arg("--dir").arg(dir.path()).args(options);
        let mut redis = Redis { process: Process::start(command), addr, _dir: dir };
        wait::until_true("Redis to listen", || {
            let ended = redis.process.exited();
            assert!(ended.is_none(), "Redis ended ({ended:?}): {}", redis.process.stdout.text());
            TcpStream::connect(addr).is_ok()
        });
        redis
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
