//! Network namespaces joined by veth pairs, for tests that need real interfaces. Root only.
//!
//! ```text
//! namespace "client" ──eth0─── veth ───eth0── namespace "gateway"
//! ```
//!
//! Names carry the process id and a number, so tests run side by side. A namespace goes when it is dropped; those of a
//! process that was killed go when the next process makes its first.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use gateway::cli::demo::netns;
use tempfile::TempDir;

const PREFIX: &str = "gw-test";

/// Whether this process may make namespaces.
pub fn is_root() -> bool {
    // SAFETY: the call reads one number of the process and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Ends a test that needs root and the XDP object where one of them is missing, and says so.
#[macro_export]
macro_rules! root_or_skip {
    () => {
        if $crate::lab::is_skipped(module_path!()) {
            return;
        }
    };
}

/// Whether the tests of `module` cannot run here.
pub fn is_skipped(module: &str) -> bool {
    let missing = match (is_root(), gateway::xdp::object_is_embedded()) {
        (true, true) => return false,
        (false, _) => "it needs root",
        (true, false) => "it needs the XDP object, `cargo xtask build-ebpf` builds it",
    };
    // Not `eprintln!`, which the test runner shows only when a test fails.
    let _ = io::stderr().write_all(format!("\n=== SKIPPED, a test of {module}: {missing} ===\n").as_bytes());
    true
}

/// A network namespace. Its functions panic when the system refuses something: then there is nothing to test.
pub struct Namespace(netns::Namespace);

impl Namespace {
    /// Makes a namespace with its loopback up. `role` is for people who look at `ip netns`.
    pub fn new(role: &str) -> Namespace {
        static NAMESPACES: AtomicU32 = AtomicU32::new(0);
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            netns::remove_leftovers(PREFIX);
        }
        Namespace(netns::Namespace::create(PREFIX, &format!("{number}-{role}")).unwrap())
    }

    /// The name for `ip netns`.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Gives an interface an address with its prefix length.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix_length: u8) {
        let address = format!("{address}/{prefix_length}");
        // Duplicate address detection would keep an IPv6 address unusable for a second; IPv4 ignores the word.
        self.run(&["ip", "address", "add", &address, "dev", interface, "nodad"]);
    }

    /// Runs a command inside to its end.
    pub fn run(&self, command: &[&str]) {
        self.0.run(command).unwrap();
    }

    /// Runs `work` on a thread inside the namespace. Sockets it makes stay there wherever they are used later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.join().unwrap_or_else(|error| panic!("cannot enter namespace {}: {error}", self.name()));
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread, and only it, into the namespace.
    fn join(&self) -> io::Result<()> {
        let file = File::open(self.0.path())?;
        // SAFETY: the descriptor is open until the call returns.
        match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Joins two namespaces by a veth pair; both ends are up.
///
/// Transmit checksums are computed at the ends, because XDP forwards a frame without the mark that says that the
/// checksum is still missing. Receive offload makes a veth poll its ring, without which a frame that the peer's XDP
/// program redirects is lost.
pub fn connect((a, a_interface): (&Namespace, &str), (b, b_interface): (&Namespace, &str)) {
    let peer = ["peer", "name", b_interface, "netns", b.name()];
    a.run(&[&["ip", "link", "add", a_interface, "type", "veth"], &peer[..]].concat());
    let ends = [(a, a_interface), (b, b_interface)];
    for (namespace, interface) in ends {
        namespace.run(&["ethtool", "-K", interface, "tx", "off", "gro", "on"]);
    }
    // Not before: an end learns only when it comes up whether the other one takes redirected frames.
    for (namespace, interface) in ends {
        namespace.run(&["ip", "link", "set", interface, "up"]);
    }
}

/// A BPF file system of its own, in a temporary directory.
pub struct BpfFileSystem(TempDir);

impl BpfFileSystem {
    /// Mounts one; it goes when it is dropped.
    pub fn mount() -> BpfFileSystem {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(directory.path()).status().unwrap();
        assert!(mounted.success());
        BpfFileSystem(directory)
    }

    /// What `pin` is.
    pub fn root(&self) -> PathBuf {
        self.0.path().join("gateway")
    }
}

impl Drop for BpfFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
