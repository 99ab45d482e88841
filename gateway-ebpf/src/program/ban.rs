//! Sources that the gateway has banned for a while.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::btf_map;
use gateway_ebpf::abi::ban::{BANS_MAX, Ban, Network64};
use gateway_ebpf::abi::{V4, V6};

use super::{clock, count};

#[btf_map]
static BANS_V4: HashMap<V4, Ban, BANS_MAX, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static BANS_V6: HashMap<Network64, Ban, BANS_MAX, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Whether this address is banned; then it is counted.
#[inline(always)]
pub fn has_v4(source: V4) -> bool {
    BANS_V4.get_ptr_mut(&source).is_some_and(is_in_force)
}

/// Whether the network of this address is banned; then it is counted.
#[inline(always)]
pub fn has_v6(source: V6) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = source;
    BANS_V6.get_ptr_mut(&[a, b, c, d, e, f, g, h]).is_some_and(is_in_force)
}

#[inline(always)]
fn is_in_force(ban: *mut Ban) -> bool {
    // SAFETY: the kernel's pointer to an entry, which stays readable until the program ends.
    if clock::seconds() >= unsafe { (*ban).expires_s } {
        return false;
    }
    count::atomically(ban.cast());
    true
}
