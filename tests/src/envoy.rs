//! Envoy, as a proxy that we did not write. It is not among what `cargo xtask test` installs: tests that need it are ignored
//! unless asked for, and find it by `GATEWAY_TEST_ENVOY`.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use crate::ports::HeldPort;
use crate::process::Process;
use crate::wait;

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    port: HeldPort,
    _dir: TempDir,
}

impl Envoy {
    /// Starts one. `config` gets the address to listen on, where it has to use `SO_REUSEPORT` (Envoy's default).
    ///
    /// # Panics
    /// When `GATEWAY_TEST_ENVOY` does not say where it is.
    pub fn start(config: impl FnOnce(SocketAddr) -> String) -> Envoy {
        let program = std::env::var_os("GATEWAY_TEST_ENVOY").expect("GATEWAY_TEST_ENVOY: the path of Envoy 1.40");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = HeldPort::new();
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, config(port.addr())).expect("write envoy.yaml");
        let mut command = Command::new(program);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(file);
        let mut envoy = Envoy { process: Process::start(command), port, _dir: dir };
        wait::until_true("Envoy to listen", || {
            let ended = envoy.process.exited();
            assert!(ended.is_none(), "Envoy ended ({ended:?}): {}", envoy.process.stderr.text());
            TcpStream::connect(envoy.addr()).is_ok()
        });
        envoy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}
