//! The contract between the program and user space.
//!
//! Only integers and arrays of integers cross it: an enum or a `bool` has bit patterns that are invalid, and padding
//! has bytes that are undefined, which neither the verifier nor the loader would notice.

pub mod access;
pub mod ban;
pub mod limit;

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
