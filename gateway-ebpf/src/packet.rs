//! From a frame to the address it came from.
//!
//! Every read goes through [`Frame::read`], which compares with the end of the frame first. The BPF verifier follows
//! exactly this comparison, so an access without it does not load.

use crate::abi::{V4, V6};

/// VLAN tags looked through: a customer's tag inside a provider's (IEEE 802.1ad, "QinQ").
pub const VLAN_TAGS_MAX: usize = 2;

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_OFFSET: usize = 12;
const VLAN_TAG: usize = 4;
const IPV4_SOURCE: usize = 12;
const IPV4_HEADER_MIN: usize = 20;
const IPV6_SOURCE: usize = 8;
const IPV6_HEADER: usize = 40;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
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
            Some((ETHERTYPE_IPV4, offset)) => self.ipv4_source(offset).map_or(Source::Malformed, Source::V4),
            Some((ETHERTYPE_IPV6, offset)) => self.ipv6_source(offset).map_or(Source::Malformed, Source::V6),
            Some(_) => Source::NotIp,
            None => Source::Malformed,
        }
    }

    /// The EtherType behind the VLAN tags and the offset of what it announces.
    #[inline(always)]
    pub(crate) fn network(self) -> Option<(u16, usize)> {
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

    /// The source, if the whole fixed header is there, its version is 4 and its length covers the fixed part.
    #[inline(always)]
    fn ipv4_source(self, offset: usize) -> Option<V4> {
        let header: [u8; IPV4_HEADER_MIN] = self.read(offset)?;
        let (version, words) = (header[0] >> 4, header[0] & 0xf);
        if version != 4 || usize::from(words) * 4 < IPV4_HEADER_MIN {
            return None;
        }
        self.read(offset + IPV4_SOURCE)
    }

    /// The source, if the whole header is there and its version is 6.
    #[inline(always)]
    fn ipv6_source(self, offset: usize) -> Option<V6> {
        let header: [u8; IPV6_HEADER] = self.read(offset)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        self.read(offset + IPV6_SOURCE)
    }

    #[inline(always)]
    fn read_u16(self, offset: usize) -> Option<u16> {
        self.read(offset).map(u16::from_be_bytes)
    }

    /// `N` bytes at `offset`, if the frame has them.
    #[inline(always)]
    pub(crate) fn read<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        // Derived from one pointer: where the offset is not a constant, the verifier knows what was compared by it.
        let at = self.start.wrapping_add(offset);
        if at.wrapping_add(N) > self.end {
            return None;
        }
        let at = at.cast::<[u8; N]>();
        // SAFETY: the comparison above and the contract of `new` make the bytes readable; bytes need no alignment and
        // every pattern is a value.
        Some(unsafe { *at })
    }
}

#[cfg(test)]
mod tests;
