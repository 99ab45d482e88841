//! What the program is to do with a virtual address. Pure data, made by the control thread from the configuration, the
//! answers of DNS and the health checks.

use std::net::SocketAddr;

use crate::config::model::{VipAffinity, VipMode, VipProtocol};

/// A virtual address and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The vip's name in the configuration.
    pub name: String,
    /// The virtual address and port.
    pub address: SocketAddr,
    /// The transport protocol.
    pub protocol: VipProtocol,
    /// Who serves it.
    pub target: Target,
    /// Its flows go on, and new ones are dropped.
    pub drain: bool,
}

/// Who serves a virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A listener of this box: the packets are counted and go to the kernel's stack.
    Local,
    /// Other machines.
    Backends {
        /// How packets get there.
        mode: VipMode,
        /// What decides on one of them.
        affinity: VipAffinity,
        /// In a stable order, so that equal configurations make equal Maglev tables on every box.
        backends: Vec<Backend>,
    },
}

/// One machine behind a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens; of the same IP version as the virtual address.
    pub address: SocketAddr,
    /// Its share of new flows, relative to the others'. 0 gives it none: it is draining.
    pub weight: u32,
    /// Whether its flows may go on. Those of a dead one choose another.
    pub alive: bool,
}
