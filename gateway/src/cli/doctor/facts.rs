//! What this machine says about itself. Nothing here judges.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::config::model::{Config, Xdp};
use crate::xdp::{self, Attached};

/// Everything that [`judge`](super::judge::judge) looks at. `None` is not known.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Major and minor version of the kernel.
    pub kernel: Option<(u32, u32)>,
    /// What the program needs of the kernel, and whether it is there.
    pub features: Vec<(&'static str, Option<bool>)>,
    /// The interfaces of the configuration; without one, all but the loopback.
    pub interfaces: Vec<Interface>,
    /// `net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`
    pub forwarding: [Option<bool>; 2],
    /// `net.ipv4.conf.all.accept_local`
    pub accept_local: Option<bool>,
    /// `net.ipv4.conf.all.rp_filter`
    pub rp_filter: Option<u32>,
    /// `net.ipv4.tcp_syncookies`; `None` where the kernel has no SYN cookies
    pub syn_cookies: Option<u32>,
    /// `net.ipv4.ip_local_port_range`
    pub local_ports: Option<(u16, u16)>,
    /// `net.ipv4.ip_local_reserved_ports`, as ranges
    pub reserved_ports: Vec<(u16, u16)>,
    /// Bytes that may be locked; `None` is no limit.
    pub memlock: Option<u64>,
    /// Where the configuration pins, and whether a BPF file system is there.
    pub pin: Option<(PathBuf, bool)>,
}

/// A network interface.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether there is one of that name.
    pub exists: bool,
    /// The driver; `None` for virtual interfaces without one.
    pub driver: Option<String>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Receive and transmit queues.
    pub queues: (usize, usize),
    /// Whether the card puts received segments together.
    pub lro: Option<bool>,
    /// Whether the card takes VLAN tags off.
    pub takes_tags_off: Option<bool>,
    /// Whether there are VLAN interfaces on top of it.
    pub has_vlans: bool,
    /// `net.ipv4.conf.….rp_filter`
    pub rp_filter: Option<u32>,
    /// `net.ipv4.conf.….accept_local`
    pub accept_local: Option<bool>,
    /// How a gateway has attached its program, where that is pinned.
    pub attached: Option<Attached>,
}

impl Facts {
    /// Looks at this machine, or at what is in this thread's network namespace.
    pub fn gather(config: Option<&Config>) -> Facts {
        let default = Xdp::default();
        let wanted = config.map_or(&default, |config| &config.xdp);
        let names = if wanted.interfaces.is_empty() { all_interfaces() } else { wanted.interfaces.clone() };
        let links = wanted.pin.as_deref().map(xdp::pinned_links).unwrap_or_default();
        Facts {
            kernel: sysctl("kernel/osrelease").and_then(|text| version(&text)),
            features: xdp::features(),
            interfaces: names.iter().map(|name| Interface::gather(name, &links)).collect(),
            forwarding: ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(flag),
            accept_local: flag("net/ipv4/conf/all/accept_local"),
            rp_filter: number("net/ipv4/conf/all/rp_filter"),
            syn_cookies: number("net/ipv4/tcp_syncookies"),
            local_ports: sysctl("net/ipv4/ip_local_port_range").and_then(|text| pair(&text)),
            reserved_ports: sysctl("net/ipv4/ip_local_reserved_ports").map_or_else(Vec::new, |text| ranges(&text)),
            memlock: memlock(),
            pin: wanted.pin.clone().map(|pin| (pin.clone(), xdp::can_be_pinned_in(&pin))),
        }
    }
}

impl Interface {
    fn gather(name: &str, links: &[(u32, Attached)]) -> Interface {
        let directory = Path::new("/sys/class/net").join(name);
        let read = |file: &str| {
            let text = fs::read_to_string(Path::new("/sys/class/net").join(name).join(file)).ok()?;
            text.trim().parse::<u32>().ok()
        };
        let index = read("ifindex");
        let driver = fs::read_link(directory.join("device/driver")).ok();
        let flags = offload_flags(name).ok();
        let queues = |kind: &str| {
            let entries = fs::read_dir(directory.join("queues")).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count()
        };
        Interface {
            name: name.into(),
            exists: index.is_some(),
            driver: driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
            mtu: read("mtu"),
            queues: (queues("rx-"), queues("tx-")),
            lro: flags.map(|flags| flags & ETH_FLAG_LRO != 0),
            takes_tags_off: flags.map(|flags| flags & ETH_FLAG_RXVLAN != 0),
            has_vlans: has_vlans(&directory),
            rp_filter: number(&format!("net/ipv4/conf/{name}/rp_filter")),
            accept_local: flag(format!("net/ipv4/conf/{name}/accept_local")),
            attached: links.iter().find(|(of, _)| Some(*of) == index).map(|(_, attached)| *attached),
        }
    }
}

fn all_interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name != "lo").collect();
    names.sort();
    names
}

fn sysctl(name: &str) -> Option<String> {
    Some(fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().to_owned())
}

fn number(name: &str) -> Option<u32> {
    sysctl(name)?.parse().ok()
}

fn flag(name: impl AsRef<str>) -> Option<bool> {
    Some(number(name.as_ref())? != 0)
}

/// `6.18.5-cloud` is 6 and 18.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn pair(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// `8080,9000-9100`
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

fn memlock() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct lives until the call returns.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// VLAN interfaces are among those above it, as bridges and bonds are.
fn has_vlans(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.any(|name| {
        let uevent = |above: &str| fs::read_to_string(Path::new("/sys/class/net").join(above).join("uevent"));
        name.strip_prefix("upper_").is_some_and(|above| uevent(above).is_ok_and(|text| text.contains("DEVTYPE=vlan")))
    })
}

// What `ethtool -k` shows, by the old request that every driver answers (linux/ethtool.h).
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// Asks an interface for its flags (SIOCETHTOOL).
fn offload_flags(name: &str) -> io::Result<u32> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: all zeros are a value of this struct: integers, arrays and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the array is zeros from the end of the name on.
    debug_assert_eq!(unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) }.to_bytes(), name.as_bytes());
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads the name and writes into `value`, which both live until the call returns.
    match unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCETHTOOL, &mut request) } {
        0 => Ok(value.data),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(version("6.18.5-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("linux"), None);
        assert_eq!(pair("32768\t60999"), Some((32_768, 60_999)));
        assert_eq!(ranges("8080,61000-65535"), [(8080, 8080), (61_000, 65_535)]);
        assert_eq!(ranges(""), []);
    }

    #[test]
    fn this_machine_has_a_kernel_and_an_interface_that_is_not_there_is_seen() {
        let facts = Facts::gather(None);
        assert!(facts.kernel.is_some() && !facts.features.is_empty());
        let missing = Interface::gather("gw-missing", &[]);
        assert!(!missing.exists && !missing.has_vlans);
        let lo = Interface::gather("lo", &[]);
        assert!(lo.exists && lo.lro == Some(false) && lo.takes_tags_off.is_some());
    }
}
