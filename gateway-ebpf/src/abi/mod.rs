//! The contract between the program and user space.
//!
//! Only integers and arrays of integers cross it: an enum or a `bool` has bit patterns that are invalid, and padding
//! has bytes that are undefined, which neither the verifier nor the loader would notice.

pub mod access;
pub mod ban;
pub mod cookie;
pub mod event;
pub mod limit;
pub mod probe;
pub mod service;

/// Changes whenever an item of this module changes its meaning or layout.
pub const VERSION: u32 = 2;

/// The program's name. It ends in [`VERSION`], so that an object built from another version of this file is refused
/// because the loader does not find the program in it.
pub const PROGRAM: &str = "gateway_xdp_v2";

/// An IPv4 address as it stands in the packet.
pub type V4 = [u8; 4];

/// An IPv6 address as it stands in the packet.
pub type V6 = [u8; 16];

/// The target of the program's log records; user space asks the `log` crate about it.
pub const LOG_TARGET: &str = "gateway::xdp";

/// Names of the maps and constants that user space looks up in the object. The program's statics are named so.
pub mod names {
    /// Packets by [`Reason`](crate::Reason), one `u64` each, for every CPU.
    pub const PACKETS: &str = "PACKETS";
    /// [`Settings`](super::service::Settings), one element.
    pub const SETTINGS: &str = "SETTINGS";
    /// The [`PortBits`](super::service::PortBits), one element.
    pub const PORTS: &str = "PORTS";
    /// IPv4 services, [`Service`](super::service::Service) by [`ServiceKey`](super::service::ServiceKey).
    pub const SERVICES_V4: &str = "SERVICES_V4";
    /// IPv6 services.
    pub const SERVICES_V6: &str = "SERVICES_V6";
    /// IPv4 addresses of services, which answer pings.
    pub const VIPS_V4: &str = "VIPS_V4";
    /// IPv6 addresses of services.
    pub const VIPS_V6: &str = "VIPS_V6";
    /// A Maglev [`Table`](super::service::Table) for each service, by its id.
    pub const MAGLEV: &str = "MAGLEV";
    /// The slots for [`Backend`](super::service::Backend)s.
    pub const BACKENDS: &str = "BACKENDS";
    /// The source addresses of mode `nat`: [`SNAT_MAX`](super::service::SNAT_MAX) of IPv4, then as many of IPv6.
    pub const SNAT: &str = "SNAT";
    /// [`BackendCounts`](super::service::BackendCounts) by slot, for every CPU.
    pub const BACKEND_COUNTS: &str = "BACKEND_COUNTS";
    /// [`ServiceCounts`](super::service::ServiceCounts) by service id, for every CPU.
    pub const SERVICE_COUNTS: &str = "SERVICE_COUNTS";
    /// IPv4 flows of which both sides have spoken: [`Flow`](super::service::Flow) by
    /// [`FlowKey`](super::service::FlowKey).
    pub const ESTABLISHED_V4: &str = "ESTABLISHED_V4";
    /// IPv6 flows of which both sides have spoken.
    pub const ESTABLISHED_V6: &str = "ESTABLISHED_V6";
    /// IPv4 flows of which one side has not spoken yet.
    pub const HALF_OPEN_V4: &str = "HALF_OPEN_V4";
    /// IPv6 flows of which one side has not spoken yet.
    pub const HALF_OPEN_V6: &str = "HALF_OPEN_V6";
    /// Constant, `u8`: 1 writes a log record for dropped packets.
    pub const LOG_DROPS: &str = "LOG_DROPS";
}

const _: () = {
    assert!(size_of::<V4>() == 4 && align_of::<V4>() == 1);
    assert!(size_of::<V6>() == 16 && align_of::<V6>() == 1);
    let name = PROGRAM.as_bytes();
    assert!(name[name.len() - 1] == b'0' + VERSION as u8, "PROGRAM must end in VERSION");
    assert!(name.len() < 16, "the kernel cuts program names at 15 bytes (BPF_OBJ_NAME_LEN)");
};
