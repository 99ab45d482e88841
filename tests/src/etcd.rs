//! An etcd with one member.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::ports::HeldPort;
use crate::process::Process;
use crate::wait;

/// A running etcd. What it has survives [`stop`](Etcd::stop).
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    rest: Stopped,
}

/// An etcd that does not run, with its data.
#[derive(Debug)]
pub struct Stopped {
    clients: SocketAddr,
    peers: SocketAddr,
    scheme: &'static str,
    options: Vec<String>,
    dir: TempDir,
}

impl Etcd {
    /// Starts one. `options` are as on its command line.
    pub fn start(options: &[&str]) -> Etcd {
        Etcd::start_with("http", options)
    }

    /// Starts one that speaks TLS, by the files that `options` name.
    pub fn start_tls(options: &[&str]) -> Etcd {
        Etcd::start_with("https", options)
    }

    fn start_with(scheme: &'static str, options: &[&str]) -> Etcd {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = options.iter().map(ToString::to_string).collect();
        // It does not listen where the harness holds the port.
        let (clients, peers) = (HeldPort::released(), HeldPort::released());
        Stopped { clients, peers, scheme, options, dir }.start()
    }

    /// Where its clients connect to, as a URL.
    pub fn url(&self) -> String {
        self.rest.url()
    }

    /// Where its clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.rest.clients
    }

    /// Runs `etcdctl` with these arguments and this input, and returns what it printed.
    pub fn ctl(&self, arguments: &[&str], input: &[u8]) -> String {
        let file = self.rest.dir.path().join("input");
        std::fs::write(&file, input).expect("write a file");
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "--command-timeout=10s"]).args(arguments);
        let output = command.stdin(std::fs::File::open(&file).expect("open a file")).output().expect("run etcdctl");
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Kills it as `kill -9` does.
    pub fn stop(mut self) -> Stopped {
        self.process.signal(libc::SIGKILL);
        self.process.wait_exit(wait::DEADLINE);
        self.rest
    }
}

impl Stopped {
    /// A copy of what it has.
    pub fn backup(&self) -> TempDir {
        let backup = tempfile::tempdir().expect("a temporary directory");
        copy(&self.dir.path().join("data"), backup.path());
        backup
    }

    /// Has what a copy of it has, and nothing that came later.
    pub fn restore(&self, backup: &TempDir) {
        let data = self.dir.path().join("data");
        std::fs::remove_dir_all(&data).expect("remove a directory");
        std::fs::create_dir(&data).expect("make a directory");
        copy(backup.path(), &data);
    }

    /// Starts it again, where it was and with what it had.
    pub fn start(self) -> Etcd {
        let Stopped { clients, peers, scheme, options, dir } = &self;
        let (url, peers) = (format!("{scheme}://{clients}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path().join("data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        // A leader at once: there is nobody else to vote.
        command.args(["--initial-cluster", &format!("default={peers}"), "--heartbeat-interval", "10"]);
        command.args(["--election-timeout", "100"]).args(options);
        let mut etcd = Etcd { process: Process::start(command), rest: self };
        wait::until_true("etcd to listen", || {
            let ended = etcd.process.exited();
            assert!(ended.is_none(), "etcd ended ({ended:?}): {}", etcd.process.stderr.text());
            TcpStream::connect(etcd.rest.clients).is_ok()
        });
        etcd
    }

    /// Where its clients connect to, as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.clients)
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().expect("run cp");
    assert!(copied.success());
}
