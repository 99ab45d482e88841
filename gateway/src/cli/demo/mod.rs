//! `gateway run --demo`: the gateway between clients that do not exist yet and origins of its own.
//!
//! Everything is in this process and in memory: two origins, a certificate, the configuration. As root there are two
//! clients besides, in network namespaces, so that XDP sees real packets.

mod banner;
mod config;
pub mod lab;
pub mod netns;
mod origin;

use std::io::{self, IsTerminal as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use crate::control::gateway::ReloadError;
use crate::control::privileges::Privileges;
use crate::control::run;
use crate::xdp;
use banner::Banner;
use config::DemoFiles;
use lab::Lab;

/// Runs the demonstration until a signal ends it. `give_back`: see [`run::run`].
pub fn run(give_back: fn()) -> Result<(), ReloadError> {
    let cannot = |error: io::Error| ReloadError::Bind(format!("demo: {error}"));
    let origins = origin::start().map_err(cannot)?;
    // The lab is removed when this function returns, also when the gateway cannot start.
    let lab = build_lab();
    let addresses = Addresses::choose().map_err(cannot)?;
    let files = DemoFiles::new(&addresses, &origins, lab.as_ref().ok()).map_err(cannot)?;
    let banner = Banner { addresses: &addresses, lab: lab.as_ref(), colour: io::stdout().is_terminal() };
    let text = banner.to_string();
    // The lab is removed by the rights that made it.
    run::run(PathBuf::from(config::PATH), Box::new(files), Privileges::Keep, give_back, |_| super::print(&text))
}

/// Where the demo listens: on loopback only, for its origins show what they are sent to whoever asks.
#[derive(Debug)]
struct Addresses {
    http: SocketAddr,
    https: SocketAddr,
    tcp: SocketAddr,
    admin: SocketAddr,
}

impl Addresses {
    /// The usual ports, or others where those are taken. The numbers must be known before the gateway binds them: the
    /// redirect and the lab's listeners name them. So each port is tried, and free again for a moment.
    fn choose() -> io::Result<Addresses> {
        let [http, https, tcp, admin] = [try_port(8080)?, try_port(8443)?, try_port(9000)?, try_port(9901)?];
        Ok(Addresses {
            http: http.local_addr()?,
            https: https.local_addr()?,
            tcp: tcp.local_addr()?,
            admin: admin.local_addr()?,
        })
    }
}

fn try_port(wanted: u16) -> io::Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) {
        return Ok(listener);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    log::info!("demo: port {wanted} is taken; the demo uses {} in its place", listener.local_addr()?.port());
    Ok(listener)
}

/// The lab, or what to do to get it.
fn build_lab() -> Result<Lab, String> {
    if !xdp::object_is_embedded() {
        return Err(xdp::XdpError::NoObject.to_string());
    }
    // SAFETY: the call reads one number of the process and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Err("the demo shows it with clients in network namespaces, which takes root: start it again with sudo"
            .to_owned());
    }
    Lab::build().map_err(|error| format!("the demo's network namespaces cannot be made: {error}"))
}
