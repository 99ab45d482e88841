//! The program under test: the real binary with a configuration in a directory of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::Response;
use crate::config::Config;
use crate::conn::Conn;
use crate::metrics::Samples;
use crate::process::Process;
use crate::wait;

/// A running gateway.
///
/// When it is dropped it is killed; if it has panicked or ended by itself before, that fails the test, and if the test
/// fails its log is printed.
#[derive(Debug)]
pub struct Gateway {
    /// The process, for its log and its resources.
    pub process: Process,
    listeners: BTreeMap<String, SocketAddr>,
    admin: Option<SocketAddr>,
    stopping: bool,
    dir: TempDir,
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub fn start(config: &Config) -> Gateway {
        Gateway::start_by(Command::new(binary()), config)
    }

    /// The same by a program that executes its last arguments.
    pub fn start_under(mut command: Command, config: &Config) -> Gateway {
        command.arg(binary());
        Gateway::start_by(command, config)
    }

    fn start_by(mut command: Command, config: &Config) -> Gateway {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("gateway.toml");
        std::fs::write(&file, config.to_string()).expect("write the configuration");
        command.args([OsStr::new("run"), OsStr::new("--config"), file.as_os_str()]);
        let process = Process::start(command);
        let ready = process.stdout.find("READY", |line| line == "READY");
        let mut gateway = Gateway { process, listeners: BTreeMap::new(), admin: None, stopping: ready.is_none(), dir };
        assert!(ready.is_some(), "the gateway ended before it was ready");
        gateway.read_addresses();
        gateway
    }

    /// A gateway in front of one origin; see [`Config::proxy_to`].
    pub fn in_front_of(endpoint: SocketAddr) -> Gateway {
        Gateway::start(&Config::proxy_to(endpoint))
    }

    /// The address of the listener `name`.
    pub fn addr(&self, name: &str) -> SocketAddr {
        *self.listeners.get(name).unwrap_or_else(|| panic!("no LISTEN line for {name:?}: {:?}", self.listeners))
    }

    /// The address of the admin endpoint.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.expect("an ADMIN line")
    }

    /// A connection to the listener `web`.
    pub fn connect(&self) -> Conn {
        Conn::connect(self.addr("web"))
    }

    /// One GET on a connection of its own, to the listener `web`.
    pub fn get(&self, path: &str) -> Response {
        self.connect().get(path)
    }

    /// The directory of the configuration file.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// One GET to the admin endpoint.
    pub fn admin_get(&self, path: &str) -> Response {
        self.admin_request("GET", path, "host: localhost\r\n")
    }

    /// One POST to the admin endpoint.
    pub fn admin_post(&self, path: &str) -> Response {
        self.admin_request("POST", path, "host: localhost\r\ncontent-length: 0\r\n")
    }

    /// One request to the admin endpoint with these header lines, each ended with CRLF.
    pub fn admin_request(&self, method: &str, path: &str, headers: &str) -> Response {
        let mut conn = Conn::connect(self.admin.expect("an ADMIN line"));
        conn.send(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n"));
        conn.response()
    }

    /// Every metric as it is now.
    pub fn metrics(&self) -> Samples {
        Samples::parse(self.admin_get("/metrics").text())
    }

    /// Replaces the configuration file, all at once.
    pub fn write_config(&self, config: &Config) {
        self.write_file("gateway.toml", &config.to_string());
    }

    /// Replaces a file of the configuration's directory, all at once (`rename(2)`).
    pub fn write_file(&self, name: &str, text: &str) {
        let new = self.dir.path().join(format!("{name}.new"));
        std::fs::write(&new, text).expect("write a file");
        std::fs::rename(&new, self.dir.path().join(name)).expect("rename a file");
    }

    /// Replaces the configuration and has it loaded; when this returns, it is what new requests see.
    pub fn reload(&mut self, config: &Config) {
        self.write_config(config);
        let response = self.admin_post("/reload");
        assert_eq!(response.status, 200, "reload refused: {}", response.text());
        self.read_addresses();
    }

    /// Asks for a drain (SIGTERM).
    pub fn terminate(&mut self) {
        self.stopping = true;
        self.process.signal(libc::SIGTERM);
    }

    /// Kills it (SIGKILL), as the kernel does when memory is short, and waits for its end.
    pub fn kill(mut self) {
        self.stopping = true;
        self.process.signal(libc::SIGKILL);
        self.process.wait_exit(wait::DEADLINE);
    }

    /// Waits for the end of a gateway that was asked to end.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        assert!(self.stopping, "nobody asked it to end");
        self.process.wait_exit(limit)
    }

    /// Waits until it has no more than `count` descriptors open.
    pub fn wait_fd_count(&self, count: usize) {
        wait::until_true("the gateway's descriptors to be closed", || self.process.fd_count() <= count);
    }

    fn read_addresses(&mut self) {
        for line in self.process.stdout.lines() {
            let addr = line.rsplit(' ').next().and_then(|addr| addr.parse().ok());
            match (line.split(' ').collect::<Vec<_>>().as_slice(), addr) {
                (["LISTEN", name, _], Some(addr)) => {
                    self.listeners.insert((*name).to_owned(), addr);
                }
                (["ADMIN", _], Some(addr)) => self.admin = Some(addr),
                _ => {}
            }
        }
    }
}

impl Drop for Gateway {
    #[expect(clippy::print_stderr, reason = "a failed test shows the log of the program it tested")]
    fn drop(&mut self) {
        let ended = self.process.exited().filter(|_| !self.stopping);
        let log = self.process.stderr.text();
        if std::thread::panicking() {
            eprintln!("---- the gateway's log\n{log}\n---- its configuration\n{}", self.config_text());
            return;
        }
        assert!(ended.is_none(), "the gateway ended by itself ({ended:?}):\n{log}");
        assert!(!log.contains("panicked at"), "the gateway panicked:\n{log}");
    }
}

impl Gateway {
    fn config_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("gateway.toml")).unwrap_or_default()
    }
}

/// Runs `gateway ARGS…` to its end: exit status, standard output, standard error.
pub fn run(args: &[&OsStr]) -> (ExitStatus, String, String) {
    let mut command = Command::new(binary());
    command.args(args);
    let mut process = Process::start(command);
    let status = process.wait_exit(wait::DEADLINE);
    (status, process.stdout.text(), process.stderr.text())
}

/// The binary: `GATEWAY_BIN`, or the one that cargo built beside this test.
///
/// # Panics
/// When it has not been built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("GATEWAY_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test's own path");
    // target/PROFILE/deps/TEST-HASH → target/PROFILE/gateway
    let path = test.ancestors().nth(2).expect("a target directory").join("gateway");
    assert!(path.exists(), "{} is missing: run `cargo build -p gateway` first, or set GATEWAY_BIN", path.display());
    path
}
