//! Network namespaces joined by veth pairs, for tests that need real interfaces. Root only.
//!
//! ```text
//! Lab ── namespace "client" ──eth0─── veth ───eth0── namespace "gateway"
//! ```
//!
//! Names carry the process id and a number, so tests run side by side. Namespaces go with the [`Lab`]; those of a
//! process that was killed go when the next lab is built.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

const PREFIX: &str = "gwt";

/// Whether this process may build labs.
pub fn is_root() -> bool {
    // SAFETY: the call reads one number of the process and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A set of namespaces; they are removed when it is dropped.
pub struct Lab {
    number: u32,
    namespaces: Vec<Namespace>,
}

/// A network namespace of a [`Lab`], by name.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Lab {
    /// An empty lab.
    pub fn new() -> Lab {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_namespaces_of_dead_processes();
        }
        Lab { number, namespaces: Vec::new() }
    }

    /// Makes a namespace with its loopback up.
    pub fn namespace(&mut self, role: &str) -> Namespace {
        let namespace = Namespace { name: format!("{PREFIX}-{}-{}-{role}", process::id(), self.number) };
        run(&["ip", "netns", "add", &namespace.name]);
        self.namespaces.push(namespace.clone());
        // Duplicate address detection would keep IPv6 addresses unusable for a second.
        namespace.run(&["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"]);
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Joins two namespaces by a veth pair; both ends are up.
    ///
    /// Transmit checksums are computed at the ends, because XDP forwards a frame without the mark that says that the
    /// checksum is still missing. Receive offload makes a veth poll its ring, without which a frame that the peer's XDP
    /// program redirects is lost.
    pub fn connect(&self, (a, a_interface): (&Namespace, &str), (b, b_interface): (&Namespace, &str)) {
        run(&[
            "ip",
            "link",
            "add",
            a_interface,
            "netns",
            &a.name,
            "type",
            "veth",
            "peer",
            "name",
            b_interface,
            "netns",
            &b.name,
        ]);
        for (namespace, interface) in [(a, a_interface), (b, b_interface)] {
            namespace.run(&["ethtool", "-K", interface, "tx", "off", "gro", "on"]);
            namespace.run(&["ip", "link", "set", interface, "up"]);
        }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Lab::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            remove(&namespace.name);
        }
    }
}

impl Namespace {
    /// The name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives an interface an address with its prefix length.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix_length: u8) {
        let address = format!("{address}/{prefix_length}");
        self.run(&["ip", "address", "add", &address, "dev", interface]);
    }

    /// Runs a command inside to its end; panics when it fails.
    pub fn run(&self, command: &[&str]) {
        run(&[&["ip", "netns", "exec", &self.name], command].concat());
    }

    /// Runs `work` on a thread inside the namespace. Sockets it makes stay there wherever they are used later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.join().unwrap_or_else(|error| panic!("cannot enter namespace {}: {error}", self.name));
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread, and only it, into the namespace.
    fn join(&self) -> io::Result<()> {
        let file = File::open(Path::new("/run/netns").join(&self.name))?;
        // SAFETY: the descriptor is open until the call returns.
        match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn remove_namespaces_of_dead_processes() {
    let Ok(names) = std::fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let mut parts = name.split('-');
        let pid = (parts.next() == Some(PREFIX)).then(|| parts.next()).flatten();
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// The interfaces in it go with it. A failure leaves a namespace behind, which harms no other test.
fn remove(namespace: &str) {
    let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start `{}`: {error}", command.join(" ")));
    assert!(
        output.status.success(),
        "`{}` failed: {}",
        command.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
}
