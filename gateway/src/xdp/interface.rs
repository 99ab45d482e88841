//! One interface and how the program is attached to it.

use std::ffi::CString;
use std::fmt;

use aya::programs::ProgramError;
use aya::programs::xdp::{XdpLink, XdpMode as Hook};

use super::load::Loaded;
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

/// An interface of the configuration and what came of it. It prints as one line. Dropping it detaches.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    link: Option<(Attached, XdpLink)>,
    /// Why it is not attached, or not natively.
    refusal: Option<Refusal>,
}

impl Interface {
    /// Attaches in the mode asked for. With [`XdpMode::Auto`] this does not fail: it takes the best there is.
    pub(super) fn attach(program: &mut Loaded, name: &str, mode: XdpMode) -> Result<Interface, XdpError> {
        let mut interface = Interface { name: name.into(), index: index(name), link: None, refusal: None };
        for &hook in hooks(mode) {
            match interface.try_hook(program, hook) {
                Ok(link) => {
                    interface.link = Some((hook, link));
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

    /// How the program is attached; `None` is not at all.
    pub fn attached(&self) -> Option<Attached> {
        self.link.as_ref().map(|(attached, _)| *attached)
    }

    /// Whether it is attached in a way that `mode` rules out.
    pub(super) fn contradicts(&self, mode: XdpMode) -> bool {
        self.attached().is_some_and(|attached| !hooks(mode).contains(&attached))
    }

    /// Whether it is attached still. An interface that was removed and made again has another index, and the kernel
    /// detached the program from the old one.
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
