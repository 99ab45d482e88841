//! Why a generation was not put into force.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::config::Report;
use crate::snapshot::BuildError;
use crate::xdp::XdpError;

/// Why a reload, or the start, was refused.
#[derive(Debug)]
pub enum ReloadError {
    /// The configuration has errors; here are all of them.
    Config(Report),
    /// An address to listen on cannot be had.
    Bind(String),
    /// The access log cannot be opened.
    Log(String),
    /// The process cannot become who it should be, or give up what it should.
    Privileges(String),
    /// A certificate or name turned out unusable.
    Build(BuildError),
    /// The XDP program cannot be attached as asked.
    Xdp(XdpError),
    /// A worker thread is gone.
    Worker(usize),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Config(report) => report.fmt(f),
            ReloadError::Bind(text) | ReloadError::Log(text) | ReloadError::Privileges(text) => f.write_str(text),
            ReloadError::Build(error) => error.fmt(f),
            ReloadError::Xdp(error) => error.fmt(f),
            ReloadError::Worker(number) => write!(f, "worker {number} has ended; restart the gateway"),
        }
    }
}

impl std::error::Error for ReloadError {}

impl ReloadError {
    /// An address that cannot be had, and what to do about it.
    pub(super) fn bind(what: &str, address: SocketAddr, error: &io::Error) -> ReloadError {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there, `ss -lntup` shows which",
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address, see `ip address`",
            io::ErrorKind::PermissionDenied => "; a port below 1024 needs root or CAP_NET_BIND_SERVICE",
            _ => "",
        };
        ReloadError::Bind(format!("{what}: cannot listen on {address}: {error}{advice}"))
    }
}
