//! First stage: `[[access]]` by source address, protocol and destination port; then bans.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::access::{
    CLAUSES_MAX, CONDITIONS_MAX, Clause, Conditions, Entry, FRONT_BYTES, FRONT_PREFIX, FRONT_SINGLE, HAS_BANS,
    HAS_PREFIX_V6, HAS_SINGLE_V6, HAS_V4, Policy, PrefixV4, RULES_MAX, SLOT, SLOTS,
};
use gateway_ebpf::abi::service::Ip6;
use gateway_ebpf::abi::{V4, V6};
use gateway_ebpf::packet::Transport;

use super::event::code;
use super::{PASS, ban, clock};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static LISTS: Array<u32, 1> = Array::new();
#[btf_map]
static FRONT_V4: ArrayOfMaps<Array<[u8; FRONT_BYTES], 1, MMAPABLE>, SLOTS> = ArrayOfMaps::new();
#[btf_map]
static SINGLE_V4: ArrayOfMaps<HashMap<V4, Entry, 1, NO_PREALLOC>, SLOTS> = ArrayOfMaps::new();
#[btf_map]
static PREFIX_V4: ArrayOfMaps<LpmTrie<PrefixV4, Entry, 1>, SLOTS> = ArrayOfMaps::new();
#[btf_map]
static SINGLE_V6: ArrayOfMaps<HashMap<V6, Entry, 1, NO_PREALLOC>, SLOTS> = ArrayOfMaps::new();
#[btf_map]
static PREFIX_V6: ArrayOfMaps<LpmTrie<V6, Entry, 1>, SLOTS> = ArrayOfMaps::new();
#[btf_map]
static CONDITIONS: Array<Conditions, { SLOTS * CONDITIONS_MAX }> = Array::new();
#[btf_map]
static RULE_PACKETS: PerCpuArray<u64, RULES_MAX> = PerCpuArray::new();

/// What the rules say about an IPv4 packet: a [`code`].
#[inline(always)]
pub fn v4(transport: Transport, source: V4) -> u32 {
    let lists = in_force();
    let entry = if lists & HAS_V4 == 0 { None } else { entry_v4(lists & SLOT, source) };
    let code = entry.map_or(PASS, |entry| judge(transport, entry, Reason::DeniedV4));
    if code == PASS && lists & HAS_BANS != 0 && ban::has_v4(source) {
        return Reason::Banned.index();
    }
    code
}

/// What the rules say about an IPv6 packet: a [`code`].
#[inline(always)]
pub fn v6(transport: Transport, source: V6) -> u32 {
    let lists = in_force();
    let code = entry_v6(lists, source).map_or(PASS, |entry| judge(transport, entry, Reason::DeniedV6));
    if code == PASS && lists & HAS_BANS != 0 && ban::has_v6(source) {
        return Reason::Banned.index();
    }
    code
}

/// Read once for a packet: its second meaning would be another list's.
#[inline(always)]
fn in_force() -> u32 {
    // SAFETY: the kernel's pointer to the element of an array, which is there as long as the map.
    LISTS.get_ptr(0).map_or(0, |word| unsafe { word.read_volatile() })
}

/// Most networks have no entry, which costs one byte to know.
#[inline(always)]
fn entry_v4(slot: u32, source: V4) -> Option<*mut Entry> {
    let front = FRONT_V4.get_value_ptr_mut(slot, &0)?.cast::<u8>();
    let network = (u32::from_be_bytes(source) >> 8) as usize;
    // SAFETY: 24 bits are less than `FRONT_BYTES`, which the verifier checks.
    let has = unsafe { front.wrapping_add(network & (FRONT_BYTES - 1)).read_volatile() };
    if has & FRONT_SINGLE != 0
        && let Some(entry) = SINGLE_V4.get_value_ptr_mut(slot, &source)
    {
        return Some(entry);
    }
    if has & FRONT_PREFIX == 0 {
        return None;
    }
    let [a, b, c, d] = source;
    PREFIX_V4.get_value_ptr_mut(slot, &Key::new(64, [0, 0, 0, 0, a, b, c, d]))
}

#[inline(always)]
fn entry_v6(lists: u32, source: V6) -> Option<*mut Entry> {
    if lists & HAS_SINGLE_V6 != 0
        && let Some(entry) = SINGLE_V6.get_value_ptr_mut(lists & SLOT, &source)
    {
        return Some(entry);
    }
    if lists & HAS_PREFIX_V6 == 0 {
        return None;
    }
    PREFIX_V6.get_value_ptr_mut(lists & SLOT, &Key::new(128, source))
}

#[inline(always)]
fn judge(transport: Transport, entry: *mut Entry, denied: Reason) -> u32 {
    super::count::atomically(entry.cast());
    // SAFETY: the kernel's pointer to an entry, which stays readable until the program ends.
    let Entry { policy, expires_s, then, .. } = unsafe { *entry };
    let policy = if expires_s != 0 && clock::seconds() >= expires_s { then } else { policy };
    let policy = if policy.kind() == Policy::CONDITIONAL { decide(transport, policy.number()) } else { policy };
    if policy.kind() == Policy::PASS {
        return PASS;
    }
    count_rule(policy.number());
    if policy.kind() == Policy::ALLOW { Reason::Allowed.index() } else { code(denied, policy.number() + 1) }
}

#[inline(always)]
fn count_rule(rule: u32) {
    if let Some(packets) = RULE_PACKETS.get_ptr_mut(rule) {
        // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
        unsafe { *packets += 1 };
    }
}

/// The first clause that the packet meets.
#[inline(always)]
fn decide(transport: Transport, conditions: u32) -> Policy {
    let Some(conditions) = CONDITIONS.get(conditions) else { return Policy(Policy::PASS) };
    for at in 0..CLAUSES_MAX {
        if at as u32 >= conditions.count {
            break;
        }
        let clause = &conditions.clauses[at];
        if is_met(clause, transport) {
            return clause.policy;
        }
    }
    Policy(Policy::PASS)
}

#[inline(always)]
fn is_met(clause: &Clause, transport: Transport) -> bool {
    if clause.protocol != Clause::ANY_PROTOCOL && clause.protocol != transport.protocol() {
        return false;
    }
    let any_port = clause.port_first == 0 && clause.port_last == u16::MAX;
    any_port || transport.destination_port().is_some_and(|port| clause.port_first <= port && port <= clause.port_last)
}

/// The address as the lists' keys have it.
#[inline(always)]
pub fn bytes(address: Ip6) -> V6 {
    // SAFETY: two integers without padding are sixteen bytes.
    unsafe { core::mem::transmute(address) }
}
