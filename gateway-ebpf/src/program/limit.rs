//! What one source may send: a token bucket for connection attempts and one for packets of any kind.
//!
//! The table is bounded, and forgets the source that was silent longest: a flood from more sources than it holds starts
//! each with a full bucket, so a limit then lets more through than it says. It never drops what is within the limit.

use aya_ebpf::btf_maps::{Array, LruHashMap};
use aya_ebpf::macros::btf_map;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::limit::{Buckets, Limits, take};
use gateway_ebpf::abi::{V4, V6};
use gateway_ebpf::packet::Transport;

use super::{clock, count};

#[btf_map]
static LIMITS: Array<Limits, 1> = Array::new();
// User space sets how many sources there are when it loads the object.
#[btf_map]
static SOURCES_V4: LruHashMap<V4, Buckets, 1> = LruHashMap::new();
#[btf_map]
static SOURCES_V6: LruHashMap<V6, Buckets, 1> = LruHashMap::new();

/// Whether the limits let an IPv4 packet pass.
#[inline(always)]
pub fn v4(transport: Transport, source: V4) -> Reason {
    let Some(limits) = in_force() else { return Reason::Pass };
    let source = u32::from_ne_bytes(source) & u32::from_ne_bytes(limits.mask_v4);
    judge(transport, limits, &SOURCES_V4, source.to_ne_bytes())
}

/// Whether the limits let an IPv6 packet pass.
#[inline(always)]
pub fn v6(transport: Transport, source: V6) -> Reason {
    let Some(limits) = in_force() else { return Reason::Pass };
    let source = u128::from_ne_bytes(source) & u128::from_ne_bytes(limits.mask_v6);
    judge(transport, limits, &SOURCES_V6, source.to_ne_bytes())
}

#[inline(always)]
fn in_force() -> Option<&'static Limits> {
    LIMITS.get(0).filter(|limits| limits.on != 0)
}

#[inline(always)]
fn judge<K>(transport: Transport, limits: &Limits, sources: &LruHashMap<K, Buckets, 1>, source: K) -> Reason {
    let now = clock::milliseconds();
    let reason = match sources.get_ptr_mut(&source) {
        // SAFETY: the kernel's pointer to an entry, which stays writable until the program ends. Other CPUs write it
        // too: the fields are words, so what they lose is a token.
        Some(buckets) => spend(transport, limits, unsafe { &mut *buckets }, now),
        None => {
            let mut buckets = Buckets::full(limits, now);
            let reason = spend(transport, limits, &mut buckets, now);
            // A table that takes no entry is no reason to drop.
            let _ = sources.insert(&source, &buckets, 0);
            reason
        }
    };
    if limits.dry_run == 0 || matches!(reason, Reason::Pass) {
        return reason;
    }
    count::packet(if matches!(reason, Reason::SynLimit) { Reason::SynLimitDryRun } else { Reason::PacketLimitDryRun });
    Reason::Pass
}

#[inline(always)]
fn spend(transport: Transport, limits: &Limits, buckets: &mut Buckets, now: u64) -> Reason {
    buckets.refill(limits, now);
    if limits.packets.per_ms != 0 && !take(&mut buckets.packets) {
        return Reason::PacketLimit;
    }
    if limits.syn.per_ms != 0 && transport.is_syn() && !take(&mut buckets.syn) {
        return Reason::SynLimit;
    }
    Reason::Pass
}
