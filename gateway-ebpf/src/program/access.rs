//! First stage: `[[access]]` by source address.

use aya_ebpf::btf_maps::LpmTrie;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::btf_map;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::Ip6;
use gateway_ebpf::abi::{LIST_CAPACITY, V4, V6};

#[btf_map]
static DENY_V4: LpmTrie<V4, u32, LIST_CAPACITY> = LpmTrie::new();
#[btf_map]
static DENY_V6: LpmTrie<V6, u32, LIST_CAPACITY> = LpmTrie::new();
#[btf_map]
static ALLOW_V4: LpmTrie<V4, u32, LIST_CAPACITY> = LpmTrie::new();
#[btf_map]
static ALLOW_V6: LpmTrie<V6, u32, LIST_CAPACITY> = LpmTrie::new();

#[inline(always)]
pub fn v4(source: V4) -> Reason {
    let key = Key::new(32, source);
    judge(&DENY_V4, &ALLOW_V4, &key, Reason::DeniedV4)
}

#[inline(always)]
pub fn v6(source: Ip6) -> Reason {
    let key = Key::new(128, bytes(source));
    judge(&DENY_V6, &ALLOW_V6, &key, Reason::DeniedV6)
}

/// Allow wins over deny whatever the lengths of the prefixes, and is looked up only when it matters: an ordinary
/// packet costs one lookup.
#[inline(always)]
fn judge<A>(
    deny: &LpmTrie<A, u32, LIST_CAPACITY>,
    allow: &LpmTrie<A, u32, LIST_CAPACITY>,
    key: &Key<A>,
    denied: Reason,
) -> Reason {
    if deny.get(key).is_none() {
        Reason::Pass
    } else if allow.get(key).is_some() {
        Reason::Allowed
    } else {
        denied
    }
}

/// The address as the lists' keys have it.
#[inline(always)]
pub fn bytes(address: Ip6) -> V6 {
    // SAFETY: two integers without padding are sixteen bytes.
    unsafe { core::mem::transmute(address) }
}
