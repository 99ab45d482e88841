//! One interface and how the program is attached to it.

use std::ffi::CString;
use std::fmt;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use aya::programs::ProgramError;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode as Hook};

use super::load::Loaded;
use super::pins::{self, LinkPin, Pins};
use super::{Refusal, XdpError};
use crate::config::model::XdpMode;

/// Where the program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// In the driver, before the kernel allocates anything for the packet.
    Native,
    /// In the kernel's generic hook: works on every interface, and costs more.
    Generic,
}

impl Attached {
    /// As it is written in the configuration and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Attached::Native => "native",
            Attached::Generic => "generic",
        }
    }
}

/// An interface of the configuration and what came of it. It prints as one line. Dropping it detaches, unless it is
/// pinned.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    /// The kernel's number of the program, which the interface has while it runs there.
    program: u32,
    link: Option<Link>,
    /// Why it is not attached, or not natively.
    refusal: Option<Refusal>,
}

#[derive(Debug)]
struct Link {
    attached: Attached,
    link: XdpLink,
    /// Its file, which keeps it when this is dropped.
    pin: Option<PathBuf>,
    /// The program of another process was there before.
    taken_over: bool,
}

impl Interface {
    /// Attaches in the mode asked for. With [`XdpMode::Auto`] this does not fail: it takes the best there is. Where
    /// another process has left a link in such a mode, the program takes the place of the one there, and no packet is
    /// without a program.
    pub(super) fn attach(
        program: &mut Loaded,
        name: &str,
        mode: XdpMode,
        pinned: &[LinkPin],
    ) -> Result<Interface, XdpError> {
        let mut interface =
            Interface { name: name.into(), index: index(name), program: program.id()?, link: None, refusal: None };
        let index = interface.index;
        interface.tell_station(program);
        for pin in pinned.iter().filter(|pin| pin.index == index) {
            if interface.link.is_none() && hooks(mode).contains(&pin.attached) {
                interface.take_over(program, pin);
            } else {
                remove(&pin.path);
            }
        }
        if interface.link.is_some() {
            return Ok(interface);
        }
        for &hook in hooks(mode) {
            match interface.try_hook(program, hook) {
                Ok(link) => {
                    interface.link = Some(Link { attached: hook, link, pin: None, taken_over: false });
                    return Ok(interface);
                }
                Err(refusal) => interface.refusal = Some(refusal),
            }
        }
        match (mode, interface.refusal) {
            (XdpMode::Native | XdpMode::Generic, Some(refusal)) => {
                Err(XdpError::Interface { name: interface.name, refusal })
            }
            (_, refusal) => Ok(Interface { refusal, ..interface }),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the program was attached; `None` is not at all.
    pub fn attached(&self) -> Option<Attached> {
        self.link.as_ref().map(|link| link.attached)
    }

    /// How the kernel runs the program there now: `None` too when somebody has detached it, another process has taken it
    /// over, or the interface was removed. Asks in the calling thread's network namespace.
    pub fn running(&self) -> Option<Attached> {
        self.attached().filter(|attached| self.is_alive() && runs(self.index, *attached, self.program))
    }

    /// The kernel's number of the interface; 0 is none.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Pins the link, so that the program stays when the process ends.
    pub(super) fn pin(&mut self, pins: &Pins) {
        let Some(Link { attached, link, pin, taken_over }) = self.link.take() else { return };
        let path = pins.link(self.index, attached);
        if pin.as_ref() == Some(&path) {
            self.link = Some(Link { attached, link, pin, taken_over });
            return;
        }
        match repin(link, &path) {
            Ok(link) => {
                // The file of another version's directory.
                if let Some(old) = pin {
                    let _ = std::fs::remove_file(old);
                }
                self.link = Some(Link { attached, link, pin: Some(path), taken_over });
            }
            Err(error) => {
                ::log::warn!("xdp: {}: cannot be pinned: {error}; the program goes when the process ends", self.name);
                self.link = self.open_again(attached, pin, taken_over);
            }
        }
    }

    /// Detaches, whether pinned or not.
    pub(super) fn detach(self) {
        if let Some(path) = self.link.and_then(|link| link.pin) {
            remove(&path);
        }
    }

    /// The link of the old file, where there was one.
    fn open_again(&self, attached: Attached, pin: Option<PathBuf>, taken_over: bool) -> Option<Link> {
        let link = FdLink::from(PinnedLink::from_pin(pin.as_ref()?).ok()?);
        Some(Link { attached, link: link.try_into().ok()?, pin, taken_over })
    }

    /// Without it the program leaves SYNs to the stack, so this is no reason not to attach.
    fn tell_station(&self, program: &mut Loaded) {
        if let Some(mac) = mac_address(&self.name)
            && let Err(error) = program.set_station(self.index, mac)
        {
            ::log::warn!("xdp: {}: no SYN cookies: {error}", self.name);
        }
    }

    /// Replaces the program of a pinned link.
    fn take_over(&mut self, program: &mut Loaded, pin: &LinkPin) {
        match program.replace(&pin.path) {
            Ok(link) => {
                let pin = Link { attached: pin.attached, link, pin: Some(pin.path.clone()), taken_over: true };
                self.link = Some(pin);
            }
            Err(error) => {
                ::log::warn!("xdp: {}: the program there cannot be replaced and is removed: {error}", self.name);
                remove(&pin.path);
            }
        }
    }

    /// Whether it is attached in a way that `mode` rules out.
    pub(super) fn contradicts(&self, mode: XdpMode) -> bool {
        self.attached().is_some_and(|attached| !hooks(mode).contains(&attached))
    }

    /// Whether it is attached still, unless somebody has detached it: `gateway xdp detach` is for good. An interface that was
    /// removed and made again has another index, and the kernel detached the program from the old one.
    pub(super) fn is_alive(&self) -> bool {
        self.link.is_some() && self.index == index(&self.name)
    }

    fn try_hook(&self, program: &mut Loaded, hook: Attached) -> Result<XdpLink, Refusal> {
        if self.index == 0 {
            return Err(Refusal::NoInterface);
        }
        let hook = match hook {
            Attached::Native => Hook::Driver,
            Attached::Generic => Hook::Skb,
        };
        program.attach(self.index, hook).map_err(|error: ProgramError| Refusal::new(&error))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (self.attached(), &self.refusal) {
            (Some(attached), _) if self.link.as_ref().is_some_and(|link| link.taken_over) => {
                write!(f, "xdp: {name} {}, taken over from the process before", attached.name())
            }
            (Some(Attached::Native), _) => write!(f, "xdp: {name} native"),
            (Some(Attached::Generic), None) => write!(f, "xdp: {name} generic"),
            (Some(Attached::Generic), Some(refusal)) => {
                write!(f, "xdp: {name} generic (native refused: {})", refusal.cause())
            }
            (None, Some(refusal)) => write!(f, "xdp: {name} off: {refusal}"),
            (None, None) => write!(f, "xdp: {name} off"),
        }
    }
}

fn repin(link: XdpLink, path: &std::path::Path) -> Result<XdpLink, Box<dyn std::error::Error>> {
    let pinned = FdLink::try_from(link)?.pin(path)?;
    Ok(FdLink::from(pinned).try_into()?)
}

fn remove(path: &std::path::Path) {
    if let Err(error) = pins::detach_link(path) {
        ::log::warn!("xdp: cannot remove {}: {error}", path.display());
    }
}

/// What a mode tries, best first.
fn hooks(mode: XdpMode) -> &'static [Attached] {
    match mode {
        XdpMode::Auto => &[Attached::Native, Attached::Generic],
        XdpMode::Native => &[Attached::Native],
        XdpMode::Generic => &[Attached::Generic],
        XdpMode::Off => &[],
    }
}

/// The interface's number in this network namespace; 0 is no interface.
fn index(name: &str) -> u32 {
    let Ok(name) = CString::new(name) else { return 0 };
    // SAFETY: the string ends in a zero byte and lives until the call returns.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Whether the interface has this program. Where the kernel does not say, nothing speaks against it.
fn runs(index: u32, attached: Attached, program: u32) -> bool {
    let mode = match attached {
        Attached::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
        Attached::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
    };
    let mut found = 0;
    // SAFETY: the kernel's answer is written into `found`, which lives until the call returns.
    let failed = unsafe { libbpf_sys::bpf_xdp_query_id(index as libc::c_int, mode as libc::c_int, &mut found) } != 0;
    failed || found == program
}

fn mac_address(name: &str) -> Option<[u8; 6]> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // SAFETY: all zeros are a value of this struct: integers, arrays and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the kernel reads the name, which ends in a zero byte, and writes into the request, which lives until the
    // call returns.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &mut request) } != 0 {
        return None;
    }
    // SAFETY: the kernel has written an address into this field of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    Some(std::array::from_fn(|at| address.sa_data[at] as u8))
}
