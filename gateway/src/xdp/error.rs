//! Why XDP is off, and how to turn it on.

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

use gateway_ebpf::abi::access::{CLAUSES_MAX, CONDITIONS_MAX, ENTRIES_MAX, RULES_MAX};

/// What went wrong. Its text is one line: the cause, then what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpError {
    /// The binary was built without the XDP object.
    NoObject,
    /// The object was built from another version of the ABI.
    WrongObject,
    /// The process may not use BPF.
    NotPermitted,
    /// The kernel does not take the object.
    Load(String),
    /// The program cannot be attached to an interface in the mode the configuration asks for.
    Interface {
        /// The interface.
        name: String,
        /// Why not.
        refusal: Refusal,
    },
    /// The access rules are longer than the kernel's maps.
    TooManyPrefixes {
        /// Prefixes of one IP version, without those that say what a shorter one says.
        count: usize,
    },
    /// There are more access rules than have counters.
    TooManyRules,
    /// Too many conditions on protocols and ports meet at one prefix, or in all.
    TooManyConditions,
    /// More services or backends than the program's maps hold.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        limit: usize,
    },
    /// No process has pinned anything there.
    NothingPinned(PathBuf),
    /// The kernel refuses a map operation.
    Map {
        /// What was to be done.
        operation: &'static str,
        /// The kernel's answer.
        cause: String,
    },
}

/// Why an interface does not take the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no interface of that name.
    NoInterface,
    /// The process may not attach.
    NotPermitted,
    /// The interface's driver has no such XDP mode.
    Unsupported,
    /// The driver has no room for XDP at this MTU or ring size.
    TooLarge,
    /// Another program is attached.
    Taken,
    /// Anything else.
    Other(String),
}

impl XdpError {
    /// The cause of a failed load: its own variant for what an operator can change.
    pub(super) fn load(error: &(dyn Error + 'static)) -> XdpError {
        match os_error(error) {
            Some(libc::EPERM) => XdpError::NotPermitted,
            Some(_) | None => XdpError::Load(chain(error)),
        }
    }

    pub(super) fn map(operation: &'static str, error: &(dyn Error + 'static)) -> XdpError {
        XdpError::Map { operation, cause: chain(error) }
    }
}

impl Refusal {
    pub(super) fn new(error: &(dyn Error + 'static)) -> Refusal {
        match os_error(error) {
            Some(libc::ENODEV) => Refusal::NoInterface,
            Some(libc::EPERM | libc::EACCES) => Refusal::NotPermitted,
            Some(libc::EOPNOTSUPP) => Refusal::Unsupported,
            Some(libc::ERANGE | libc::ENOSPC) => Refusal::TooLarge,
            // EEXIST: a program in the other mode; EBUSY: one in the same mode.
            Some(libc::EBUSY | libc::EEXIST) => Refusal::Taken,
            Some(_) | None => Refusal::Other(chain(error)),
        }
    }

    pub(super) fn cause(&self) -> &str {
        match self {
            Refusal::NoInterface => "no such interface",
            Refusal::NotPermitted => "not permitted",
            Refusal::Unsupported => "its driver has no such XDP mode",
            Refusal::TooLarge => "its driver has no room for XDP at this MTU or ring size",
            Refusal::Taken => "another XDP program is attached",
            Refusal::Other(cause) => cause,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Refusal::NoInterface => Some("`ip link` lists them"),
            Refusal::NotPermitted => Some("start as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
            Refusal::Unsupported => Some("set `mode = \"auto\"` to take the best mode there is"),
            Refusal::TooLarge => Some("lower them with `ip link set … mtu` or `ethtool -G`"),
            Refusal::Taken => Some("remove it with `ip link set … xdp off`"),
            Refusal::Other(_) => None,
        }
    }
}

impl fmt::Display for XdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            XdpError::NoObject => f.write_str(
                "this gateway was built without the XDP program; run `cargo xtask build-ebpf` and build it again",
            ),
            XdpError::WrongObject => f.write_str(
                "the XDP program was built from another version of the sources; run `cargo xtask build-ebpf` and build \
                 the gateway again",
            ),
            XdpError::NotPermitted => {
                f.write_str("BPF is not permitted; start as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
            }
            // A process without CAP_PERFMON gets here too: the verifier then refuses to add to packet pointers.
            XdpError::Load(cause) => write!(
                f,
                "the kernel refused the XDP program: {cause}; it needs Linux 5.18 and CAP_BPF, CAP_NET_ADMIN and \
                 CAP_PERFMON"
            ),
            XdpError::Interface { name, refusal } => write!(f, "{name}: {refusal}"),
            XdpError::TooManyPrefixes { count } => write!(
                f,
                "[[access]] has {count} prefixes of one IP version, more than the {ENTRIES_MAX} that fit; summarise them in \
                 shorter prefixes"
            ),
            XdpError::TooManyRules => write!(
                f,
                "[[access]] has more than {RULES_MAX} rules, those of the configuration before included; put their sources \
                 into fewer rules"
            ),
            XdpError::TooManyConditions => write!(
                f,
                "[[access]] has more than {CLAUSES_MAX} conditions on protocol and ports for one source, or more than \
                 {CONDITIONS_MAX} sets of them; use ranges of ports, or fewer rules that overlap"
            ),
            XdpError::TooMany { what, limit } => {
                write!(f, "more {what} than the {limit} that fit; take some away, or share them out among boxes")
            }
            XdpError::NothingPinned(directory) => write!(
                f,
                "nothing is pinned in {} by this version; a gateway with `pin` in [xdp] and an interface does that",
                directory.display()
            ),
            XdpError::Map { operation, cause } => write!(f, "the kernel did not {operation}: {cause}"),
        }
    }
}

impl Error for XdpError {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hint() {
            Some(hint) => write!(f, "{}; {hint}", self.cause()),
            None => f.write_str(self.cause()),
        }
    }
}

/// The system call's error at the root of aya's errors.
fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
}

/// The error with its causes on one line, without those that only repeat the last one.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(ToString::to_string) {
        // The verifier's log follows the first line; the loader writes it to the debug log.
        let line = cause.lines().next().unwrap_or_default();
        if text.ends_with(line) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(line);
    }
    text
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
