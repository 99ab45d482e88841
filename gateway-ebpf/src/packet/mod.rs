//! From the bytes of a frame to the packet in it.
//!
//! Every read goes through [`Frame::at`], which compares with the end of the frame first. The BPF verifier follows
//! exactly this comparison, so an access without it does not load.

pub mod checksum;
pub mod extensions;
mod hash;
mod ip;

pub use hash::hash;
pub use ip::{ACK, FIN, Ip, Packet, Parsed, RST, SYN, Shape, Transport, protocol};

use crate::abi::{V4, V6};

/// VLAN tags looked through: a customer's tag inside a provider's (IEEE 802.1ad, "QinQ").
pub const VLAN_TAGS_MAX: usize = 2;

/// Destination, source and EtherType.
pub const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_OFFSET: usize = 12;
const VLAN_TAG: usize = 4;

/// The EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An IPv4 packet's source address.
    V4(V4),
    /// An IPv6 packet's source address.
    V6(V6),
    /// The frame carries something else, or more than [`VLAN_TAGS_MAX`] tags.
    NotIp,
    /// The frame ends inside a header, or a header contradicts the EtherType.
    Malformed,
}

/// The bytes of a frame that may be read directly.
#[derive(Clone, Copy)]
pub struct Frame {
    start: *const u8,
    end: *const u8,
}

impl Frame {
    /// # Safety
    ///
    /// The bytes from `start` up to `end` stay readable and are not written while the frame and its copies are used.
    #[inline(always)]
    pub unsafe fn new(start: *const u8, end: *const u8) -> Frame {
        Frame { start, end }
    }

    /// Who sent the frame.
    #[inline(always)]
    pub fn source(self) -> Source {
        match self.network() {
            Some((ETHERTYPE_IPV4, offset)) => ip::v4_source(self, offset).map_or(Source::Malformed, Source::V4),
            Some((ETHERTYPE_IPV6, offset)) => ip::v6_source(self, offset).map_or(Source::Malformed, Source::V6),
            Some(_) => Source::NotIp,
            None => Source::Malformed,
        }
    }

    /// The EtherType behind the VLAN tags and the offset of what it announces.
    #[inline(always)]
    pub fn network(self) -> Option<(u16, usize)> {
        let mut ethertype = self.read_u16(ETHERTYPE_OFFSET)?;
        let mut offset = ETHERNET_HEADER;
        for _ in 0..VLAN_TAGS_MAX {
            if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
                break;
            }
            ethertype = self.read_u16(offset + 2)?;
            offset += VLAN_TAG;
        }
        Some((ethertype, offset))
    }

    /// A number in network order.
    #[inline(always)]
    fn read_u16(self, offset: usize) -> Option<u16> {
        self.read::<u16>(offset).map(u16::from_be)
    }

    /// A value at `offset` as it stands in the packet, if the frame has all of it.
    #[inline(always)]
    fn read<T: Plain>(self, offset: usize) -> Option<T> {
        let at = self.at(offset, size_of::<T>())?.cast::<T>();
        // SAFETY: `at` has compared with the end, so the contract of `new` makes the bytes readable, and every pattern
        // of bytes is a `Plain`.
        Some(unsafe { load(at) })
    }

    /// The address of `length` bytes at `offset`, if the frame has them.
    #[inline(always)]
    fn at(self, offset: usize, length: usize) -> Option<*const u8> {
        let at = self.start.wrapping_add(offset);
        (at.wrapping_add(length) <= self.end).then_some(at)
    }
}

/// Types of which every pattern of bytes is a value.
///
/// # Safety
///
/// Implemented for integers and their arrays and pairs only.
unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u16 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: two integers without padding.
unsafe impl Plain for crate::abi::service::Ip6 {}
// SAFETY: bytes.
unsafe impl<const N: usize> Plain for [u8; N] {}

/// Loads a value whose address is any. A Rust load asks for an aligned one, which headers behind 14 bytes of Ethernet
/// are not; an unaligned one is a load per byte for BPF.
///
/// # Safety
///
/// The bytes are readable.
#[inline(always)]
unsafe fn load<T: Plain>(at: *const T) -> T {
    if cfg!(target_arch = "bpf") {
        // SAFETY: readable by contract. The compiler's demand is met by nothing, but BPF has no other way to load a
        // field in one instruction: it emits that one, which the verifier checks and the hardware takes at any address.
        unsafe { at.read() }
    } else {
        // SAFETY: readable by contract.
        unsafe { at.read_unaligned() }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
