//! The tables of `[[access]]`: what the program does with a source address, compiled by user space.
//!
//! A *list* is one compiled set of rules. The maps of two lists fit side by side, in slots 0 and 1 of arrays of maps;
//! the one word of [`LISTS`] says which is in force and which of its maps there are. So a list is exchanged by one
//! store, and a packet meets all of the old or all of the new one.
//!
//! Every entry has the whole answer for the addresses whose longest match it is: what shorter prefixes say is part of
//! it. So one entry is looked up for a packet, whatever rules overlap.

use super::{V4, V6};

/// The map of the one word that says which list is in force: [`SLOT`] and the `HAS_` bits.
pub const LISTS: &str = "LISTS";

/// For each slot, a byte for each IPv4 network of 24 bits: [`FRONT_SINGLE`] and [`FRONT_PREFIX`].
pub const FRONT_V4: &str = "FRONT_V4";

/// For each slot, the entries of single IPv4 addresses, by [`V4`].
pub const SINGLE_V4: &str = "SINGLE_V4";

/// For each slot, the entries of other IPv4 prefixes. The key has four bytes of zero and the address, and the prefix is
/// 32 bits longer than it is written: with a key of 8 bytes the counter in the entry is aligned.
pub const PREFIX_V4: &str = "PREFIX_V4";

/// For each slot, the entries of single IPv6 addresses, by [`V6`].
pub const SINGLE_V6: &str = "SINGLE_V6";

/// For each slot, the entries of other IPv6 prefixes.
pub const PREFIX_V6: &str = "PREFIX_V6";

/// The [`Conditions`] that entries refer to; those of slot 1 begin at [`CONDITIONS_MAX`].
pub const CONDITIONS: &str = "CONDITIONS";

/// Packets that a rule decided on, by the rule's number, for every CPU.
pub const RULE_PACKETS: &str = "RULE_PACKETS";

/// Bit of [`LISTS`]: the slot in force.
pub const SLOT: u32 = 1;
/// Bit of [`LISTS`]: the list has IPv4 entries.
pub const HAS_V4: u32 = 2;
/// Bit of [`LISTS`]: the list has single IPv6 addresses.
pub const HAS_SINGLE_V6: u32 = 4;
/// Bit of [`LISTS`]: the list has other IPv6 prefixes.
pub const HAS_PREFIX_V6: u32 = 8;
/// Bit of [`LISTS`]: some source is banned; see [`ban`](super::ban).
pub const HAS_BANS: u32 = 16;

/// Slots, and so lists in the kernel at once.
pub const SLOTS: usize = 2;

/// Bit of a byte of [`FRONT_V4`]: some address in this network has an entry of its own.
pub const FRONT_SINGLE: u8 = 1;
/// Bit of a byte of [`FRONT_V4`]: some other prefix covers this network or is part of it.
pub const FRONT_PREFIX: u8 = 2;

/// IPv4 networks of 24 bits, so the bytes of a front.
pub const FRONT_BYTES: usize = 1 << 24;

/// Entries a list may have for each IP version. A million is the size of the largest public block lists.
pub const ENTRIES_MAX: usize = 1 << 20;

/// Rules that may have a number at once, those of the list before included, so that their counters go on.
pub const RULES_MAX: usize = 4096;

/// Different sets of conditions in a list.
pub const CONDITIONS_MAX: usize = 1024;

/// Clauses in one set of conditions: those of all rules that cover one prefix.
pub const CLAUSES_MAX: usize = 16;

/// The key of a prefix of 32 bits or less in [`PREFIX_V4`].
pub type PrefixV4 = [u8; 8];

/// What is done with a packet: one of the kinds in the upper bits, and a number in the lower ones.
///
/// | kind | number |
/// |---|---|
/// | [`PASS`](Policy::PASS) | 0 |
/// | [`DROP`](Policy::DROP), [`ALLOW`](Policy::ALLOW) | the rule's |
/// | [`CONDITIONAL`](Policy::CONDITIONAL) | an index into [`CONDITIONS`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Policy(pub u32);

impl Policy {
    /// No rule has the source.
    pub const PASS: u32 = 0;
    /// A rule denies it.
    pub const DROP: u32 = 1 << 16;
    /// A rule allows it.
    pub const ALLOW: u32 = 2 << 16;
    /// The clauses of an element of [`CONDITIONS`] decide.
    pub const CONDITIONAL: u32 = 3 << 16;

    /// One of the constants above.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 & !0xffff
    }

    /// The rule's, or the index of the conditions.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0 & 0xffff
    }
}

/// The entry of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// Packets that met this entry. The program adds atomically.
    pub packets: u64,
    /// What is done with them.
    pub policy: Policy,
    /// The second of the boot clock from which [`then`](Self::then) counts in place of [`policy`](Self::policy); 0 is
    /// never.
    pub expires_s: u32,
    /// What is done with packets afterwards.
    pub then: Policy,
    /// Zero.
    pub unused: u32,
}

/// A condition and what is done with the packets that meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Clause {
    /// The IP protocol's number; [`ANY_PROTOCOL`](Clause::ANY_PROTOCOL) is every one.
    pub protocol: u32,
    /// First destination port.
    pub port_first: u16,
    /// Last destination port. The range of all ports is met by packets without ports too.
    pub port_last: u16,
    /// [`Policy::DROP`] or [`Policy::ALLOW`].
    pub policy: Policy,
}

impl Clause {
    /// In [`protocol`](Clause::protocol): no condition.
    pub const ANY_PROTOCOL: u32 = 256;
}

/// Clauses, of which the first that is met decides. A packet that meets none passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Conditions {
    /// How many there are.
    pub count: u32,
    /// The first `count` of these.
    pub clauses: [Clause; CLAUSES_MAX],
}

// The kernel compares keys by their bytes and user space copies whole values: there must be no padding.
const _: () = {
    assert!(size_of::<Entry>() == 24 && align_of::<Entry>() == 8);
    assert!(size_of::<Clause>() == 12 && size_of::<Conditions>() == 4 + 12 * CLAUSES_MAX);
    assert!(size_of::<PrefixV4>().is_multiple_of(align_of::<Entry>()));
    assert!(size_of::<V4>() == 4 && size_of::<V6>().is_multiple_of(align_of::<Entry>()));
    assert!(RULES_MAX <= 1 << 16 && SLOTS * CONDITIONS_MAX <= 1 << 16);
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::{Conditions, Entry};

    // SAFETY: integers without padding, as asserted above: every pattern of bytes is a value.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Conditions {}
}
