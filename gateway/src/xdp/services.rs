//! Virtual addresses in the kernel.

use super::{Service, Xdp, XdpError};

impl Xdp {
    /// Makes the kernel's services equal to these.
    pub fn sync_services(&mut self, services: &[Service]) -> Result<(), XdpError> {
        if !services.is_empty() && self.running.is_some() {
            ::log::warn!("xdp: [[vip]] has no effect: this build does not balance in the kernel");
        }
        Ok(())
    }
}
